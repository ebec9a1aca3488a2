// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/report.h"

#include "output.h"

#include <cinttypes>
#include <cmath>
#include <ctime>

namespace dwunw_tool::memleak {
namespace {

const char *source_mark(const dwunw_frame &frame) {
    switch (frame.source) {
    case DWUNW_SOURCE_FRAME_POINTER:
        return " [frame pointer]";
    case DWUNW_SOURCE_CODE:
        return " [code]";
    default:
        return "";
    }
}

std::string memory_mark(Memory memory) {
    return memory == Memory::kHeap ? "" : std::string(" [") + name_of(memory) + "]";
}

void add(std::vector<Loss> &losses, const char *what, uint64_t count, const char *advice = "") {
    if (count > 0)
        losses.push_back({what, count, advice});
}

} // namespace

std::vector<Loss> losses(const dwunw_bpf_counters &stacks, const std::array<uint64_t, MEMLEAK_COUNTERS> &counters,
                         uint64_t unreadable_slots, uint64_t unprobed_functions) {
    std::vector<Loss> lost;
    add(lost, "functions that could not be probed, whose blocks are not seen", unprobed_functions);
    add(lost, "blocks that found no room", counters[MEMLEAK_NO_ROOM], "raise --max-memory");
    add(lost, "mappings, processes or mismatches whose event was lost", counters[MEMLEAK_EVENTS_LOST]);
    add(lost, "frees that a report may have counted as missing blocks", counters[MEMLEAK_SNAPSHOTS_LOST]);
    add(lost, "processes for which there was no number", counters[MEMLEAK_PROCESSES_LOST]);
    add(lost, "blocks at addresses of more than 47 bits", counters[MEMLEAK_ADDRESSES_LOST]);
    add(lost, "blocks that were being written while the report read them", unreadable_slots);
    add(lost, "calls that found no memory for their state", stacks.lost_calls);
    add(lost, "calls not followed, because another may be pending on another stack", stacks.other_stack_calls);
    add(lost, "stacks for which there was no memory", stacks.lost_to_memory);
    add(lost, "stack ids that came again with other frames", stacks.id_collisions);
    for (uint32_t reason = DWUNW_BPF_LAST_FALLBACK + 1; reason < DWUNW_BPF_REASONS; ++reason)
        add(lost, (std::string("stacks: ") + dwunw_bpf_reason_string(reason)).c_str(), stacks.reasons[reason]);
    return lost;
}

std::string missing_stack(int64_t stack) {
    if (stack > kStackNotKept && stack < 0 && -stack < DWUNW_BPF_REASONS)
        return dwunw_bpf_reason_string(static_cast<uint32_t>(-stack));
    return "its record was lost or found no room";
}

void Report::header(size_t shown) const {
    const time_t now = ::time(nullptr);
    tm local{};
    ::localtime_r(&now, &local);
    print("[%02d:%02d:%02d] Top %zu stacks with outstanding allocations:\n", local.tm_hour, local.tm_min, local.tm_sec,
          shown);
}

void Report::frame(size_t index, const dwunw_frame &frame) const {
    print("\t%zu [<%016" PRIx64 ">] ", index, frame.pc);
    if (frame.module == nullptr) {
        print("<null sym>%s\n", source_mark(frame));
        return;
    }
    if (const auto symbol = symbol_of(symbolizer_, frame))
        print("%s+0x%" PRIx64 " ", printable(symbol->name).c_str(), symbol->offset);
    print("[%s]%s\n", printable(dwunw_module_path(frame.module)).c_str(), source_mark(frame));
}

void Report::row(const Rows &rows, const Row &row, const std::string &mark) const {
    print("%" PRIu64 " bytes in %" PRIu64 " allocations from stack%s%s\n", row.amount.bytes, row.amount.count,
          memory_mark(row.memory).c_str(), mark.c_str());
    for (const Block &block : row.amount.blocks)
        print("\taddr = 0x%" PRIx64 " size = %" PRIu64 "\n", block.address, block.size);
    stack(rows, row);
}

void Report::mismatch(const Rows &rows, uint64_t count, uint32_t kind, uint32_t how, int64_t allocated,
                      int64_t freed) const {
    static const char *const kAllocated[] = {"malloc", "operator new", "operator new[]"};
    static const char *const kFreed[] = {"free", "operator delete", "operator delete[]"};
    if (kind >= std::size(kAllocated) || how >= std::size(kFreed))
        return;
    print("%" PRIu64 " blocks of %s were freed by %s. Allocated at\n", count, kAllocated[kind], kFreed[how]);
    Row row;
    row.stack = allocated;
    stack(rows, row);
    print("    freed at\n");
    row.stack = freed;
    stack(rows, row);
}

void Report::stack(const Rows &rows, const Row &row) const {
    if (row.stack <= 0) {
        print("\t[no stack: %s]\n", missing_stack(row.stack).c_str());
        return;
    }
    const std::vector<dwunw_frame> frames = rows.frames(row);
    for (size_t i = 0; i < frames.size(); ++i)
        frame(i, frames[i]);
    if (row.status != DWUNW_OK)
        print("\t[partial: %s]\n", dwunw_status_string(static_cast<dwunw_status>(row.status)));
}

} // namespace dwunw_tool::memleak

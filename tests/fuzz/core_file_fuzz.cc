// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reads any bytes as a core file, and walks its threads: notes, segments, the map made of them, modules copied from the
// core's memory. Proves that segments and map ascend without overlap, that memory comes only from the core's bytes, and
// that every walk ends with frames in the map.
//
// Modules are searched under a folder that does not exist, so no file of this machine is read.
#include "core/file.h"

#include "arch/arch.h"
#include "core/target.h"
#include "fuzz.h"
#include "process/process.h"
#include "unwind/walk.h"

#include <elf.h>

namespace dwunw {
namespace {

using core::CoreFile;
using fuzz::require;

constexpr size_t kThreadsWalked = 4;
constexpr size_t kSegmentsRead = 64;

void check_segments(const CoreFile &core, size_t file_size) {
    RunAddr end;
    for (const CoreFile::Segment &segment : core.segments()) {
        require(end <= segment.start && segment.file_size <= segment.memory_size, "segments ascend");
        require(core.segment_at(segment.start) == &segment, "a segment is found at its start");
        end = segment.end();
    }
    std::array<uint8_t, 32> buffer;
    for (size_t i = 0; i < std::min(core.segments().size(), kSegmentsRead); ++i) {
        const CoreFile::Segment &segment = core.segments()[i];
        const size_t got = core.read(segment.start, buffer);
        require(got <= buffer.size() && got <= file_size, "memory comes out of the file");
        require(!core.holds(segment.start, segment.end()) || core.read(segment.start, std::span(buffer).first(1)) == 1,
                "what a core holds can be read");
    }
}

void walk_threads(const CoreFile &core) {
    process::ModuleStore store;
    auto target = std::make_shared<const core::CoreTarget>(core, "", "/nonexistent");
    const auto maps = target->maps();
    RunAddr end;
    for (const process::Mapping &mapping : maps.mappings()) {
        require(end <= mapping.start && mapping.start < mapping.end, "the map ascends");
        end = mapping.end;
    }
    const auto process = process::Process::open(store, target, target->maps());
    require(process.ok(), "a core that parses opens");
    const auto read = [](void *arg, uint64_t address, void *buffer, size_t length) {
        return static_cast<process::Process *>(arg)->read_memory(RunAddr(address),
                                                                 {static_cast<uint8_t *>(buffer), length});
    };
    const arch::Arch &arch = *arch::find_by_machine(EM_X86_64);
    std::array<dwunw_frame, 32> frames;
    for (size_t i = 0; i < std::min(core.threads().size(), kThreadsWalked); ++i) {
        dwunw_regset regset;
        dwunw_regset_from_x86_64_pt_regs(&regset, core.threads()[i].registers.data());
        unwind::Registers registers;
        for (size_t reg = 0; reg < dwarf::kTrackedRegisters; ++reg)
            registers.set(reg, regset.regs[reg]);
        unwind::StackMemory memory(RunAddr(), {});
        memory.add_reader({read, process->get()});
        process::View view(**process);
        const auto result = unwind::walk({view, arch, registers, memory, {}, frames, false});
        require(result.written >= 1 && result.written <= frames.size(), "a walk has frames");
        for (size_t j = 1; j < result.written; ++j) {
            const auto pc = (frames[j].flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0 ? frames[j].pc : frames[j].pc - 1;
            const process::Mapping *mapping = maps.find(RunAddr(pc));
            require(mapping != nullptr && mapping->executable, "a frame lies in executable memory");
        }
    }
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    const auto core = CoreFile::parse(std::make_shared<const MemorySource>(std::span(data, size)));
    if (!core)
        return 0;
    check_segments(*core, size);
    walk_threads(*core);
    return 0;
}

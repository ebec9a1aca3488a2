// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Chooses the contents of a small core. dwunw and debuggers must be able to walk its stacks, and nothing in it may be
// false:
//
//   stacks           From the red zone upward, to the end of the mapping. If SP is not on a thread's own stack (a
//   signal
//                    handler's alternate stack, a coroutine's stack, which may lie in a big heap), the walk itself says
//                    how far up to go, and to which other stack it leads.
//   modules          Their first pages, with program headers and build-id: they identify the files.
//   modified pages   Of private file mappings (modified_pages.h). A reader takes the parts of a file's mapping that a
//   core
//                    leaves out from the file, so the core must have every page that differs from the file.
//   the link map     _r_debug, its list, the names: they tell debuggers which libraries are loaded where.
//   thread blocks    For libthread_db.
//   the vDSO         It has no file. The text of deleted modules, for the same reason.
//   JIT code         The page at each return address into it: a frame-pointer step looks for the call before the
//   address.
//
// The tests are tests/unit/core_write_test.cc and tests/integration/core_cli_test.py.
#include "core/contents.h"

#include "process/file_source.h"
#include "process/modified_pages.h"
#include "unwind/stack_memory.h"
#include "unwind/walk.h"

#include <elf.h>
#include <fcntl.h>

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_set>

namespace dwunw::core {

using process::Mapping;
using process::Maps;
using process::ModifiedPages;
using process::Process;
using process::read_at;
using process::Snapshot;
using process::Target;
using process::View;

using arch::selected::kCorePc;
using arch::selected::kCoreSp;
using arch::selected::kCoreThreadBlock;

namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kChunk = 256 << 10;
constexpr uint64_t kMaxHeaderBytes = 64 << 10;
constexpr uint64_t kMaxDeletedModuleBytes = uint64_t{64} << 20;
// Bytes above the last frame that was found on a stack, if that stack's memory may hold anything else.
constexpr uint64_t kForeignStackBytes = 64 << 10;
constexpr size_t kMaxFramesForStacks = 4096;
constexpr size_t kMaxLinkMaps = 1 << 16;
constexpr size_t kMaxDynamicEntries = 1024;
constexpr size_t kMaxNamespaces = 16;
constexpr uint64_t kMaxNameBytes = 4096;
constexpr uint64_t kThreadBlockBytes = 4096; // glibc's struct pthread has 2304

uint64_t page_down(uint64_t value) { return value & ~(kPage - 1); }
uint64_t page_up(uint64_t value) { return page_down(value + kPage - 1); }

// Code that is in no file.
bool is_unfiled_code(const Mapping &mapping) {
    return mapping.executable && (mapping.kind == Mapping::Kind::kAnonymous || mapping.is_memory_file());
}

class Chooser {
  public:
    Chooser(Process &process, const Snapshot &snapshot, uint64_t stack_bytes)
        : process_(process), maps_(snapshot.maps), memory_(*snapshot.target), stack_bytes_(stack_bytes),
          modified_(*process.directory()) {}

    std::vector<CorePiece> choose(const std::vector<CoreThread> &threads) {
        for (const CoreThread &thread : threads) {
            add_stacks(thread);
            if (kCoreThreadBlock)
                add(thread.registers[*kCoreThreadBlock], kThreadBlockBytes);
            add_code(thread.registers[kCorePc]);
        }
        scan_stacks();
        for (const Mapping &mapping : maps_.mappings())
            add_mapping(mapping);
        add_link_map();
        return pieces();
    }

  private:
    struct Range {
        uint64_t start;
        uint64_t end;
    };

    template <typename T> std::optional<T> peek(uint64_t address) const {
        std::array<uint8_t, sizeof(T)> raw;
        if (memory_.read(RunAddr(address), raw) != raw.size())
            return std::nullopt;
        T value;
        std::memcpy(&value, raw.data(), sizeof(value));
        return value;
    }

    // Adds the pages of [address, address + size), up to the end of the mapping.
    void add(uint64_t address, uint64_t size) {
        const Mapping *mapping = maps_.find(RunAddr(address));
        if (mapping == nullptr || size == 0)
            return;
        const uint64_t room = mapping->end.value - address;
        wanted_.push_back({std::max(page_down(address), mapping->start.value),
                           size < room ? std::min(page_up(address + size), mapping->end.value) : mapping->end.value});
    }

    void add_code(uint64_t address) {
        const Mapping *mapping = maps_.find(RunAddr(address));
        if (mapping == nullptr || !is_unfiled_code(*mapping))
            return;
        constexpr uint64_t kAround = 16; // for the call before a return address, and the instruction at a pc
        const uint64_t from = std::max(address - std::min(address, kAround), mapping->start.value);
        add(from, address + kAround - from);
    }

    // `up_to`: the stack at least up to this address; otherwise the whole stack.
    void add_stack(uint64_t sp, std::optional<uint64_t> up_to) {
        const Mapping *mapping = maps_.find(RunAddr(sp));
        if (mapping == nullptr || !mapping->readable)
            return;
        const uint64_t red_zone = std::min<uint64_t>(DWUNW_RED_ZONE, sp - mapping->start.value);
        const uint64_t start = sp - red_zone;
        uint64_t end = up_to ? std::min(*up_to, mapping->end.value) : mapping->end.value;
        if (stack_bytes_ != 0)
            end = std::min(end, start + std::min(stack_bytes_, mapping->end.value - start));
        add(start, end - start);
        stacks_.push_back(wanted_.back());
    }

    bool is_own_stack(const CoreThread &thread) const {
        const Mapping *mapping = maps_.find(RunAddr(thread.registers[kCoreSp]));
        // C libraries place a thread's control block at the upper end of its stack.
        return mapping != nullptr &&
               (mapping->path.starts_with("[stack") ||
                (kCoreThreadBlock && mapping->contains(RunAddr(thread.registers[*kCoreThreadBlock]))));
    }

    void add_stacks(const CoreThread &thread) {
        if (is_own_stack(thread)) {
            add_stack(thread.registers[kCoreSp], std::nullopt);
            return;
        }
        std::vector<uint64_t> sps = stack_pointers(thread);
        sps.push_back(thread.registers[kCoreSp]);
        std::ranges::sort(sps);
        for (size_t i = 0; i < sps.size();) {
            const Mapping *mapping = maps_.find(RunAddr(sps[i]));
            size_t last = i;
            while (mapping != nullptr && last + 1 < sps.size() && mapping->contains(RunAddr(sps[last + 1])))
                ++last;
            const bool whole = mapping != nullptr && mapping->path.starts_with("[stack");
            add_stack(sps[i], whole ? std::nullopt : std::optional(sps[last] + kForeignStackBytes));
            i = last + 1;
        }
    }

    std::vector<uint64_t> stack_pointers(const CoreThread &thread) {
        const dwunw_regset regs = arch::regset_of(thread.registers);
        const unwind::Registers registers(std::span(regs.regs).first<dwarf::kTrackedRegisters>(), regs.valid);
        const auto read = [](void *arg, uint64_t address, void *buffer, size_t length) {
            return static_cast<const Target *>(arg)->read(RunAddr(address), {static_cast<uint8_t *>(buffer), length});
        };
        unwind::StackMemory stack(RunAddr(0), {});
        stack.add_reader({read, const_cast<Target *>(&memory_)});
        View view(process_);
        std::vector<dwunw_frame> frames(kMaxFramesForStacks);
        const auto result = unwind::walk({
            .space = view,
            .arch = arch::selected::kArch,
            .registers = registers,
            .memory = stack,
            .pending_returns = {},
            .frames = frames,
            .cfi_only = false,
        });
        std::vector<uint64_t> sps;
        for (size_t i = 0; i < result.written; ++i)
            sps.push_back(frames[i].sp);
        return sps;
    }

    // Finds return addresses on the stacks that lead into code without a file.
    void scan_stacks() {
        if (std::ranges::none_of(maps_.mappings(), is_unfiled_code))
            return;
        std::vector<uint8_t> bytes(kChunk);
        const std::vector<Range> stacks = merged(stacks_);
        uint64_t last_page = 0;
        for (const Range &range : stacks) {
            for (uint64_t at = range.start; at < range.end; at += kChunk) {
                const auto chunk = std::span(bytes).first(std::min<uint64_t>(kChunk, range.end - at));
                const size_t got = memory_.read(RunAddr(at), chunk);
                for (size_t i = 0; i + sizeof(uint64_t) <= got; i += sizeof(uint64_t)) {
                    uint64_t word;
                    std::memcpy(&word, chunk.data() + i, sizeof(word));
                    if (page_down(word) == last_page && word % kPage > 16)
                        continue;
                    const Mapping *mapping = maps_.find(RunAddr(word));
                    if (mapping == nullptr || !is_unfiled_code(*mapping))
                        continue;
                    last_page = page_down(word);
                    add_code(word);
                }
            }
        }
    }

    void add_mapping(const Mapping &mapping) {
        switch (mapping.kind) {
        case Mapping::Kind::kVdso:
            add(mapping.start.value, mapping.end - mapping.start);
            break;
        case Mapping::Kind::kFile:
            if (!mapping.shared)
                add_modified(mapping);
            if (mapping.offset.value == 0 && mapping.readable)
                add(mapping.start.value, header_bytes(mapping));
            if (mapping.executable && (mapping.deleted || mapping.is_memory_file()))
                add_deleted(mapping);
            break;
        default:
            break;
        }
    }

    // The bytes at a module's beginning that identify its file.
    uint64_t header_bytes(const Mapping &mapping) {
        const uint64_t start = mapping.start.value;
        const auto header = peek<Elf64_Ehdr>(start);
        if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
            return 0;
        uint64_t end = sizeof(*header);
        const auto reach = [&](uint64_t offset, uint64_t size) {
            if (offset <= kMaxHeaderBytes && size <= kMaxHeaderBytes - offset)
                end = std::max(end, offset + size);
        };
        if (header->e_phentsize != sizeof(Elf64_Phdr))
            return end;
        reach(header->e_phoff, uint64_t{header->e_phnum} * sizeof(Elf64_Phdr));
        // Reads all at once: a process can have a thousand segments in each of many thousand mappings.
        scratch_.resize(end);
        const size_t got = memory_.read(RunAddr(start), scratch_);
        Elf64_Phdr segment;
        for (uint64_t at = header->e_phoff, i = 0; i < header->e_phnum && at <= got && got - at >= sizeof(segment);
             ++i, at += sizeof(segment)) {
            std::memcpy(&segment, scratch_.data() + at, sizeof(segment));
            if (segment.p_type == PT_NOTE)
                reach(segment.p_offset, segment.p_filesz);
        }
        return end;
    }

    void add_modified(const Mapping &mapping) {
        if (const auto modified = modified_.of(mapping)) {
            for (const ModifiedPages::Range &range : *modified)
                wanted_.push_back({range.start, range.end});
            return;
        }
        // The kernel has no pagemap: add everything that may have been modified.
        if (!mapping.executable)
            add(mapping.start.value, mapping.end - mapping.start);
    }

    // Only once for each file, which can have as many mappings as the map has lines.
    void add_deleted(const Mapping &mapping) {
        if (!deleted_.insert(maps_.of_same_file(mapping).front()).second)
            return;
        uint64_t total = 0;
        const auto parts = image_mappings(maps_, mapping);
        for (const Mapping *part : parts)
            total += part->end - part->start;
        if (total > kMaxDeletedModuleBytes)
            return;
        for (const Mapping *part : parts)
            add(part->start.value, part->end - part->start);
    }

    // System V gABI, "Dynamic Linking"; struct r_debug and link_map of <link.h>.
    void add_link_map() {
        uint64_t headers = 0;
        uint64_t count = 0;
        for (const auto &[key, value] : auxiliary()) {
            if (key == AT_PHDR)
                headers = value;
            else if (key == AT_PHNUM)
                count = value;
        }
        std::optional<uint64_t> bias;
        std::optional<uint64_t> dynamic;
        for (uint64_t i = 0; i < std::min<uint64_t>(count, 1024); ++i) {
            const auto segment = peek<Elf64_Phdr>(headers + i * sizeof(Elf64_Phdr));
            if (!segment)
                return;
            if (segment->p_type == PT_PHDR)
                bias = headers - segment->p_vaddr;
            else if (segment->p_type == PT_DYNAMIC)
                dynamic = segment->p_vaddr;
        }
        if (!bias || !dynamic)
            return;
        for (size_t i = 0; i < kMaxDynamicEntries; ++i) {
            const uint64_t at = *bias + *dynamic + i * sizeof(Elf64_Dyn);
            const auto entry = peek<Elf64_Dyn>(at);
            if (!entry || entry->d_tag == DT_NULL)
                return;
            add(at, sizeof(Elf64_Dyn));
            if (entry->d_tag == DT_DEBUG)
                add_debug_interface(entry->d_un.d_ptr);
        }
    }

    void add_debug_interface(uint64_t at) {
        struct Debug {
            uint64_t version, map, brk, state, base, next; // `next` from version 2
        };
        size_t maps_left = kMaxLinkMaps;
        for (size_t i = 0; i < kMaxNamespaces && at != 0; ++i) {
            const auto debug = peek<Debug>(at);
            if (!debug)
                return;
            add(at, sizeof(Debug));
            add_link_maps(debug->map, maps_left);
            at = static_cast<uint32_t>(debug->version) >= 2 ? debug->next : 0;
        }
    }

    void add_link_maps(uint64_t at, size_t &left) {
        struct LinkMap {
            uint64_t address, name, dynamic, next, previous;
        };
        for (; at != 0 && left > 0; --left) {
            const auto map = peek<LinkMap>(at);
            if (!map)
                return;
            add(at, sizeof(LinkMap));
            std::array<uint8_t, kMaxNameBytes> name;
            const size_t got = memory_.read(RunAddr(map->name), name);
            const auto *end = static_cast<const uint8_t *>(std::memchr(name.data(), 0, got));
            add(map->name, end != nullptr ? static_cast<uint64_t>(end - name.data()) + 1 : got);
            at = map->next;
        }
    }

    std::vector<std::pair<uint64_t, uint64_t>> auxiliary() const {
        std::vector<std::pair<uint64_t, uint64_t>> pairs(128);
        auto file = process_.directory()->open_file("auxv", O_RDONLY);
        if (!file)
            return {};
        const std::span bytes(reinterpret_cast<uint8_t *>(pairs.data()), pairs.size() * sizeof(pairs[0]));
        pairs.resize(read_at(file->get(), 0, bytes) / sizeof(pairs[0]));
        return pairs;
    }

    static std::vector<Range> merged(std::vector<Range> ranges) {
        std::ranges::sort(ranges, {}, &Range::start);
        std::vector<Range> result;
        for (const Range &range : ranges) {
            if (!result.empty() && range.start <= result.back().end)
                result.back().end = std::max(result.back().end, range.end);
            else
                result.push_back(range);
        }
        return result;
    }

    // The readable parts of a wanted range.
    std::vector<Range> readable(Range range) {
        std::vector<Range> result;
        scratch_.resize(kChunk);
        for (uint64_t at = range.start; at < range.end;) {
            const auto chunk = std::span(scratch_).first(std::min<uint64_t>(kChunk, range.end - at));
            const uint64_t got = page_down(memory_.read(RunAddr(at), chunk));
            if (got > 0 && !result.empty() && result.back().end == at)
                result.back().end += got;
            else if (got > 0)
                result.push_back({at, at + got});
            at += got < chunk.size() ? got + kPage : got;
        }
        return result;
    }

    std::vector<CorePiece> pieces() {
        std::vector<CorePiece> result;
        const std::vector<Range> wanted = merged(std::move(wanted_));
        auto range = wanted.begin();
        for (const Mapping &mapping : maps_.mappings()) {
            const bool described = mapping.kind != Mapping::Kind::kAnonymous || mapping.executable;
            uint64_t at = mapping.start.value;
            const auto leave_out = [&](uint64_t end) {
                if (described && at < end)
                    result.push_back({RunAddr(at), RunAddr(end), false, &mapping});
                at = end;
            };
            while (range != wanted.end() && range->end <= mapping.start.value)
                ++range;
            for (auto next = range; next != wanted.end() && next->start < mapping.end.value; ++next) {
                const Range inside{std::max(next->start, mapping.start.value), std::min(next->end, mapping.end.value)};
                for (const Range &part : readable(inside)) {
                    leave_out(part.start);
                    result.push_back({RunAddr(part.start), RunAddr(part.end), true, &mapping});
                    at = part.end;
                }
            }
            leave_out(mapping.end.value);
        }
        return result;
    }

    Process &process_;
    const Maps &maps_;
    const Target &memory_;
    uint64_t stack_bytes_;
    ModifiedPages modified_;
    std::unordered_set<uint32_t> deleted_; // the first mapping of each deleted file
    std::vector<Range> wanted_;
    std::vector<Range> stacks_;
    std::vector<uint8_t> scratch_;
};

} // namespace

std::vector<CorePiece> choose_contents(Process &process, const Snapshot &snapshot,
                                       const std::vector<CoreThread> &threads, uint64_t stack_bytes) {
    return Chooser(process, snapshot, stack_bytes).choose(threads);
}

} // namespace dwunw::core

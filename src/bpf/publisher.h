// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which processes the kernel knows, and what of their maps is published there.
//
// What is published of a process is true of one moment: the map was read after `changes` had been, and holds as many
// executable pages as it says. The kernel uses it while both still are what they were, so whatever happened meanwhile
// makes it unused, not wrong. What was published before is left in place until no walk can be reading it any more.
//
// What never goes while the process's program runs (lasting.h) is published beside it, and is true until the next exec.
//
// A generation says which cached rules are true: a new one comes whenever something that was published is so no more.
// A layout says what frames mean (layout.h). Both the map and what lasts have their own.
//
// Where a process has more mappings than there is room for, fewer are published, and the kernel is told so.
//
// To read a map costs what the process likes. So while the map's changes are known otherwise (map_watch.h), and what
// lasts is published, a process's map takes a twentieth of the time at most, and one that is never the same for long is
// read twice a second: each reading of it would give its stacks new ids, for nothing.
//
// Not thread-safe.
#pragma once

#include "abi/handles.h"
#include "bpf/block_allocator.h"
#include "bpf/bpf_maps.h"
#include "bpf/lasting.h"
#include "bpf/layout.h"
#include "bpf/linker_probe.h"
#include "bpf/map_history.h"
#include "bpf/map_validity.h"
#include "bpf/map_watch.h"
#include "bpf/moment.h"
#include "bpf/table_pool.h"

#include <dwunw/process.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace dwunw::bpf {

struct ProcessCloser {
    void operator()(dwunw_process *process) const { dwunw_process_close(process); }
};

class Publisher {
  public:
    struct TrackedProcess {
        int32_t pid = 0;
        uint32_t slot = 0;
        std::unique_ptr<dwunw_process, ProcessCloser> process;
        std::optional<AttachedProbe> linker_probe;
        const dwunw_module *linker = nullptr; // that it is on, or could not be put on
        std::shared_ptr<Layout> layout;
        PublishedMap published;
        std::vector<dwunw_mapping> mappings; // all
        uint32_t first = 0;                  // of those that are published
        uint32_t count = 0;
        uint32_t generation = 0;
        bool incomplete = false;
        bool lasting_whole = false;
        std::vector<const process::Module *> tables; // acquired
        // What lasts.
        std::shared_ptr<Layout> lasting_layout;
        std::vector<dwunw_mapping> lasting;
        uint32_t lasting_first = 0;
        uint32_t lasting_generation = 0;
        uint64_t execs = 0; // when that was found out
        // What was mapped when: from `reading` on. `next_reading` takes its place when no record is older than that.
        MapHistory history;
        std::optional<MapReading> reading;
        std::optional<MapReading> next_reading;
        // The kernel counts other pages than the map shows; by how many, once it has said so twice of the same map.
        uint64_t asked_pages = 0;
        uint64_t unexplained_pages = 0;
        bool wanted = false; // to be looked at again
        bool failed = false; // the last look
        uint64_t not_before = 0;
        uint64_t in_time_not_before = 0; // publish_in_time
        uint64_t published_at = 0;
        uint64_t rest = 0;       // before the next look, where the last ones were true for moments only
        uint64_t gone_since = 0; // seen to have exited; 0: not

        // Stacks do well with what is published.
        bool may_wait() const { return reading.has_value() && lasting_generation != 0; }
    };

    Publisher(dwunw_context *context, BpfMaps &maps, std::optional<LinkerProbe> linker_probe,
              uint32_t first_generation);

    // Adds a process, or looks at it again. dwunw_process_open's errors, DWUNW_ERR_LIMIT, DWUNW_ERR_BPF.
    dwunw_status add(int32_t pid);
    void remove(int32_t pid);
    // The kernel has said so; it knows the process no more.
    void exited(int32_t pid);
    // What is published is true; let the kernel ask again when it is not.
    void rearm(const TrackedProcess &tracked);
    // The kernel has found that what is published is not true any more, at a moment when there were so many pages.
    void asked(int32_t pid, uint64_t exec_pages);
    // Looks at the processes that are to be, as far as it is time; returns when the next one is due, 0: none.
    uint64_t look_again(uint64_t now);

    TrackedProcess *find(int32_t pid);
    // nullptr: no such layout, or no stack has it any more.
    std::shared_ptr<const Layout> layout(uint64_t number) const;
    // The kernel's count of changes.
    uint64_t changes(const TrackedProcess &tracked) const;
    // Publishes the map as it is now.
    dwunw_status publish(TrackedProcess &tracked);
    // The same, but not at once again where it has failed or takes long: DWUNW_ERR_LIMIT.
    dwunw_status publish_in_time(TrackedProcess &tracked);

    // The process's code at a moment when it had executed so many programs; nullopt where that is not known.
    std::optional<Moment> moment(TrackedProcess &tracked, uint64_t time, uint64_t execs, uint64_t now);
    // What has come to be mapped until now, anywhere.
    void watch_maps();
    // Every record of a moment before `time` has been taken in.
    void settled(uint64_t time);

    uint64_t publications() const { return publications_; }
    const TablePool &pool() const { return pool_; }
    uint32_t mappings_used() const { return mapping_blocks_.used(); }
    const MapWatch &map_watch() const { return watch_; }
    size_t watched_linkers() const;
    size_t size() const { return tracked_.size(); }

  private:
    struct Entries; // a map as it is published
    struct Block {
        uint32_t first = 0;
        uint32_t count = 0;
    };

    dwunw_status publish_timed(TrackedProcess &tracked);
    void watch_linker(TrackedProcess &tracked);
    Entries entries_of(const process::Process::CodeMappings &code);
    std::optional<Block> store(std::span<const dwunw_mapping> mappings);
    Block store_map(TrackedProcess &tracked, const Entries &entries);
    void publish_lasting(TrackedProcess &tracked, const process::Process::CodeMappings &code, const Entries &entries,
                         uint64_t execs, Block &before);
    void write(TrackedProcess &tracked, const PublishedMap &published, uint64_t code_filter);
    void withdraw(TrackedProcess &tracked);
    bool generations_for_one_more();
    // A layout that takes in the mappings: `layout`, or where that is not possible a new one.
    bool extend(std::shared_ptr<Layout> &layout, std::span<const process::Process::CodeMapping> mappings);
    void note_reading(TrackedProcess &tracked, const MapReading &reading);
    void retire(std::shared_ptr<const Layout> layout);
    const elf::Dynamic &dynamic(const dwunw_module &module);

    dwunw_context *context_;
    BpfMaps &maps_;
    std::optional<LinkerProbe> linker_probe_;
    TablePool pool_;
    BlockAllocator mapping_blocks_;
    BlockAllocator slots_;
    uint32_t generation_;
    uint64_t layouts_ = 0;
    uint64_t publications_ = 0;
    std::map<int32_t, std::unique_ptr<TrackedProcess>> tracked_;
    std::unordered_map<uint64_t, std::weak_ptr<const Layout>> layout_numbers_;
    // Layouts that came to an end: records of their time may still be on their way.
    std::deque<std::shared_ptr<const Layout>> former_layouts_;
    size_t former_bytes_ = 0;
    MapWatch watch_;
    FileChecks file_checks_;
    std::unordered_map<const process::Module *, elf::Dynamic> dynamics_;
};

} // namespace dwunw::bpf

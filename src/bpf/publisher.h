// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The processes that the kernel knows, and their published maps.
//
//     /proc/PID/maps ── read ──►  mappings ── written to ──►  dwunw_mappings   [ map of process 12 | lasting of 12 | …
//     ] modules         ── compiled ──►  tables ── copied to ──►  dwunw_pool
//                                    dwunw_processes[slot]:  changes 8, exec_pages 310, generation 5, layout 3
//
// A published map is valid for one moment: it was read when the kernel's count was `changes`, and it has `exec_pages`
// executable pages. The kernel uses it while both are unchanged. So a later change makes the map unused, not wrong. An
// old map stays in place until no walk can be reading it.
//
// The mappings that stay while the process's program runs (lasting.h) are published separately, and are valid until the
// next exec.
//
// A generation says which cached rules are valid: there is a new one whenever a published mapping becomes invalid. A
// layout gives frames their meaning (layout.h). The map and the lasting mappings have one of each.
//
// If a process has more mappings than there is room for, fewer are published, and the kernel is told.
//
// A process decides how expensive its map is to read. If the map's changes are known from elsewhere (map_watch.h) and
// the lasting mappings are published, reading takes at most a twentieth of the time, and a map that changes all the
// time is read twice a second. More readings would only give its stacks new ids.
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
        const dwunw_module *linker = nullptr; // the linker with the probe, or the one that refused it
        std::shared_ptr<Layout> layout;
        PublishedMap published;
        std::vector<dwunw_mapping> mappings; // all mappings
        uint32_t first = 0;                  // of the published ones
        uint32_t count = 0;
        uint32_t generation = 0;
        bool incomplete = false;
        bool lasting_whole = false;
        std::vector<const process::Module *> tables; // acquired
        // The lasting mappings.
        std::shared_ptr<Layout> lasting_layout;
        std::vector<dwunw_mapping> lasting;
        uint32_t lasting_first = 0;
        uint32_t lasting_generation = 0;
        uint64_t execs = 0; // the kernel's count when they were found
        // The mappings over time, from `reading` on. `next_reading` replaces `reading` once no record is older than it.
        MapHistory history;
        std::optional<MapReading> reading;
        std::optional<MapReading> next_reading;
        // The kernel counts other pages than the map shows. The difference, once the kernel has asked twice about the
        // same map.
        uint64_t asked_pages = 0;
        uint64_t unexplained_pages = 0;
        bool wanted = false; // its map is to be read again
        bool failed = false; // the last reading failed
        uint64_t not_before = 0;
        uint64_t in_time_not_before = 0; // publish_in_time
        uint64_t published_at = 0;
        uint64_t rest = 0;       // time before the next reading, if the last maps were valid only for moments
        uint64_t gone_since = 0; // when its exit was seen; 0: not seen

        // Its stacks can use the published maps until the next reading.
        bool may_wait() const { return reading.has_value() && lasting_generation != 0; }
    };

    Publisher(dwunw_context *context, BpfMaps &maps, std::optional<LinkerProbe> linker_probe,
              uint32_t first_generation);

    // Adds a process, or reads its map again. dwunw_process_open's errors, DWUNW_ERR_LIMIT, DWUNW_ERR_BPF.
    dwunw_status add(int32_t pid);
    void remove(int32_t pid);
    // Called when the kernel has reported the exit; the kernel no longer knows the process.
    void exited(int32_t pid);
    // The published map is valid: allows the kernel to ask again once it is not.
    void rearm(const TrackedProcess &tracked);
    // Called when the kernel has found that the published map is not valid. `exec_pages`: its count of pages at that
    // moment.
    void asked(int32_t pid, uint64_t exec_pages);
    // Reads the maps that are due. Returns the time at which the next one is due; 0: none.
    uint64_t look_again(uint64_t now);

    TrackedProcess *find(int32_t pid);
    // nullptr: there is no such layout, or no stack has it any more.
    std::shared_ptr<const Layout> layout(uint64_t number) const;
    // The kernel's count of changes.
    uint64_t changes(const TrackedProcess &tracked) const;
    // Publishes the current map.
    dwunw_status publish(TrackedProcess &tracked);
    // The same, but limited: DWUNW_ERR_LIMIT directly after a failure, or if it takes too much time.
    dwunw_status publish_in_time(TrackedProcess &tracked);

    // The process's code at `time`, when it had executed `execs` programs; nullopt: not known.
    std::optional<Moment> moment(TrackedProcess &tracked, uint64_t time, uint64_t execs, uint64_t now);
    // Takes in the new mappings of all processes up to now.
    void watch_maps();
    // Every record from before `time` has been taken in.
    void settled(uint64_t time);

    uint64_t publications() const { return publications_; }
    const TablePool &pool() const { return pool_; }
    uint32_t mappings_used() const { return mapping_blocks_.used(); }
    const MapWatch &map_watch() const { return watch_; }
    size_t watched_linkers() const;
    size_t size() const { return tracked_.size(); }

  private:
    struct Entries; // a map in its published form
    struct Reading; // what one reading of a process's map gave
    struct Block {
        uint32_t first = 0;
        uint32_t count = 0;
    };
    // What the kernel no longer uses after a publication.
    struct Replaced {
        Block mappings;
        Block lasting;
        std::vector<const process::Module *> tables;
    };

    dwunw_status publish_timed(TrackedProcess &tracked);
    void watch_linker(TrackedProcess &tracked);
    // publish() in steps, in this order; publication.cc.
    dwunw_status read_map(TrackedProcess &tracked, Reading &reading);
    dwunw_status read_watched_map(TrackedProcess &tracked, Reading &reading); // also if the linker is another one
    void count_pages(TrackedProcess &tracked, Reading &reading, bool same_map);
    Entries entries_of(const process::Process::CodeMappings &code);
    std::optional<Block> store(std::span<const dwunw_mapping> mappings);
    Block store_map(TrackedProcess &tracked, const Entries &entries);
    void publish_lasting(TrackedProcess &tracked, const process::Process::CodeMappings &code, const Entries &entries,
                         uint64_t execs, Block &before);
    void write(TrackedProcess &tracked, const PublishedMap &published, uint64_t code_filter);
    void release(const Replaced &replaced);
    void withdraw(TrackedProcess &tracked);
    bool generations_for_one_more();
    // Adds the mappings to `layout`, or, if that is not possible, to a new layout.
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
    // Layouts that have ended. Records of their time may still come.
    std::deque<std::shared_ptr<const Layout>> former_layouts_;
    size_t former_bytes_ = 0;
    MapWatch watch_;
    FileChecks file_checks_;
    std::unordered_map<const process::Module *, elf::Dynamic> dynamics_;
};

} // namespace dwunw::bpf

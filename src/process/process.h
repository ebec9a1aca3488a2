// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process as the frame loop sees it: its map, its modules, and their rules.
//
//     Process ── snapshot ──►  Snapshot (one reading of /proc/PID/maps, generation 12)
//                                mapping 7: r-xp libc.so.6  ── bound at first use ──►  Binding (module, load bias)
//     View (one walk) pins one Snapshot in a Seat
//
// open() reads the map, which is then a snapshot. A View pins a snapshot for one walk, so the walk takes no lock for
// each frame and sees one map. Snapshots are replaced, never changed.
//
// How a snapshot can be wrong, and what the process layer does:
//
//   A pc is unknown       It reads the map again, once, within RefreshBudget's limits. Then the answer is kUnmapped.
//   A mapping was         dlclose and dlopen often reuse addresses; the old map would then give the new code the old
//   replaced              file's rules. So an answer that was verified more than kVerifyAfter ago is verified again, by
//                         asking the kernel for that one mapping. If it differs, the map is read again; if the budget
//                         forbids that, the answer is kUnusableModule with DWUNW_ERR_MODULE_CHANGED. Linux before 6.11
//                         cannot answer for one mapping: there, a map older than kRereadAfter is read again. Within
//                         these times after a replacement, a walk may still use the old map.
//   The process executed  The handles on the old address space read as empty; new ones are opened.
//   another program
//   The process is gone   Its number may be another process's, but nothing here uses the number. The last map stays, so
//                         that earlier stacks can be walked. refresh() returns DWUNW_ERR_NO_PROCESS.
//   Moved code was        When the mapping is verified, the page in question is compared with the file's again. If it
//   overwritten           differs, the mapping is bound again.
//   A file was rewritten  Its identity (ModuleStore) shows it, when a mapping is verified and at every refresh. The
//   in place              mapping is then bound again.
//
// Thread-safe, except for destruction. A View belongs to one thread.
#pragma once

#include "process/live_target.h"
#include "process/maps.h"
#include "process/module_locator.h"
#include "process/module_store.h"
#include "process/moved_code.h"
#include "process/proc_dir.h"
#include "process/refresh_budget.h"
#include "process/stopped.h"
#include "unwind/address_space.h"
#include "unwind/rule_cache.h"

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace dwunw::process {

// The meaning of a mapping. For a module, `bias` gives its position.
struct Binding {
    unwind::CodeKind kind = unwind::CodeKind::kUnmapped;
    dwunw_status status = DWUNW_ERR_NO_MAPPING;
    const dwunw_module *module = nullptr;
    LoadBias bias{};
    FileOffset offset{}; // the file offset of the mapping's first byte
    // Bytes of code that the program has moved out of the file's mapping (moved_code.h). 0: the file itself is mapped.
    uint64_t moved = 0;
};

// One reading of the map, and the bindings of its mappings that are known.
struct Snapshot {
    struct Slot {
        std::once_flag once;
        std::atomic<bool> bound = false; // `binding` may be read without `once`
        Binding binding;
        std::atomic<uint64_t> verified_at = 0; // CLOCK_MONOTONIC, ns
        std::atomic<bool> refuted = false;     // moved code that no longer equals the file
    };

    Maps maps;
    uint64_t generation = 0; // of this process's snapshots, counted from 1
    std::shared_ptr<const Target> target;
    const LiveTarget *live = nullptr; // the same, of a live process
    std::unique_ptr<Slot[]> slots;    // one for each mapping
    mutable OpenedFiles opened;       // for a core; for a live process, only copies of its memory
    // The number of bytes that were compared to find moved code.
    static constexpr uint64_t kMaxCompared = uint64_t{1} << 30;
    mutable std::atomic<uint64_t> compared = 0;
};

// A walk's own state of its process. Threads that walk at the same time have different seats, so they share no
// reference count and no counter. A seat keeps its snapshot for the next thread.
struct alignas(64) Seat {
    std::atomic<bool> taken = false;
    std::shared_ptr<const Snapshot> snapshot; // belongs to the thread that has the seat
};

class Process final : public unwind::AddressSpace {
  public:
    static constexpr size_t kSeats = 16;
    static constexpr uint64_t kVerifyAfter = 10'000'000;
    static constexpr uint64_t kRereadAfter = 250'000'000;

    // `pid` 0: only `maps`. If `maps` is given, it is the map, and does not change. `store` must outlive the process.
    // `places`: where the files of a map without a process are. DWUNW_ERR_INVALID_ARGUMENT (neither),
    // DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES, DWUNW_ERR_MAPS_MALFORMED with the line's
    // number, DWUNW_ERR_LIMIT. A zombie and a kernel thread open with an empty map.
    static Result<std::unique_ptr<Process>> open(ModuleStore &store, pid_t pid, std::optional<std::string_view> maps,
                                                 FilePlaces places = {});

    // What a core file holds, say; the map stays as it is.
    static Result<std::unique_ptr<Process>> open(ModuleStore &store, std::shared_ptr<const Target> target, Maps maps);

    // 0: none.
    pid_t pid() const { return directory_ ? directory_->pid() : 0; }

    // Reads the map again, without regard to the budget. DWUNW_ERR_NO_PROCESS: the process is gone.
    // DWUNW_ERR_PERMISSION: it has executed a program that the caller may not read; the map is then empty.
    Status refresh();

    // Each makes a View for one question; a walk makes its own View for all of them.
    unwind::CodeLocation find(RunAddr address) override;
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override;

    // The module at an address, code or data. DWUNW_ERR_NO_MAPPING: no file is mapped there; otherwise why the file
    // cannot be used.
    struct ModuleAt {
        const dwunw_module *module = nullptr;
        LinkAddr address;
    };
    Result<ModuleAt> find_module(RunAddr address);

    // Every executable mapping of the last map, ascending, with its module opened.
    struct CodeMapping {
        RunAddr start;
        RunAddr end;
        Binding binding;
        std::shared_ptr<const unwind::ModuleCfi> cfi; // nullptr: there is none, or it is unusable
    };
    struct CodeMappings {
        std::vector<CodeMapping> mappings;
        // The number of pages that the kernel counts as executable (mm_struct.exec_vm): those that cannot be written
        // to. Without the page "[uprobes]", which the kernel adds at the first probe.
        uint64_t exec_pages = 0;
        uint64_t generation = 0; // Snapshot::generation
    };
    CodeMappings code_mappings();

    ModuleStore &store() { return store_; }
    // The binding that a mapping had while its map was the newest; kUnusableModule with DWUNW_ERR_MODULE_CHANGED if it
    // was never bound.
    static Binding binding(const Snapshot &snapshot, size_t index);
    // The binding of a file mapping that came at `time` (CLOCK_MONOTONIC, ns) and may be gone. The file's content must
    // not have changed since.
    Binding bind_past(const Mapping &mapping, uint64_t time);
    uint64_t map_generation() const { return generation_.load(std::memory_order_acquire); }

    // The binding of memory without a file, if it is moved code; otherwise nullptr. Lives as long as the snapshot.
    const Binding *moved_code(const Snapshot &snapshot, const Mapping &mapping);

    // As Target::read; what the target left out (Target::is_left_out) is taken from the file mapped there.
    size_t read_memory(RunAddr address, std::span<uint8_t> buffer);

    // DWUNW_ERR_INVALID_ARGUMENT without a pid; otherwise StoppedThreads::stop's.
    Result<std::unique_ptr<StoppedThreads>> stop(std::chrono::nanoseconds patience = StoppedThreads::kPatience) const;

    // The newest map.
    std::shared_ptr<const Snapshot> snapshot() const;

    uint64_t map_reads() const { return map_reads_.load(std::memory_order_relaxed); }
    // Distinct mapped files with executable mappings that could not be opened or had no usable ELF image.
    uint64_t modules_failed() const { return modules_failed_.load(std::memory_order_relaxed); }

    // nullptr without a pid.
    const ProcDir *directory() const { return directory_ ? &*directory_ : nullptr; }

  private:
    friend class Pin;
    friend class View;

    explicit Process(ModuleStore &store) : store_(store) {}

    const Binding &bind(const Snapshot &snapshot, size_t index);
    Binding make_binding(const Snapshot &snapshot, const Mapping &mapping);
    // nullopt: it is not moved code.
    std::optional<Binding> bind_moved_code(const Snapshot &snapshot, const Mapping &mapping);
    bool is_still_moved_code(const Snapshot &snapshot, const Mapping &mapping, const Binding &binding,
                             RunAddr address) const;
    void count_failure(const Mapping &mapping);

    enum class Reason : uint8_t {
        kUnknown,  // no code is mapped there, or its file cannot be opened
        kReplaced, // the mapping differs from the snapshot, or may differ
    };
    // True if there is a newer snapshot than `seen`.
    bool refresh_because(Reason reason, RunAddr address, const Snapshot &seen);
    Status read_map(); // refresh_mutex_ must be held
    void install(Maps maps);

    ModuleStore &store_;
    std::optional<ProcDir> directory_;
    std::shared_ptr<const Target> fixed_target_; // where there is no address space to read
    bool fixed_map_ = false;
    std::atomic<bool> gone_ = false;
    std::atomic<uint64_t> map_reads_ = 0;
    std::atomic<uint64_t> modules_failed_ = 0;

    std::mutex refresh_mutex_;               // one reading at a time; guards live_ and budget_
    std::shared_ptr<const LiveTarget> live_; // nullptr: none could be opened
    RefreshBudget budget_;

    std::shared_ptr<const Snapshot> snapshot_; // guarded by refresh_mutex_; readers use published_
    mutable std::mutex publish_mutex_;         // only to copy or replace the pointer
    std::shared_ptr<const Snapshot> published_;
    std::atomic<uint64_t> generation_ = 0; // of published_
    mutable std::array<Seat, kSeats> seats_;
    unwind::RuleCache rules_;

    std::mutex failed_mutex_;
    std::set<std::pair<uint64_t, std::string>> failed_; // (inode, path)
};

// The newest snapshot, held as long as it is needed: in a seat, or, if the nearby seats are taken, by a reference.
class Pin {
  public:
    explicit Pin(const Process &process);
    ~Pin();
    Pin(const Pin &) = delete;
    Pin &operator=(const Pin &) = delete;

    const Snapshot &operator*() const { return *snapshot_; }
    const Snapshot *operator->() const { return snapshot_; }
    // Switches to a newer snapshot if there is one.
    void renew();
    // The seat's number; Process::kSeats: no seat.
    size_t seat() const { return seat_; }

  private:
    const Process &process_;
    size_t seat_ = Process::kSeats;
    std::shared_ptr<const Snapshot> own_;
    const Snapshot *snapshot_ = nullptr;
};

// One walk's view of a process.
class View final : public unwind::AddressSpace {
  public:
    explicit View(Process &process);

    unwind::CodeLocation find(RunAddr address) override;
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override;
    // Asks only the snapshot: numbers that look like addresses must not cause the map to be read again.
    bool is_code(RunAddr address) override;
    Warm warm() override { return {&process_.rules_, snapshot_->generation, now_}; }
    std::optional<unwind::PlacedModule> place(uint32_t number, uint64_t generation) override;
    bool is_warm_code(RunAddr address, uint64_t generation) override;
    Result<Process::ModuleAt> find_module(RunAddr address);
    // Pin::seat()
    size_t seat() const { return snapshot_.seat(); }

  private:
    struct Answer {
        const Mapping *mapping = nullptr; // in snapshot_; nullptr: nothing is mapped there
        Binding binding;
    };
    Answer look(RunAddr address, bool code);
    enum class Trust : uint8_t {
        kGood,
        kUnknown,  // no code, or a file that cannot be opened
        kReplaced, // the snapshot is wrong here
        kOld,      // the snapshot may be wrong here, and only reading the map again can tell
    };
    Trust trust(RunAddr address, const Answer &answer) const;
    // Whether a mapping of the snapshot was verified a moment ago.
    bool verified_lately(const Snapshot::Slot &slot) const;

    Process &process_;
    Pin snapshot_;
    uint64_t now_;
};

} // namespace dwunw::process

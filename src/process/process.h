// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process as the frame loop sees it: its map, the modules in it, their rules.
//
// The map is read at open() and is then a snapshot. A View pins one for the length of a walk, so that a walk takes no
// lock per frame and sees one map. Snapshots are replaced, never changed.
//
// How a snapshot can be wrong, and what is done:
//   A pc is unknown       The map is read again, once, within RefreshBudget's limits; then the answer is kUnmapped.
//   A mapping has been    dlclose and dlopen love to reuse addresses, and the old map would give the new code the old
//   replaced              file's rules. So an answer that was last verified more than kVerifyAfter ago is verified by
//                         asking the kernel for that one mapping; where it differs, the map is read again, and if
//                         that is over budget, the answer is kUnusableModule with DWUNW_ERR_MODULE_CHANGED. Before
//                         Linux 6.11 there is no such question to ask: there, a map older than kRereadAfter is read
//                         again. Within these times after a replacement, a walk can still meet the old map.
//   The process executed  Its handles are tied to the old address space and read as empty; new ones are opened.
//   another program
//   The process is gone   Its number may already be another's, but nothing here goes by the number. The last map stays,
//                         so that stacks taken before can be walked; refresh() says DWUNW_ERR_NO_PROCESS.
//   Moved code was        The page that is asked about is compared with the file's again when the mapping is verified;
//   overwritten           where it differs, the mapping is bound anew.
//   A file was rewritten  Seen by its identity (ModuleStore) when a mapping is verified and at every refresh; the
//   mapping in place              is then bound anew.
//
// Thread-safe, except for destruction; a View is one thread's.
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

// What a mapping is bound to. For a module, `bias` places it.
struct Binding {
    unwind::CodeKind kind = unwind::CodeKind::kUnmapped;
    dwunw_status status = DWUNW_ERR_NO_MAPPING;
    const dwunw_module *module = nullptr;
    LoadBias bias{};
    FileOffset offset{}; // of the mapping's first byte, in the module's file
    // Code that was moved out of the file's mapping (moved_code.h): how much of it is the file's. 0: the file is
    // mapped.
    uint64_t moved = 0;
};

// One reading of the map, and what its mappings have been bound to so far.
struct Snapshot {
    struct Slot {
        std::once_flag once;
        std::atomic<bool> bound = false; // `binding` may be read without `once`
        Binding binding;
        std::atomic<uint64_t> verified_at = 0; // CLOCK_MONOTONIC, ns
        std::atomic<bool> refuted = false;     // moved code that is not the file's any more
    };

    Maps maps;
    uint64_t generation = 0; // of this process's snapshots, counted from 1
    std::shared_ptr<const Target> target;
    const LiveTarget *live = nullptr; // the same, of a live process
    std::unique_ptr<Slot[]> slots;    // one a mapping
    mutable OpenedFiles opened;       // of a core; of a live process those that are copies of its memory
    // How many bytes were compared to find moved code.
    static constexpr uint64_t kMaxCompared = uint64_t{1} << 30;
    mutable std::atomic<uint64_t> compared = 0;
};

// Where a walk keeps what it needs of its process, so that threads that walk at once share no reference count and no
// counter: whoever has taken a seat has it for himself. It keeps its snapshot from one taker to the next.
struct alignas(64) Seat {
    std::atomic<bool> taken = false;
    std::shared_ptr<const Snapshot> snapshot; // the taker's
};

class Process final : public unwind::AddressSpace {
  public:
    static constexpr size_t kSeats = 16;
    static constexpr uint64_t kVerifyAfter = 10'000'000;
    static constexpr uint64_t kRereadAfter = 250'000'000;

    // `pid` 0: `maps` alone. `maps` given: it is the map, and stays so. `store` outlives the process.
    // DWUNW_ERR_INVALID_ARGUMENT (neither), DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES,
    // DWUNW_ERR_MAPS_MALFORMED with the line's number, DWUNW_ERR_LIMIT. A zombie and a kernel thread open with an empty
    // map. `places`: where the files of a map without a process are.
    static Result<std::unique_ptr<Process>> open(ModuleStore &store, pid_t pid, std::optional<std::string_view> maps,
                                                 FilePlaces places = {});

    // What a core file holds, say; the map stays as it is.
    static Result<std::unique_ptr<Process>> open(ModuleStore &store, std::shared_ptr<const Target> target, Maps maps);

    // 0: none.
    pid_t pid() const { return directory_ ? directory_->pid() : 0; }

    // Reads the map again, whatever the budget. DWUNW_ERR_NO_PROCESS when the process is gone. When it executed a
    // program that the caller may not look into: DWUNW_ERR_PERMISSION, and the map is empty.
    Status refresh();

    // Each a View's of the moment; a walk makes one View and asks that.
    unwind::CodeLocation find(RunAddr address) override;
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override;

    // The module mapped at an address, code or data. DWUNW_ERR_NO_MAPPING where no file is mapped; why the file cannot
    // be used.
    struct ModuleAt {
        const dwunw_module *module = nullptr;
        LinkAddr address;
    };
    Result<ModuleAt> find_module(RunAddr address);

    // Every executable mapping of the map as it was last read, ascending, its module opened.
    struct CodeMapping {
        RunAddr start;
        RunAddr end;
        Binding binding;
        std::shared_ptr<const unwind::ModuleCfi> cfi; // nullptr: none that is usable
    };
    struct CodeMappings {
        std::vector<CodeMapping> mappings;
        // What the kernel counts as executable pages (mm_struct.exec_vm): those that cannot be written to. Without the
        // one of "[uprobes]", which comes with the first probe.
        uint64_t exec_pages = 0;
        uint64_t generation = 0; // Snapshot::generation
    };
    CodeMappings code_mappings();

    ModuleStore &store() { return store_; }
    // What a mapping of a map was bound to while it was the newest; kUnusableModule with DWUNW_ERR_MODULE_CHANGED where
    // nobody had asked.
    static Binding binding(const Snapshot &snapshot, size_t index);
    // The same for a mapping of a file that came at `time` (CLOCK_MONOTONIC, ns) and may be gone: of a file whose
    // content has not changed since then.
    Binding bind_past(const Mapping &mapping, uint64_t time);
    uint64_t map_generation() const { return generation_.load(std::memory_order_acquire); }

    // What memory without a file is bound to, if it is moved code; nullptr otherwise. Lives as long as the snapshot.
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
    // nullopt where it is not moved code.
    std::optional<Binding> bind_moved_code(const Snapshot &snapshot, const Mapping &mapping);
    bool is_still_moved_code(const Snapshot &snapshot, const Mapping &mapping, const Binding &binding,
                             RunAddr address) const;
    void count_failure(const Mapping &mapping);

    enum class Reason : uint8_t {
        kUnknown,  // no code is mapped there, or its file cannot be opened
        kReplaced, // what is mapped there is not what the snapshot says, or may not be
    };
    // True where there is something newer than `seen` to look at.
    bool refresh_because(Reason reason, RunAddr address, const Snapshot &seen);
    Status read_map(); // with refresh_mutex_ held
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

    std::shared_ptr<const Snapshot> snapshot_; // refresh_mutex_'s; what readers take is published
    mutable std::mutex publish_mutex_;         // only to copy or replace the pointer
    std::shared_ptr<const Snapshot> published_;
    std::atomic<uint64_t> generation_ = 0; // of published_
    mutable std::array<Seat, kSeats> seats_;
    unwind::RuleCache rules_;

    std::mutex failed_mutex_;
    std::set<std::pair<uint64_t, std::string>> failed_; // (inode, path)
};

// The newest snapshot, for as long as it is needed: in a seat of one's own, or, when those at hand are taken, by a
// reference of one's own.
class Pin {
  public:
    explicit Pin(const Process &process);
    ~Pin();
    Pin(const Pin &) = delete;
    Pin &operator=(const Pin &) = delete;

    const Snapshot &operator*() const { return *snapshot_; }
    const Snapshot *operator->() const { return snapshot_; }
    // Looks whether there is a newer one.
    void renew();
    // The seat's number, Process::kSeats without one.
    size_t seat() const { return seat_; }

  private:
    const Process &process_;
    size_t seat_ = Process::kSeats;
    std::shared_ptr<const Snapshot> own_;
    const Snapshot *snapshot_ = nullptr;
};

// One walk's look at a process.
class View final : public unwind::AddressSpace {
  public:
    explicit View(Process &process);

    unwind::CodeLocation find(RunAddr address) override;
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override;
    // As the snapshot has it: numbers that look like addresses must not make the map be read again.
    bool is_code(RunAddr address) override;
    Warm warm() override { return {&process_.rules_, snapshot_->generation, now_}; }
    std::optional<unwind::PlacedModule> place(uint32_t number, uint64_t generation) override;
    bool is_warm_code(RunAddr address, uint64_t generation) override;
    Result<Process::ModuleAt> find_module(RunAddr address);
    // Pin::seat()
    size_t seat() const { return snapshot_.seat(); }

  private:
    struct Answer {
        const Mapping *mapping = nullptr; // in snapshot_; nullptr where nothing is mapped
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
    // Whether what the snapshot says of a mapping was true a moment ago.
    bool verified_lately(const Snapshot::Slot &slot) const;

    Process &process_;
    Pin snapshot_;
    uint64_t now_;
};

} // namespace dwunw::process

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/process.h"

#include "base/clock.h"
#include "process/map_target.h"
#include "process/memory_image.h"
#include "process/module_locator.h"

#include <sys/sysmacros.h>

#include <algorithm>

namespace dwunw::process {
namespace {

using unwind::CodeKind;
using unwind::CodeLocation;

// Whether a file may have been written to after a moment, by its own times. Those are wall-clock times, in steps of
// some milliseconds. If the clock was set since, all files may look old or new.
bool changed_since(const FileIdentity &identity, uint64_t moment) {
    constexpr int64_t kSecond = 1'000'000'000;
    constexpr int64_t kClockStep = 20'000'000;
    const auto age = static_cast<int64_t>(now_ns() - moment);
    const int64_t then = static_cast<int64_t>(now_ns(CLOCK_REALTIME)) - age - kClockStep;
    return std::max(identity.mtime.seconds * kSecond + identity.mtime.nanoseconds,
                    identity.ctime.seconds * kSecond + identity.ctime.nanoseconds) >= then;
}

// Whether the binding of a mapping is valid for the same line of a newer map. The store holds a file open, so its inode
// number cannot have become another file's. A copy of a deleted file's memory has no such guarantee and is made again.
// The vDSO stays with its address space.
bool still_valid(const Binding &binding, const Mapping &mapping, bool same_target) {
    if (binding.kind != CodeKind::kModule)
        return false;
    if (mapping.kind == Mapping::Kind::kVdso)
        return same_target;
    if (binding.moved != 0 && !same_target)
        return false;
    return binding.module->file->identity().has_value() && binding.module->file->unchanged();
}

} // namespace

Result<std::unique_ptr<Process>> Process::open(ModuleStore &store, pid_t pid, std::optional<std::string_view> maps,
                                               FilePlaces places) {
    if (pid < 0 || (pid == 0 && !maps) || (pid != 0 && places.given()))
        return Error{DWUNW_ERR_INVALID_ARGUMENT, static_cast<uint64_t>(pid)};
    std::unique_ptr<Process> process(new Process(store));
    process->fixed_target_ = std::make_shared<const MapTarget>(std::move(places));
    if (pid != 0) {
        auto directory = ProcDir::open(pid);
        if (!directory)
            return directory.error();
        process->directory_.emplace(std::move(*directory));
    }
    const std::lock_guard lock(process->refresh_mutex_);
    if (maps) {
        process->fixed_map_ = true;
        auto parsed = Maps::parse({maps->begin(), maps->end()}, Maps::Order::kStrict);
        if (!parsed)
            return parsed.error();
        if (pid != 0) {
            auto target = LiveTarget::open(*process->directory_);
            if (!target)
                return target.error();
            process->live_ = std::move(*target);
        }
        process->install(std::move(*parsed));
        return process;
    }
    if (auto status = process->read_map(); !status) {
        if (status.status() != DWUNW_ERR_NO_PROCESS || process->directory_->state() == ProcDir::State::kGone)
            return status.error();
        process->install({}); // a zombie
    }
    return process;
}

Result<std::unique_ptr<Process>> Process::open(ModuleStore &store, std::shared_ptr<const Target> target, Maps maps) {
    std::unique_ptr<Process> process(new Process(store));
    process->fixed_target_ = std::move(target);
    process->fixed_map_ = true;
    const std::lock_guard lock(process->refresh_mutex_);
    process->install(std::move(maps));
    return process;
}

Status Process::refresh() {
    const std::lock_guard lock(refresh_mutex_);
    if (fixed_map_)
        return {};
    return read_map();
}

// The map is empty if its address space is gone. The process has another address space only after an exec. So the
// process's state, read afterwards, says what an empty map means.
Status Process::read_map() {
    const Error no_process{DWUNW_ERR_NO_PROCESS, static_cast<uint64_t>(pid())};
    if (gone_)
        return no_process;
    // Two attempts suffice for one exec. More of them catch a process that executes program after program.
    constexpr int kAttempts = 8;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        const bool opened_now = live_ == nullptr;
        if (opened_now) {
            auto target = LiveTarget::open(*directory_);
            if (!target) {
                if (target.error().status == DWUNW_ERR_NO_PROCESS)
                    gone_ = true;
                else if (snapshot_ != nullptr)
                    install({}); // it executed a program that we may not read: the old map is wrong now
                return target.error();
            }
            live_ = std::move(*target);
        }
        auto maps = Maps::read(live_->maps_fd());
        map_reads_.fetch_add(1, std::memory_order_relaxed);
        if (maps && !maps->mappings().empty()) {
            install(std::move(*maps));
            return {};
        }
        if (!maps && maps.error().status != DWUNW_ERR_NO_PROCESS)
            return maps.error();
        if (directory_->state() != ProcDir::State::kAlive) {
            gone_ = true;
            return no_process;
        }
        // Alive, with an empty newest address space: a kernel thread, which never had one; or a process that is about
        // to end or to execute the next program.
        const bool had_mappings = snapshot_ != nullptr && !snapshot_->maps.mappings().empty();
        if (opened_now && attempt > 0 && !had_mappings) {
            install({});
            return {};
        }
        live_ = nullptr;
    }
    return no_process;
}

void Process::install(Maps maps) {
    auto next = std::make_shared<Snapshot>();
    next->maps = std::move(maps);
    next->generation = snapshot_ != nullptr ? snapshot_->generation + 1 : 1;
    next->live = live_.get();
    next->target = live_ != nullptr ? live_ : fixed_target_;
    const uint64_t now = now_ns();
    const auto &mappings = next->maps.mappings();
    next->slots = std::make_unique<Snapshot::Slot[]>(mappings.size());
    if (snapshot_ != nullptr) {
        const auto &before = snapshot_->maps.mappings();
        size_t old = 0;
        for (size_t i = 0; i < mappings.size(); ++i) {
            while (old < before.size() && before[old].start < mappings[i].start)
                ++old;
            if (old == before.size())
                break;
            const Snapshot::Slot &slot = snapshot_->slots[old];
            if (before[old] == mappings[i] && slot.bound.load(std::memory_order_acquire) &&
                !slot.refuted.load(std::memory_order_relaxed) &&
                still_valid(slot.binding, mappings[i], snapshot_->live == live_.get())) {
                next->slots[i].binding = slot.binding;
                next->slots[i].bound.store(true, std::memory_order_relaxed);
            }
        }
    }
    for (size_t i = 0; i < mappings.size(); ++i)
        next->slots[i].verified_at.store(now, std::memory_order_relaxed);
    snapshot_ = std::move(next);
    {
        const std::lock_guard lock(publish_mutex_);
        published_ = snapshot_;
        generation_.store(snapshot_->generation, std::memory_order_release);
    }
    // Empty seats must not keep the old snapshot.
    for (Seat &seat : seats_) {
        if (seat.taken.exchange(true, std::memory_order_acquire))
            continue;
        seat.snapshot = nullptr;
        seat.taken.store(false, std::memory_order_release);
    }
}

const Binding &Process::bind(const Snapshot &snapshot, size_t index) {
    Snapshot::Slot &slot = snapshot.slots[index];
    if (!slot.bound.load(std::memory_order_acquire))
        std::call_once(slot.once, [&] {
            slot.binding = make_binding(snapshot, snapshot.maps.mappings()[index]);
            slot.bound.store(true, std::memory_order_release);
        });
    return slot.binding;
}

Binding Process::make_binding(const Snapshot &snapshot, const Mapping &mapping) {
    switch (mapping.kind) {
    case Mapping::Kind::kUprobeTrampoline:
        return {CodeKind::kUprobeTrampoline, DWUNW_ERR_UPROBE_TRAMPOLINE};
    case Mapping::Kind::kAnonymous:
        return bind_moved_code(snapshot, mapping).value_or(Binding{CodeKind::kAnonymous, DWUNW_ERR_NO_CFI});
    case Mapping::Kind::kFile:
    case Mapping::Kind::kVdso:
        break;
    }
    auto unusable = [&](const dwunw_module *module, dwunw_status status) -> Binding {
        count_failure(mapping);
        return {CodeKind::kUnusableModule, status, module, {}, mapping.offset};
    };
    auto module = snapshot.target->open_module(store_, snapshot.maps, mapping, &snapshot.opened);
    const dwunw_status status = !module                     ? module.error().status
                                : !(*module)->file->image() ? (*module)->file->image().error().status
                                                            : DWUNW_OK;
    // Memory with a file name: a JIT compiler's, or large pages.
    if (status == DWUNW_ERR_NOT_ELF && mapping.is_memory_file())
        return bind_moved_code(snapshot, mapping).value_or(Binding{CodeKind::kAnonymous, DWUNW_ERR_NO_CFI});
    if (!module)
        return unusable(store_.intern_unusable(mapping.path, status), status);
    if (status != DWUNW_OK)
        return unusable(*module, status);
    const Result<elf::Image> &image = (*module)->file->image();
    const auto bias = load_bias(*image, mapping);
    // No segment of the file belongs at this address: the file was not loaded as an ELF program.
    if (!bias)
        return unusable(*module, DWUNW_ERR_ELF_MALFORMED);
    return {CodeKind::kModule, DWUNW_OK, *module, *bias, mapping.offset};
}

// The neighbours are files, and binding a file reads no other mapping.
std::optional<Binding> Process::bind_moved_code(const Snapshot &snapshot, const Mapping &mapping) {
    for (const Mapping *neighbour : moved_code_neighbours(snapshot.maps, mapping)) {
        const Binding &beside = bind(snapshot, snapshot.maps.index_of(*neighbour));
        if (beside.kind != CodeKind::kModule)
            continue;
        const Module &file = *beside.module->file;
        const auto code = place_moved_code(*file.image(), beside.bias, mapping);
        if (!code || !same_page(*snapshot.target, mapping.start, file.source(), *code, mapping.start))
            continue;
        // A process must not make us compare without end.
        if (snapshot.compared.fetch_add(code->length, std::memory_order_relaxed) + code->length >
            Snapshot::kMaxCompared) {
            count_failure(mapping);
            continue;
        }
        if (same_bytes(*snapshot.target, mapping.start, file.source(), *code) && file.unchanged())
            return Binding{CodeKind::kModule, DWUNW_OK, beside.module, beside.bias, code->offset, code->length};
    }
    return std::nullopt;
}

const Binding *Process::moved_code(const Snapshot &snapshot, const Mapping &mapping) {
    if (mapping.kind != Mapping::Kind::kAnonymous && !mapping.is_memory_file())
        return nullptr;
    if (!mapping.executable)
        return nullptr;
    const Binding &binding = bind(snapshot, snapshot.maps.index_of(mapping));
    return binding.moved != 0 ? &binding : nullptr;
}

bool Process::is_still_moved_code(const Snapshot &snapshot, const Mapping &mapping, const Binding &binding,
                                  RunAddr address) const {
    return same_page(*snapshot.target, mapping.start, binding.module->file->source(), {binding.offset, binding.moved},
                     address);
}

std::shared_ptr<const Snapshot> Process::snapshot() const {
    const std::lock_guard lock(publish_mutex_);
    return published_;
}

Binding Process::binding(const Snapshot &snapshot, size_t index) {
    const Snapshot::Slot &slot = snapshot.slots[index];
    if (!slot.bound.load(std::memory_order_acquire))
        return {CodeKind::kUnusableModule, DWUNW_ERR_MODULE_CHANGED, nullptr, {}};
    return slot.binding;
}

Binding Process::bind_past(const Mapping &mapping, uint64_t time) {
    const Binding unknown{CodeKind::kUnusableModule, DWUNW_ERR_MODULE_CHANGED, nullptr, {}};
    if (mapping.kind != Mapping::Kind::kFile)
        return unknown;
    const std::shared_ptr<const Snapshot> now = snapshot();
    if (now->live == nullptr)
        return unknown;
    const dwunw_module *module =
        store_.current(makedev(mapping.device_major, mapping.device_minor), mapping.inode, mapping.path);
    if (module == nullptr) {
        const auto opened = now->live->open_module(store_, Maps::assemble({mapping}, {}), mapping, nullptr);
        if (!opened)
            return unknown;
        module = *opened;
    }
    // A copy of memory is a copy of the present memory.
    const auto &identity = module->file->identity();
    if (!identity)
        return unknown;
    const bool is_the_file =
        identity->inode == mapping.inode && identity->device == makedev(mapping.device_major, mapping.device_minor);
    if ((!is_the_file || changed_since(*identity, time)) && !now->live->still_mapped(mapping))
        return unknown;
    const Result<elf::Image> &image = module->file->image();
    const auto bias = image ? load_bias(*image, mapping) : std::nullopt;
    return bias ? Binding{CodeKind::kModule, DWUNW_OK, module, *bias} : unknown;
}

void Process::count_failure(const Mapping &mapping) {
    if (!mapping.executable)
        return;
    const std::lock_guard lock(failed_mutex_);
    if (failed_.emplace(mapping.inode, std::string(mapping.path)).second)
        modules_failed_.fetch_add(1, std::memory_order_relaxed);
}

bool Process::refresh_because(Reason reason, RunAddr address, const Snapshot &seen) {
    if (fixed_map_ || gone_)
        return false;
    const std::lock_guard lock(refresh_mutex_);
    if (snapshot_.get() != &seen)
        return true;
    const uint64_t now = now_ns();
    // For a mapping without code, or whose file cannot be opened, its first page represents the whole mapping.
    const Mapping *before = seen.maps.find(address);
    const RunAddr page = before != nullptr ? before->start : address;
    if (reason == Reason::kUnknown && budget_.known_unmapped(page, now))
        return false;
    if (!budget_.allows(now))
        return false;
    const Status status = read_map();
    const uint64_t after = now_ns();
    budget_.spent(after, after - now);
    if (gone_)
        return true; // this map will not change
    if (reason == Reason::kUnknown) {
        const Mapping *mapping = snapshot_->maps.find(address);
        const bool same = before != nullptr && mapping != nullptr && *before == *mapping;
        if (!status || mapping == nullptr || !mapping->executable || same)
            budget_.remember_unmapped(page, after);
    }
    return snapshot_.get() != &seen;
}

CodeLocation Process::find(RunAddr address) { return View(*this).find(address); }

bool Process::read_code(RunAddr address, std::span<uint8_t> buffer) { return View(*this).read_code(address, buffer); }

Result<Process::ModuleAt> Process::find_module(RunAddr address) { return View(*this).find_module(address); }

Process::CodeMappings Process::code_mappings() {
    constexpr uint64_t kPage = 4096;
    // With 5-level paging; [vsyscall] lies beyond, outside the address space.
    constexpr uint64_t kUserEnd = uint64_t{1} << 56;
    const Pin now(*this);
    CodeMappings result;
    result.generation = now->generation;
    for (const Mapping &mapping : now->maps.mappings()) {
        if (!mapping.executable || mapping.start.value >= kUserEnd)
            continue;
        const bool probes_page = mapping.kind == Mapping::Kind::kUprobeTrampoline && mapping.path == "[uprobes]";
        if (!mapping.writable && !probes_page)
            result.exec_pages += (mapping.end - mapping.start) / kPage;
        CodeMapping code{mapping.start, mapping.end, bind(*now, now->maps.index_of(mapping)), nullptr};
        if (code.binding.kind == CodeKind::kModule) {
            auto cfi = store_.cfi(*code.binding.module->file);
            if (cfi)
                code.cfi = std::move(*cfi);
        }
        result.mappings.push_back(std::move(code));
    }
    return result;
}

size_t Process::read_memory(RunAddr address, std::span<uint8_t> buffer) {
    const Pin now(*this);
    size_t done = 0;
    while (done < buffer.size()) {
        const RunAddr at = address + done;
        const auto rest = buffer.subspan(done);
        if (const size_t got = now->target->read(at, rest); got > 0) {
            done += got;
            continue;
        }
        const Mapping *mapping = now->target->is_left_out(at) ? now->maps.find(at) : nullptr;
        if (mapping == nullptr || mapping->kind != Mapping::Kind::kFile)
            break;
        const Binding &binding = bind(*now, now->maps.index_of(*mapping));
        if (binding.kind != CodeKind::kModule)
            break;
        const size_t got = binding.module->file->source().read(
            mapping->offset + (at - mapping->start), rest.first(std::min<uint64_t>(rest.size(), mapping->end - at)));
        if (got == 0)
            break;
        done += got;
    }
    return done;
}

Result<std::unique_ptr<StoppedThreads>> Process::stop(std::chrono::nanoseconds patience) const {
    if (!directory_)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    return StoppedThreads::stop(*directory_, patience);
}

} // namespace dwunw::process

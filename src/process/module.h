// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One module: an ELF image, and everything that was parsed and compiled from it. The name in a map is dwunw_module's.
//
// Thread-safe. The image is parsed once, at first use. The CFI is read at first use, and again after it was dropped. A
// failure is remembered like a result.
#pragma once

#include "base/address.h"
#include "base/budget.h"
#include "elf/image.h"
#include "process/debug_file.h"
#include "process/file_source.h"
#include "process/maps.h"
#include "unwind/module_cfi.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace dwunw::process {

// The memory that all modules may have together.
struct ModuleBudget {
    Budget images;   // headers, as long as the module exists; a module beyond the budget has none
    Budget sections; // sections that are read or unpacked whole, as long as the CFI is kept
};

class Module {
  public:
    // `identity`: the file's; the file is checked not to change while it is parsed. None for an image from memory.
    // `budget` is shared with other modules; nullptr: only the limits of a single file. `debug_root`: the folder of
    // separate debug files.
    Module(std::shared_ptr<const ByteSource> source, int fd, std::optional<FileIdentity> identity,
           std::shared_ptr<ModuleBudget> budget = nullptr, const char *debug_root = kDebugRoot);

    const ByteSource &source() const { return *source_; }
    int fd() const { return fd_; } // −1 for an image from memory
    const std::optional<FileIdentity> &identity() const { return identity_; }
    // Whether the file's content is still the module's. Always true for an image from memory.
    bool unchanged() const { return source_->unchanged(); }

    // elf::Image::parse's errors; DWUNW_ERR_MODULE_CHANGED; DWUNW_ERR_LIMIT: the budget has not enough left.
    const Result<elf::Image> &image() const;
    // e_entry; 0: the image has none, or there is no image.
    LinkAddr entry() const { return image() ? image()->entry() : LinkAddr(); }
    // image()'s errors, those of reading its sections, and ModuleCfi::build's. If the file has no .debug_frame, it is
    // read from the separate debug file, which also has names. DWUNW_ERR_LIMIT: the budget has not enough left;
    // lacked_room() then says how much, and the failure is not remembered.
    Result<std::shared_ptr<const unwind::ModuleCfi>> cfi() const;
    // The bytes that the last cfi() wanted and did not get; 0: it did not fail for lack of room.
    uint64_t lacked_room() const { return lacked_room_.load(std::memory_order_relaxed); }
    // The same for callers that need every section: reads all now, from the file alone. The caller keeps it.
    Result<std::shared_ptr<const unwind::ModuleCfi>> whole_cfi() const { return build_cfi(Read::kNow); }
    // Forgets what cfi() made, unless another owner holds it. Returns the number of freed bytes.
    size_t drop_cfi() const;
    // Whether cfi() has a share of the budget.
    bool holds_share() const;
    // The bytes that it holds now; 0: it was not used.
    size_t cfi_bytes() const;

    // Notes the time of a lookup, by the evicting store's clock.
    void touch(uint64_t now) const { touched_.store(now, std::memory_order_relaxed); }
    uint64_t touched() const { return touched_.load(std::memory_order_relaxed); }

  private:
    enum class Read : uint8_t { kAsAsked, kNow };
    Result<std::shared_ptr<const unwind::ModuleCfi>> build_cfi(Read read) const;
    // The source of .debug_frame.
    struct DebugFrame {
        const elf::Image &image;
        const ByteSource &source;
    };
    // A share for everything that build_cfi() reads at once; DWUNW_ERR_LIMIT.
    Result<Budget::Share> take_room(const elf::Image &image, const DebugFrame &debug_frame) const;

    std::shared_ptr<const ByteSource> source_; // it knows whether the content has changed
    int fd_;
    std::optional<FileIdentity> identity_;
    std::shared_ptr<ModuleBudget> budget_;
    const char *debug_root_;
    mutable Budget::Share image_share_;
    mutable std::atomic<uint64_t> lacked_room_ = 0;
    mutable std::once_flag image_once_;
    mutable std::optional<Result<elf::Image>> image_;
    mutable std::mutex cfi_mutex_;
    mutable std::optional<Result<std::shared_ptr<const unwind::ModuleCfi>>> cfi_;
    mutable std::atomic<uint64_t> touched_ = 0;
};

// The load bias of a mapping: that of the PT_LOAD whose pages hold the mapping's first byte. An executable mapping can
// only come from an executable segment (pages of two segments may overlap in the file).
std::optional<LoadBias> load_bias(const elf::Image &image, const Mapping &mapping);

} // namespace dwunw::process

// The C ABI's module: a name for an image. If two maps show different paths for one file, there are two of these and
// one Module. ModuleStore makes it, and it lives as long as the store.
struct dwunw_module {
    std::string path;
    const dwunw::process::Module *file = nullptr; // nullptr: it could not be opened
    dwunw_status status = DWUNW_OK;               // the reason
};

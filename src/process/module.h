// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One module: an ELF image, what was parsed and compiled from it, and the name a map gives it.
//
// Thread-safe. The image is parsed once, at first use; the CFI is read at first use and again after it was dropped. A
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

// What modules may have in memory together.
struct ModuleBudget {
    Budget images;   // headers, for as long as there are modules; who comes too late has none
    Budget sections; // those that are read or unpacked whole, as long as the CFI is kept
};

class Module {
  public:
    // `identity`: of a file, whose content is checked not to change while it is parsed; none for an image from memory.
    // `budget`: shared with other modules; nullptr: it has what one file may have. `debug_root`: where separate debug
    // files are.
    Module(std::shared_ptr<const ByteSource> source, int fd, std::optional<FileIdentity> identity,
           std::shared_ptr<ModuleBudget> budget = nullptr, const char *debug_root = kDebugRoot);

    const ByteSource &source() const { return *source_; }
    int fd() const { return fd_; } // −1 for an image from memory
    const std::optional<FileIdentity> &identity() const { return identity_; }
    // Whether the file's content is still the one this module is about. Always, for an image from memory.
    bool unchanged() const { return source_->unchanged(); }

    // elf::Image::parse's errors; DWUNW_ERR_MODULE_CHANGED; DWUNW_ERR_LIMIT where the budget has not enough left.
    const Result<elf::Image> &image() const;
    // e_entry; 0 without one, or without an image.
    LinkAddr entry() const { return image() ? image()->entry() : LinkAddr(); }
    // image()'s errors, those of reading its sections, and ModuleCfi::build's. A .debug_frame that the file has not is
    // taken from its separate debug file, where names come from as well. DWUNW_ERR_LIMIT where the budget has not
    // enough left, with lacked_room(); that is not remembered.
    Result<std::shared_ptr<const unwind::ModuleCfi>> cfi() const;
    // How much the last cfi() wanted and did not get; 0: it did not fail for that.
    uint64_t lacked_room() const { return lacked_room_.load(std::memory_order_relaxed); }
    // The same with every section read now, and of the file alone, for whoever needs all of them; kept by the caller.
    Result<std::shared_ptr<const unwind::ModuleCfi>> whole_cfi() const { return build_cfi(Read::kNow); }
    // Forgets what cfi() made, unless somebody else still holds it. Returns the bytes that this freed.
    size_t drop_cfi() const;
    // Whether cfi() has a share of the budget.
    bool holds_share() const;
    // The bytes it holds by now, 0 where nothing was asked for.
    size_t cfi_bytes() const;

    // When it was last looked up in, by the clock of whoever evicts.
    void touch(uint64_t now) const { touched_.store(now, std::memory_order_relaxed); }
    uint64_t touched() const { return touched_.load(std::memory_order_relaxed); }

  private:
    enum class Read : uint8_t { kAsAsked, kNow };
    Result<std::shared_ptr<const unwind::ModuleCfi>> build_cfi(Read read) const;
    // Where .debug_frame is read from.
    struct DebugFrame {
        const elf::Image &image;
        const ByteSource &source;
    };
    // A share for what build_cfi() reads at once; DWUNW_ERR_LIMIT.
    Result<Budget::Share> take_room(const elf::Image &image, const DebugFrame &debug_frame) const;

    std::shared_ptr<const ByteSource> source_; // which knows whether the content is still this one
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

// The bias at which a mapping places the image's segments: that of the PT_LOAD whose pages hold the mapping's first
// byte. An executable mapping can only come from an executable segment (pages of two segments may overlap in the file).
std::optional<LoadBias> load_bias(const elf::Image &image, const Mapping &mapping);

} // namespace dwunw::process

// The C ABI's module: a name for an image. Two maps that show different paths for one file have two modules and one
// Module. Made by ModuleStore, lives as long as that.
struct dwunw_module {
    std::string path;
    const dwunw::process::Module *file = nullptr; // nullptr: it could not be opened
    dwunw_status status = DWUNW_OK;               // why not
};

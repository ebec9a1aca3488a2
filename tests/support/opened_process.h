// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// For tests of a Process: the test's own or a child's, and code of a file that the test maps and unmaps itself.
#pragma once

#include "process/process.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

namespace dwunw::testing {

template <typename T> RunAddr address_of(T *pointer) { return RunAddr(reinterpret_cast<uint64_t>(pointer)); }

inline std::unique_ptr<process::Process> open_process(process::ModuleStore &store, pid_t pid) {
    auto process = process::Process::open(store, pid, std::nullopt);
    EXPECT_TRUE(process) << dwunw_status_string(process.error().status);
    return process ? std::move(*process) : nullptr;
}

// Of the module that an address is in; empty where there is none.
inline std::string module_path(process::Process &process, RunAddr address) {
    const dwunw_module *module = process.find(address).module;
    return module != nullptr ? module->path : "";
}

// Maps the pages of a file that hold its code, as a loader would, at an address of the caller's choice (nullptr: any).
class MappedCode {
  public:
    explicit MappedCode(const char *path, void *where = nullptr) {
        const auto file = process::FileSource::open(path);
        const auto image = elf::Image::parse(*file);
        for (const elf::Segment &segment : image->load_segments())
            if (segment.executable)
                segment_ = segment;
        const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
        const uint64_t offset = segment_.offset.value & ~(page - 1);
        size_ = (segment_.offset.value - offset + segment_.file_size + page - 1) & ~(page - 1);
        const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
        address_ = ::mmap(where, size_, PROT_READ | PROT_EXEC, MAP_PRIVATE | (where != nullptr ? MAP_FIXED : 0),
                          fd.get(), static_cast<off_t>(offset));
        EXPECT_NE(address_, MAP_FAILED);
    }
    void unmap() const { ::munmap(address_, size_); }
    // No code is there any more, and no other mapping can get the address.
    void reserve() const {
        ::mmap(address_, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    }
    void *address() const { return address_; }
    RunAddr code() const {
        return address_of(static_cast<char *>(address_)) +
               segment_.offset.value % static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    }
    LinkAddr link() const { return segment_.address; }

  private:
    elf::Segment segment_;
    void *address_;
    size_t size_;
};

} // namespace dwunw::testing

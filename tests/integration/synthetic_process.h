// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process that does not exist: ELF files with a few functions, a map of them, and stack words. Tests walk it through
// the public interface.
#pragma once

#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "support/cfi_bytes.h"
#include "support/elf_builder.h"
#include "unit/process_testing.h"

#include <gtest/gtest.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace dwunw::testing {

// An ELF file of functions with rules. Its text begins at `address`, at file offset kTextOffset.
class SyntheticModule {
  public:
    static constexpr uint64_t kTextOffset = 0x1000;

    explicit SyntheticModule(uint64_t address = kTextOffset, uint64_t size = 0x1000)
        : address_(address), text_(size, 0x90), cie_(frames_.cie()) {}

    // CFA = rsp + cfa_offset throughout, or what the instructions make of it.
    SyntheticModule &function(uint64_t at, uint64_t size, uint64_t cfa_offset) {
        return function(at, size, Bytes().def_cfa_offset(cfa_offset));
    }
    SyntheticModule &function(uint64_t at, uint64_t size, const Bytes &instructions) {
        frames_.fde(cie_, at, size, instructions);
        return *this;
    }
    SyntheticModule &code(uint64_t at, std::initializer_list<uint8_t> bytes) {
        std::copy(bytes.begin(), bytes.end(), text_.begin() + static_cast<ptrdiff_t>(at - address_));
        return *this;
    }
    // A call whose return address is `at`.
    SyntheticModule &call_before(uint64_t at) { return code(at - 5, {0xe8, 0, 0, 0, 0}); }
    FrameSection &frames() { return frames_; }
    size_t cie() const { return cie_; }

    std::vector<uint8_t> build() {
        ElfBuilder elf;
        constexpr size_t kSegments = 2;
        const uint64_t padding = kTextOffset - sizeof(Elf64_Ehdr) - kSegments * sizeof(Elf64_Phdr);
        const uint64_t frames_address = address_ + text_.size();
        elf.add({".padding", std::vector<uint8_t>(padding), 0, 0});
        elf.add({".text", text_, address_, SHF_ALLOC | SHF_EXECINSTR});
        elf.add({".eh_frame", frames_.data(), frames_address, SHF_ALLOC});
        elf.add_segment(PT_LOAD, PF_R | PF_X, ".text").add_segment(PT_LOAD, PF_R, ".eh_frame");
        return elf.build();
    }
    uint64_t text_size() const { return text_.size(); }

  private:
    uint64_t address_;
    std::vector<uint8_t> text_;
    FrameSection frames_;
    size_t cie_;
};

class SyntheticProcess : public ::testing::Test {
  protected:
    static constexpr uint64_t kStack = 0x7ffff0000000;
    static constexpr uint64_t kSp = kStack + DWUNW_RED_ZONE;

    SyntheticProcess() : words_(2048) { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~SyntheticProcess() override {
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }

    // Maps `size` bytes of a file from `offset` on at `start`.
    void map_file(const std::string &path, uint64_t start, uint64_t size, uint64_t offset) {
        struct stat info {};
        ASSERT_EQ(::stat(path.c_str(), &info), 0);
        std::ostringstream line;
        line << std::hex << start << "-" << start + size << " r-xp " << offset << " " << major(info.st_dev) << ":"
             << minor(info.st_dev) << " " << std::dec << info.st_ino << " " << path << "\n";
        lines_[start] = line.str();
    }
    void map_other(const std::string &name, uint64_t start, uint64_t size) {
        std::ostringstream line;
        line << std::hex << start << "-" << start + size << " r-xp 0 00:00 0 " << name << "\n";
        lines_[start] = line.str();
    }
    std::string write(const std::string &name, const std::vector<uint8_t> &bytes) {
        const std::string path = folder_ / name;
        write_file(path, std::string(bytes.begin(), bytes.end()));
        return path;
    }
    // A module whose text lies at `start`.
    void map_module(SyntheticModule &module, uint64_t start) {
        map_file(write("module-" + std::to_string(start), module.build()), start, module.text_size(),
                 SyntheticModule::kTextOffset);
    }

    void set(uint64_t address, uint64_t value) { words_.at((address - kStack) / 8) = value; }

    // Walks from a pc with SP = kSp, over the first `bytes` of the stack.
    dwunw_status walk(uint64_t pc, size_t bytes = SIZE_MAX, uint64_t rbp = 0) {
        if (process_ == nullptr) {
            std::string maps;
            for (const auto &[start, line] : lines_)
                maps += line;
            const dwunw_process_options options{.size = sizeof(options),
                                                .pid = 0,
                                                .maps = maps.c_str(),
                                                .exe = nullptr,
                                                .sysroot = nullptr,
                                                .maps_error_line = nullptr};
            EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
        }
        dwunw_regset regs{};
        regs.size = sizeof(regs);
        regs.arch = DWUNW_ARCH_X86_64;
        regs.valid = (1u << RSP) | (1u << RIP) | (1u << RBP);
        regs.regs[RSP] = kSp;
        regs.regs[RIP] = pc;
        regs.regs[RBP] = rbp;
        frames_.resize(64);
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.process = process_;
        request.regs = &regs;
        request.stack_addr = kStack;
        request.stack = words_.data();
        request.stack_size = std::min(bytes, words_.size() * 8);
        request.pending_returns = pending_.data();
        request.pending_return_count = pending_.size();
        request.frames = frames_.data();
        request.max_frames = frames_.size();
        size_t count = 0;
        const dwunw_status status = dwunw_capture(context_, &request, &count);
        frames_.resize(count);
        return status;
    }
    std::vector<uint64_t> pcs() const {
        std::vector<uint64_t> result;
        std::transform(frames_.begin(), frames_.end(), std::back_inserter(result), [](const auto &f) { return f.pc; });
        return result;
    }

    TemporaryFolder folder_;
    std::map<uint64_t, std::string> lines_;
    std::vector<uint64_t> words_;
    std::vector<dwunw_pending_return> pending_;
    std::vector<dwunw_frame> frames_;
    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
};

} // namespace dwunw::testing

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The stacks for the benchmarks, from the core files that collect.py takes.
//
// Every unwinder gets the same: registers, the bytes from DWUNW_RED_ZONE below SP upward, and the modules at their
// addresses in the process. Cores of one process, taken at different moments, are one Process with many stacks, as a
// profiler sees it, as long as the same files were mapped at the same addresses.
#pragma once

#include <dwunw/core.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dwunw_bench {

// Ends the program with a message: a benchmark without its input has no result.
[[noreturn]] void fail(const std::string &why);

struct Segment {
    uint64_t vaddr, offset, file_size;
    uint32_t flags; // PF_R, PF_W, PF_X
};

// A mapped ELF file; also the vDSO, copied out of the core into a memory file.
class Module {
  public:
    Module(std::string path, int fd);
    ~Module();
    Module(const Module &) = delete;
    Module &operator=(const Module &) = delete;

    const std::string &path() const { return path_; }
    int fd() const { return fd_; }
    bool is_elf() const { return !segments_.empty(); }
    std::span<const uint8_t> bytes() const { return bytes_; }
    // Link addresses. The section `.eh_frame_hdr`, as PT_GNU_EH_FRAME gives it; 0: there is none.
    uint64_t eh_frame_hdr() const { return eh_frame_hdr_; }
    uint64_t first_vaddr() const { return segments_.front().vaddr; }
    uint64_t end_vaddr() const { return end_vaddr_; }
    uint64_t first_offset() const { return segments_.front().offset; }
    // The file's bytes from a link address to the end of its segment; empty: there are none.
    std::span<const uint8_t> at(uint64_t vaddr) const;
    // The module's lines in a /proc/PID/maps, loaded at `bias`.
    std::string map_text(uint64_t bias) const;

  private:
    std::string path_;
    int fd_;
    std::span<const uint8_t> bytes_;
    std::vector<Segment> segments_; // PT_LOAD
    uint64_t eh_frame_hdr_ = 0;
    uint64_t end_vaddr_ = 0;
};

struct MappedModule {
    std::shared_ptr<const Module> module;
    uint64_t bias = 0; // run address − link address
    uint64_t start = 0, end = 0;
    bool operator==(const MappedModule &) const = default;
};

struct Stack {
    dwunw_regset regs;
    uint64_t address; // of the first byte, DWUNW_RED_ZONE below SP
    std::vector<uint8_t> bytes;
    std::string name; // CORE/TID
};

struct Process {
    std::string core;                  // the first of its core files
    std::vector<MappedModule> modules; // by start
    std::vector<Stack> stacks;

    const MappedModule *find(uint64_t address) const;
};

struct Program {
    std::string name;
    std::vector<std::unique_ptr<Process>> processes;
    size_t stack_count() const;
};

struct CorpusOptions {
    std::filesystem::path folder; // collect.py's
    std::string only;             // one program's name, or "" for all
    size_t slice = 256 * 1024;    // the most bytes of a stack
    size_t stacks = 1000;         // the most stacks of a program, evenly distributed
};
std::vector<Program> load_corpus(const CorpusOptions &options);

} // namespace dwunw_bench

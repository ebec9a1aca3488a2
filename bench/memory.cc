// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// bench_memory FILE…: measures the memory that a process with these modules costs an unwinder.
//
// Each unwinder is measured in its own child. It gets one process that maps every FILE, and walks stacks with frames in
// every 100th FDE of each. After that it has everything that it keeps. Memory is the child's growth: `anonymous` is its
// own memory (heap), `file` is pages of mapped files; dwunw reads files with pread instead. Prints JSON, in bytes.
#include "unwinder.h"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

namespace dwunw_bench {
namespace {

struct Memory {
    int64_t anonymous = 0, file = 0;
};

Memory memory_now() {
    std::ifstream status("/proc/self/status");
    Memory memory;
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("RssAnon:"))
            memory.anonymous = std::stoll(line.substr(8)) * 1024;
        if (line.starts_with("RssFile:"))
            memory.file = std::stoll(line.substr(8)) * 1024;
    }
    return memory;
}

// The process, its map as text, and a pc in every 100th FDE of each file.
struct Subject {
    Process process;
    std::string maps;
    std::vector<uint64_t> pcs;
};

void add_pcs(const Module &module, uint64_t bias, std::vector<uint64_t> &pcs) {
    constexpr uint32_t kEvery = 100;
    const auto header = module.at(module.eh_frame_hdr());
    uint32_t count = 0;
    if (module.eh_frame_hdr() == 0 || header.size() < 12 || header[3] != 0x3b)
        return;
    std::memcpy(&count, header.data() + 8, sizeof(count));
    for (uint32_t i = 0; i < count && 12 + 8 * uint64_t{i} + 8 <= header.size(); i += kEvery) {
        int32_t start = 0;
        std::memcpy(&start, header.data() + 12 + 8 * uint64_t{i}, sizeof(start));
        pcs.push_back(bias + module.eh_frame_hdr() + static_cast<uint64_t>(int64_t{start}));
    }
}

Subject subject_of(int count, char **files) {
    constexpr uint64_t kFirst = 0x7f0000000000;
    Subject subject;
    uint64_t at = kFirst;
    for (int i = 0; i < count; ++i) {
        const int fd = ::open(files[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            fail(std::string("cannot open ") + files[i]);
        auto module = std::make_shared<const Module>(files[i], fd);
        if (!module->is_elf())
            fail(std::string("not an ELF file: ") + files[i]);
        subject.maps += module->map_text(at);
        add_pcs(*module, at, subject.pcs);
        const uint64_t end = at + module->end_vaddr();
        subject.process.modules.push_back({module, at, at, end});
        at = (end + (1 << 20)) & ~uint64_t{0xfff};
    }
    return subject;
}

// Stacks of one frame: the return address is zero.
Stack stack_at(uint64_t pc) {
    constexpr uint64_t kSp = 0x7ffff0000000;
    Stack stack{};
    stack.regs.size = sizeof(stack.regs);
    stack.regs.arch = DWUNW_ARCH_X86_64;
    stack.regs.valid = (uint64_t{1} << 17) - 1;
    stack.regs.regs[7] = kSp;
    stack.regs.regs[16] = pc;
    stack.address = kSp - DWUNW_RED_ZONE;
    stack.bytes.resize(4096);
    return stack;
}

nlohmann::ordered_json measure(const Subject &subject, const std::string &which) {
    const Memory before = memory_now();
    uint64_t table_bytes = 0;
    size_t walked = 0;
    Memory after;
    if (which == "dwunw") {
        Dwunw dwunw;
        const auto process = dwunw.open_maps(subject.maps);
        for (const uint64_t pc : subject.pcs)
            walked += process->walk(stack_at(pc)) > 0;
        dwunw.settle();
        after = memory_now();
        dwunw_context_counters counters{};
        counters.size = sizeof(counters);
        if (dwunw_context_get_counters(dwunw.context(), &counters) == DWUNW_OK)
            table_bytes = counters.table_bytes;
    } else {
        const auto unwinder = which == "libdwfl" ? make_libdwfl() : make_libunwind();
        const auto process = unwinder->open(subject.process);
        for (const uint64_t pc : subject.pcs)
            walked += process->walk(stack_at(pc)) > 0;
        after = memory_now();
    }
    nlohmann::ordered_json out = {{"modules", subject.process.modules.size()},
                                  {"stacks", walked},
                                  {"anonymous", after.anonymous - before.anonymous},
                                  {"file", after.file - before.file}};
    if (table_bytes != 0)
        out["table_bytes"] = table_bytes;
    return out;
}

// In a child, so that all begin with the same memory.
nlohmann::ordered_json measure_apart(const Subject &subject, const std::string &which) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        fail("no pipe");
    const pid_t child = ::fork();
    if (child == 0) {
        const std::string text = measure(subject, which).dump();
        const bool written = ::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
        ::_exit(written ? 0 : 1);
    }
    ::close(ends[1]);
    std::string text(1 << 16, '\0');
    text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(ends[0], text.data(), text.size()))));
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (status != 0)
        fail(which + " failed");
    return nlohmann::ordered_json::parse(text);
}

int run(int count, char **files) {
    const Subject subject = subject_of(count, files);
    nlohmann::ordered_json out;
    for (const char *which : {"dwunw", "libunwind", "libdwfl"})
        out[which] = measure_apart(subject, which);
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) {
    if (argc < 2)
        dwunw_bench::fail("usage: bench_memory FILE…");
    return dwunw_bench::run(argc - 1, argv + 1);
}

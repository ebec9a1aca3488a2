// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/start_addresses.h"

#include "base/unique_fd.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>

namespace dwunw::bpf {

StartAddresses start_addresses(int32_t pid) {
    std::array<char, 32> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/auxv", pid);
    const UniqueFd fd(::open(path.data(), O_RDONLY | O_CLOEXEC));
    std::array<Elf64_auxv_t, 64> entries{};
    StartAddresses result;
    if (!fd.valid())
        return result;
    const ssize_t got = ::read(fd.get(), entries.data(), sizeof(entries));
    for (size_t i = 0; got > 0 && i < static_cast<size_t>(got) / sizeof(entries[0]); ++i) {
        if (entries[i].a_type == AT_BASE)
            result.linker = entries[i].a_un.a_val;
        else if (entries[i].a_type == AT_ENTRY)
            result.entry = entries[i].a_un.a_val;
    }
    return result;
}

} // namespace dwunw::bpf

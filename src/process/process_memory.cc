// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/process_memory.h"

#include "process/file_source.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>

namespace dwunw::process {

ProcessMemory ProcessMemory::open(const ProcDir &directory) {
    ProcessMemory memory;
    memory.pid_ = directory.pid();
    if (auto mem = directory.open_file("mem", O_RDONLY))
        memory.mem_ = std::move(*mem);
    // Fails for a thread that is not its process's main thread; then only /proc/PID/mem is used.
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, memory.pid_, 0)));
    // The process still exists, so the number was its own when the descriptor was made.
    if (pidfd.valid() && directory.state(directory.pid()) == ProcDir::State::kAlive)
        memory.pidfd_ = std::move(pidfd);
    return memory;
}

size_t ProcessMemory::read_with_readv(RunAddr address, std::span<uint8_t> buffer) const {
    if (!pidfd_.valid())
        return 0;
    // The kernel promises partial transfers only between elements: make one element for each page.
    static const uint64_t page_size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    std::array<iovec, 64> remote;
    size_t done = 0;
    while (done < buffer.size()) {
        size_t count = 0;
        size_t planned = 0;
        while (count < remote.size() && done + planned < buffer.size()) {
            const uint64_t at = address.value + done + planned;
            const size_t length = std::min<uint64_t>(buffer.size() - done - planned, page_size - at % page_size);
            remote[count++] = {reinterpret_cast<void *>(at), length};
            planned += length;
        }
        const iovec local{buffer.data() + done, planned};
        const ssize_t got = ::process_vm_readv(pid_, &local, 1, remote.data(), count, 0);
        if (got <= 0)
            break;
        done += static_cast<size_t>(got);
        if (static_cast<size_t>(got) < planned)
            break;
    }
    // The process existed after the read, so the number was its own during the read.
    if (done > 0 && ::syscall(SYS_pidfd_send_signal, pidfd_.get(), 0, nullptr, 0) != 0)
        return 0;
    return done;
}

size_t ProcessMemory::read(RunAddr address, std::span<uint8_t> buffer) const {
    size_t done = read_with_readv(address, buffer);
    if (done < buffer.size() && mem_.valid())
        done += read_at(mem_.get(), address.value + done, buffer.subspan(done));
    return done;
}

} // namespace dwunw::process

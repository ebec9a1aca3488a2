// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "waits_for.h"

#include "output.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <vector>

namespace dwunw_tool {
namespace {

constexpr size_t kMostPieces = 1024; // of process_vm_readv (IOV_MAX)

struct Call {
    long number = -1;
    std::array<uint64_t, 6> arguments{};
};

// Parses "running", "-1 SP PC", or number, arguments, SP and PC.
std::optional<Call> current_call(const std::filesystem::path &task) {
    std::ifstream file(task / "syscall");
    Call call;
    if (!(file >> std::dec >> call.number) || call.number < 0)
        return std::nullopt;
    for (uint64_t &argument : call.arguments)
        if (!(file >> std::hex >> argument))
            return std::nullopt;
    return call;
}

class Reader {
  public:
    explicit Reader(const std::string &folder)
        : folder_(folder), memory_(::open((folder + "/mem").c_str(), O_RDONLY | O_CLOEXEC)) {}
    ~Reader() {
        if (memory_ >= 0)
            ::close(memory_);
    }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    std::string object_of(const Call &call) const {
        const auto &arguments = call.arguments;
        switch (call.number) {
        case SYS_process_vm_readv:
            return pieces(arguments[3], arguments[4]);
        case SYS_pread64:
            if (const std::string path = opened(arguments[0]); path.starts_with("/proc/") && path.ends_with("/mem"))
                return memory(arguments[3], arguments[3] + arguments[2]);
            [[fallthrough]];
        case SYS_read:
        case SYS_write:
        case SYS_ioctl:
        case SYS_fstat:
        case SYS_getdents64:
            return opened(arguments[0]);
        case SYS_open:
        case SYS_stat:
        case SYS_lstat:
        case SYS_readlink:
            return named(static_cast<uint64_t>(AT_FDCWD), arguments[0]);
        case SYS_openat:
        case SYS_newfstatat:
        case SYS_statx:
        case SYS_readlinkat:
            return named(arguments[0], arguments[1]);
        default:
            return "";
        }
    }

  private:
    size_t read(uint64_t address, std::span<char> buffer) const {
        const ssize_t got = ::pread(memory_, buffer.data(), buffer.size(), static_cast<off_t>(address));
        return got > 0 ? static_cast<size_t>(got) : 0;
    }

    static std::string memory(uint64_t start, uint64_t end) {
        std::array<char, 64> text;
        std::snprintf(text.data(), text.size(), "memory at 0x%" PRIx64 "-0x%" PRIx64, start, end);
        return text.data();
    }

    std::string pieces(uint64_t address, uint64_t count) const {
        std::vector<iovec> list(std::min<uint64_t>(count, kMostPieces));
        const std::span bytes(reinterpret_cast<char *>(list.data()), list.size() * sizeof(iovec));
        if (list.empty() || read(address, bytes) != bytes.size())
            return "memory";
        return memory(reinterpret_cast<uint64_t>(list.front().iov_base),
                      reinterpret_cast<uint64_t>(list.back().iov_base) + list.back().iov_len);
    }

    std::string opened(uint64_t fd) const {
        std::error_code error;
        const auto link = folder_ + "/fd/" + std::to_string(static_cast<int>(fd));
        return printable(std::filesystem::read_symlink(link, error).string());
    }

    std::string named(uint64_t directory, uint64_t address) const {
        constexpr std::string_view kOwn = "/proc/self/fd/";
        std::array<char, PATH_MAX> text{};
        const size_t got = read(address, text);
        const std::string path(text.data(), ::strnlen(text.data(), got));
        if (path.starts_with(kOwn))
            return opened(std::strtoul(path.c_str() + kOwn.size(), nullptr, 10));
        if (path.empty())
            return opened(directory);
        if (path.starts_with('/') || static_cast<int>(directory) == AT_FDCWD)
            return printable(path);
        return opened(directory) + "/" + printable(path);
    }

    std::string folder_;
    int memory_;
};

} // namespace

std::string waits_for(pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const std::filesystem::path tasks = folder + "/task";
    std::vector<std::filesystem::path> threads{tasks / std::to_string(pid)};
    std::error_code error;
    for (const auto &task : std::filesystem::directory_iterator(tasks, error))
        if (task.path() != threads.front())
            threads.push_back(task.path());
    const Reader reader(folder);
    for (const auto &thread : threads)
        if (const auto call = current_call(thread))
            if (std::string object = reader.object_of(*call); !object.empty())
                return object;
    return "";
}

} // namespace dwunw_tool

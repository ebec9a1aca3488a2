// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/pid_namespace.h"

#include "base/unique_fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace dwunw::bpf {
namespace {

constexpr ino_t kInitialNamespace = 0xeffffffc; // PROC_PID_INIT_INO, the same in every kernel

std::string_view read_text(const char *path, std::array<char, 8192> &buffer) {
    const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (!fd.valid())
        return {};
    ssize_t got;
    do
        got = ::read(fd.get(), buffer.data(), buffer.size());
    while (got < 0 && errno == EINTR);
    return {buffer.data(), got > 0 ? static_cast<size_t>(got) : 0};
}

} // namespace

bool has_one_number(std::string_view status) {
    constexpr std::string_view kField = "\nNSpid:\t";
    const size_t at = status.find(kField);
    if (at == std::string_view::npos)
        return true;
    const std::string_view rest = status.substr(at + kField.size());
    // "NSpid:\t4711\t12\t1": the numbers from /proc's namespace to the innermost one.
    const std::string_view numbers = rest.substr(0, rest.find('\n'));
    return numbers.find('\t') == std::string_view::npos;
}

Result<uint32_t> find_pid_namespace() {
    std::array<char, 8192> buffer;
    const std::string_view status = read_text("/proc/self/status", buffer);
    // A process without a number in /proc's namespace finds no /proc/self.
    if (status.empty() || !has_one_number(status))
        return Error{DWUNW_ERR_PID_NAMESPACE};
    struct stat found;
    if (::stat("/proc/self/ns/pid", &found) != 0)
        return errno == ENOENT ? Result<uint32_t>(0) : Error{DWUNW_ERR_PID_NAMESPACE, static_cast<uint64_t>(errno)};
    return found.st_ino == kInitialNamespace ? 0 : static_cast<uint32_t>(found.st_ino);
}

} // namespace dwunw::bpf

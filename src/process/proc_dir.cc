// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/proc_dir.h"

#include "process/file_source.h"
#include "process/os_error.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <memory>
#include <string_view>

namespace dwunw::process {
namespace {

std::string task_file(pid_t thread, const char *name) { return "task/" + std::to_string(thread) + "/" + name; }

// When a thread that is not the main thread executes a program, it gets the process's number. A lookup at that moment
// may find the old main thread, and read as gone. So "gone" is believed at once only if no process has the number any
// more.
constexpr int kAttempts = 10;

bool nobody_has(pid_t number) { return ::kill(number, 0) != 0 && errno == ESRCH; }

} // namespace

Result<ProcDir> ProcDir::open(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid);
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd.valid() && errno != ENOENT && errno != ESRCH)
            return error_from_errno(errno);
        if (fd.valid() && ::faccessat(fd.get(), "stat", F_OK, 0) == 0)
            return ProcDir(pid, std::move(fd));
        if (nobody_has(pid))
            break;
    }
    return Error{DWUNW_ERR_NO_PROCESS, static_cast<uint64_t>(pid)};
}

Result<UniqueFd> ProcDir::open_file(const char *name, int flags) const { return open_file_of(pid_, name, flags); }

Result<UniqueFd> ProcDir::open_file_of(pid_t number, const char *name, int flags) const {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        UniqueFd fd(::openat(fd_.get(), name, flags | O_CLOEXEC));
        if (fd.valid())
            return fd;
        if (errno != ENOENT && errno != ESRCH)
            return error_from_errno(errno);
        if (nobody_has(number))
            break;
    }
    return Error{DWUNW_ERR_NO_PROCESS, static_cast<uint64_t>(pid_)};
}

Result<std::string> ProcDir::stat_after_name(pid_t thread) const {
    const std::string name = thread == 0 ? "stat" : task_file(thread, "stat");
    const pid_t number = thread == 0 ? pid_ : thread;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        auto file = open_file_of(number, name.c_str(), O_RDONLY);
        if (!file)
            return file.error();
        std::array<uint8_t, 512> buffer;
        const size_t size = read_at(file->get(), 0, buffer);
        if (size > 0) {
            // "12 (name) S …": the name has at most 64 bytes and may contain any byte, so search for the last
            // parenthesis.
            const std::string_view text(reinterpret_cast<const char *>(buffer.data()), size);
            const size_t name_end = text.rfind(')');
            return std::string(name_end == std::string_view::npos ? "" : text.substr(std::min(size, name_end + 2)));
        }
        if (nobody_has(number))
            break;
    }
    return Error{DWUNW_ERR_NO_PROCESS, static_cast<uint64_t>(pid_)};
}

pid_t ProcDir::parent() const {
    const auto fields = stat_after_name(0);
    pid_t parent = 0;
    if (fields && fields->size() > 2)
        std::from_chars(fields->data() + 2, fields->data() + fields->size(), parent);
    return parent;
}

ProcDir::State ProcDir::state_of(pid_t thread) const {
    const auto fields = stat_after_name(thread);
    if (!fields)
        // Any other error (no descriptors left, for example) says nothing about the process.
        return fields.error().status == DWUNW_ERR_NO_PROCESS ? State::kGone : State::kAlive;
    const char state = fields->empty() ? '?' : fields->front();
    return state == 'Z' || state == 'X' ? State::kZombie : State::kAlive;
}

ProcDir::State ProcDir::state(pid_t thread) const {
    if (thread != 0)
        return state_of(thread);
    if (const State process = state_of(0); process != State::kZombie)
        return process;
    const auto all = threads();
    const bool others =
        std::ranges::any_of(all, [this](pid_t other) { return other != pid_ && state_of(other) == State::kAlive; });
    // If there were no others: the last other thread may just have become the main thread, by executing a program.
    return others ? State::kAlive : state_of(0);
}

std::vector<pid_t> ProcDir::threads() const {
    std::vector<pid_t> result;
    const int fd = ::openat(fd_.get(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return result;
    struct Close {
        void operator()(DIR *directory) const { ::closedir(directory); }
    };
    const std::unique_ptr<DIR, Close> directory(::fdopendir(fd));
    if (directory == nullptr) {
        ::close(fd);
        return result;
    }
    while (const dirent *entry = ::readdir(directory.get())) {
        const std::string_view name(entry->d_name);
        pid_t thread = 0;
        const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), thread);
        if (error == std::errc() && end == name.data() + name.size())
            result.push_back(thread);
    }
    std::ranges::sort(result);
    return result;
}

std::string ProcDir::thread_name(pid_t thread) const {
    auto file = open_file_of(thread, task_file(thread, "comm").c_str(), O_RDONLY);
    if (!file)
        return {};
    std::array<uint8_t, 16> buffer;
    const size_t size = read_at(file->get(), 0, buffer);
    std::string name(reinterpret_cast<const char *>(buffer.data()), std::min<size_t>(size, 15));
    // The kernel adds a final newline. A name may contain newlines itself, so remove only the last byte.
    if (size < buffer.size() && name.ends_with('\n'))
        name.pop_back();
    return name;
}

} // namespace dwunw::process

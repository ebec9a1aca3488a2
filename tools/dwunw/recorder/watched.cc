// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "recorder/watched.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <unistd.h>
#include <utility>

namespace dwunw_tool {
namespace {

bool is_number(const std::string &text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

template <typename Call> auto retry(Call call) {
    auto result = call();
    while (result < 0 && errno == EINTR)
        result = call();
    return result;
}

} // namespace

Watched::Watched(int32_t pid) : pid_(pid), fd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}

Watched::~Watched() {
    if (fd_ >= 0)
        ::close(fd_);
}

Watched::Watched(Watched &&other) noexcept : pid_(other.pid_), fd_(std::exchange(other.fd_, -1)) {}

Watched &Watched::operator=(Watched &&other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(fd_, other.fd_);
    return *this;
}

bool Watched::has_ended() const {
    pollfd ended{fd_, POLLIN, 0};
    return fd_ < 0 || retry([&] { return ::poll(&ended, 1, 0); }) > 0;
}

std::vector<int32_t> processes_named(const std::string &comm) {
    std::vector<int32_t> found;
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator("/proc", error)) {
        const std::string number = entry.path().filename();
        std::string name;
        if (is_number(number) && std::getline(std::ifstream(entry.path() / "comm"), name) && name == comm &&
            std::stoi(number) != ::getpid())
            found.push_back(std::stoi(number));
    }
    return found;
}

std::optional<Cgroup> find_cgroup(const std::string &path) {
    const std::string folder = path.starts_with("/sys/fs/cgroup") ? path : "/sys/fs/cgroup/" + path;
    struct stat status {};
    if (::stat(folder.c_str(), &status) != 0)
        return std::nullopt;
    Cgroup cgroup;
    cgroup.id = status.st_ino; // cgroup v2: the number of the folder is the id
    std::ifstream processes(folder + "/cgroup.procs");
    if (!processes) {
        errno = ENOTDIR;
        return std::nullopt;
    }
    for (int32_t pid = 0; processes >> pid;)
        cgroup.pids.push_back(pid);
    return cgroup;
}

std::optional<Child> Child::start(const std::vector<std::string> &command) {
    int go[2], failed[2];
    if (::pipe2(go, O_CLOEXEC) != 0)
        return std::nullopt;
    if (::pipe2(failed, O_CLOEXEC) != 0) {
        const int error = errno;
        ::close(go[0]);
        ::close(go[1]);
        errno = error;
        return std::nullopt;
    }
    std::vector<char *> arguments;
    arguments.reserve(command.size() + 1);
    for (const std::string &argument : command)
        arguments.push_back(const_cast<char *>(argument.c_str()));
    arguments.push_back(nullptr);

    const pid_t pid = ::fork();
    if (pid == 0) {
        ::close(go[1]);
        char byte = 0;
        // The parent's end without a release ends the child, too.
        if (retry([&] { return ::read(go[0], &byte, 1); }) != 1)
            ::_exit(127);
        sigset_t none;
        ::sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
        ::signal(SIGPIPE, SIG_DFL);
        ::execvp(arguments[0], arguments.data());
        const int error = errno;
        if (::write(failed[1], &error, sizeof error) != sizeof error)
            ::_exit(126);
        ::_exit(127);
    }
    const int error = errno;
    ::close(go[0]);
    ::close(failed[1]);
    if (pid < 0) {
        ::close(go[1]);
        ::close(failed[0]);
        errno = error;
        return std::nullopt;
    }
    return Child(pid, go[1], failed[0]);
}

Child::Child(Child &&other) noexcept
    : pid_(std::exchange(other.pid_, 0)), go_(std::exchange(other.go_, -1)), failed_(std::exchange(other.failed_, -1)),
      ended_(other.ended_), status_(other.status_) {}

Child::~Child() {
    if (go_ >= 0)
        ::close(go_);
    if (failed_ >= 0)
        ::close(failed_);
    // A child that was never released ends by itself.
    if (pid_ > 0 && !ended_ && go_ >= 0)
        (void)retry([&] { return ::waitpid(pid_, nullptr, 0); });
}

int Child::release() {
    const char byte = 1;
    const bool told = ::write(go_, &byte, 1) == 1;
    ::close(std::exchange(go_, -1));
    int error = told ? 0 : EIO;
    // The end of file comes with the exec, which closes the child's end; or when the child stops before it returns from
    // exec, which has closed the end by then, too.
    if (retry([&] { return ::read(failed_, &error, sizeof error); }) == 0)
        return 0;
    int status = 0;
    (void)retry([&] { return ::waitpid(pid_, &status, 0); });
    note(status);
    return error;
}

void Child::note(int status) {
    ended_ = true;
    status_ = status;
}

bool Child::wait_for_stop() {
    int status = 0;
    if (ended_ || retry([&] { return ::waitpid(pid_, &status, WUNTRACED); }) != pid_)
        return false;
    if (WIFSTOPPED(status))
        return true;
    note(status);
    return false;
}

void Child::run_on() const { ::kill(pid_, SIGCONT); }

bool Child::has_ended() {
    int status = 0;
    if (!ended_ && retry([&] { return ::waitpid(pid_, &status, WNOHANG); }) == pid_)
        note(status);
    return ended_;
}

void Child::end() {
    if (has_ended())
        return;
    ::kill(pid_, SIGTERM);
    ::kill(pid_, SIGCONT);
    int status = 0;
    if (retry([&] { return ::waitpid(pid_, &status, 0); }) == pid_)
        note(status);
}

} // namespace dwunw_tool

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "command_lines.h"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

namespace table_readelf {
namespace {

void check(int error, const std::string &what) {
    if (error != 0)
        throw std::system_error(error, std::generic_category(), what);
}

// The environment in the C locale, so that messages are what we know them by.
std::vector<char *> c_locale() {
    static char locale[] = "LC_ALL=C";
    std::vector<char *> variables{locale};
    for (char **variable = environ; *variable != nullptr; ++variable)
        if (::strncmp(*variable, "LC_ALL=", 7) != 0)
            variables.push_back(*variable);
    variables.push_back(nullptr);
    return variables;
}

void read_lines(int fd, const std::function<void(std::string_view)> &line) {
    std::vector<char> buffer(size_t{1} << 18);
    size_t held = 0; // bytes of a line whose end has not come yet
    while (true) {
        if (held == buffer.size())
            buffer.resize(2 * buffer.size());
        const ssize_t got = ::read(fd, buffer.data() + held, buffer.size() - held);
        if (got < 0 && errno == EINTR)
            continue;
        check(got < 0 ? errno : 0, "read");
        if (got == 0)
            break;
        const char *at = buffer.data();
        const char *end = buffer.data() + held + got;
        while (const void *newline = ::memchr(at, '\n', static_cast<size_t>(end - at))) {
            const char *stop = static_cast<const char *>(newline);
            line({at, static_cast<size_t>(stop - at)});
            at = stop + 1;
        }
        held = static_cast<size_t>(end - at);
        ::memmove(buffer.data(), at, held);
    }
    if (held != 0)
        line({buffer.data(), held});
}

class Pipe {
  public:
    Pipe() { check(::pipe2(ends_, O_CLOEXEC) != 0 ? errno : 0, "pipe2"); }
    ~Pipe() {
        ::close(ends_[0]);
        close_writer();
    }
    Pipe(const Pipe &) = delete;
    Pipe &operator=(const Pipe &) = delete;
    int reader() const { return ends_[0]; }
    int writer() const { return ends_[1]; }
    void close_writer() {
        if (ends_[1] >= 0)
            ::close(ends_[1]);
        ends_[1] = -1;
    }

  private:
    int ends_[2];
};

} // namespace

int run_command(const std::vector<std::string> &command, const std::function<void(std::string_view)> &line) {
    std::vector<char *> arguments;
    arguments.reserve(command.size() + 1);
    for (const std::string &argument : command)
        arguments.push_back(const_cast<char *>(argument.c_str()));
    arguments.push_back(nullptr);

    Pipe pipe;
    posix_spawn_file_actions_t actions;
    check(::posix_spawn_file_actions_init(&actions), "posix_spawn");
    ::posix_spawn_file_actions_adddup2(&actions, pipe.writer(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, pipe.writer(), STDERR_FILENO);
    pid_t pid = 0;
    const int error = ::posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), c_locale().data());
    ::posix_spawn_file_actions_destroy(&actions);
    check(error, command[0]);
    pipe.close_writer();

    read_lines(pipe.reader(), line);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0)
        check(errno == EINTR ? 0 : errno, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

} // namespace table_readelf

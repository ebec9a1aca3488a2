// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The processes that a recording command watches: found by number, name or cgroup, or started by the command itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dwunw_tool {

// A process, identified by more than its number, which another process may get.
class Watched {
  public:
    // It need not exist: then has_ended() is true.
    explicit Watched(int32_t pid);
    ~Watched();
    Watched(Watched &&other) noexcept;
    Watched &operator=(Watched &&other) noexcept;

    int32_t pid() const { return pid_; }
    // A descriptor that is readable once the process has ended; −1: the process did not exist.
    int fd() const { return fd_; }
    bool has_ended() const;

  private:
    int32_t pid_;
    int fd_;
};

// The processes with this name (comm), as they are now, without this one.
std::vector<int32_t> processes_named(const std::string &comm);

// A cgroup of the unified hierarchy, by its path, absolute or below /sys/fs/cgroup.
struct Cgroup {
    uint64_t id = 0; // as bpf_get_current_cgroup_id tells it
    std::vector<int32_t> pids;
};
// nullopt: there is no such cgroup; errno tells why.
std::optional<Cgroup> find_cgroup(const std::string &path);

// A command that this program starts. It does not run before release().
class Child {
  public:
    // Forks. `command`: the program, searched in PATH, and its arguments. errno tells why it failed.
    static std::optional<Child> start(const std::vector<std::string> &command);
    ~Child();
    Child(Child &&other) noexcept;
    Child &operator=(Child &&) = delete;

    int32_t pid() const { return pid_; }
    // Lets it execute the program. Returns 0, or the errno by which that failed; the child has ended then.
    int release();
    // Waits until it has stopped itself, or has ended. True: it has stopped.
    bool wait_for_stop();
    void run_on() const;
    // Whether it has ended; then status() is its wait status.
    bool has_ended();
    int status() const { return status_; }
    // Sends SIGTERM, and waits for its end.
    void end();

  private:
    Child(int32_t pid, int go, int failed) : pid_(pid), go_(go), failed_(failed) {}
    void note(int status);

    int32_t pid_;
    int go_;     // closed by release()
    int failed_; // the child writes its errno here
    bool ended_ = false;
    int status_ = 0;
};

} // namespace dwunw_tool

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// /proc/PID of one process, held open. The kernel ties the directory to the process, not to its number: after the
// process's end nothing in it can be opened, even if another process has the number.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

#include <sys/types.h>

#include <string>
#include <vector>

namespace dwunw::process {

class ProcDir {
  public:
    // DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES.
    static Result<ProcDir> open(pid_t pid);

    pid_t pid() const { return pid_; }
    int fd() const { return fd_.get(); }

    enum class State : uint8_t { kAlive, kZombie, kGone };
    // `thread` 0: the state of the whole process (alive if the leader is a zombie and other threads run). Otherwise
    // that thread's.
    State state(pid_t thread = 0) const;

    // 0 when the process is gone.
    pid_t parent() const;

    // "maps", "mem", "task/12/comm"; DWUNW_ERR_NO_PROCESS when the process is gone.
    Result<UniqueFd> open_file(const char *name, int flags) const;

    // The threads, ascending; empty when the process is gone.
    std::vector<pid_t> threads() const;
    // comm, at most 15 bytes; empty when the thread is gone.
    std::string thread_name(pid_t thread) const;

  private:
    // `number` must exist for the file to exist: the process, or one of its threads.
    Result<UniqueFd> open_file_of(pid_t number, const char *name, int flags) const;
    // The kernel's answer: if the leader is a zombie, the whole process is one.
    State state_of(pid_t thread) const;
    // The fields of stat, from the state letter on. `thread` 0: of the whole process.
    Result<std::string> stat_after_name(pid_t thread) const;

    ProcDir(pid_t pid, UniqueFd fd) : pid_(pid), fd_(std::move(fd)) {}
    pid_t pid_;
    UniqueFd fd_;
};

} // namespace dwunw::process

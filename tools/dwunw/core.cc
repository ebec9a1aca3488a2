// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw core -p PID -o FILE: writes a small core file of a live process, which runs on afterwards. The core is written
// under another name beside FILE and renamed when it is complete.
#include "command.h"
#include "held.h"
#include "output.h"
#include "target.h"

#include <dwunw/core.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace dwunw_tool {
namespace {

struct CoreOptions {
    int32_t pid = 0;
    std::string output;
    uint64_t stack_bytes = 0;
    HoldOptions hold;
};

// The file to remove when a signal ends the program; nullptr: there is none.
char *unfinished = nullptr;

void remove_and_end(int signal) {
    if (unfinished != nullptr)
        ::unlink(unfinished);
    ::signal(signal, SIG_DFL);
    ::raise(signal);
}

// A file that gets its name only once it is complete.
class UnfinishedFile {
  public:
    UnfinishedFile() = default;
    ~UnfinishedFile() {
        if (fd_ >= 0)
            ::close(fd_);
        if (unfinished != nullptr)
            ::unlink(unfinished);
        unfinished = nullptr;
    }
    UnfinishedFile(const UnfinishedFile &) = delete;
    UnfinishedFile &operator=(const UnfinishedFile &) = delete;

    // Readable only by its owner, because a core holds the process's data. errno tells why it failed.
    bool create(const std::string &path) {
        path_ = path;
        name_ = path + ".XXXXXX";
        for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
            struct sigaction action {};
            if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
                action.sa_handler = remove_and_end;
                ::sigaction(signal, &action, nullptr);
            }
        }
        fd_ = ::mkostemp(name_.data(), O_CLOEXEC);
        if (fd_ >= 0)
            unfinished = name_.data();
        return fd_ >= 0;
    }
    int fd() const { return fd_; }
    bool finish() {
        const int closed = ::close(fd_);
        fd_ = -1;
        if (closed != 0 || ::rename(name_.c_str(), path_.c_str()) != 0)
            return false;
        unfinished = nullptr;
        return true;
    }

  private:
    std::string path_;
    std::string name_;
    int fd_ = -1;
};

// Whether `path` may be replaced; does not follow a link. If not, fails and says why.
bool can_be_output(const std::string &path) {
    struct stat status;
    if (::lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
        fail(path, "exists and is not a regular file");
        return false;
    }
    return true;
}

// Reports the threads that have no registers: a core cannot hold them.
void report_left_out(dwunw_stopped *stopped) {
    const size_t count = dwunw_stopped_thread_count(stopped);
    for (size_t i = 0; i < count; i++) {
        dwunw_thread thread{};
        thread.size = sizeof thread;
        if (const dwunw_status status = dwunw_stopped_thread(stopped, i, &thread); status != DWUNW_OK)
            fail("TID " + std::to_string(thread.tid), std::string("left out: ") + dwunw_status_string(status));
    }
}

// Runs in the reader.
int write_core(const CoreOptions &options, dwunw_process *process, dwunw_stopped *stopped, int fd,
               const LetGo &let_go) {
    dwunw_core_write_options write_options{};
    write_options.size = sizeof write_options;
    write_options.stack_bytes = options.stack_bytes;
    // The map may have changed since it was read. The process is stopped now, so read it again.
    dwunw_status status = dwunw_process_refresh(process);
    errno = 0;
    if (status == DWUNW_OK)
        status = dwunw_core_write(process, stopped, &write_options, fd);
    const int error = errno;
    let_go();
    if (status == DWUNW_ERR_WRITE)
        return fail(options.output, std::strerror(error));
    if (status != DWUNW_OK)
        return fail(std::to_string(options.pid), status);
    report_left_out(stopped);
    return kExitOk;
}

int run_core(const CoreOptions &options) {
    if (!can_be_output(options.output))
        return kExitFailure;
    Context context;
    if (const dwunw_status status = dwunw_init(nullptr, Receive(context)); status != DWUNW_OK)
        return fail("start", status);
    Process process;
    if (!open_process(context.get(), options.pid, process))
        return kExitFailure;
    // Before the process is stopped: errors that can be known beforehand must not stop it.
    UnfinishedFile file;
    if (!file.create(options.output))
        return fail(options.output, std::strerror(errno));

    const int code = hold(options.hold, options.pid, process.get(), [&](dwunw_stopped *stopped, const LetGo &let_go) {
        return write_core(options, process.get(), stopped, file.fd(), let_go);
    });
    if (code != kExitOk)
        return code;
    if (!file.finish())
        return fail(options.output, std::strerror(errno));
    return kExitOk;
}

} // namespace

void add_core_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<CoreOptions>();
    CLI::App *command = app.add_subcommand("core", "Write a small core file of a process; the process runs on");
    command->add_option("-p,--pid", options->pid, "the process")
        ->required()
        ->type_name("PID")
        ->check(CLI::Range(1, INT32_MAX));
    command->add_option("-o,--output", options->output, "the file to write")->required()->type_name("FILE");
    command
        ->add_option("--stack-bytes", options->stack_bytes, "at most this many bytes of each stack; 0: the whole stack")
        ->type_name("N")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    add_hold_options(*command, options->hold);
    command->callback([options, &exit_code] { exit_code = run_core(*options); });
}

} // namespace dwunw_tool

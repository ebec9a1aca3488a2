// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "held.h"

#include "output.h"
#include "target.h"
#include "waits_for.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

namespace dwunw_tool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMostSeconds = 86400;
// The part of the limit for threads that do not stop. The rest is for reading the others.
constexpr double kPartForStopping = 0.4;
constexpr std::chrono::seconds kPatience(5);

// The reader's messages. Its exit code follows kEnd.
constexpr uint8_t kLetGo = 'l';
constexpr uint8_t kEnd = 'e';

struct Pipe {
    int read = -1;
    int write = -1;

    bool open() {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0)
            return false;
        read = ends[0];
        write = ends[1];
        // Only our end: the reader's end blocks.
        return ::fcntl(read, F_SETFL, O_NONBLOCK) == 0;
    }
};

struct Pipes {
    Pipe said;
    Pipe output;
    Pipe errors;
    bool open() { return said.open() && output.open() && errors.open(); }
};

std::string seconds(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g s", value);
    return text;
}

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

[[noreturn]] void run_reader(const Pipes &pipes, pid_t parent, dwunw_stopped *stopped,
                             const std::function<int(dwunw_stopped *, const LetGo &)> &work) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent || ::dup2(pipes.output.write, STDOUT_FILENO) < 0 ||
        ::dup2(pipes.errors.write, STDERR_FILENO) < 0)
        ::_exit(kExitFailure);
    const auto say = [&](std::initializer_list<uint8_t> bytes) {
        // If the parent cannot hear it, the parent has ended, and so does this process.
        if (::write(pipes.said.write, bytes.begin(), bytes.size()) < 0)
            ::_exit(kExitFailure);
    };
    int code = kExitFailure;
    try {
        code = work(stopped, [&] { say({kLetGo}); });
    } catch (const std::exception &error) {
        std::fprintf(stderr, "dwunw: %s\n", error.what());
    }
    if (!finish_output())
        code = kExitFailure;
    say({kEnd, static_cast<uint8_t>(code)});
    // Ends without destructors: the threads are the parent's tracees.
    ::_exit(code);
}

// The parent's side.
class Holder {
  public:
    Holder(const HoldOptions &options, int32_t pid, const Pipes &pipes, pid_t reader, Stopped stopped,
           Clock::time_point begin)
        : options_(options), pid_(pid), pipes_(pipes), reader_(reader), stopped_(std::move(stopped)), begin_(begin) {}

    int run() {
        std::array<pollfd, 3> polled{
            {{pipes_.said.read, POLLIN, 0}, {pipes_.output.read, POLLIN, 0}, {pipes_.errors.read, POLLIN, 0}}};
        while (true) {
            if (stopped_ && time_left() == 0)
                return give_up();
            if (::poll(polled.data(), polled.size(), stopped_ ? time_left() : -1) < 0) {
                if (errno == EINTR)
                    continue;
                return fail("poll", std::strerror(errno));
            }
            if (polled[0].revents == 0) {
                for (pollfd &one : polled)
                    if (!pass_on(one))
                        return kExitFailure; // the message comes from finish_output()
                continue;
            }
            uint8_t said = 0;
            const ssize_t got = ::read(pipes_.said.read, &said, 1);
            if (got == 1 && said == kLetGo) {
                let_go();
                continue;
            }
            // Everything that the reader wrote before its message is already in the pipes.
            for (pollfd &one : polled)
                if (!pass_on(one))
                    return kExitFailure;
            uint8_t code = kExitFailure;
            const bool ended = got == 1 && ::read(pipes_.said.read, &code, 1) == 1;
            const int status = wait_for_reader();
            return ended ? code : report_death(status);
        }
    }

  private:
    // For poll, in milliseconds.
    int time_left() const {
        if (options_.limit == 0)
            return -1;
        return static_cast<int>(std::max(0.0, (options_.limit - since(begin_)) * 1000 + 1));
    }

    void let_go() {
        if (!stopped_)
            return;
        stopped_.reset();
        if (options_.verbose)
            std::fprintf(stderr, "dwunw: %d: stopped for %s\n", pid_, seconds(since(begin_)).c_str());
    }

    int give_up() {
        // Ask before the target runs on, because it may then answer.
        const std::string cause = waits_for(reader_);
        ::kill(reader_, SIGKILL);
        // Say it first: letting the process go waits for threads that do not stop.
        fail(std::to_string(pid_), "released after " + seconds(options_.limit) + ", " +
                                       (cause.empty() ? "with more to read" : "waiting for " + cause));
        let_go();
        return kExitFailure; // even if the reader does not end now
    }

    // Prints the reader's output. False: it cannot be written.
    bool pass_on(const pollfd &from) {
        if (from.fd == pipes_.said.read)
            return true;
        FILE *const to = from.fd == pipes_.output.read ? stdout : stderr;
        std::array<char, 16384> buffer;
        for (ssize_t got; (got = ::read(from.fd, buffer.data(), buffer.size())) > 0;)
            if (!print_bytes({buffer.data(), static_cast<size_t>(got)}, to))
                return false;
        return true;
    }

    int wait_for_reader() {
        let_go();
        int status = 0;
        while (::waitpid(reader_, &status, 0) < 0 && errno == EINTR) {
        }
        return status;
    }

    int report_death(int status) const {
        return fail(std::to_string(pid_), WIFSIGNALED(status)
                                              ? "the reader was ended by signal " + std::to_string(WTERMSIG(status))
                                              : "the reader has ended");
    }

    const HoldOptions &options_;
    const int32_t pid_;
    const Pipes &pipes_;
    const pid_t reader_;
    Stopped stopped_;
    const Clock::time_point begin_;
};

} // namespace

std::vector<CLI::Option *> add_hold_options(CLI::App &command, HoldOptions &options) {
    CLI::Option *const limit =
        command.add_option("--max-hold", options.limit, "stop the process for at most this long; 0: no limit")
            ->type_name("SECONDS")
            ->check(CLI::Range(0.0, kMostSeconds))
            ->capture_default_str();
    CLI::Option *const verbose =
        command.add_flag("-v,--verbose", options.verbose, "say on standard error how long the process was stopped");
    return {limit, verbose};
}

int hold(const HoldOptions &options, int32_t pid, dwunw_process *process,
         const std::function<int(dwunw_stopped *, const LetGo &)> &work) {
    Pipes pipes;
    if (!pipes.open())
        return fail("pipe", std::strerror(errno));
    const auto begin = Clock::now();
    auto patience = std::chrono::nanoseconds(kPatience);
    if (options.limit != 0)
        patience = std::min(patience, std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::duration<double>(options.limit * kPartForStopping)));
    Stopped stopped;
    if (const dwunw_status status =
            dwunw_process_stop_threads(process, static_cast<uint64_t>(patience.count()), Receive(stopped));
        status != DWUNW_OK)
        return fail_process(pid, status);
    const pid_t parent = ::getpid();
    const pid_t reader = ::fork();
    if (reader < 0)
        return fail("fork", std::strerror(errno));
    if (reader == 0)
        run_reader(pipes, parent, stopped.get(), work);
    for (const Pipe *pipe : {&pipes.said, &pipes.output, &pipes.errors})
        ::close(pipe->write);
    return Holder(options, pid, pipes, reader, std::move(stopped), begin).run();
}

} // namespace dwunw_tool

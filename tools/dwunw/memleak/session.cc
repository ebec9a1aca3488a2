// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/session.h"

#include "memleak/calibration.h"

#include "output.h"
#include "target.h"

#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstring>
#include <poll.h>
#include <unistd.h>

namespace dwunw_tool::memleak {
namespace {

constexpr int kCannotExecute = 126, kNotFound = 127; // as a shell's

uint64_t machine_memory() {
    struct sysinfo info {};
    return ::sysinfo(&info) == 0 ? uint64_t(info.totalram) * info.mem_unit : 0;
}

std::string in_mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

} // namespace

Session::Session(Options options)
    : options_(std::move(options)), sampling_{options_.sample_rate, options_.sample_bytes},
      is_sampled_(sampling_.is_on()) {}

Session::~Session() {
    if (signals_ >= 0)
        ::close(signals_);
}

// ---- start ----

bool Session::open() {
    if (const dwunw_status status = dwunw_init(nullptr, Receive(context_)); status != DWUNW_OK) {
        fail("memleak", status);
        return false;
    }
    if (const dwunw_status status = dwunw_symbolizer_open(Receive(symbolizer_)); status != DWUNW_OK) {
        fail("memleak", status);
        return false;
    }
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD})
        ::sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::signal(SIGPIPE, SIG_IGN); // finish_output() tells of it
    signals_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals_ < 0) {
        fail("signals", std::string(std::strerror(errno)));
        return false;
    }
    return true;
}

bool Session::find_targets(uint64_t &cgroup) {
    if (options_.cgroup.empty())
        return true;
    const auto found = find_cgroup(options_.cgroup);
    if (!found) {
        fail(options_.cgroup, "no such cgroup: " + std::string(std::strerror(errno)));
        return false;
    }
    cgroup = found->id;
    options_.pids = found->pids;
    return true;
}

// Watches a process that runs already, or that is stopped at its start.
bool Session::watch(int32_t pid) {
    if (const dwunw_status status = dwunw_bpf_add_process(kernel_->stacks(), pid); status != DWUNW_OK) {
        fail_process(pid, status);
        return false;
    }
    added_.insert(pid);
    probes_->look(pid);
    return true;
}

int Session::nothing_to_trace(int32_t pid) const {
    const std::vector<std::string> looked = probes_->looked_at(pid);
    std::string why = "nothing to trace: no file that it has mapped defines an allocator";
    if (!options_.object.empty())
        why = "nothing to trace: " + options_.object + " is not mapped, or defines no allocator";
    if (options_.prefix)
        why += " with the prefix '" + *options_.prefix + "'";
    why += looked.empty() ? " (its map cannot be read, or is empty)" : ". Looked at:";
    std::fprintf(stderr, "dwunw: %d: %s", pid, printable(why).c_str());
    for (const std::string &path : looked)
        std::fprintf(stderr, "\n  %s", printable(path).c_str());
    std::fprintf(stderr, "\n");
    for (const std::string &problem : probes_->problems())
        std::fprintf(stderr, "  %s\n", printable(problem).c_str());
    return kExitFailure;
}

// The command stands at the first instruction of its program. If it has a dynamic linker, the linker runs until it has
// loaded the libraries, whose constructors may allocate already.
bool Session::attach_to_command() {
    const int32_t pid = child_->pid();
    if (!watch(pid))
        return false;
    const size_t files = mapped_files(pid).size();
    for (int stop = 0; stop < 2; ++stop) {
        bool is_prepared = false;
        for (const MappedFile &file : mapped_files(pid)) {
            const std::string path = reachable_path(pid, file);
            if (const auto offset = linker_notification(path)) {
                is_prepared = kernel_->stop_at_libraries(pid, path, *offset);
                break;
            }
        }
        if (!is_prepared)
            return true; // a static program: it has all it needs
        child_->run_on();
        if (!child_->wait_for_stop())
            return true; // it has ended
        if (!watch(pid))
            return false;
        // glibc's linker tells of the beginning, too; musl's does not.
        if (mapped_files(pid).size() > files || probes_->has_heap(pid))
            return true;
    }
    return true;
}

bool Session::start_command(int &exit_code) {
    if (auto child = Child::start(options_.command))
        child_.emplace(std::move(*child));
    if (!child_) {
        exit_code = fail(options_.command[0], std::string("cannot be started: ") + std::strerror(errno));
        return false;
    }
    const int32_t pid = child_->pid();
    kernel_->want(pid, false);
    kernel_->stop_at_exec(pid);
    if (const int error = child_->release(); error != 0) {
        fail(options_.command[0], std::strerror(error));
        exit_code = error == ENOENT ? kNotFound : kCannotExecute;
        return false;
    }
    watched_.emplace_back(pid);
    if (!child_->wait_for_stop()) {
        exit_code = fail(options_.command[0], "it ended before it could be watched");
        return false;
    }
    take_events();
    has_executed_ = false;
    if (!attach_to_command()) {
        exit_code = kExitFailure;
        child_->end();
        return false;
    }
    if (!child_->has_ended() && !probes_->has_heap(pid)) {
        exit_code = nothing_to_trace(pid);
        child_->end();
        return false;
    }
    child_->run_on();
    return true;
}

int Session::run() {
    uint64_t cgroup = 0;
    if (!open() || !find_targets(cgroup))
        return kExitFailure;
    const uint64_t max_memory = options_.max_memory ? options_.max_memory : machine_memory() / 10;
    ranking_ = std::make_unique<Ranking>(options_, symbolizer_.get());
    if (const std::string problem = ranking_->open(); !problem.empty()) {
        std::fprintf(stderr, "dwunw: %s\n", printable(problem).c_str());
        return kExitFailure;
    }
    kernel_ = std::make_unique<Kernel>(context_.get(), options_, cgroup, max_memory);
    if (!kernel_->error().empty())
        return fail("memleak", kernel_->error());
    const bool everywhere = options_.follow || !options_.comm.empty() || !options_.cgroup.empty();
    probes_ = std::make_unique<Probes>(*kernel_, options_, everywhere);
    if (options_.verbose)
        std::fprintf(stderr, "%s", kernel_->describe().c_str());

    // Standard output belongs to the reports; with both on a terminal they share it.
    shows_status_ = ::isatty(STDERR_FILENO) != 0;
    if (options_.max_overhead || shows_status_) {
        std::string problem;
        const auto cost = calibrate(
            *kernel_, [this] { take_events(); }, problem);
        if (!cost && options_.max_overhead)
            return fail("--max-overhead", problem);
        if (cost)
            overhead_.emplace(*cost, options_.max_overhead);
        if (cost && options_.verbose)
            std::fprintf(stderr, "cost of a call: %.2f us recorded, %.2f us not recorded\n", cost->recorded / 1000,
                         cost->unrecorded / 1000);
    }
    if (!options_.command.empty()) {
        int exit_code = kExitFailure;
        if (!start_command(exit_code))
            return exit_code;
    } else {
        std::vector<int32_t> pids = options_.pids;
        if (!options_.comm.empty())
            pids = processes_named(options_.comm);
        // Processes that come later most probably use the C library that this program uses.
        if (everywhere && !options_.follow)
            probes_->look(::getpid());
        for (const int32_t pid : pids) {
            if (!thread_to_open(pid))
                return kExitFailure;
            if (options_.cgroup.empty() && options_.comm.empty())
                watched_.emplace_back(pid);
            kernel_->want(pid, true);
            if (!watch(pid)) {
                if (everywhere && !options_.follow)
                    continue;
                return kExitFailure;
            }
            if (!probes_->has_heap(pid) && options_.comm.empty() && options_.cgroup.empty())
                return nothing_to_trace(pid);
        }
        if (pids.empty())
            std::fprintf(stderr, "dwunw: no such process yet; waiting for one\n");
    }
    print("Tracing outstanding memory allocs...  Hit Ctrl-C to end\n");
    if (options_.verbose)
        print("room for blocks: up to %s\n", in_mib(max_memory).c_str());
    flush_output();
    look_again();
    loop();
    return exit_status();
}

// ---- what comes while it runs ----

// Files that a process has loaded since, and processes that have come.
void Session::look_again() {
    for (const auto &[number, process] : processes_)
        if (!process.ended && !process.replaced && process.pid > 0 && added_.insert(process.pid).second)
            dwunw_bpf_add_process(kernel_->stacks(), process.pid);
    for (const int32_t pid : added_)
        probes_->look(pid);
    const std::vector<std::string> &problems = probes_->problems();
    for (; problems_shown_ < problems.size(); ++problems_shown_)
        std::fprintf(stderr, "dwunw: not probed: %s\n", printable(problems[problems_shown_]).c_str());
}

void Session::take_events() {
    kernel_->take_events([this](const memleak_event &event) { take(event); });
}

void Session::take(const memleak_event &event) {
    switch (event.type) {
    case MEMLEAK_EVENT_MAPPED: {
        constexpr uint64_t kMapStack = MAP_STACK;
        mappings_.map(event.process, event.address, event.length, event.stack, event.time,
                      (event.detail & kMapStack) != 0);
        break;
    }
    case MEMLEAK_EVENT_UNMAPPING:
        mappings_.unmap(event.process, event.tid, event.address, event.length);
        break;
    case MEMLEAK_EVENT_UNMAP_FAILED:
        mappings_.unmap_failed(event.process, event.tid);
        break;
    case MEMLEAK_EVENT_REMAPPED:
        mappings_.remap(event.process, event.tid, event.old, event.detail, event.address, event.length, event.stack,
                        event.time);
        break;
    case MEMLEAK_EVENT_FREED:
        kernel_->blocks().note_freed(event);
        break;
    case MEMLEAK_EVENT_PROCESS:
    case MEMLEAK_EVENT_EXEC:
        processes_[event.process] = {static_cast<int32_t>(event.detail), false, false};
        if (event.type == MEMLEAK_EVENT_EXEC) {
            added_.erase(processes_[event.process].pid);
            probes_->forget(processes_[event.process].pid);
            has_executed_ |= child_ && child_->pid() == processes_[event.process].pid;
        }
        linker_events_ = 0; // look again
        break;
    case MEMLEAK_EVENT_REPLACED:
        processes_[event.process].replaced = true;
        mappings_.drop(event.process);
        break;
    case MEMLEAK_EVENT_EXIT:
        processes_[event.process].ended = true;
        break;
    case MEMLEAK_EVENT_MISMATCH:
        mismatches_[{event.stack, static_cast<uint32_t>(event.length >> MEMLEAK_KIND_SHIFT & MEMLEAK_KIND_MASK),
                     static_cast<uint32_t>(event.detail), static_cast<int64_t>(event.old)}]++;
        break;
    case MEMLEAK_EVENT_GROW:
        kernel_->note_growth();
        break;
    default:
        break;
    }
}

void Session::take_signals() {
    signalfd_siginfo info{};
    while (::read(signals_, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD)
            interrupted_ = true;
}

bool Session::is_over() {
    if (interrupted_ || gave_up_ || output_is_lost())
        return true;
    if (child_ && child_->has_ended())
        return true;
    return !watched_.empty() &&
           std::all_of(watched_.begin(), watched_.end(), [](const Watched &process) { return process.has_ended(); });
}

void Session::take_stacks(uint64_t for_ns) {
    const uint64_t until = now_ns() + for_ns;
    size_t taken = 0;
    do
        taken = 0;
    while (dwunw_bpf_poll(kernel_->stacks(), 0, &taken) == DWUNW_OK && taken > 0 && now_ns() < until);
}

// Once a second.
void Session::watch_overhead() {
    const uint64_t now = now_ns();
    if (!overhead_ || now - overhead_looked_ns_ < kSecond)
        return;
    overhead_looked_ns_ = now;
    const auto counters = kernel_->counters();
    const auto action =
        overhead_->update(now, {counters[MEMLEAK_CALLS], counters[MEMLEAK_ALLOCATIONS] + counters[MEMLEAK_FREES]});
    if (action == Overhead::Action::kRecordLess) {
        kernel_->set_sampling_shift(overhead_->shift());
        std::fprintf(stderr, "dwunw: memleak: the probes cost %.1f %% of a core: now 1 allocation in %u is recorded\n",
                     overhead_->percent(), 1u << overhead_->shift());
    } else if (action == Overhead::Action::kGiveUp) {
        probes_->detach();
        gave_up_ = true;
        fail("memleak", overhead_->why());
    }
    if (shows_status_)
        show_status();
}

// One line on the terminal, which the next one and the next report overwrite.
void Session::show_status() {
    dwunw_bpf_counters stacks{};
    stacks.size = sizeof stacks;
    dwunw_bpf_get_counters(kernel_->stacks(), &stacks);
    uint64_t lost = 0;
    for (const Loss &loss : losses_so_far())
        lost += loss.count;
    std::fprintf(
        stderr,
        "\r%.0f calls/s, %" PRIu64 " blocks, %" PRIu64 " stacks, %" PRIu64 " lost, probes %.1f %% of a core\033[K\r",
        overhead_->calls_per_second(), kernel_->live_blocks(), stacks.distinct_stacks, lost, overhead_->percent());
}

void Session::wait(uint64_t until_ns) {
    constexpr int kLongest = 1000; // ms: the linker's changes are looked at as often
    std::vector<pollfd> fds{
        {signals_, POLLIN, 0}, {kernel_->events_fd(), POLLIN, 0}, {dwunw_bpf_epoll_fd(kernel_->stacks()), POLLIN, 0}};
    for (const Watched &process : watched_)
        if (!process.has_ended())
            fds.push_back({process.fd(), POLLIN, 0});
    while (!is_over()) {
        const uint64_t now = now_ns();
        if (now >= until_ns)
            return;
        const int timeout = static_cast<int>(std::min<uint64_t>((until_ns - now) / 1'000'000 + 1, kLongest));
        if (::poll(fds.data(), fds.size(), timeout) < 0 && errno != EINTR)
            return;
        take_signals();
        take_events();
        if (has_executed_) {
            // As at its start. What goes wrong was said; the program runs in any case.
            has_executed_ = false;
            if (child_->wait_for_stop())
                attach_to_command();
            child_->run_on();
        }
        dwunw_bpf_poll(kernel_->stacks(), 0, nullptr);
        kernel_->make_room();
        watch_overhead();
        dwunw_bpf_counters counters{};
        counters.size = sizeof counters;
        if (dwunw_bpf_get_counters(kernel_->stacks(), &counters) == DWUNW_OK &&
            counters.linker_events + 1 != linker_events_) {
            linker_events_ = counters.linker_events + 1;
            look_again();
        }
    }
}

void Session::loop() {
    for (uint64_t done = 0; !options_.reports || done < *options_.reports; ++done) {
        wait(now_ns() + options_.interval * kSecond);
        const bool over = is_over();
        report();
        if (over || is_over())
            return;
    }
}

int Session::exit_status() {
    if (shows_status_)
        std::fprintf(stderr, "\033[K");
    if (child_ && !child_->has_ended())
        child_->end();
    if (options_.fail_on && outstanding_bytes_ >= *options_.fail_on) {
        std::fprintf(stderr, "dwunw: %" PRIu64 " bytes are outstanding, --fail-on is %" PRIu64 "\n", outstanding_bytes_,
                     *options_.fail_on);
        return options_.error_exitcode;
    }
    if (gave_up_)
        return kExitFailure;
    if (options_.strict && lost_something_)
        return fail("memleak", "something was lost (--strict)");
    if (!child_)
        return kExitOk;
    const int status = child_->status();
    constexpr int kBySignal = 128; // as a shell's
    if (WIFSIGNALED(status))
        return kBySignal + WTERMSIG(status);
    return WEXITSTATUS(status);
}

} // namespace dwunw_tool::memleak

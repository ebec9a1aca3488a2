// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//
// The child waits for a byte, makes kPairs calls of malloc and free at the end of a chain of kDepth frames, and answers
// with the nanoseconds that took; three times:
//
//     without probes   →  t0
//     all recorded     →  t1      recorded   = (t1 − t0) / calls
//     one in 2¹⁶       →  t2      unrecorded = (t2 − t0) / calls
#include "memleak/calibration.h"

#include "memleak/allocators.h"
#include "recorder/clock.h"

#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace dwunw_tool::memleak {
namespace {

constexpr int kPairs = 2000;
constexpr int kDepth = 30;
constexpr int kRounds = 5; // the fastest counts
constexpr unsigned kRareShift = 16;

[[gnu::noinline]] void allocate_below(int depth) {
    if (depth > 0) {
        allocate_below(depth - 1);
    } else {
        void *volatile block = std::malloc(64);
        std::free(block);
    }
    asm volatile("" ::: "memory"); // no tail call
}

uint64_t time_pairs() {
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t begin = now_ns();
        for (int i = 0; i < kPairs; ++i)
            allocate_below(kDepth);
        best = std::min(best, now_ns() - begin);
    }
    return best;
}

class MeasuredChild {
  public:
    MeasuredChild() {
        int to[2], from[2];
        if (::pipe2(to, O_CLOEXEC) != 0)
            return;
        if (::pipe2(from, O_CLOEXEC) != 0) {
            ::close(to[0]);
            ::close(to[1]);
            return;
        }
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(to[1]);
            for (char byte = 0; ::read(to[0], &byte, 1) == 1;) {
                const uint64_t time = time_pairs();
                if (::write(from[1], &time, sizeof time) != sizeof time)
                    break;
            }
            ::_exit(0);
        }
        ::close(to[0]);
        ::close(from[1]);
        to_ = to[1];
        from_ = from[0];
    }
    ~MeasuredChild() {
        if (to_ >= 0)
            ::close(to_);
        if (from_ >= 0)
            ::close(from_);
        if (pid_ > 0)
            (void)::waitpid(pid_, nullptr, 0); // it ends with its pipe
    }
    MeasuredChild(const MeasuredChild &) = delete;
    MeasuredChild &operator=(const MeasuredChild &) = delete;

    int32_t pid() const { return pid_; }
    // 0: it did not answer.
    double measure() const {
        uint64_t time = 0;
        if (::write(to_, "", 1) != 1 || ::read(from_, &time, sizeof time) != sizeof time)
            return 0;
        return static_cast<double>(time);
    }

  private:
    int32_t pid_ = -1;
    int to_ = -1, from_ = -1;
};

// Probes malloc and free in the child's C library.
std::vector<Attachment> attach_to(Kernel &kernel, int32_t pid) {
    std::vector<Attachment> attachments;
    for (const MappedFile &mapped : mapped_files(pid)) {
        const std::string path = reachable_path(pid, mapped);
        if (path.empty())
            continue;
        Allocator found = find_allocator(path, nullptr, kernel.all_by_instruction());
        std::erase_if(found.sites, [](const Site &site) { return site.symbol != "malloc" && site.symbol != "free"; });
        for (const bool by_instruction : {true, false}) {
            const auto points = points_of(found, by_instruction);
            dwunw_status status = DWUNW_OK;
            if (!points.empty())
                if (Attachment attachment = kernel.attach(path, pid, points, by_instruction, status))
                    attachments.push_back(std::move(attachment));
        }
    }
    return attachments;
}

} // namespace

std::optional<CallCost> calibrate(Kernel &kernel, const std::function<void()> &take_events, std::string &problem) {
    MeasuredChild child;
    constexpr double kCalls = 2.0 * kPairs;
    const double bare = child.pid() > 0 ? child.measure() : 0;
    if (bare == 0) {
        problem = "the cost of a probe cannot be measured: no child";
        return std::nullopt;
    }
    dwunw_bpf_add_process(kernel.stacks(), child.pid());
    kernel.want(child.pid(), false);
    const std::vector<Attachment> attachments = attach_to(kernel, child.pid());
    if (attachments.empty()) {
        problem = "the cost of a probe cannot be measured: this program's malloc cannot be probed";
        return std::nullopt;
    }
    const double recorded = child.measure();
    kernel.set_sampling_shift(kRareShift);
    const double unrecorded = child.measure();
    kernel.set_sampling_shift(0);
    take_events();
    if (recorded == 0 || unrecorded == 0) {
        problem = "the cost of a probe cannot be measured: the child has ended";
        return std::nullopt;
    }
    return CallCost{std::max(0.0, recorded - bare) / kCalls, std::max(0.0, unrecorded - bare) / kCalls};
}

} // namespace dwunw_tool::memleak

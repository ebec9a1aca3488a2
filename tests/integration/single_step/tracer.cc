// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The effect of an instruction on the call stack follows from the instruction and from SP before and after it:
//
//   call                 pushes the address behind it
//   ret                  pops, if SP was at the innermost return address (otherwise it is a jump: `push; ret`)
//   rt_sigreturn         goes back to the interrupted instruction
//   any instruction      that leaves SP above a return address has left that frame: longjmp, an exception's landing
//   a signal's delivery  ptrace reports it; the interrupted pc is in the kernel's frame, and was the pc before
//
// Two cases need more:
//   - libgcc's unwinder goes to a landing pad by writing its address, and the registers, over the saved ones on the
//     stack, and returning. So the words in the slots are compared; if one has changed, the thread must be in libgcc.
//   - When the registers of the jump are loaded, glibc's longjmp describes itself as called by its target; so does
//     libgcc's rewritten stack. So a chain that differs from the shadow stack is kept until the jump is done. Then it
//     must consist of the frames of the jumping function, and outside them those of the jump's target. If the thread
//     leaves the library in another way, the chain was wrong.
#include "tracer.h"

#include "compare.h"
#include "instruction.h"
#include "shadow_stack.h"
#include "walker.h"

#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace dwunw::testing {
namespace {

constexpr uint64_t kMaxSteps = 2'000'000;
constexpr size_t kMaxReports = 100;
constexpr size_t kMaxDeferred = 4096;
constexpr uint64_t kLargestCutSlice = 48 * 1024;

// siginfo of the SIGTRAP that reports a handler's first instruction while stepping.
constexpr int kHandlerEntered = SIGTRAP;

// What a signal frame holds, from the address of its ucontext_t on (asm/sigcontext.h, asm-generic/ucontext.h).
constexpr uint64_t kSavedStackStart = 16;
constexpr uint64_t kSavedStackSize = 32;
constexpr uint64_t kSavedRsp = 160;
constexpr uint64_t kSavedRip = 168;

template <typename T> T checked(T result, const char *what) {
    if (result == T(-1))
        throw std::system_error(errno, std::generic_category(), what);
    return result;
}

// A chain that is not the shadow's, until it is known where the thread jumps to.
struct Deferred {
    Walked walked;
    std::vector<TrueFrame> shadow;
    std::string text;
};

struct Thread {
    pid_t tid = 0;
    bool stepping = false;
    bool announced = false; // its first stop is its birth's
    user_regs_struct regs{};
    Instruction next; // at regs.rip
    ShadowStack shadow;
    uint64_t stack_end = 0;
    int sent_signal = 0;
    std::vector<Deferred> deferred;
    const dwunw_module *deferred_in = nullptr;
    bool moved = false; // SP has just left frames behind
};

class Tracer {
  public:
    explicit Tracer(const StepOptions &options) : options_(options) {}
    ~Tracer() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            while (::waitpid(-1, nullptr, __WALL) > 0 || errno == EINTR) {
            }
        }
    }
    Tracer(const Tracer &) = delete;
    Tracer &operator=(const Tracer &) = delete;

    StepReport run() {
        start();
        while (!threads_.empty() && !done_) {
            int status = 0;
            const pid_t tid = checked(::waitpid(-1, &status, __WALL), "waitpid");
            if (WIFSTOPPED(status)) {
                stopped(tid, status);
            } else {
                if (tid == pid_) {
                    report_.exit_status = status;
                    report_.finished = report_.finished || WIFEXITED(status);
                    pid_ = -1;
                }
                threads_.erase(tid);
            }
        }
        // Past the second breakpoint it is on its own.
        if (pid_ > 0) {
            int status = 0;
            for (auto &[tid, thread] : threads_) {
                thread.regs.rip += thread.next.kind == Instruction::Kind::kBreakpoint ? thread.next.size : 0;
                checked(::ptrace(PTRACE_SETREGS, tid, nullptr, &thread.regs), "PTRACE_SETREGS");
                checked(::ptrace(PTRACE_DETACH, tid, nullptr, nullptr), "PTRACE_DETACH");
            }
            checked(::waitpid(pid_, &status, 0), "waitpid");
            report_.exit_status = status;
            pid_ = -1;
        }
        return report_;
    }

  private:
    void start() {
        pid_ = checked(::fork(), "fork");
        if (pid_ == 0) {
            std::vector<char *> arguments;
            for (const std::string &argument : options_.command)
                arguments.push_back(const_cast<char *>(argument.c_str()));
            arguments.push_back(nullptr);
            if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0)
                ::execv(arguments[0], arguments.data());
            ::_exit(127);
        }
        int status = 0;
        checked(::waitpid(pid_, &status, 0), "waitpid");
        if (!WIFSTOPPED(status))
            throw std::runtime_error("cannot execute " + options_.command[0]);
        checked(::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE),
                "PTRACE_SETOPTIONS");
        threads_[pid_].tid = pid_;
        threads_[pid_].announced = true;
        checked(::ptrace(PTRACE_CONT, pid_, nullptr, nullptr), "PTRACE_CONT");
    }

    void stopped(pid_t tid, int status) {
        Thread &thread = threads_[tid];
        thread.tid = tid;
        const int signal = WSTOPSIG(status);
        if (!thread.announced) { // born, before its first instruction
            thread.announced = true;
            thread.stepping = true;
            ++report_.threads;
            load(thread);
            thread.stack_end = thread.regs.rsp;
            look(thread);
            resume(thread, 0);
        } else if (status >> 16 != 0) { // the parent, in its system call
            resume(thread, 0);
        } else if (!thread.stepping) {
            if (signal == SIGTRAP)
                begin(thread);
            else
                resume(thread, signal);
        } else if (signal == SIGTRAP) {
            stepped(thread);
        } else {
            // About to be delivered; no instruction has run since, except where both happened at once.
            if (const user_regs_struct now = registers(tid); now.rip != thread.regs.rip || now.rsp != thread.regs.rsp)
                advance(thread);
            thread.sent_signal = signal;
            resume(thread, signal);
        }
    }

    // At the first breakpoint.
    void begin(Thread &thread) {
        walker_ = std::make_unique<Walker>(pid_);
        load(thread);
        std::vector<uint8_t> stack(1 << 20);
        const uint64_t start = thread.regs.rsp - DWUNW_RED_ZONE;
        stack.resize(walker_->read(start, stack));
        const Walked base = walker_->walk(thread.regs, start, stack);
        const bool whole = base.status == DWUNW_OK && base.frames.size() > 3;
        const bool up_to_libc = base.status == DWUNW_ERR_NO_CFI && base.frames.size() > 1;
        if (!(options_.libc_without_cfi ? up_to_libc : whole))
            return wrong(thread, "where stepping begins there is no whole stack", base);
        end_ = base.status;
        for (size_t i = base.frames.size() - 1; i > 0; --i)
            thread.shadow.push_return(base.frames[i].pc, base.frames[i - 1].cfa - 8);
        thread.stack_end = thread.shadow.entries().front().slot + 8;
        thread.stepping = true;
        ++report_.threads;
        load(thread);
        look(thread);
        resume(thread, 0);
    }

    void stepped(Thread &thread) {
        siginfo_t info{};
        checked(::ptrace(PTRACE_GETSIGINFO, thread.tid, nullptr, &info), "PTRACE_GETSIGINFO");
        if (thread.sent_signal != 0 && info.si_code == kHandlerEntered)
            enter_handler(thread);
        else
            advance(thread);
        thread.sent_signal = 0;
        if (thread.next.kind == Instruction::Kind::kBreakpoint) {
            flush_deferred(thread);
            report_.finished = true;
            done_ = true;
            return;
        }
        if (report_.steps > kMaxSteps) {
            wrong(thread, "too many steps", {});
            done_ = true;
            return;
        }
        const bool quiet = !thread.shadow.in_handler() && thread.deferred.empty();
        if (options_.signal_every != 0 && quiet && ++since_signal_ >= options_.signal_every) {
            since_signal_ = 0;
            thread.sent_signal = SIGALRM;
            resume(thread, SIGALRM);
        } else {
            resume(thread, 0);
        }
    }

    void enter_handler(Thread &thread) {
        ++report_.signals;
        const user_regs_struct before = thread.regs;
        load(thread);
        const uint64_t context = thread.regs.rsp + 8;
        const uint64_t pc = walker_->word(context + kSavedRip);
        // A system call that is to be made again.
        if ((pc != before.rip && pc != before.rip - 2) || walker_->word(context + kSavedRsp) != before.rsp)
            wrong(thread, "the signal interrupted something else", {});
        const uint64_t other = walker_->word(context + kSavedStackStart);
        thread.shadow.push_signal(pc, before.rsp, thread.regs.rsp, walker_->word(thread.regs.rsp), other,
                                  other + walker_->word(context + kSavedStackSize));
        load(thread);
        look(thread);
    }

    // One instruction has run.
    void advance(Thread &thread) {
        const user_regs_struct before = thread.regs;
        const Instruction instruction = thread.next;
        thread.regs = registers(thread.tid);
        const user_regs_struct &now = thread.regs;
        std::string trouble;
        switch (instruction.kind) {
        case Instruction::Kind::kCall:
            ++report_.calls;
            if (now.rsp != before.rsp - 8)
                trouble = "a call that pushed something else";
            thread.shadow.push_return(before.rip + instruction.size, now.rsp);
            break;
        case Instruction::Kind::kReturn:
            trouble = thread.shadow.pop_return(before.rsp, now.rip);
            break;
        case Instruction::Kind::kSystemCall:
            if (before.rax == SYS_rt_sigreturn)
                trouble = thread.shadow.pop_signal(now.rip, now.rsp);
            break;
        case Instruction::Kind::kBreakpoint:
        case Instruction::Kind::kOther:
            break;
        }
        if (thread.shadow.drop_below(now.rsp) > 0)
            thread.moved = true;
        const bool jumped = now.rip != before.rip + instruction.size;
        if (jumped && thread.moved)
            land(thread);
        if (!thread.deferred.empty() && walker_->module_at(now.rip) != thread.deferred_in)
            flush_deferred(thread);
        load(thread);
        if (!trouble.empty())
            wrong(thread, trouble, {});
        look(thread);
    }

    // A jump that left frames behind has been made.
    void land(Thread &thread) {
        const auto landed = thread.shadow.chain(thread.regs.rip, thread.regs.rsp);
        for (const Deferred &deferred : thread.deferred) {
            if (jumps_to(deferred.walked, deferred.shadow, landed, end_))
                ++report_.before_jumps;
            else
                wrong(deferred.text);
        }
        thread.deferred.clear();
        thread.moved = false;
    }
    void flush_deferred(Thread &thread) {
        for (const Deferred &deferred : thread.deferred)
            wrong(deferred.text);
        thread.deferred.clear();
    }

    // Walks, and compares with the truth.
    void look(Thread &thread) {
        ++report_.steps;
        const auto truth = thread.shadow.chain(thread.regs.rip, thread.regs.rsp);
        report_.deepest = std::max<uint64_t>(report_.deepest, truth.size());
        const Walked walked = walker_->walk(thread.regs, slice_start_, slice_);
        if (walked.status == end_ && matches(walked, truth) && walked.frames.size() == truth.size()) {
            ++report_.exact;
        } else if (walked.status != DWUNW_OK && matches(walked, truth)) {
            std::string where = walker_->name(walked.frames.front());
            if (walked.frames.size() > 1)
                where += " … " + walker_->name(walked.frames.back());
            ++report_.incomplete[where + ": " + dwunw_status_string(walked.status)];
        } else if (into_a_rewritten_frame(walked, truth)) {
            ++report_.rewritten;
        } else if (thread.deferred.size() < kMaxDeferred) {
            if (thread.deferred.empty())
                thread.deferred_in = walker_->module_at(thread.regs.rip);
            thread.deferred.push_back({walked, truth, describe(thread, "not the frames that there are", walked)});
        } else {
            wrong(thread, "too long before a jump", walked);
        }
        if (options_.cut_every != 0 && report_.steps % options_.cut_every == 0 && walked.status == end_ &&
            slice_.size() <= kLargestCutSlice)
            cut(thread, walked);
    }

    void cut(Thread &thread, const Walked &whole) {
        for (size_t size = 0; size < slice_.size(); size += 8) {
            const Walked part = walker_->walk(thread.regs, slice_start_, std::span(slice_).first(size));
            bool prefix = part.frames.size() <= whole.frames.size();
            for (size_t i = 0; prefix && i < part.frames.size(); ++i)
                prefix = part.frames[i].pc == whole.frames[i].pc && part.frames[i].sp == whole.frames[i].sp;
            const bool complete = part.status == end_ && part.frames.size() == whole.frames.size();
            if (prefix && complete)
                ++report_.complete_cuts;
            else if (prefix && part.status == DWUNW_ERR_SLICE_EXHAUSTED && !part.frames.empty())
                ++report_.exhausted_cuts;
            else
                wrong(thread, "cut to " + std::to_string(size) + " bytes", part);
        }
    }

    // Registers, the instruction to come, and the slice.
    void load(Thread &thread) {
        thread.regs = registers(thread.tid);
        slice_start_ = thread.shadow.lowest_sp(thread.regs.rsp) - DWUNW_RED_ZONE;
        // Before stepping begins, and in a thread without frames, there is nothing above SP to go by.
        slice_.resize(thread.stack_end > slice_start_ ? thread.stack_end - slice_start_ : 0);
        std::array<uint8_t, Decoder::kMaxSize> code;
        std::array<iovec, 2> local = {{{code.data(), code.size()}, {}}};
        std::array<iovec, 2> remote = {{{reinterpret_cast<void *>(thread.regs.rip), code.size()}, {}}};
        size_t code_size = 0;
        while (true) {
            local[1] = {slice_.data(), slice_.size()};
            remote[1] = {reinterpret_cast<void *>(slice_start_), slice_.size()};
            const auto got = static_cast<size_t>(
                checked(::process_vm_readv(thread.tid, local.data(), 2, remote.data(), 2, 0), "process_vm_readv"));
            code_size = std::min(got, code.size());
            if (got == code.size() + slice_.size())
                break;
            if (got < code.size()) { // up to its page's end
                local[0].iov_len = remote[0].iov_len = got;
                code_size = got;
                if (walker_->read(slice_start_, slice_) == slice_.size())
                    break;
            }
            // SP is in pages of the stack that nothing has touched yet.
            const uint64_t next_page = (slice_start_ | 4095) + 1;
            if (next_page >= thread.stack_end)
                throw std::runtime_error("cannot read the target's stack");
            slice_.resize(thread.stack_end - next_page);
            slice_start_ = next_page;
        }
        thread.next = decoder_.decode(std::span(code).first(code_size));
        follow_rewritten_returns(thread);
    }

    void follow_rewritten_returns(Thread &thread) {
        for (ShadowStack::Entry &entry : thread.shadow.entries()) {
            if (entry.kind != ShadowStack::Entry::Kind::kReturn)
                continue;
            uint64_t now = 0;
            std::memcpy(&now, slice_.data() + (entry.slot - slice_start_), sizeof(now));
            if (now == entry.pc)
                continue;
            entry.pc = now;
            const dwunw_module *module = walker_->module_at(thread.regs.rip);
            if (module == nullptr || std::string(dwunw_module_path(module)).find("libgcc_s") == std::string::npos)
                wrong(thread, "a return address has changed", {});
        }
    }

    static user_regs_struct registers(pid_t tid) {
        user_regs_struct regs{};
        checked(::ptrace(PTRACE_GETREGS, tid, nullptr, &regs), "PTRACE_GETREGS");
        return regs;
    }
    void resume(const Thread &thread, int signal) {
        checked(::ptrace(thread.stepping ? PTRACE_SINGLESTEP : PTRACE_CONT, thread.tid, nullptr, signal), "ptrace");
    }
    std::string describe(const Thread &thread, const std::string &what, const Walked &walked) {
        std::ostringstream text;
        text << what << " (" << dwunw_status_string(walked.status) << ")\n" << std::hex;
        const auto truth = thread.shadow.chain(thread.regs.rip, thread.regs.rsp);
        for (size_t i = 0; i < std::max(truth.size(), walked.frames.size()); ++i) {
            text << "    ";
            if (i < truth.size())
                text << truth[i].pc << " sp " << truth[i].sp << (truth[i].exact ? " exact" : "")
                     << (truth[i].signal ? " signal" : "");
            text << "  |  ";
            if (i < walked.frames.size()) {
                const dwunw_frame &frame = walked.frames[i];
                text << frame.pc << " sp " << frame.sp << " flags " << frame.flags << " source " << frame.source << "  "
                     << walker_->name(frame) << " (" << frame.module_offset << ")";
            }
            text << "\n";
        }
        return text.str();
    }
    void wrong(const std::string &text) {
        ++report_.wrong_count;
        if (report_.wrong.size() < kMaxReports)
            report_.wrong.push_back(text);
    }
    void wrong(const Thread &thread, const std::string &what, const Walked &walked) {
        wrong(describe(thread, what, walked));
        if (!thread.stepping)
            done_ = true;
    }

    const StepOptions &options_;
    StepReport report_;
    pid_t pid_ = -1;
    bool done_ = false;
    std::map<pid_t, Thread> threads_;
    Decoder decoder_;
    std::unique_ptr<Walker> walker_;
    dwunw_status end_ = DWUNW_OK; // of a walk through all frames that there are
    uint64_t since_signal_ = 0;
    uint64_t slice_start_ = 0;
    std::vector<uint8_t> slice_;
};

} // namespace

StepReport step_through(const StepOptions &options) { return Tracer(options).run(); }

} // namespace dwunw::testing

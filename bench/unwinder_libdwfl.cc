// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// elfutils' libdwfl. Modules are reported at their addresses in the core, without separate debug files; callbacks give
// the process's state. A "thread" is one stack.
#include "unwinder.h"

#include <elfutils/libdwfl.h>

#include <unistd.h>

#include <cstring>

namespace dwunw_bench {
namespace {

constexpr pid_t kTid = 1;

class LibdwflProcess : public Unwound {
  public:
    explicit LibdwflProcess(const Process &process) : pcs_(kMaxFrames) {
        dwfl_ = dwfl_begin(&kFiles);
        dwfl_report_begin(dwfl_);
        for (const MappedModule &mapped : process.modules)
            // It closes the descriptor.
            if (dwfl_report_elf(dwfl_, mapped.module->path().c_str(), mapped.module->path().c_str(),
                                ::dup(mapped.module->fd()), mapped.bias, true) == nullptr)
                fail(mapped.module->path() + ": dwfl_report_elf: " + dwfl_errmsg(-1));
        dwfl_report_end(dwfl_, nullptr, nullptr);
        if (!dwfl_attach_state(dwfl_, nullptr, kTid, &kState, this))
            fail(process.core + ": dwfl_attach_state: " + dwfl_errmsg(-1));
    }
    ~LibdwflProcess() override { dwfl_end(dwfl_); }

    size_t walk(const Stack &stack) override {
        stack_ = &stack;
        count_ = 0;
        result_ = dwfl_getthread_frames(dwfl_, kTid, frame, this);
        return count_;
    }

    Chain chain() const override {
        return {{pcs_.begin(), pcs_.begin() + static_cast<ptrdiff_t>(count_)},
                result_ == 0,
                result_ == -1 ? dwfl_errmsg(-1) : ""};
    }

  private:
    static LibdwflProcess &self(void *arg) { return *static_cast<LibdwflProcess *>(arg); }

    static int frame(Dwfl_Frame *state, void *arg) {
        LibdwflProcess &process = self(arg);
        Dwarf_Addr pc = 0;
        if (!dwfl_frame_pc(state, &pc, nullptr) || process.count_ == process.pcs_.size())
            return DWARF_CB_ABORT;
        process.pcs_[process.count_++] = pc;
        return DWARF_CB_OK;
    }

    static pid_t next_thread(Dwfl *, void *arg, void **thread) {
        if (*thread != nullptr)
            return 0;
        *thread = arg;
        return kTid;
    }
    static bool get_thread(Dwfl *, pid_t, void *arg, void **thread) {
        *thread = arg;
        return true;
    }
    static bool memory_read(Dwfl *, Dwarf_Addr address, Dwarf_Word *result, void *arg) {
        const Stack &stack = *self(arg).stack_;
        const uint64_t offset = address - stack.address;
        if (stack.bytes.size() < sizeof(*result) || offset > stack.bytes.size() - sizeof(*result))
            return false;
        std::memcpy(result, stack.bytes.data() + offset, sizeof(*result));
        return true;
    }
    static bool set_registers(Dwfl_Thread *thread, void *arg) {
        constexpr unsigned kRip = 16;
        const dwunw_regset &regs = self(arg).stack_->regs;
        dwfl_thread_state_register_pc(thread, regs.regs[kRip]);
        return dwfl_thread_state_registers(thread, 0, kRip + 1, regs.regs);
    }
    static int no_debuginfo(Dwfl_Module *, void **, const char *, Dwarf_Addr, const char *, const char *, GElf_Word,
                            char **) {
        return -1;
    }

    static const Dwfl_Callbacks kFiles;
    static const Dwfl_Thread_Callbacks kState;

    Dwfl *dwfl_ = nullptr;
    const Stack *stack_ = nullptr;
    std::vector<uint64_t> pcs_;
    size_t count_ = 0;
    int result_ = 0;
};

const Dwfl_Callbacks LibdwflProcess::kFiles = {
    .find_elf = dwfl_build_id_find_elf,
    .find_debuginfo = no_debuginfo,
    .section_address = dwfl_offline_section_address,
    .debuginfo_path = nullptr,
};

const Dwfl_Thread_Callbacks LibdwflProcess::kState = {
    .next_thread = next_thread,
    .get_thread = get_thread,
    .memory_read = memory_read,
    .set_initial_registers = set_registers,
    .detach = nullptr,
    .thread_detach = nullptr,
};

class Libdwfl : public Unwinder {
  public:
    std::string name() const override { return "libdwfl"; }
    std::unique_ptr<Unwound> open(const Process &process) override { return std::make_unique<LibdwflProcess>(process); }
};

} // namespace

std::unique_ptr<Unwinder> make_libdwfl() { return std::make_unique<Libdwfl>(); }

} // namespace dwunw_bench

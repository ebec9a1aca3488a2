// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwinder.h"

namespace dwunw_bench {
namespace {

class DwunwProcess : public Unwound {
  public:
    DwunwProcess(dwunw_context *context, dwunw_process *process)
        : context_(context), process_(process), frames_(kMaxFrames) {}

    size_t walk(const Stack &stack) override {
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.process = process_;
        request.regs = &stack.regs;
        request.stack_addr = stack.address;
        request.stack = stack.bytes.data();
        request.stack_size = stack.bytes.size();
        request.frames = frames_.data();
        request.max_frames = frames_.size();
        status_ = dwunw_capture(context_, &request, &written_);
        return written_;
    }

    Chain chain() const override {
        Chain chain{.pcs = {}, .complete = status_ == DWUNW_OK, .why = dwunw_status_string(status_)};
        for (size_t i = 0; i < written_; ++i)
            chain.pcs.push_back(frames_[i].pc);
        return chain;
    }

    size_t interpreted() const override {
        dwunw_process_counters counters{};
        counters.size = sizeof(counters);
        return dwunw_process_get_counters(process_, &counters) == DWUNW_OK ? counters.interpreter_walks : 0;
    }

  private:
    dwunw_context *context_;
    dwunw_process *process_;
    std::vector<dwunw_frame> frames_;
    size_t written_ = 0;
    dwunw_status status_ = DWUNW_OK;
};

class DwunwCore final : public DwunwProcess {
  public:
    DwunwCore(dwunw_context *context, dwunw_core *core)
        : DwunwProcess(context, dwunw_core_process(core)), core_(core) {}
    ~DwunwCore() override { dwunw_core_close(core_); }

  private:
    dwunw_core *core_;
};

class DwunwMaps final : public DwunwProcess {
  public:
    DwunwMaps(dwunw_context *context, dwunw_process *process) : DwunwProcess(context, process), opened_(process) {}
    ~DwunwMaps() override { dwunw_process_close(opened_); }

  private:
    dwunw_process *opened_;
};

} // namespace

Dwunw::Dwunw() {
    if (dwunw_init(nullptr, &context_) != DWUNW_OK)
        fail("dwunw_init");
}

Dwunw::~Dwunw() { dwunw_shutdown(context_); }

std::unique_ptr<Unwound> Dwunw::open(const Process &process) {
    dwunw_core_options options{};
    options.size = sizeof(options);
    options.path = process.core.c_str();
    dwunw_core *core = nullptr;
    if (const auto status = dwunw_core_open(context_, &options, &core); status != DWUNW_OK)
        fail(process.core + ": " + dwunw_status_string(status));
    return std::make_unique<DwunwCore>(context_, core);
}

std::unique_ptr<Unwound> Dwunw::open_maps(const std::string &maps) {
    dwunw_process_options options{};
    options.size = sizeof(options);
    options.maps = maps.c_str();
    dwunw_process *process = nullptr;
    if (const auto status = dwunw_process_open(context_, &options, &process); status != DWUNW_OK)
        fail(std::string("dwunw_process_open: ") + dwunw_status_string(status));
    return std::make_unique<DwunwMaps>(context_, process);
}

std::vector<std::unique_ptr<Unwinder>> all_unwinders() {
    std::vector<std::unique_ptr<Unwinder>> all;
    all.push_back(std::make_unique<Dwunw>());
    all.push_back(make_libunwind());
    all.push_back(make_libdwfl());
    return all;
}

} // namespace dwunw_bench

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwinder.h"

namespace dwunw_bench {
namespace {

class DwunwProcess : public Unwound {
  public:
    DwunwProcess(dwunw_context *context, const Process &process) : context_(context), frames_(kMaxFrames) {
        dwunw_core_options options{};
        options.size = sizeof(options);
        options.path = process.core.c_str();
        if (const auto status = dwunw_core_open(context, &options, &core_); status != DWUNW_OK)
            fail(process.core + ": " + dwunw_status_string(status));
    }
    ~DwunwProcess() override { dwunw_core_close(core_); }

    size_t walk(const Stack &stack) override {
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.process = dwunw_core_process(core_);
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

  private:
    dwunw_context *context_;
    dwunw_core *core_ = nullptr;
    std::vector<dwunw_frame> frames_;
    size_t written_ = 0;
    dwunw_status status_ = DWUNW_OK;
};

} // namespace

Dwunw::Dwunw() {
    if (dwunw_init(nullptr, &context_) != DWUNW_OK)
        fail("dwunw_init");
}

Dwunw::~Dwunw() { dwunw_shutdown(context_); }

std::unique_ptr<Unwound> Dwunw::open(const Process &process) {
    return std::make_unique<DwunwProcess>(context_, process);
}

std::vector<std::unique_ptr<Unwinder>> all_unwinders() {
    std::vector<std::unique_ptr<Unwinder>> all;
    all.push_back(std::make_unique<Dwunw>());
    all.push_back(make_libunwind());
    all.push_back(make_libdwfl());
    return all;
}

} // namespace dwunw_bench

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "walker.h"

#include <array>
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace dwunw::testing {
namespace {
constexpr size_t kMaxFrames = 256;
}

Walked Walker::walk(const user_regs_struct &from, uint64_t start, std::span<const uint8_t> slice) {
    // The kernel's two layouts begin alike.
    std::array<uint64_t, DWUNW_X86_64_PT_REGS> pt_regs;
    static_assert(sizeof(from) >= sizeof(pt_regs));
    std::memcpy(pt_regs.data(), &from, sizeof(pt_regs));
    dwunw_regset regs;
    dwunw_regset_from_x86_64_pt_regs(&regs, pt_regs.data());
    Walked walked;
    walked.frames.resize(kMaxFrames);
    dwunw_unwind_request request{};
    request.size = sizeof(request);
    request.process = process_;
    request.regs = &regs;
    request.stack_addr = start;
    request.stack = slice.empty() ? nullptr : slice.data();
    request.stack_size = slice.size();
    request.frames = walked.frames.data();
    request.max_frames = walked.frames.size();
    size_t count = 0;
    walked.status = dwunw_capture(context_, &request, &count);
    walked.frames.resize(count);
    return walked;
}

const dwunw_module *Walker::module_at(uint64_t pc) {
    const dwunw_module *module = nullptr;
    uint64_t address = 0;
    return dwunw_process_find_module(process_, pc, &module, &address) == DWUNW_OK ? module : nullptr;
}

size_t Walker::read(uint64_t address, std::span<uint8_t> buffer) {
    return dwunw_process_read_memory(process_, address, buffer.data(), buffer.size());
}

uint64_t Walker::word(uint64_t address) {
    uint64_t value = 0;
    if (read(address, {reinterpret_cast<uint8_t *>(&value), sizeof(value)}) != sizeof(value))
        throw std::runtime_error("cannot read the target's memory");
    return value;
}

Walker::Walker(pid_t pid) {
    const dwunw_process_options process_options{.size = sizeof(process_options),
                                                .pid = pid,
                                                .maps = nullptr,
                                                .exe = nullptr,
                                                .sysroot = nullptr,
                                                .maps_error_line = nullptr};
    if (dwunw_init(nullptr, &context_) != DWUNW_OK ||
        dwunw_process_open(context_, &process_options, &process_) != DWUNW_OK ||
        dwunw_symbolizer_open(&symbolizer_) != DWUNW_OK)
        throw std::runtime_error("cannot open the target");
}

std::string Walker::name(const dwunw_frame &frame) {
    dwunw_symbol symbol{};
    symbol.size = sizeof(symbol);
    if (dwunw_symbolize_frame(symbolizer_, &frame, &symbol) == DWUNW_OK)
        return symbol.name;
    std::ostringstream text;
    const std::string path = frame.module != nullptr ? dwunw_module_path(frame.module) : "?";
    text << path.substr(path.rfind('/') + 1) << "+0x" << std::hex
         << (frame.module != nullptr ? frame.module_offset : frame.pc);
    return text.str();
}

Walker::~Walker() {
    dwunw_symbolizer_close(symbolizer_);
    dwunw_process_close(process_);
    dwunw_shutdown(context_);
}

} // namespace dwunw::testing

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "frame_text.h"

#include <dwunw/process.h>

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

namespace dwunw_tool {
namespace {

dwunw_frame frame_of(uint64_t pc, uint32_t source = DWUNW_SOURCE_CFI, uint32_t flags = DWUNW_FRAME_FLAG_EXACT_PC) {
    dwunw_frame frame{};
    frame.pc = pc;
    frame.source = source;
    frame.flags = flags;
    return frame;
}

[[gnu::noinline, gnu::used]] int function_with_a_name(int a) { return a + 1; }

TEST(FrameText, IsThePcWhereNothingElseIsKnown) {
    EXPECT_EQ(frame_text(frame_of(0x40113a), nullptr), "0x000000000040113a");
    EXPECT_EQ(frame_text(frame_of(~uint64_t{0}), nullptr), "0xffffffffffffffff");
}

TEST(FrameText, MarksFramesThatWereNotFoundByCfi) {
    EXPECT_EQ(frame_text(frame_of(16, DWUNW_SOURCE_FRAME_POINTER), nullptr), "0x0000000000000010 [frame pointer]");
    EXPECT_EQ(frame_text(frame_of(16, DWUNW_SOURCE_CODE), nullptr), "0x0000000000000010 [code]");
    for (const uint32_t source : {DWUNW_SOURCE_REGISTERS, DWUNW_SOURCE_INTERPRETER, DWUNW_SOURCE_SIGNAL,
                                  DWUNW_SOURCE_TRAMPOLINE, DWUNW_SOURCE_CALL})
        EXPECT_EQ(frame_text(frame_of(16, source), nullptr), "0x0000000000000010");
    EXPECT_EQ(frame_text(frame_of(0, DWUNW_SOURCE_REGISTERS, DWUNW_FRAME_FLAG_NO_CODE), nullptr),
              "0x0000000000000000 [no code]");
}

TEST(FrameText, NamesTheSymbolAndTheModule) {
    Context context;
    ASSERT_EQ(dwunw_init(nullptr, Receive(context)), DWUNW_OK);
    Handle<dwunw_process, dwunw_process_close> process;
    dwunw_process_options options{};
    options.size = sizeof options;
    options.pid = ::getpid();
    ASSERT_EQ(dwunw_process_open(context.get(), &options, Receive(process)), DWUNW_OK);
    Symbolizer symbolizer;
    ASSERT_EQ(dwunw_symbolizer_open(Receive(symbolizer)), DWUNW_OK);

    dwunw_frame frame = frame_of(reinterpret_cast<uint64_t>(&function_with_a_name) + 1);
    ASSERT_EQ(dwunw_process_find_module(process.get(), frame.pc, &frame.module, &frame.module_offset), DWUNW_OK);
    const std::string module = " - " + std::filesystem::read_symlink("/proc/self/exe").string();
    EXPECT_EQ(frame_text(frame, symbolizer.get()),
              hex(frame.pc, 16) + " dwunw_tool::(anonymous namespace)::function_with_a_name(int)+0x1" + module);
    EXPECT_EQ(frame_text(frame, nullptr), hex(frame.pc, 16) + module);
    EXPECT_FALSE(symbol_of(nullptr, frame).has_value());
}

} // namespace
} // namespace dwunw_tool

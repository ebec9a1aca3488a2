// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The C ABI of dwunw/symbolize.h, on the test's own process.
#include <dwunw/process.h>
#include <dwunw/symbolize.h>

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace {

class SymbolizerTest : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK);
        dwunw_process_options options{};
        options.size = sizeof options;
        options.pid = getpid();
        ASSERT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
        ASSERT_EQ(dwunw_symbolizer_open(&symbolizer_), DWUNW_OK);
    }
    void TearDown() override {
        dwunw_symbolizer_close(symbolizer_);
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }

    dwunw_frame frame_at(const void *address, uint32_t flags) {
        dwunw_frame frame{};
        frame.pc = reinterpret_cast<uint64_t>(address);
        frame.flags = flags;
        EXPECT_EQ(dwunw_process_find_module(process_, frame.pc, &frame.module, &frame.module_offset), DWUNW_OK);
        return frame;
    }

    dwunw_status symbolize(const dwunw_frame &frame) {
        symbol_ = {};
        symbol_.size = sizeof symbol_;
        return dwunw_symbolize_frame(symbolizer_, &frame, &symbol_);
    }

    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
    dwunw_symbolizer *symbolizer_ = nullptr;
    dwunw_symbol symbol_{};
};

__attribute__((noinline)) int named_function(int a) { return a + 1; }

TEST_F(SymbolizerTest, NamesAnExactPc) {
    const dwunw_frame frame = frame_at(reinterpret_cast<void *>(named_function), DWUNW_FRAME_FLAG_EXACT_PC);
    ASSERT_EQ(symbolize(frame), DWUNW_OK);
    EXPECT_STREQ(symbol_.name, "(anonymous namespace)::named_function(int)");
    EXPECT_STREQ(symbol_.raw_name, "_ZN12_GLOBAL__N_114named_functionEi");
    EXPECT_EQ(symbol_.offset, 0u);
}

TEST_F(SymbolizerTest, AReturnAddressBelongsToTheCallBeforeIt) {
    // As after a call that is the last instruction of what lies before named_function.
    const dwunw_frame frame = frame_at(reinterpret_cast<void *>(named_function), 0);
    const dwunw_status status = symbolize(frame);
    if (status == DWUNW_OK) {
        EXPECT_STRNE(symbol_.name, "(anonymous namespace)::named_function(int)");
        EXPECT_NE(symbol_.offset, 0u);
    } else {
        EXPECT_EQ(status, DWUNW_ERR_NOT_FOUND); // padding between functions
    }

    const char *inside = reinterpret_cast<const char *>(named_function) + 1;
    ASSERT_EQ(symbolize(frame_at(inside, 0)), DWUNW_OK);
    EXPECT_STREQ(symbol_.name, "(anonymous namespace)::named_function(int)");
    EXPECT_EQ(symbol_.offset, 1u);
}

// The frame of a signal trampoline is not a return from a call, although its pc was popped by a ret.
TEST_F(SymbolizerTest, ASignalTrampolineIsNamedByItsFirstByte) {
    const dwunw_frame frame = frame_at(reinterpret_cast<void *>(named_function), DWUNW_FRAME_FLAG_SIGNAL);
    ASSERT_EQ(symbolize(frame), DWUNW_OK);
    EXPECT_STREQ(symbol_.name, "(anonymous namespace)::named_function(int)");
    EXPECT_EQ(symbol_.offset, 0u);
}

TEST_F(SymbolizerTest, StringsStayWhereTheyAre) {
    const dwunw_frame frame = frame_at(reinterpret_cast<void *>(named_function), DWUNW_FRAME_FLAG_EXACT_PC);
    ASSERT_EQ(symbolize(frame), DWUNW_OK);
    const char *first = symbol_.name;
    ASSERT_EQ(symbolize(frame_at(dlsym(RTLD_DEFAULT, "getpid"), DWUNW_FRAME_FLAG_EXACT_PC)), DWUNW_OK);
    ASSERT_EQ(symbolize(frame), DWUNW_OK);
    EXPECT_EQ(symbol_.name, first);
}

TEST_F(SymbolizerTest, NamesTheVdso) {
    void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!vdso)
        GTEST_SKIP() << "skipped: the kernel maps no vDSO here";
    void *function = dlsym(vdso, "__vdso_clock_gettime");
    ASSERT_NE(function, nullptr);
    const dwunw_frame frame = frame_at(function, DWUNW_FRAME_FLAG_EXACT_PC);
    EXPECT_STREQ(dwunw_module_path(frame.module), "[vdso]");
    ASSERT_EQ(symbolize(frame), DWUNW_OK);
    EXPECT_NE(std::string(symbol_.name).find("clock_gettime"), std::string::npos) << symbol_.name;
}

// A deleted file's names still come from the file: it is still mapped, so it can be opened.
TEST_F(SymbolizerTest, NamesADeletedFile) {
    char path[] = "/tmp/dwunw-symbolizer-XXXXXX";
    const int fd = mkstemp(path);
    ASSERT_GE(fd, 0);
    std::ifstream from(SYMBOLIZE_FIXTURES "/libsymbolize_fixture.so", std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(from)), {});
    ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    close(fd);
    void *library = dlopen(path, RTLD_NOW);
    ASSERT_NE(library, nullptr) << dlerror();
    ASSERT_EQ(unlink(path), 0);
    ASSERT_EQ(dwunw_process_refresh(process_), DWUNW_OK);

    ASSERT_EQ(symbolize(frame_at(dlsym(library, "fixture_plain"), DWUNW_FRAME_FLAG_EXACT_PC)), DWUNW_OK);
    EXPECT_STREQ(symbol_.name, "fixture_plain");
}

TEST_F(SymbolizerTest, ErrorsAreTyped) {
    const dwunw_frame no_module{};
    EXPECT_EQ(symbolize(no_module), DWUNW_ERR_NO_MAPPING);

    dwunw_frame elsewhere = frame_at(reinterpret_cast<void *>(named_function), DWUNW_FRAME_FLAG_EXACT_PC);
    elsewhere.module_offset = ~uint64_t{0};
    EXPECT_EQ(symbolize(elsewhere), DWUNW_ERR_NOT_FOUND);

    dwunw_symbol of_another_size{};
    EXPECT_EQ(dwunw_symbolize_frame(symbolizer_, &no_module, &of_another_size), DWUNW_ERR_STRUCT_SIZE);
    dwunw_symbol reserved{};
    reserved.size = sizeof reserved;
    reserved.reserved = 1;
    EXPECT_EQ(dwunw_symbolize_frame(symbolizer_, &no_module, &reserved), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_symbolize_frame(nullptr, &no_module, &symbol_), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_symbolizer_open(nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    dwunw_symbolizer_close(nullptr);
}

} // namespace

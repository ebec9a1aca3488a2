// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests where the probe on the dynamic linker goes. The linker itself gives the truth: it publishes the function's
// address as r_brk (link.h). tests/integration/bpf_walk_test.py proves that the probe counts, in each attach form.
#include "bpf/linker_probe.h"

#include <gtest/gtest.h>
#include <link.h>
#include <sys/auxv.h>

#include <memory>

namespace dwunw::bpf {
namespace {

using process::FileSource;
using process::Module;

std::unique_ptr<Module> open_module(const char *path) {
    auto source = FileSource::open(path);
    EXPECT_TRUE(source.ok()) << path;
    return source ? std::make_unique<Module>(std::make_shared<FileSource>(std::move(*source)), -1, std::nullopt)
                  : nullptr;
}

std::unique_ptr<Module> open_bytes(std::span<const uint8_t> bytes) {
    return std::make_unique<Module>(std::make_shared<MemorySource>(bytes), -1, std::nullopt);
}

TEST(LinkerProbe, GoesWhereTheLinkerSaysThatDebuggersStop) {
    const uint64_t base = ::getauxval(AT_BASE);
    ASSERT_NE(base, 0U) << "a static program has no linker";
    const auto linker = open_module("/lib64/ld-linux-x86-64.so.2");
    ASSERT_NE(linker, nullptr);
    ASSERT_TRUE(linker->image().ok());
    const auto expected = linker->image()->file_offset(LinkAddr(_r_debug.r_brk - base));
    ASSERT_TRUE(expected.has_value());
    const auto entry = LinkerProbe::find_entry(*linker);
    ASSERT_TRUE(entry.has_value());
    EXPECT_EQ(entry->value, expected->value);
}

TEST(LinkerProbe, AFileWithoutTheFunctionHasNoEntry) {
    const auto program = open_module("/proc/self/exe");
    ASSERT_NE(program, nullptr);
    EXPECT_FALSE(LinkerProbe::find_entry(*program).has_value());
}

TEST(LinkerProbe, AFileThatIsNotAnImageHasNoEntry) {
    const std::vector<uint8_t> bytes(100, 0x7f);
    EXPECT_FALSE(LinkerProbe::find_entry(*open_bytes(bytes)).has_value());
}

TEST(LinkerProbe, WithoutAProgramThereIsNoProbe) { EXPECT_FALSE(LinkerProbe::prepare(nullptr).has_value()); }

} // namespace
} // namespace dwunw::bpf

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The truth is this process's own auxiliary vector.
#include "bpf/start_addresses.h"

#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <unistd.h>

namespace dwunw::bpf {
namespace {

TEST(StartAddresses, AreThoseOfTheAuxiliaryVector) {
    const StartAddresses found = start_addresses(::getpid());
    EXPECT_EQ(found.linker, ::getauxval(AT_BASE));
    EXPECT_EQ(found.entry, ::getauxval(AT_ENTRY));
    EXPECT_NE(found.entry, 0U);
    EXPECT_EQ(found.linker_or_program(), found.linker != 0 ? found.linker : found.entry);
}

TEST(StartAddresses, AProcessThatDoesNotExistHasNone) {
    constexpr int32_t kBeyondAll = 4194305; // PID_MAX_LIMIT + 1
    const StartAddresses found = start_addresses(kBeyondAll);
    EXPECT_EQ(found.linker, 0U);
    EXPECT_EQ(found.entry, 0U);
}

TEST(StartAddresses, AStaticProgramBeginsAtItsEntry) {
    const StartAddresses found{0, 0x401000};
    EXPECT_EQ(found.linker_or_program(), 0x401000U);
}

} // namespace
} // namespace dwunw::bpf

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests which pid namespace is the caller's, and whether /proc belongs to the same one.
#include "bpf/pid_namespace.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace dwunw::bpf {
namespace {

TEST(PidNamespace, OneNumberMeansThatProcIsOfTheSameNamespace) {
    EXPECT_TRUE(has_one_number("Name:\tcat\nNStgid:\t12\nNSpid:\t12\nNSpgid:\t12\n"));
    EXPECT_TRUE(has_one_number("Name:\tcat\nNSpid:\t12"));
}

TEST(PidNamespace, MoreNumbersMeanThatProcIsOfAnOuterOne) {
    EXPECT_FALSE(has_one_number("Name:\tcat\nNStgid:\t4711\t12\nNSpid:\t4711\t12\nNSpgid:\t4711\t12\n"));
    EXPECT_FALSE(has_one_number("Name:\tcat\nNSpid:\t4711\t12\t1"));
}

TEST(PidNamespace, AKernelWithoutNamespacesHasOne) { EXPECT_TRUE(has_one_number("Name:\tcat\nPid:\t12\n")); }

// A name has no newlines: /proc shows them escaped.
TEST(PidNamespace, AProgramsNameIsNotAField) {
    EXPECT_TRUE(has_one_number("Name:\tNSpid:\\t1\\t2\nNSpid:\t12\nNSpgid:\t12\n"));
}

TEST(PidNamespace, FindsTheCallers) {
    const auto found = find_pid_namespace();
    ASSERT_TRUE(found);
    struct stat status;
    ASSERT_EQ(::stat("/proc/self/ns/pid", &status), 0);
    EXPECT_EQ(*found, status.st_ino == 4026531836 ? 0 : status.st_ino);
}

} // namespace
} // namespace dwunw::bpf

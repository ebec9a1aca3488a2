// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a kernel has differs; what was switched off is off on all of them.
#include "bpf/kernel_features.h"

#include <dwunw/bpf_stacks.h>

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

TEST(KernelFeatures, WhatIsSwitchedOffIsNotThere) {
    const KernelFeatures all = KernelFeatures::probe(0);
    EXPECT_FALSE(all.loop_off);
    EXPECT_FALSE(all.task_storage_off);

    const KernelFeatures no_loop = KernelFeatures::probe(DWUNW_BPF_NO_LOOP);
    EXPECT_FALSE(no_loop.loop);
    EXPECT_TRUE(no_loop.loop_off);
    EXPECT_EQ(no_loop.task_storage, all.task_storage);
    EXPECT_EQ(no_loop.ring_buffer, all.ring_buffer);

    const KernelFeatures no_storage = KernelFeatures::probe(DWUNW_BPF_NO_TASK_STORAGE);
    EXPECT_FALSE(no_storage.task_storage);
    EXPECT_TRUE(no_storage.task_storage_off);
    EXPECT_EQ(no_storage.loop, all.loop);
}

} // namespace
} // namespace dwunw::bpf

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Kernels differ in their features; a feature that was switched off is off on all of them.
#include "bpf/kernel_features.h"

#include <dwunw/bpf_stacks.h>

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dwunw::bpf {
namespace {

TEST(KernelFeatures, AFeatureThatIsSwitchedOffIsAbsent) {
    const KernelFeatures all = KernelFeatures::probe(0);
    EXPECT_FALSE(all.loop_off);
    EXPECT_FALSE(all.task_storage_off);

    const KernelFeatures no_loop = KernelFeatures::probe(DWUNW_BPF_NO_LOOP);
    EXPECT_FALSE(no_loop.loop);
    EXPECT_TRUE(no_loop.loop_off);
    EXPECT_EQ(no_loop.task_storage, all.task_storage);
    EXPECT_EQ(no_loop.usable, all.usable);

    const KernelFeatures no_storage = KernelFeatures::probe(DWUNW_BPF_NO_TASK_STORAGE);
    EXPECT_FALSE(no_storage.task_storage);
    EXPECT_TRUE(no_storage.task_storage_off);
    EXPECT_EQ(no_storage.loop, all.loop);
}

// In a child, which loses what it may do: the exit status is what the probe says.
dwunw_status probed_by_child(void (*prepare)()) {
    const pid_t child = ::fork();
    if (child == 0) {
        prepare();
        ::_exit(KernelFeatures::probe(0).usable);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return static_cast<dwunw_status>(WEXITSTATUS(status));
}

TEST(KernelFeatures, WhoMayNotIsToldSo) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "skipped: needs root, to give it up";
    EXPECT_EQ(probed_by_child([] {
                  constexpr uid_t kNobody = 65534;
                  if (::setresuid(kNobody, kNobody, kNobody) != 0)
                      ::_exit(DWUNW_OK);
              }),
              DWUNW_ERR_PERMISSION);
}

TEST(KernelFeatures, WithoutBtfNothingLoads) {
    if (KernelFeatures::probe(0).usable != DWUNW_OK)
        GTEST_SKIP() << "skipped: needs a kernel that loads BPF programs, and root";
    EXPECT_EQ(probed_by_child([] {
                  // libbpf looks in /boot, too.
                  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                      ::mount("none", "/sys/kernel/btf", "tmpfs", 0, nullptr) != 0 ||
                      ::mount("none", "/boot", "tmpfs", 0, nullptr) != 0)
                      ::_exit(DWUNW_OK);
              }),
              DWUNW_ERR_NO_BTF);
}

} // namespace
} // namespace dwunw::bpf

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests the tools on a kernel that refuses: each must print the true reason, and nothing before it.

    refused_test.py path/to/dwunw path/to/memleak_dwunw_user path/to/memleak_user

Two of the settings last until the next boot (kernel.yama.ptrace_scope=3, lockdown=confidentiality), and one affects the
whole machine (net.core.bpf_jit_enable=0). Their tests run only with DWUNW_DISPOSABLE=1: in a guest.
"""

import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

DWUNW = MEMLEAK = MEMLEAK_USER = ""
JIT = pathlib.Path("/proc/sys/net/core/bpf_jit_enable")
LOCKDOWN = pathlib.Path("/sys/kernel/security/lockdown")
PTRACE_SCOPE = pathlib.Path("/proc/sys/kernel/yama/ptrace_scope")


def run(command, **options):
    return subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300,
                          check=False, **options)  # fmt: skip


def release():
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])


class Attached(unittest.TestCase):
    def setUp(self):
        self.target = subprocess.Popen(["/usr/bin/python3", "-c", "print('ready', flush=True); input()"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.assertEqual(self.target.stdout.readline(), b"ready\n")
        self.pid = str(self.target.pid)

    def tearDown(self):
        self.target.kill()
        self.target.communicate()

    def expect(self, done, status, text):
        self.assertEqual(done.returncode == 0, status == 0, done)
        self.assertIn(text, done.stderr)
        self.assertLess(done.stderr.count("\n"), 4, "there is more, such as the verifier's log")


class Refused(Attached):
    def test_no_btf(self):
        script = 'mount -t tmpfs none /sys/kernel/btf && mount -t tmpfs none /boot && exec "$@"'
        for mode in ("fallback", "force", "off"):
            with self.subTest(mode):
                done = run(["unshare", "-m", "sh", "-c", script, "sh", MEMLEAK, f"--dwunw-mode={mode}", "-p", self.pid, 1, 1])
                self.expect(done, 1, "memleak can't start: the kernel has no BTF: /sys/kernel/btf/vmlinux is not there\n")

    # Sessions and uprobe.multi need only these; perf events of uprobes need CAP_SYS_ADMIN on every kernel.
    def test_capabilities(self):
        limited = ["setpriv", "--bounding-set=-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"]
        done = run([*limited, MEMLEAK, "-p", self.pid, 1, 1])
        if release() >= (6, 13):
            self.assertEqual(done.returncode, 0, done)
        else:
            self.assertNotEqual(done.returncode, 0, done)
            self.assertIn("CAP_SYS_ADMIN", done.stderr)
        done = run([*limited, MEMLEAK, "--dwunw-mode=off", "-p", self.pid, 1, 1])
        self.assertNotEqual(done.returncode, 0, done)
        self.assertIn("CAP_SYS_ADMIN", done.stderr)

    def test_none_of_them(self):
        done = run(["setpriv", "--bounding-set=-all", MEMLEAK, "-p", self.pid, 1, 1])
        self.assertNotEqual(done.returncode, 0, done)
        self.assertIn("failed to load bpf object\n", done.stderr)
        done = run(["setpriv", "--bounding-set=-all", DWUNW, "stack", "-p", 1])
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("1: permission denied: root lacks CAP_SYS_PTRACE here", done.stderr)
        self.assertNotIn("run as root", done.stderr)
        done = run(["setpriv", "--bounding-set=-all,+sys_ptrace", MEMLEAK_USER, self.pid])
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("loading the BPF programs: Operation not permitted\n", done.stderr)


@unittest.skipUnless(os.environ.get("DWUNW_DISPOSABLE") == "1", "the setting is the machine's: DWUNW_DISPOSABLE=1 runs it")
class RefusedByTheMachine(Attached):
    """In the order of their names: what lasts until the next boot comes last."""

    def test_1_no_jit(self):
        before = JIT.read_text(encoding="ascii")
        try:
            JIT.write_text("0", encoding="ascii")
            done = run([MEMLEAK, "-v", "-p", self.pid, 1, 1])
        finally:
            JIT.write_text(before, encoding="ascii")
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertIn("JIT: off", done.stderr)
        self.assertNotIn("going on with", done.stderr)

    def test_2_no_process_may_be_traced(self):
        PTRACE_SCOPE.write_text("3", encoding="ascii")
        done = run([DWUNW, "stack", "-p", self.pid])
        self.expect(done, 1, f"{self.pid}: permission denied: no process may be traced until the next boot (kernel.yama.ptrace_scope is 3)\n")
        # It reads no memory of the target, but in the kernel.
        done = run([MEMLEAK, "-p", self.pid, 1, 1])
        self.assertEqual((done.returncode, done.stderr), (0, ""), done)

    def test_3_locked_down(self):
        LOCKDOWN.write_text("confidentiality", encoding="ascii")
        self.assertIn("[confidentiality]", LOCKDOWN.read_text(encoding="ascii"))
        for mode in ("fallback", "force", "off"):  # libbpf makes bpf_probe_read_user the older helper, refused as well
            done = run([MEMLEAK, f"--dwunw-mode={mode}", "-p", self.pid, 1, 1])
            self.expect(done, 1, "memleak can't start: the kernel is locked down (confidentiality): "
                                 "no BPF program may read its memory\n")  # fmt: skip


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, MEMLEAK, MEMLEAK_USER = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    unittest.main()

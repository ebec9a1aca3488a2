#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests two kinds of caller that call-frame information alone does not prove: the caller of a pc that is not code, and a CFA
from a register that no rule mentions. Real cases: OpenSSL in AES-GCM once ended after two frames, a call through a null
pointer after one.

    uncertain_callers_test.py DWUNW NO_CODE_TARGET UNMENTIONED_REGISTER_TARGET [test …]
"""

import contextlib
import json
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import core_cli_test as core_cli  # noqa: E402
import stack_compare_test as stack_compare  # noqa: E402
import workloads  # noqa: E402

DWUNW = NO_CODE = UNMENTIONED = ""
HOWS = {
    "null": "calls_hook",
    "register": "calls_register",
    "table": "calls_table",
    "stack": "calls_hook",
    "heap": "calls_hook",
    "vsyscall": "calls_hook",
    "plt": "calls_plt",
}


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False, **options
    )


def stack(*arguments):
    done = run(DWUNW, "stack", "--json", *arguments)
    if done.returncode or done.stderr:
        raise AssertionError(f"{done.args}: {done.returncode}: {done.stderr}")
    (thread,) = json.loads(done.stdout)["threads"]
    return thread


def names(thread):
    return [frame.get("symbol", "?").partition(".")[0] for frame in thread["frames"]]


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


class NoCode(unittest.TestCase):
    def check(self, thread, caller, inside):
        self.assertTrue(thread["complete"], thread["stopped_by"])
        self.assertEqual(names(thread)[inside + 1 :][:3], [caller, "outer", "main"])
        frame, outer = thread["frames"][inside : inside + 2]
        self.assertTrue(frame["no_code"])
        self.assertTrue(frame["exact_pc"])
        self.assertEqual(outer["source"], "call")
        self.assertEqual([one["no_code"] for one in thread["frames"]].count(True), 1)

    def test_the_kernels_core(self):
        pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
        if pattern.startswith(("|", "/")):
            self.skipTest(f"core_pattern sends the kernel's cores elsewhere: {pattern}")
        for how, caller in HOWS.items():
            with self.subTest(how), tempfile.TemporaryDirectory(prefix="dwunw-no-code-") as folder:
                done = run(
                    NO_CODE, how, "die", cwd=folder,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
                )  # fmt: skip
                self.assertEqual(done.returncode, -signal.SIGSEGV)
                (core,) = pathlib.Path(folder).glob("core*")
                thread = stack("--core", core)
                self.check(thread, caller, 0)
                if how == "null":
                    ((pcs, _),) = core_cli.gdb_stacks(core, NO_CODE).values()
                    self.assertEqual([int(frame["pc"], 16) for frame in thread["frames"]], pcs)
                    text = run(DWUNW, "stack", "--core", core).stdout
                    self.assertRegex(text, r"#0  0x0{16} \[no code\]\n")

    def test_in_the_handler(self):
        for how, caller in HOWS.items():
            with self.subTest(how), running(NO_CODE, how, "wait") as pid:
                workloads.wait_for(lambda: self.waits(pid), "the handler waits")
                thread = stack("-p", pid)
                inside = [frame["signal"] for frame in thread["frames"]].index(True) + 1
                self.check(thread, caller, inside)

    @staticmethod
    def waits(pid):
        return pathlib.Path(f"/proc/{pid}/syscall").read_text().startswith("34 ")

    # With nothing but registers and a slice. Of a pc that is not in the first page only a register's call is certain then.
    def test_a_slice_in_the_handler(self):
        for how, caller in HOWS.items():
            with self.subTest(how):
                done = run(NO_CODE, how, "capture")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                lines = [line.partition(".")[0] for line in done.stdout.splitlines()]
                self.assertEqual(lines[0], "? no code" if len(lines) > 2 else "?")
                if len(lines) > 2:
                    self.assertEqual(lines[1:4], [caller, "outer", "main"], done.stdout)
                    self.assertEqual(lines[-1], "reached the root")
                else:
                    self.assertIn(how, ("stack", "heap", "vsyscall"), done.stdout)
                    self.assertEqual(lines[-1], "no mapping at this address")


class UnmentionedRegister(unittest.TestCase):
    @contextlib.contextmanager
    def helping(self, how):
        with running(UNMENTIONED, how) as pid:
            workloads.wait_for(
                lambda: workloads.cpu_ticks(pid) > 2 and names(stack("-p", pid))[0].startswith("helper_"), "it helps"
            )
            yield pid

    def test_it_keeps_its_value(self):
        for how in ("rax", "r11"):
            with self.subTest(how), self.helping(how) as pid:
                for _ in range(10):
                    thread = stack("-p", pid)
                    self.assertTrue(thread["complete"], thread["stopped_by"])
                    self.assertEqual(names(thread)[:4], [f"helper_{how}", f"keeps_{how}", "caller", "main"][:4])
                    flags = [frame["cfa_unmentioned"] for frame in thread["frames"]]
                    self.assertEqual(flags, [False, True] + [False] * (len(flags) - 2))
                    self.assertEqual({frame["source"] for frame in thread["frames"][1:]}, {"cfi"})

    # Another unwinder continues to a function that was never called.
    def test_it_is_not_used_where_the_helper_writes_it(self):
        with self.helping("written") as pid:
            thread = stack("-p", pid)
            self.assertEqual(names(thread), ["helper_written", "keeps_written"])
            self.assertEqual(thread["stopped_by"], "register value unknown")

    def test_openssl(self):
        command = ("/usr/bin/openssl", "speed", "-seconds", "60", "-bytes", "16384", "-evp", "aes-256-gcm")
        with tempfile.TemporaryDirectory(prefix="dwunw-openssl-") as folder, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                workloads.wait_for(lambda: workloads.cpu_ticks(process.pid) > workloads.BUSY_TICKS, "openssl works")
                for number in range(12):
                    core = pathlib.Path(folder) / f"core-{number}"
                    done = run(DWUNW, "core", "-p", process.pid, "-o", core)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    thread = stack("--core", core)
                    pcs = [int(frame["pc"], 16) for frame in thread["frames"]]
                    (theirs,) = core_cli.eu_stack(core, command[0]).values()
                    with self.subTest(names(thread)):
                        self.assertTrue(thread["complete"], thread["stopped_by"])
                        self.assertEqual([frame.pc for frame in theirs.frames], pcs)
            finally:
                process.kill()


def main():
    global DWUNW, NO_CODE, UNMENTIONED
    DWUNW, NO_CODE, UNMENTIONED = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)


if __name__ == "__main__":
    main()

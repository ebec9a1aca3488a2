#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests the dwunw command on targets whose memory or files never answer: it releases them and ends.

    no_answer_test.py path/to/dwunw path/to/no_answer_target path/to/no_answer_code.so [test …]
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import workloads  # noqa: E402

DWUNW = TARGET = CODE = ""


def dwunw(*arguments):
    return subprocess.run(
        [DWUNW, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def status_field(pid, name):
    return re.search(rf"^{name}:\s*(\S+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]


class Target:
    """The program, and the address it told."""

    def __init__(self, process, address):
        self.process = process
        self.pid = process.pid
        self.address = address

    def answers(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "alive\n"


@contextlib.contextmanager
def target(*arguments):
    process = subprocess.Popen([TARGET, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        word, address = process.stdout.readline().split()
        assert word == "ready"
        yield Target(process, int(address, 16))
    finally:
        process.kill()
        process.communicate()


@unittest.skipUnless(os.getuid() == 0, "skipped: userfaultfd of the kernel's own accesses, and mounting, need root")
class NoAnswer(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="dwunw-no-answer-")))

    def expect_let_go(self, done, held, waiting):
        self.assertEqual((done.returncode, done.stdout), (1, ""), done)
        found = re.fullmatch(rf"dwunw: {held.pid}: released after 1 s, waiting for (.*)\n", done.stderr)
        self.assertTrue(found, done.stderr)
        self.assertRegex(found[1], waiting)
        self.expect_running(held)
        return found[1]

    def expect_running(self, held):
        self.assertEqual(status_field(held.pid, "TracerPid"), "0")
        self.assertNotIn(status_field(held.pid, "State"), "tT")
        self.assertTrue(held.answers())

    def expect_page(self, held, done):
        text = self.expect_let_go(done, held, "^memory at 0x[0-9a-f]+-0x[0-9a-f]+$")
        start, end = (int(word, 16) for word in re.findall("0x([0-9a-f]+)", text))
        self.assertLess(start, held.address + 4096)
        self.assertLess(held.address, end)
        self.assertLessEqual(end - start, 64 * 4096, "it says where, and not only that there is something")

    def test_a_stack_page_that_never_comes(self):
        with target("page") as held:
            self.expect_page(held, dwunw("stack", "-p", held.pid, "--max-hold", 1))

    def test_a_core_with_a_page_that_never_comes(self):
        with target("page") as held:
            self.expect_page(held, dwunw("core", "-p", held.pid, "-o", self.folder / "core", "--max-hold", 1))
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_file_whose_server_does_not_answer(self):
        # The reader cannot be killed while it waits for FUSE; the command ends nevertheless.
        with target("file", self.folder, CODE) as held:
            self.expect_let_go(dwunw("stack", "-p", held.pid, "--max-hold", 1), held, r"/code\.so$")

    def test_signals_end_a_core_that_waits(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with self.subTest(number.name), target("page") as held:
                process = subprocess.Popen(
                    [DWUNW, "core", "-p", str(held.pid), "-o", self.folder / "core", "--max-hold", "0"]
                )
                try:
                    self.wait_until_it_waits(process.pid, held)
                    self.assertEqual(len(os.listdir(self.folder)), 1)
                    process.send_signal(number)
                    self.assertEqual(process.wait(timeout=60), -number)
                finally:
                    process.kill()
                    process.wait()
                self.assertEqual(os.listdir(self.folder), [])
                workloads.wait_for(lambda held=held: status_field(held.pid, "TracerPid") == "0", "it is let go")
                self.expect_running(held)

    def wait_until_it_waits(self, pid, held):
        """Until the command's reader waits for the page, and the target stands still."""

        def it_waits():
            if status_field(held.pid, "State") != "t":
                return False
            readers = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return any("userfault" in pathlib.Path(f"/proc/{reader}/wchan").read_text() for reader in readers)

        workloads.wait_for(it_waits, "the reader waits for the page")

    def test_the_time_it_was_held_is_said(self):
        with subprocess.Popen(["/bin/sleep", "1000"]) as process:
            try:
                for arguments in (["stack"], ["core", "-o", self.folder / "core"]):
                    done = dwunw(*arguments, "-p", process.pid, "-v")
                    self.assertEqual(done.returncode, 0, done)
                    self.assertRegex(done.stderr, rf"\Adwunw: {process.pid}: stopped for [0-9.e-]+ s\n\Z")
                self.assertEqual(os.listdir(self.folder), ["core"])
            finally:
                process.kill()

    def test_usage(self):
        for arguments in (["--max-hold", "-1"], ["--max-hold", "x"], ["--max-hold"]):
            for command in (["stack"], ["core", "-o", self.folder / "core"]):
                done = dwunw(*command, "-p", 1, *arguments)
                self.assertEqual(done.returncode, 2, done)
        for arguments in (["--max-hold", "1"], ["-v"]):
            self.assertEqual(dwunw("stack", "--core", self.folder / "core", *arguments).returncode, 2)


if __name__ == "__main__":
    DWUNW, TARGET, CODE = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    unittest.main(verbosity=2)

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that every command and example fails if its report cannot be written, to a full disk or a closed stream.

    output_errors_test.py path/to/dwunw path/to/memleak_dwunw_user path/to/memleak_user
"""

import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

DWUNW = MEMLEAK = MEMLEAK_USER = ""


class Output(unittest.TestCase):
    def setUp(self):
        self.target = subprocess.Popen(["/usr/bin/python3", "-c", "print('ready', flush=True); input()"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.assertEqual(self.target.stdout.readline(), b"ready\n")

    def tearDown(self):
        self.target.kill()
        self.target.communicate()

    def commands(self):
        pid = str(self.target.pid)
        yield [DWUNW, "--help"]
        yield [DWUNW, "table", "/bin/true"]
        yield [DWUNW, "stack", "-p", pid]
        yield [DWUNW, "stack", "--json", "-p", pid]
        yield [MEMLEAK, "--help"]
        for mode in ("off", "fallback"):
            yield [MEMLEAK, f"--dwunw-mode={mode}", "-p", pid, "1", "1"]
            yield [MEMLEAK, f"--dwunw-mode={mode}", "-p", pid, "2000000000"]  # it does not run on without a reader

    def check(self, done, why):
        self.assertEqual(done.returncode, 1, done)
        # argp writes its help out by itself, and keeps why that failed.
        self.assertRegex(done.stderr, f"standard output: ({why}|Input/output error)\n")

    def test_a_full_disk(self):
        for command in self.commands():
            with self.subTest(command), open("/dev/full", "w", encoding="ascii") as full:
                self.check(
                    subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False),
                    "No space left on device",
                )

    def test_a_closed_stream(self):
        for command in self.commands():
            with self.subTest(command):
                self.check(
                    subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True,
                                   timeout=60, check=False),
                    "Bad file descriptor",
                )  # fmt: skip

    def test_the_small_memleak(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            process = subprocess.Popen([MEMLEAK_USER, str(self.target.pid)], stdout=full, stderr=subprocess.PIPE, text=True)
            self.assertIn("watching malloc", process.stderr.readline())
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 1)
        self.assertIn("standard output: No space left on device", errors)


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, MEMLEAK, MEMLEAK_USER = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    unittest.main()

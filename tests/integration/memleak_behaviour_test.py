#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that programs go on under dwunw memleak as they would without it: exceptions, jumps, ends of threads and looks at
their own stack, in and around each allocator.

    memleak_behaviour_test.py DWUNW TARGET
"""

import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import dwunw_memleak  # noqa: E402

DWUNW = TARGET = ""


class Behaviour(unittest.TestCase):
    maxDiff = None

    def alone(self, preload, *arguments):
        environment = dict(os.environ, LD_PRELOAD=preload) if preload else None
        done = subprocess.run([TARGET, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment)
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return done.stdout.splitlines(), status

    def watched(self, preload, *arguments):
        before = ["env", f"LD_PRELOAD={preload}"] if preload else []
        options = [*dwunw_memleak.EVERYTHING, dwunw_memleak.PAST_THE_END]
        done = dwunw_memleak.run(DWUNW, *options, "--", *before, TARGET, *arguments)
        reports, lines = dwunw_memleak.parse(done.stdout)
        self.assertEqual(len(reports), 1, done.stderr)
        return [line for line in lines if line + "\n" != dwunw_memleak.TRACING], done.returncode

    def check(self, preload, status, *arguments):
        if preload and not os.path.exists("/usr/lib/x86_64-linux-gnu/" + preload):
            self.skipTest(f"{preload} is not installed")
        expected = self.alone(preload, *arguments)
        self.assertEqual(expected[1], status)
        self.assertEqual(self.watched(preload, *arguments), expected)

    def test_libc(self):
        self.check("", 7)

    def test_jemalloc(self):
        self.check("libjemalloc.so.2", 7)

    def test_tcmalloc(self):
        self.check("libtcmalloc_minimal.so.4", 7)

    def test_mimalloc(self):
        self.check("libmimalloc.so.2", 7, "malloc")

    def test_mimalloc_that_aborts(self):
        self.check("libmimalloc.so.2", 134)


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, TARGET = dwunw_memleak.arguments("DWUNW", "TARGET")
    unittest.main()

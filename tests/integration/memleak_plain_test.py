#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that the output of scripts/strip-dwunw-added, built without dwunw, is a working memleak.

    memleak_plain_test.py MEMLEAK PLAIN SOURCES ORIGINALS TARGET   PLAIN is built from SOURCES, stripped from ORIGINALS
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import memleak_run  # noqa: E402

# The file and skeleton names that stand, by the specification.
NAMES = re.compile(r"memleak_dwunw(\.h|\.skel\.h|_bpf\w*)|__MEMLEAK_DWUNW_H")

# glibc maps this much for a thread's arena, and unmaps what is not aligned: from the beginning, which ends the block, unless
# the mapping happens to begin at a multiple of half of it.
ARENA = 128 << 20

MEMLEAK = PLAIN = SOURCES = ORIGINALS = ""


class Plain(unittest.TestCase):
    def test_nothing_of_dwunw_is_left(self):
        files = list(pathlib.Path(SOURCES).glob("*.[ch]"))
        self.assertGreater(len(files), 6)
        for path in files:
            text = path.read_text()
            for line in text.splitlines():
                self.assertNotIn("dwunw", NAMES.sub("", line).lower(), f"{path.name}: {line}")
        self.assertNotRegex(subprocess.run([PLAIN, "--help"], capture_output=True, text=True, check=True).stdout, "(?i)dwunw")

    def test_it_links_with_no_dwunw(self):
        symbols = subprocess.run(["nm", "-C", PLAIN], capture_output=True, text=True, check=True).stdout
        self.assertIn("attach_uprobes", symbols)
        self.assertEqual([line for line in symbols.splitlines() if "dwunw" in NAMES.sub("", line)], [])

    def test_it_reports_what_mode_off_reports(self):
        reports = []
        memleak_run.BEFORE_MEMLEAK = ["stdbuf", "--output=L"]  # the original never flushes
        for program, options in ((PLAIN, memleak_run.OFF[1:]), (MEMLEAK, memleak_run.OFF)):
            memleak_run.MEMLEAK = program
            report, leaks, errors = memleak_run.look_at(None, *options, "-a", "-T", "1000")
            self.assertEqual(errors, "")
            # By frame 0: what comes after it is often garbage, and splits equal callers.
            blocks = ((stack.names()[0], size) for stack in report.stacks for _, size in stack.blocks)
            reports.append(collections.Counter(block for block in blocks if block[1] != ARENA))
        self.assertGreater(len(reports[0]), len(leaks) - 1)
        self.assertEqual(*reports)

    def test_the_diff_is_small(self):
        # What a reviewer reads: marked lines of the files that upstream has as well.
        added = total = 0
        for path in pathlib.Path(SOURCES).glob("memleak_dwunw*.[ch]"):
            original = pathlib.Path(ORIGINALS, path.name).read_text().splitlines()
            total += len(original)
            added += len(original) - len(path.read_text().splitlines())
        print(f"{added} of {total} lines are there because of dwunw")
        self.assertTrue(0 < added < total / 5)


if __name__ == "__main__":
    bpf_support.require_bpf()
    MEMLEAK, PLAIN, SOURCES, ORIGINALS, memleak_run.TARGET = (os.path.abspath(sys.argv.pop(1)) for _ in range(5))
    unittest.main()

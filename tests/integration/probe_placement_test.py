#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs placed probes in real allocators: a moved probe must see what a probe at the entry sees.

    probe_placement_test.py path/to/probe_placement_run path/to/target path/to/musl_target
"""

import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

RUN = TARGET = MUSL_TARGET = ""

C = {"malloc", "calloc", "realloc", "free", "posix_memalign", "memalign", "aligned_alloc", "valloc"}
MAPS = {"mmap", "munmap"}
CXX = {"_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_t"}
CXX |= {"_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdlPvSt11align_val_t"}


def loaded(name):
    """The library that the loader takes for a name."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"^\s*{re.escape(name)} \(libc6,x86-64.*=> (\S+)$", listing, re.MULTILINE)[1]


class Placement(unittest.TestCase):
    """One library each."""

    def check(self, library, functions, preload=False, target=None):
        """Runs the library's functions; the offsets by mode and function."""
        arguments = [RUN, library, target or TARGET] + ([library] if preload else [])
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        print(result.stdout, end="")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        pattern = re.compile(r"^ok \S+ (\S+) (\S+) \+(\d+) calls \d+/\d+ returns \d+/\d+: .*$", re.MULTILINE)
        offsets = {}
        for mode, function, offset in pattern.findall(result.stdout):
            offsets.setdefault(mode, {})[function] = int(offset)
        self.assertEqual(set(offsets), {"all", "own", "own,reads"})
        for found in offsets.values():
            self.assertEqual(set(found), functions)
        return offsets

    def test_glibc(self):
        offsets = self.check(loaded("libc.so.6"), C | MAPS | {"pvalloc"})
        self.assertNotEqual(offsets["all"]["free"], 0)

    def test_musl(self):
        self.check("/lib/ld-musl-x86_64.so.1", C | MAPS, target=MUSL_TARGET)

    def test_jemalloc(self):
        self.check(loaded("libjemalloc.so.2"), C | CXX, preload=True)

    def test_tcmalloc(self):
        offsets = self.check(loaded("libtcmalloc_minimal.so.4"), C | MAPS | CXX | {"pvalloc"}, preload=True)
        self.assertEqual(offsets["own"]["malloc"], 0)
        self.assertNotEqual(offsets["own,reads"]["malloc"], 0)

    def test_mimalloc(self):
        offsets = self.check(loaded("libmimalloc.so.2"), C | CXX | {"pvalloc"}, preload=True)
        self.assertEqual(offsets["all"]["free"], 0)  # it copies its argument to rcx first
        self.assertNotEqual(offsets["own"]["free"], 0)

    def test_libstdcxx(self):
        offsets = self.check(loaded("libstdc++.so.6"), CXX)
        self.assertNotEqual(offsets["all"]["_Znwm"], 0)


if __name__ == "__main__":
    bpf_support.require_bpf()
    RUN, TARGET, MUSL_TARGET = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1])

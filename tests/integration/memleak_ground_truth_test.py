#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that dwunw memleak's last report is what the program itself knows that it holds: each block with its address,
size and stack, each page of a mapping, and nothing else.

    memleak_ground_truth_test.py DWUNW TARGET SECONDS
"""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import dwunw_memleak  # noqa: E402

DWUNW = TARGET = SECONDS = ""
THREADS = "8"
PAGE = 4096
# What the C library and the dynamic linker hold for themselves.
NOT_THE_PROGRAMS = ("pthread_create", "__pthread_create_2_1", "pthread_create@@GLIBC_2.34", "timer_create")


class Target:
    """The program's descriptors: it reads from one, and writes to the other."""

    def __init__(self, folder, seed):
        self.log = os.path.join(folder, "log")
        self.read_go, self.go = os.pipe()
        self.done, self.write_done = os.pipe()
        self.fds = (self.read_go, self.write_done)
        self.command = [TARGET, SECONDS, THREADS, str(seed), self.log, str(self.read_go), str(self.write_done)]

    def say_go(self):
        os.write(self.go, b"x")

    def wait_until_done(self):
        """False: the program has ended."""
        os.close(self.write_done)
        return len(os.read(self.done, 1)) == 1

    def close(self):
        for fd in (self.read_go, self.go, self.done):
            os.close(fd)

    def known(self):
        """What it holds: (address, size) -> (site, via), and page -> (site, via)."""
        blocks, pages = {}, {}
        with open(self.log, encoding="ascii") as lines:
            for line in lines:
                kind, address, *rest = line.split()
                if kind == "block":
                    blocks[int(address, 16), int(rest[0])] = tuple(rest[1:])
                else:
                    pages[int(address, 16)] = tuple(rest)
        return blocks, pages


def origin(row):
    """Of a row: (site, via), or None."""
    names = row.names()
    for i, name in enumerate(names):
        if name and name.startswith("site_"):
            return name, names[i + 1] if i + 1 < len(names) else None
    return None

NOT_FOLLOWED = "calls not followed, because another may be pending on another stack"


class GroundTruth(unittest.TestCase):
    maxDiff = 4000

    def check_stack(self, row):
        names = row.names()
        at = next(i for i, name in enumerate(names) if name.startswith("site_"))
        self.assertTrue(row.is_complete(), row)
        self.assertEqual(names[at + 2 : at + 4], ["work", "thread_main"], row)
        self.assertIn(names[-1], dwunw_memleak.ROOTS, row)
        if at > 0:
            self.assertRegex(names[at], "site_(strdup|asprintf)_", row)
        self.assertFalse([frame for frame in row.frames if frame.mark], row)

    def check(self, target, report, others):
        blocks, pages = {}, {}
        strange = []
        for row in report.rows:
            self.assertEqual(row.count, len(row.blocks))
            self.assertEqual(row.bytes, sum(size for _, size in row.blocks))
            where = origin(row)
            if where is None:
                if "thread stacks" not in row.marks and not set(NOT_THE_PROGRAMS) & set(row.names()):
                    strange.append(row)
                continue
            self.check_stack(row)
            for address, size in row.blocks:
                if "mapped" in row.marks:
                    for page in range(address, address + size, PAGE):
                        self.assertNotIn(page, pages)
                        pages[page] = where
                else:
                    self.assertNotIn((address, size), blocks)
                    blocks[address, size] = where
        self.assertEqual(strange, [])
        # A call that comes before the kernel has told where its thread's stack is, while another thread waits to map memory,
        # may not be followed. The report says so: then as many calls may be wrong in it, and no more.
        lost = dict(report.lost)
        not_followed = lost.pop(NOT_FOLLOWED, 0)
        self.assertEqual(lost, {})
        self.assertLessEqual(not_followed, 3)
        known_blocks, known_pages = target.known()
        self.assertGreater(len(known_blocks), 500)
        self.assertGreater(len(known_pages), 500)
        self.compare("blocks", blocks, known_blocks, not_followed)
        self.compare("pages", pages, known_pages, not_followed)
        self.assertEqual(report.bytes, sum(row.bytes for row in report.rows if "thread stacks" not in row.marks))
        print(f"{len(blocks)} blocks, {len(pages)} pages, {len(report.rows)} rows; {' '.join(report.remarks)}", flush=True)

    def compare(self, what, shown, known, not_followed):
        too_many = collections.Counter(where[0] for key, where in shown.items() if key not in known)
        missing = collections.Counter(where[0] for key, where in known.items() if key not in shown)
        other = collections.Counter(
            (known[key][0], where[0]) for key, where in shown.items() if key in known and known[key] != where
        )
        if max(len(too_many), len(missing), len(other)) <= not_followed:
            return
        self.assertEqual((too_many, missing, other), ({}, {}, {}), f"{what}: too many, missing, with another stack")

    def work(self, seed, by_pid, **environment):
        with tempfile.TemporaryDirectory() as folder:
            target = Target(folder, seed)
            arguments = ["-a", *dwunw_memleak.EVERYTHING]
            program = None
            if by_pid:
                program = subprocess.Popen(target.command, pass_fds=target.fds, env=dict(os.environ, **environment))
                arguments += ["-p", str(program.pid), dwunw_memleak.PAST_THE_END]
            else:
                arguments += [dwunw_memleak.PAST_THE_END, "--", *target.command]
            try:
                with dwunw_memleak.attached(DWUNW, *arguments, pass_fds=target.fds) as tool:
                    target.say_go()
                    self.assertTrue(target.wait_until_done(), "the program has ended early")
                    report, others, errors = dwunw_memleak.finish(tool)
                self.assertEqual((errors, others), ("", []))
                self.assertEqual(tool.returncode, 0 if by_pid else 128 + signal.SIGTERM)
                self.check(target, report, others)
            finally:
                target.close()
                if program:
                    program.wait(60)
            if program:
                self.assertEqual(program.returncode, 2, "it was told that nobody listens")

    def test_of_a_process(self):
        self.work(1, by_pid=True)

    def test_where_threads_get_each_others_addresses_at_once(self):
        """Another thread may have the address of a realloc's old block before that realloc returns."""
        self.work(3, by_pid=True, MALLOC_ARENA_MAX="1", GLIBC_TUNABLES="glibc.malloc.tcache_count=0")

    def test_of_a_command(self):
        self.work(2, by_pid=False)


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, TARGET = dwunw_memleak.arguments("DWUNW", "TARGET")
    SECONDS = sys.argv.pop(1)
    unittest.main()

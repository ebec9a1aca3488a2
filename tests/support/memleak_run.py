# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs memleak on programs that record their leaks, for tests that read its reports.

    memleak_…_test.py MEMLEAK TARGET FOLDER   FOLDER also has the target built in other ways: memleak_target_fp (with frame
                                              pointers), memleak_target_no_cfi (with frame pointers, without CFI)
"""

import contextlib
import os
import signal
import subprocess
import sys
import unittest

import bpf_support
import memleak_report

MEMLEAK = ""
BEFORE_MEMLEAK = []
TARGET = ""
WITH_FRAME_POINTERS = ""
WITHOUT_CFI = ""

# A kernel stack whose place in the map is taken is lost with its blocks, an inherited defect: many places for few stacks.
OFF = ("--dwunw-mode=off", "--perf-max-stack-depth=8", "--stack-storage-size=1048576")
PAST_THE_END = "2000000000"  # seconds: the report comes when memleak is told to end


class Target:
    """A memleak_target that waits for leave to begin and to end."""

    def __init__(self, program, *arguments):
        self.process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self.process.pid
        assert self.process.stdout.readline() == f"ready {self.pid}\n"

    def work(self):
        """Does the work; what was leaked, as size -> (blocks, function, None or the size of the mapping under it)."""
        self.process.stdin.write("\n")
        leaks = {}
        while (line := self.process.stdout.readline()) != "done\n":
            _, size, blocks, function, *mapped = line.split()
            leaks[int(size)] = (int(blocks), function, int(mapped[0]) if mapped else None)
        return leaks

    def go_on(self):
        self.process.stdin.write("\n")


@contextlib.contextmanager
def target(program=None, *arguments):
    running = Target(program or TARGET, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@contextlib.contextmanager
def memleak(*arguments):
    """memleak, attached: what follows in `output` are its reports."""
    command = [*BEFORE_MEMLEAK, MEMLEAK, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.start_up = []
        while not process.start_up or not process.start_up[-1].startswith("Tracing outstanding memory allocs"):
            process.start_up.append(process.stdout.readline())
            assert process.start_up[-1], (process.start_up, process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process):
    """Interrupts memleak: it makes one more report."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    reports, around = memleak_report.parse(output)
    assert process.returncode == 0, (process.returncode, errors)
    return reports[-1], around, errors


def look_at(program, *options):
    """A whole run: the report of everything that the program leaked, and its own account."""
    with target(program) as running, memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
        leaks = running.work()
        report, _, errors = finish(process)
    return report, leaks, errors


def as_bcc_sees_them(leaks):
    """An inherited defect: of an allocator within another one, the inner is recorded."""
    return {mapped or size: (blocks, function, mapped) for size, (blocks, function, mapped) in leaks.items()}


def run(*arguments, **options):
    return subprocess.run([MEMLEAK, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)


def main():
    """Runs the calling program's tests. The first three arguments are the programs."""
    global MEMLEAK, TARGET, WITH_FRAME_POINTERS, WITHOUT_CFI
    bpf_support.require_bpf()
    MEMLEAK, TARGET, folder = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    WITH_FRAME_POINTERS, WITHOUT_CFI = f"{folder}/memleak_target_fp", f"{folder}/memleak_target_no_cfi"
    unittest.main()

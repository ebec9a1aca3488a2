#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs examples/bpf_memleak on a program that records its leaks, and compares bytes, blocks and callers.

    bpf_memleak_test.py path/to/memleak_user path/to/demo_leak
"""

import collections
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

MEMLEAK = ""
DEMO_LEAK = ""

Stack = collections.namedtuple("Stack", "bytes blocks frames end")
Frame = collections.namedtuple("Frame", "name module")


def base_name(name):
    """A function's own name: without arguments, namespaces and template arguments."""
    return name.partition("(")[0].rpartition("::")[2]


def parse(report):
    """The stacks of a report and the number of records that it says were lost."""
    stacks = []
    *blocks, last = report.split("\n\n")
    for block in blocks:
        head, *frames, end = block.splitlines()
        numbers = re.fullmatch(r"(\d+) bytes in (\d+) blocks", head)
        found = []
        for index, line in enumerate(frames):
            match = re.fullmatch(rf"  #{index} +(.*)\+0x[0-9a-f]+ - (.*)", line)
            assert match, line
            found.append(Frame(match[1], match[2]))
        stacks.append(Stack(int(numbers[1]), int(numbers[2]), found, end.strip()))
    return stacks, int(re.fullmatch(r"lost, because the ring buffer was full: (\d+) records\n", last)[1])


class Demo:
    """A demo_leak that waits before its first round and before its end."""

    def __init__(self, rounds):
        self.process = subprocess.Popen(
            [DEMO_LEAK, "--hold", "--rounds", str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def wait_until_ready(self):
        assert self.process.stdout.readline() == f"ready {self.pid}\n"

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ledger(self):
        """chain of callers -> (bytes, blocks), of what has been leaked when the work is done."""
        result = {}
        while (line := self.process.stdout.readline()) != "done\n":
            word, leaked_bytes, blocks, *chain = line.split()
            assert word == "leaked", line
            result[tuple(chain)] = (int(leaked_bytes), int(blocks))
        return result


@contextlib.contextmanager
def demo(rounds):
    program = Demo(rounds)
    try:
        program.wait_until_ready()
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


@contextlib.contextmanager
def memleak(pid):
    """memleak_user, attached."""
    process = subprocess.Popen([MEMLEAK, str(pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert line.startswith("watching malloc in /proc/"), line + process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments, **options):
    return subprocess.run([MEMLEAK, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


class Leaks(unittest.TestCase):
    def check_report(self, report, ledger):
        stacks, lost = parse(report)
        self.assertEqual(lost, 0)
        found = collections.Counter()
        for stack in stacks:
            names = [base_name(frame.name) for frame in stack.frames]
            self.assertEqual(stack.end, "reached the root", stack)
            self.assertIn(names[-1], ("_start", "clone3", "__clone3"), stack)
            self.assertNotIn("?", [frame.name for frame in stack.frames], stack)
            own = [
                name
                for name, frame in zip(names, stack.frames)
                if frame.module.endswith("/demo_leak") and name != "_start"
            ]
            for chain in ledger:
                if chain[0] in own:
                    self.assertEqual(tuple(own[-len(chain) :]), chain, stack)
                    found[chain, "bytes"] += stack.bytes
                    found[chain, "blocks"] += stack.blocks
        self.assertEqual({chain: (found[chain, "bytes"], found[chain, "blocks"]) for chain in ledger}, ledger)

    def test_every_leak_exactly(self):
        with demo(rounds=200) as program, memleak(program.pid) as process:
            program.go_on()
            ledger = program.ledger()
            self.assertGreaterEqual(len(ledger), 6)
            process.send_signal(signal.SIGINT)
            report, errors = process.communicate(timeout=60)
            self.assertEqual((process.returncode, errors), (0, ""))
            self.check_report(report, ledger)

    def test_a_target_that_ends(self):
        # Everything is named from files that were opened while it lived.
        with demo(rounds=20) as program, memleak(program.pid) as process:
            program.go_on()
            ledger = program.ledger()
            program.go_on()
            report, errors = process.communicate(timeout=60)
            self.assertEqual((process.returncode, errors), (0, ""))
            self.check_report(report, ledger)

    def test_a_target_that_is_killed_at_work(self):
        with demo(rounds=100_000) as program, memleak(program.pid) as process:
            program.go_on()
            os.kill(program.pid, signal.SIGKILL)
            report, errors = process.communicate(timeout=60)
            self.assertEqual((process.returncode, errors), (0, ""))
            parse(report)


class Errors(unittest.TestCase):
    def expect(self, done, status, text):
        self.assertEqual((done.returncode, done.stdout), (status, ""), done)
        self.assertRegex(done.stderr, text)

    def test_usage(self):
        for arguments in ([], ["x"], ["0"], ["-1"], ["1", "2"]):
            self.expect(run(*arguments), 2, "usage: memleak_user PID")

    def test_no_such_process(self):
        self.expect(run(str(2**22 + 1)), 1, "no such process")

    def test_a_program_without_libc(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "static")
            subprocess.run(
                ["cc", "-static", "-o", path, "-x", "c", "-"],
                input="#include <unistd.h>\nint main(void) { return write(1, \"x\", 1) == 1 && pause(); }",
                text=True,
                check=True,
            )
            with subprocess.Popen([path], stdout=subprocess.PIPE) as target:
                target.stdout.read(1)
                self.expect(run(str(target.pid)), 1, "shows no libc: is the program linked statically")
                target.kill()

    def test_not_root(self):
        with demo(rounds=1) as program, tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # the build tree may be closed to others
            command = [shutil.copy(MEMLEAK, folder), str(program.pid)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, user=65534, group=65534, extra_groups=[]
            )
            self.expect(done, 1, "permission denied")


if __name__ == "__main__":
    bpf_support.require_bpf()
    MEMLEAK, DEMO_LEAK = (os.path.abspath(sys.argv.pop(1)) for _ in range(2))
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests stacks through a function that switches stacks without call-frame information about it: they must end there, with the
reason.

    stack_switch_test.py DWUNW MEMLEAK TARGET GO_SOURCE FOLDER   FOLDER keeps what Go builds

Runs `dwunw stack`, which walks in user space, and memleak, whose stacks the kernel walks: on a target in C and assembler, and
on a Go program, whose runtime has many such functions.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import memleak_report  # noqa: E402
import workloads  # noqa: E402

DWUNW = MEMLEAK = TARGET = GO_SOURCE = FOLDER = ""
REASON = "the code has switched stacks, and its call-frame information does not say so"
FRAME = re.compile(r"#\d+ +0x[0-9a-f]{16} (\S+)\+0x[0-9a-f]+ - .*")


@contextlib.contextmanager
def running(program):
    process = subprocess.Popen(
        [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdout.readline() == f"ready {process.pid}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def work(process):
    process.stdin.write("\n")
    assert process.stdout.readline() == "done\n"


def base(name):
    """Go's assembler functions have their calling convention in their name."""
    return name.removesuffix(".abi0") if name else name


def stacks_of(process):
    """Each thread's functions, innermost first, and why they end."""
    done = subprocess.run([DWUNW, "stack", "-p", str(process.pid)], capture_output=True, text=True, timeout=60, check=False)
    threads = {}
    for line in (done.stdout + done.stderr).splitlines():
        if match := re.fullmatch(r"TID (\d+):", line):
            names = threads.setdefault(int(match[1]), ([], []))[0]
        elif match := FRAME.fullmatch(line):
            names.append(base(match[1]))
    for match in re.finditer(r"^(?:dwunw: )?TID (\d+): (.+)$", done.stdout + done.stderr, re.M):
        threads[int(match[1])][1].append(match[2])
    return threads


def waits_in(process, function):
    """The main thread's stack, once it is in a function."""
    def stack():
        names, reasons = stacks_of(process).get(process.pid, ([], []))
        return (names, reasons) if function in names else None

    workloads.wait_for(lambda: stack() is not None, f"{process.pid} is in {function}")
    return stack()


def leaks(program):
    """memleak's last report of a program's work."""
    with running(program) as process:
        command = [MEMLEAK, "-p", str(process.pid), "--dwunw-mode=force", "-T", "1000", "2000000000"]
        memleak = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            while not (line := memleak.stdout.readline()).startswith("Tracing outstanding memory allocs"):
                assert line, memleak.stderr.read()
            work(process)
            memleak.send_signal(2)
            output, errors = memleak.communicate(timeout=120)
            assert memleak.returncode == 0, errors
        finally:
            memleak.kill()
            memleak.communicate()
    return memleak_report.parse(output)[0][-1]


def blocks_of(report, size):
    """The stacks that hold blocks of a size."""
    return [stack for stack in report.stacks if stack.bytes == size * stack.count]


class Assembler(unittest.TestCase):
    def test_stack(self):
        with running(TARGET) as process:
            work(process)
            names, reasons = waits_in(process, "waits_there")
        self.assertEqual(names[-2:], ["waits_there", "on_other_stack"])
        self.assertEqual(reasons, [REASON])

    def test_memleak(self):
        report = leaks(TARGET)
        (there,) = blocks_of(report, 1001)
        self.assertEqual(there.count, 50)
        self.assertEqual(there.names()[-2:], ["leaks_there", "on_other_stack"])
        self.assertTrue(any(REASON in note for note in there.notes), there)
        (here,) = blocks_of(report, 1002)
        self.assertEqual(here.count, 50)
        self.assertTrue(here.is_complete(), here)
        at = here.names().index("leaks_here")
        self.assertEqual(here.names()[at : at + 3], ["leaks_here", "before_switch", "main"])
        self.assertEqual(here.names()[-1], "_start")


class Go(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(FOLDER)
        cls.program = folder / "stack_switch_go"
        environment = dict(os.environ, GOCACHE=str(folder / "go_cache"), GOFLAGS="-mod=mod", CGO_ENABLED="1")
        subprocess.run(
            ["go", "build", "-o", str(cls.program), GO_SOURCE], env=environment, timeout=280, check=True, cwd=folder
        )

    # Where Go's runtime leaves a stack for another one.
    SWITCHES = {
        "runtime.asmcgocall", "runtime.mcall", "runtime.systemstack", "runtime.morestack", "gogo",
        "runtime.cgocallback", "runtime.nanotime1", "runtime.walltime", "runtime.rt0_go",
    }  # fmt: skip

    def test_stack(self):
        with running(self.program) as process:
            work(process)
            names, reasons = waits_in(process, "waits_in_c")
            self.assertEqual(names[-1], "runtime.asmcgocall")
            self.assertEqual(reasons, [REASON])
            # Other threads wait on their system stacks, in the scheduler that a switch led to.
            for tid, (names, reasons) in stacks_of(process).items():
                inside = [name for name in names if name in self.SWITCHES]
                self.assertEqual(inside, [name for name in names[-1:] if name in self.SWITCHES], (tid, names))
                if inside:
                    self.assertEqual(reasons, [REASON], (tid, names))

    def test_memleak(self):
        stacks = blocks_of(leaks(self.program), 1001)
        self.assertEqual(sum(stack.count for stack in stacks), 200)
        for stack in stacks:
            names = [base(name) for name in stack.names()]
            self.assertEqual(names[0], "leaks_in_c", stack)
            self.assertEqual(names[-1], "runtime.asmcgocall", stack)
            self.assertTrue(any(REASON in note for note in stack.notes), stack)


if __name__ == "__main__":
    DWUNW, MEMLEAK, TARGET, GO_SOURCE, FOLDER = sys.argv[1:6]
    bpf_support.require_bpf()
    unittest.main(argv=sys.argv[:1])

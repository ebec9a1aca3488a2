#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""How a run of memleak ends: by itself with its target, by a signal, with its command; and the last report is whole."""

import collections
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import memleak_report  # noqa: E402
import memleak_run  # noqa: E402
from memleak_run import OFF, PAST_THE_END, finish, memleak, run, target  # noqa: E402


class EndsOfRuns(unittest.TestCase):
    def test_intervals(self):
        with target() as running:
            done = run("-p", str(running.pid), "1", "2")
        reports, around = memleak_report.parse(done.stdout)
        self.assertEqual((done.returncode, done.stderr, len(reports)), (0, "", 2))
        self.assertEqual(
            around,
            [
                "using default object: libc.so.6",
                "using page size: 4096",
                "tracing kernel: false",
                "Tracing outstanding memory allocs...  Hit Ctrl-C to end",
                "done",
            ],
        )

    def test_each_report_is_flushed(self):
        with target() as running, memleak("-p", str(running.pid), "1") as process:
            lines = [process.stdout.readline()]
            while not lines[-1].startswith("dwunw: "):
                lines.append(process.stdout.readline())
                self.assertNotEqual(lines[-1], "")

    def test_a_target_that_ends(self):
        # Stacks were walked and their files opened while it lived.
        with target() as running, memleak("-p", str(running.pid), "--dwunw-mode=force", "-a", "-T", "1000", PAST_THE_END) as process:
            leaks = running.work()
            # The first report is made while it lives, as everybody's is.
            running.go_on()
            running.process.wait(timeout=60)
            report, *_ = finish(process)
        whole = [stack for stack in report.stacks if stack.is_complete()]
        self.assertEqual(
            {stack.names()[0] for stack in whole} & {leak[1] for leak in leaks.values()},
            {function for _, function, _ in leaks.values()},
        )

    def ended(self, process, pid):
        """memleak ended by itself, after a last report; its standard error may hold anything."""
        output, errors = process.communicate(timeout=120)
        reports, around = memleak_report.parse(output)
        self.assertEqual((process.returncode, around[-2:]), (0, [f"process {pid} has ended", "done"]), errors)
        return reports, errors

    def test_it_ends_when_its_target_does(self):
        for mode in ("force", "fallback"):
            for waited_for in (True, False):
                with self.subTest(mode, waited_for=waited_for), target() as running:
                    with memleak("-p", str(running.pid), f"--dwunw-mode={mode}", "-T", "1000", PAST_THE_END) as process:
                        leaks = running.work()
                        running.go_on()
                        if waited_for:
                            running.process.wait(timeout=60)
                        (report,), errors = self.ended(process, running.pid)
                self.assertEqual(errors, "")
                whole = [stack for stack in report.stacks if stack.is_complete()]
                self.assertLessEqual({leak[1] for leak in leaks.values()}, {stack.names()[0] for stack in whole})

    def test_without_dwarf_it_ends_when_its_target_does(self):
        # As bcc's, it knows the symbols from its first report on.
        with target() as running, memleak("-p", str(running.pid), *OFF, "-T", "1000", "1") as process:
            running.work()
            while "memleak_target]" not in process.stdout.readline():
                pass
            running.go_on()
            reports, errors = self.ended(process, running.pid)
        self.assertEqual(errors, "")
        self.assertIn("leak_malloc", [stack.names()[0] for stack in reports[-1].stacks])

    def test_it_ends_when_its_target_is_killed_at_work(self):
        with target(None, str(2**62)) as running:
            with memleak("-p", str(running.pid), "-z", "48", "-Z", "48", PAST_THE_END) as process:
                running.go_on()
                running.process.kill()
                running.process.wait(timeout=60)
                (report,), errors = self.ended(process, running.pid)
        self.assertEqual(errors, "")
        for stack in report.stacks:
            self.assertTrue(stack.is_complete() or stack.notes, stack)

    def test_a_kernel_without_pidfds(self):
        """The process's start tells it from another one of its number."""
        with target() as running, tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/without_pidfd"
            source = pathlib.Path(__file__).with_name("without_pidfd.c")
            subprocess.run(["cc", "-O1", "-o", program, source], check=True)
            memleak_run.BEFORE_MEMLEAK[:] = [program]
            try:
                with memleak("-p", str(running.pid), "1") as process:
                    running.work()
                    while not process.stdout.readline().startswith("dwunw: "):
                        pass
                    self.assertIsNone(process.poll(), "it lives")
                    running.go_on()  # and stays a zombie
                    _, errors = self.ended(process, running.pid)
            finally:
                memleak_run.BEFORE_MEMLEAK.clear()
        self.assertEqual(errors, "")

    def test_another_program_in_the_same_process(self):
        """The old program's blocks are gone with its memory."""
        second = """if True:
            import ctypes, sys
            [ctypes.CDLL(None).malloc(45678) for _ in range(30)]
            print("done", flush=True)
            sys.stdin.readline()
            """
        first = f"""if True:
            import ctypes, os, subprocess, sys
            print("ready", flush=True)
            sys.stdin.readline()
            [ctypes.CDLL(None).malloc(34567) for _ in range(20)]
            subprocess.run(["/bin/true"], close_fds=False) # a child's exec is not its parent's
            print("done", flush=True)
            sys.stdin.readline()
            os.execv("/usr/bin/python3", ["/usr/bin/python3", "-c", {second!r}])
            """
        for walk in ("kernel", "user"):
            process = subprocess.Popen(
                ["/usr/bin/python3", "-c", first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            try:
                self.assertEqual(process.stdout.readline(), "ready\n")
                options = ("-p", str(process.pid), f"--dwunw-walk={walk}", "-a", "-T", "100000", "-z", "34567", "-Z", "45678")
                seen = []
                with memleak(*options, PAST_THE_END) as after, memleak(*options, PAST_THE_END) as before:
                    for tool in (before, after):
                        process.stdin.write("\n")
                        self.assertEqual(process.stdout.readline(), "done\n")
                        report, *_ = finish(tool)
                        sizes = collections.Counter(size for stack in report.stacks for _, size in stack.blocks)
                        seen.append((sizes[34567], sizes[45678]))
                self.assertEqual(seen, [(20, 0), (0, 30)])
            finally:
                process.kill()
                process.communicate()

    def test_what_comes_while_a_report_is_printed_is_in_the_last(self):
        """An interrupt within a report ended the run with that one, which had read the blocks before."""
        program = """if True:
            import ctypes, sys
            for size, blocks in ((34567, 5000), (45678, 30)):
                print("ready", flush=True)
                sys.stdin.readline()
                [ctypes.CDLL(None).malloc(size) for _ in range(blocks)]
            print("ready", flush=True)
            sys.stdin.readline()
            """
        process = subprocess.Popen(
            ["/usr/bin/python3", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            self.assertEqual(process.stdout.readline(), "ready\n")
            with memleak("-p", str(process.pid), "-a", "-T", "1000", "-z", "34567", "-Z", "45678", "2") as tool:
                process.stdin.write("\n")
                self.assertEqual(process.stdout.readline(), "ready\n")
                select.select([tool.stdout], [], [])  # the report does not go on: it is longer than the pipe
                process.stdin.write("\n")
                self.assertEqual(process.stdout.readline(), "ready\n")
                report, *_ = finish(tool)
        finally:
            process.kill()
            process.communicate()
        sizes = collections.Counter(size for stack in report.stacks for _, size in stack.blocks)
        self.assertEqual((sizes[34567], sizes[45678]), (5000, 30))

    def test_sigterm_ends_it_as_sigint_does(self):
        for mode in (["--dwunw-mode=force"], ["--dwunw-mode=fallback"], OFF):
            with self.subTest(mode), target() as running:
                with memleak("-p", str(running.pid), *mode, "-T", "1000", PAST_THE_END) as process:
                    running.work()
                    process.send_signal(signal.SIGTERM)
                    output, errors = process.communicate(timeout=120)
            reports, around = memleak_report.parse(output)
            self.assertEqual((process.returncode, errors, around[-1], len(reports)), (0, "", "done", 1))
            self.assertIn("leak_malloc", [stack.names()[0] for stack in reports[0].stacks])

    def test_sigterm_ends_the_command_too(self):
        process = subprocess.Popen(
            [memleak_run.MEMLEAK, "-c", "/usr/bin/cat", PAST_THE_END],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        process.stdin.write("it reads this\n")
        process.stdin.flush()
        lines = []
        while not lines or lines[-1] != "it reads this\n":
            lines.append(process.stdout.readline())
            self.assertNotEqual(lines[-1], "")
        process.send_signal(signal.SIGTERM)
        output, errors = process.stdout.read(), process.stderr.read()
        self.assertEqual((process.wait(timeout=120), errors), (0, ""))
        process.communicate()  # the command's input, too, was open until now
        reports, around = memleak_report.parse(output)
        self.assertEqual((len(reports), around[-3:]), (1, ["signaled child process", "reaped child process", "done"]))

    def test_command(self):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            # bcc's 31 bytes for a command are inherited.
            command = shutil.copy(memleak_run.TARGET, f"{folder}/t")
            process = subprocess.Popen(
                [memleak_run.MEMLEAK, "-c", command, "--dwunw-mode=force", "-a", "-T", "1000", PAST_THE_END],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            output, errors = process.communicate("\n\n", timeout=120)
        reports, around = memleak_report.parse(output.replace("\nleaked ", "\nx leaked "))
        self.assertEqual((process.returncode, errors), (0, ""))
        self.assertRegex("\n".join(around), r"child created with pid: \d+")
        self.assertIn("received go event. executing child command", around)
        pid = re.search(r"child created with pid: (\d+)", output)[1]
        self.assertEqual(around[-3:], [f"process {pid} has ended", "reaped child process", "done"])
        sizes = collections.Counter(size for stack in reports[-1].stacks for _, size in stack.blocks)
        self.assertEqual((sizes[1001], sizes[1103], sizes[1701]), (11, 13, 0))
        names = [stack.names() for stack in reports[-1].stacks if (stack.blocks[0][1]) == 1001]
        self.assertEqual([(stack[0], stack[-1]) for stack in names], [("leak_malloc", "_start")])

    def test_command_that_has_ended_before_memleak_looks(self):
        """It has a report, and names, although no map of the program was ever read."""
        for mode in (["--dwunw-mode=force"], ["--dwunw-mode=fallback"], ["--dwunw-walk=user"]):
            with self.subTest(mode), tempfile.TemporaryDirectory(dir="/tmp") as folder:
                command = pathlib.Path(folder, "c")
                command.write_text(f"#!/bin/sh\nkill -STOP $PPID\necho it is $$\nexec {memleak_run.TARGET}\n")
                command.chmod(0o755)
                process = subprocess.Popen(
                    [memleak_run.MEMLEAK, "-c", command, *mode, "-a", "-T", "1000", PAST_THE_END],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )  # fmt: skip
                while not (it := re.fullmatch(r"it is (\d+)\n", process.stdout.readline())):
                    self.assertIsNone(process.poll())
                ended = os.pidfd_open(int(it[1]))
                process.stdin.write("\n\n")
                process.stdin.flush()
                select.select([ended], [], [])
                os.close(ended)
                process.send_signal(signal.SIGCONT)
                output, errors = process.communicate(timeout=120)
                self.assertEqual((process.returncode, errors), (0, ""))
                reports, _ = memleak_report.parse(output.replace("\nleaked ", "\nx leaked "))
                self.assertEqual(len(reports), 1)
                names = [stack.names() for stack in reports[0].stacks if stack.blocks[0][1] == 1001]
                self.assertEqual([(stack[0], stack[-1]) for stack in names], [("leak_malloc", "_start")])

    def test_command_is_ended_with_memleak(self):
        done = run("-c", "/usr/bin/yes", "1", "1", stdin=subprocess.DEVNULL, cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("signaled child process\nreaped child process\ndone\n", done.stdout.replace("y\n", ""))

    def test_command_is_ended_where_probes_cannot_be_attached(self):
        """It waited for leave to begin, and memleak for its end, for ever."""
        done = run("-c", "/usr/bin/yes", "-O", "nosuch.so", stdin=subprocess.DEVNULL, cwd="/")
        self.assertEqual(done.returncode, 254, done.stderr)
        self.assertIn("signaled child process\nreaped child process\ndone\n", done.stdout)


if __name__ == "__main__":
    memleak_run.main()

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests dwunw memleak's messages, statuses and options, and how it ends.

    memleak_command_test.py DWUNW SITES SITES_STATIC LEAKS

SITES and SITES_STATIC are memleak_sites_target, LEAKS is memleak_target.
"""

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
import dwunw_memleak  # noqa: E402
import workload  # noqa: E402

DWUNW = SITES = SITES_STATIC = LEAKS = ""
PAST_THE_END = dwunw_memleak.PAST_THE_END
EVERYTHING = dwunw_memleak.EVERYTHING
NO_SUCH_PID = str(2**22)  # the kernel's limit is one less
# What LEAKS leaves: see memleak_target.c.
MALLOCS = (11, 11 * 1001)


def run(*arguments, **options):
    return dwunw_memleak.run(DWUNW, *arguments, **options)


def attached(*arguments, **options):
    return dwunw_memleak.attached(DWUNW, *arguments, **options)


@contextlib.contextmanager
def target(*command, **options):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options)
    try:
        assert process.stdout.readline().startswith("ready")
        yield process
    finally:
        process.kill()
        process.communicate()


def work(process):
    """Lets the target work, until it waits again."""
    process.stdin.write("\n")
    return list(iter(process.stdout.readline, "done\n"))


def of_function(report, name):
    """Blocks and bytes whose innermost function is this one."""
    rows = [row for row in report.rows if row.names()[:1] == [name]]
    return sum(row.count for row in rows), sum(row.bytes for row in rows)


class Usage(unittest.TestCase):
    def check(self, message, *arguments):
        done = run(*arguments)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done)
        self.assertRegex(done.stderr, f"^dwunw: .*{message}.*\nTry 'dwunw --help'.\n$")

    def test_wrong_usage(self):
        pid = str(os.getpid())
        self.check("what shall be watched", *[])
        self.check("what shall be watched", "5")
        self.check("exclude each other", "-p", pid, "--comm", "x")
        self.check("exclude each other", "-p", pid, "--", "true")
        self.check("exclude each other", "-c", "true", "--", "true")
        self.check("exclude each other", "--comm", "x", "--cgroup", "/")
        self.check("exclude each other", "-s", "2", "--sample-bytes", "3", "-p", pid)
        self.check("at most 15 bytes", "--comm", "a-name-of-16-bytes")
        self.check("least size .* greater", "-z", "5", "-Z", "4", "-p", pid)
        self.check("too long", "-o", str(2**63), "-p", pid)
        for wrong in (["-p", "0"], ["-p", "x"], ["-p", "-1"], ["-s", "0"], ["-T", "0"], ["-o", "-1"], ["--sort", "size"],
                      ["--error-exitcode", "0"], ["--error-exitcode", "256"], ["--sample-bytes", "0"],
                      ["--max-memory", "x"], ["0"], ["1", "0"], ["1", "2", "3"], ["x"], ["--no-such-option"]):  # fmt: skip
            with self.subTest(wrong):
                self.check("", *wrong, "-p", pid)

    def test_help(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for option in ("--pid", "--comm", "--cgroup", "--command", "--follow", "--older", "--sample-bytes", "--strict"):
            self.assertIn(option, done.stdout)


class NothingToTrace(unittest.TestCase):
    """Never an empty report."""

    def check(self, done, *wanted):
        self.assertEqual((done.returncode, done.stdout), (1, ""), done)
        for text in wanted:
            self.assertIn(text, done.stderr)

    def test_no_such_process(self):
        self.check(run("-p", NO_SUCH_PID), NO_SUCH_PID, "no such process")

    def test_no_such_cgroup(self):
        self.check(run("--cgroup", "/no/such/cgroup"), "/no/such/cgroup", "No such file")

    def test_a_static_program_without_names(self):
        with tempfile.TemporaryDirectory() as folder:
            stripped = os.path.join(folder, "stripped")
            subprocess.run(["strip", "-o", stripped, SITES_STATIC], check=True)
            self.check(run("--", stripped), "nothing to trace", "Looked at:", stripped)
            with target(stripped) as process:
                self.check(run("-p", str(process.pid)), str(process.pid), "nothing to trace", "Looked at:", stripped)
                work(process)

    def test_a_file_that_is_not_mapped(self):
        with target(SITES) as process:
            pid = str(process.pid)
            self.check(run("-p", pid, "-O", "libnothing.so"), "libnothing.so is not mapped", SITES, "libc.so.6")
            self.check(run("-p", pid, "-S", "je_"), "the prefix 'je_'", SITES, "libc.so.6")
            work(process)


class Command(unittest.TestCase):
    def test_a_program_that_cannot_be_started(self):
        done = run("--", "/nonexistent")
        self.assertEqual((done.returncode, done.stdout), (127, ""))
        self.assertEqual(done.stderr, "dwunw: /nonexistent: No such file or directory\n")
        done = run("--", "/")
        self.assertEqual((done.returncode, done.stdout), (126, ""))
        self.assertEqual(done.stderr, "dwunw: /: Permission denied\n")

    def test_its_status_is_passed_on(self):
        for script, status in (("exit 3", 3), ("exit 0", 0), ("kill -TERM $$", 143), ("kill -KILL $$", 137)):
            with self.subTest(script):
                done = run("--", "sh", "-c", script)
                self.assertEqual((done.returncode, done.stderr), (status, ""))
                self.assertEqual(len(dwunw_memleak.parse(done.stdout)[0]), 1)

    def test_its_streams_are_its_own(self):
        done = run("--", "sh", "-c", "cat; echo error >&2", input="a line\n")
        self.assertIn("a line", dwunw_memleak.parse(done.stdout)[1])
        self.assertEqual((done.returncode, done.stderr), (0, "error\n"))

    def test_fail_on(self):
        leaks = ("-o", "0", PAST_THE_END)
        command = ("--", SITES, "1")
        self.assertEqual(run("--fail-on", "1G", *leaks, *command, input="\n\n").returncode, 3)
        done = run("--fail-on", "1K", *leaks, *command, input="\n\n")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^dwunw: \d+ bytes are outstanding, --fail-on is 10(00|24)\n$")
        self.assertEqual(run("--fail-on", "1K", "--error-exitcode", "42", *leaks, *command, input="\n\n").returncode, 42)

    def test_a_child_is_followed(self):
        """And one that executes another program; without --follow neither is."""
        for follow in (["--follow"], []):
            command = ("--", "sh", "-c", f"{SITES} 1; exit 0")
            with attached(*EVERYTHING, *follow, PAST_THE_END, *command, stdin=subprocess.PIPE) as tool:
                tool.stdin.write("\n")
                tool.stdin.flush()
                lines = list(iter(tool.stdout.readline, "done\n"))
                self.assertIn("site site_malloc 4 8004\n", lines)
                report, _, errors = dwunw_memleak.finish(tool)
            self.assertEqual(errors, "")
            self.assertEqual(sum(row.count for row in report.by_site().get("site_malloc", [])), 4 if follow else 0)


class Losses(unittest.TestCase):
    """8 MiB have room for 262144 blocks."""

    BLOCKS = 300000

    def look_at(self, *options):
        return run(*EVERYTHING, *options, PAST_THE_END, "--", LEAKS, str(self.BLOCKS), input="\n\n")

    def test_they_are_counted(self):
        done = self.look_at("--max-memory", "8M")
        report = dwunw_memleak.parse(done.stdout)[0][-1]
        blocks, size = of_function(report, "leak_fast")
        lost = report.lost.pop("blocks that found no room")
        self.assertEqual((blocks + lost, size), (self.BLOCKS, 48 * blocks))
        self.assertGreater(blocks, 200000)
        self.assertEqual((done.returncode, report.lost), (0, {}))

    def test_strict(self):
        done = self.look_at("--max-memory", "8M", "--strict")
        self.assertEqual((done.returncode, done.stderr), (1, "dwunw: memleak: something was lost (--strict)\n"))
        done = self.look_at("--strict")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(of_function(dwunw_memleak.parse(done.stdout)[0][-1], "leak_fast"), (self.BLOCKS, 48 * self.BLOCKS))


class Ends(unittest.TestCase):
    def test_by_a_signal_with_a_last_report(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number), target(LEAKS) as process:
                with attached(*EVERYTHING, "-p", str(process.pid), PAST_THE_END) as tool:
                    work(process)
                    report, _, errors = dwunw_memleak.finish(tool, number)
                self.assertEqual((tool.returncode, errors), (0, ""))
                self.assertEqual(of_function(report, "leak_malloc"), MALLOCS)

    def test_after_so_many_reports(self):
        with target(LEAKS) as process:
            done = run(*EVERYTHING, "-p", str(process.pid), "1", "2")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(len(dwunw_memleak.parse(done.stdout)[0]), 2)
            work(process)

    def test_with_its_target(self):
        """The last report has all its names."""
        with target(LEAKS) as process:
            with attached(*EVERYTHING, "-p", str(process.pid), PAST_THE_END) as tool:
                work(process)
                process.stdin.write("\n")
                self.assertEqual(process.wait(30), 0)
                output, errors = tool.communicate(timeout=60)
        reports, _ = dwunw_memleak.parse(output)
        self.assertEqual((tool.returncode, errors, len(reports)), (0, "", 1))
        self.assertEqual(of_function(reports[0], "leak_malloc"), MALLOCS)
        (row,) = [row for row in reports[0].rows if row.names()[0] == "leak_malloc"]
        self.assertEqual(row.names()[1:3], ["work", "main"])
        self.assertIn(row.names()[-1], dwunw_memleak.ROOTS)

    def test_of_all_of_several_targets(self):
        with target(LEAKS) as one, target(SITES, "1") as other:
            with attached(*EVERYTHING, "-p", str(one.pid), "-p", str(other.pid), PAST_THE_END) as tool:
                work(one)
                one.kill()
                one.wait(30)
                work(other)
                other.kill()
                output, _ = tool.communicate(timeout=60)
        (report,) = dwunw_memleak.parse(output)[0]
        self.assertEqual(of_function(report, "leak_malloc"), MALLOCS)
        self.assertEqual(sum(row.count for row in report.by_site()["site_malloc"]), 4)

    def test_on_a_full_disk(self):
        with target(LEAKS) as process, open("/dev/full", "w", encoding="ascii") as full:
            for interval in ("1", PAST_THE_END):
                command = [DWUNW, "memleak", "-p", str(process.pid), interval]
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertEqual(done.stderr, "dwunw: standard output: No space left on device\n")
            work(process)

    def test_without_a_reader(self):
        with target(LEAKS) as process:
            with attached("-p", str(process.pid), "1") as tool:
                tool.stdout.close()
                self.assertEqual(tool.wait(60), 1)
                self.assertEqual(tool.stderr.read(), "", "a reader that has left is no news")
                tool.stdout = None
            work(process)

    def test_killed_it_leaves_nothing_behind(self):
        with target(LEAKS) as process:
            with attached("-p", str(process.pid), PAST_THE_END) as tool:
                links = set()
                for info in pathlib.Path(f"/proc/{tool.pid}/fdinfo").iterdir():
                    links.update(re.findall(r"^link_id:\t(\d+)$", info.read_text(), re.M))
                self.assertGreater(len(links), 2)
                tool.kill()
                tool.wait(30)

            def are_gone():
                shown = subprocess.run([BPFTOOL, "link", "show"], capture_output=True, text=True, check=True).stdout
                return not links & set(re.findall(r"^(\d+):", shown, re.M))

            workload.wait_for(are_gone, "the end of the links")
            self.assertIn("leaked 1001 11 leak_malloc\n", work(process))
            process.stdin.write("\n")
            self.assertEqual(process.wait(30), 0)

    def test_two_at_once(self):
        with target(LEAKS) as process:
            options = (*EVERYTHING, "-p", str(process.pid), PAST_THE_END)
            with attached(*options) as one, attached(*options) as other:
                work(process)
                for tool in (one, other):
                    report, _, errors = dwunw_memleak.finish(tool)
                    self.assertEqual((tool.returncode, errors), (0, ""))
                    self.assertEqual(of_function(report, "leak_malloc"), MALLOCS)
                    self.assertEqual(report.lost, {})


class Options(unittest.TestCase):
    def look_at(self, *options, arguments=()):
        with target(LEAKS, *arguments) as process:
            with attached("-p", str(process.pid), *options, PAST_THE_END) as tool:
                work(process)
                report, _, errors = dwunw_memleak.finish(tool)
        self.assertEqual((tool.returncode, errors), (0, ""))
        return report

    def test_age(self):
        report = self.look_at("-o", "3600000")
        self.assertEqual((report.top, report.bytes, report.count), (0, 0, 0))

    def test_sizes(self):
        report = self.look_at(*EVERYTHING, "-z", "1301", "-Z", "1409")
        self.assertEqual({row.names()[0] for row in report.rows}, {"leak_aligned_alloc", "leak_memalign"})
        self.assertEqual(report.count, 31)

    def test_top_and_order(self):
        report = self.look_at("-o", "0", "-T", "4")
        self.assertEqual((report.top, len(report.rows)), (4, 4))
        self.assertGreater(report.stacks, 10)
        sizes = [row.bytes for row in report.rows]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertEqual([row.names()[0] for row in report.rows if not row.marks][0], "leak_big")
        report = self.look_at(*EVERYTHING, "--sort", "count")
        counts = [row.count for row in report.rows]
        self.assertEqual(counts, sorted(counts, reverse=True))

    def test_sampling_by_number_is_unbiased(self):
        blocks = 200000
        report = self.look_at(*EVERYTHING, "-s", "10", arguments=[str(blocks)])
        # Six standard deviations, of sqrt(blocks * 9) each.
        self.assertAlmostEqual(of_function(report, "leak_fast")[0], blocks, delta=8050)
        self.assertIn("estimated", report.rows[0].marks[0])

    def test_sampling_by_bytes_is_unbiased(self):
        blocks = 200000
        report = self.look_at(*EVERYTHING, "--sample-bytes", "480", arguments=[str(blocks)])
        # A block is recorded with probability 1 - exp(-48/480) = 0.0952.
        self.assertAlmostEqual(of_function(report, "leak_fast")[0], blocks, delta=8300)

    def test_a_name_selects_processes_that_run_and_that_come(self):
        with tempfile.TemporaryDirectory() as folder:
            program = shutil.copy(LEAKS, os.path.join(folder, f"leaks{os.getpid()}"))
            with target(program) as one, target(LEAKS) as another:
                with attached(*EVERYTHING, "--comm", os.path.basename(program), PAST_THE_END) as tool:
                    work(one)
                    work(another)
                    with target(program) as later:
                        work(later)
                        report, _, errors = dwunw_memleak.finish(tool)
        self.assertEqual((tool.returncode, errors), (0, ""))
        self.assertEqual(of_function(report, "leak_malloc"), (2 * MALLOCS[0], 2 * MALLOCS[1]))

    def test_a_realloc_to_nothing_is_no_free_from_before_the_start(self):
        """glibc's realloc calls free for the old block, which was counted then."""
        script = """if True:
            import ctypes, sys
            libc = ctypes.CDLL(None)
            libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
            old = [libc.malloc(4000) for _ in range(1000)]
            print("ready", flush=True)
            input()
            for _ in range(3000):
                libc.realloc(libc.malloc(2000), 0)
            for block in old:
                libc.realloc(block, 0)
            print("done", flush=True)
            input()"""
        with target("/usr/bin/python3", "-c", script) as process:
            with attached(*EVERYTHING, "-p", str(process.pid), PAST_THE_END) as tool:
                work(process)
                report, _, _ = dwunw_memleak.finish(tool)
        (line,) = [line for line in report.remarks if "before the start" in line]
        freed = int(re.match(r"memleak: freed from before the start: (\d+) blocks", line)[1])
        self.assertGreaterEqual(freed, 1000)
        self.assertLess(freed, 2000)


if __name__ == "__main__":
    bpf_support.require_bpf()
    BPFTOOL = shutil.which("bpftool") or "/usr/sbin/bpftool"
    DWUNW, SITES, SITES_STATIC, LEAKS = dwunw_memleak.arguments(*range(4))
    unittest.main()

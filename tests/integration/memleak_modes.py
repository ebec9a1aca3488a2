#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs memleak on programs that record their leaks: modes, options, and behaviour on errors.

    memleak_modes.py MEMLEAK TARGET FOLDER   FOLDER also has the target built in other ways: memleak_target_fp (with frame
                                             pointers), memleak_target_no_cfi (with frame pointers, without CFI)
"""

import collections
import contextlib
import errno
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
import bpf_support  # noqa: E402
import memleak_report  # noqa: E402

MEMLEAK = ""
BEFORE_MEMLEAK = []
TARGET = ""
WITH_FRAME_POINTERS = ""
WITHOUT_CFI = ""

ROOTS = ("_start", "__clone3", "clone3")
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


class ExactLeaks(unittest.TestCase):
    """Every block that leaked is in the report, and none other of those sizes."""

    def check_blocks(self, report, leaks):
        sizes = collections.Counter(size for stack in report.stacks for _, size in stack.blocks)
        self.assertEqual({size: sizes[size] for size in leaks}, {size: blocks for size, (blocks, *_) in leaks.items()})
        self.assertEqual((sizes[1701], sizes[0xD000]), (0, 0), "freed blocks are in the report")
        for stack in report.stacks:
            self.assertEqual(stack.bytes, sum(size for _, size in stack.blocks), stack)
            self.assertEqual(stack.count, len(stack.blocks), stack)

    def check_callers(self, report, leaks, whole):
        """Frame 0 is the function that leaked; where stacks are whole, the last is where they begin."""
        for stack in report.stacks:
            size = stack.blocks[0][1]
            if size not in leaks:
                continue
            function = leaks[size][1]
            self.assertTrue(whole == stack.is_complete(), stack)
            if whole:
                self.assertIn(stack.names()[-1], ROOTS, stack)
                self.assertNotIn(None, stack.names(), stack)
                self.assertEqual(stack.names().count(function), 101 if function == "leak_deep" else 1, stack)
            self.assertEqual(stack.names()[0], function, stack)

    def test_force(self):
        report, leaks, errors = look_at(TARGET, "--dwunw-mode=force", "-a", "-T", "1000")
        self.check_blocks(report, leaks)
        self.check_callers(report, leaks, whole=True)
        self.assertEqual((report.account.partial, report.account.dropped, errors), (0, 0, ""))
        self.assertFalse([frame for stack in report.stacks for frame in stack.frames if frame.mark])

    def test_fallback_is_the_default_and_the_same_where_dwarf_suffices(self):
        for options in ([], ["--dwunw-mode=fallback"]):
            report, leaks, errors = look_at(TARGET, *options, "-a", "-T", "1000")
            self.check_blocks(report, leaks)
            self.check_callers(report, leaks, whole=True)
            self.assertEqual((report.account.partial, report.account.dropped, errors), (0, 0, ""))

    def test_off(self):
        report, leaks, errors = look_at(TARGET, *OFF, "-a", "-T", "1000")
        leaks = as_bcc_sees_them(leaks)
        self.check_blocks(report, leaks)
        self.assertEqual((report.account, errors), (None, ""))
        for stack in report.stacks:
            _, function, mapped = leaks.get(stack.blocks[0][1], (0, None, True))
            if not mapped:
                self.assertEqual(stack.names()[0], function, stack)
                self.assertNotIn(stack.names()[-1], ROOTS, "bpf_get_stackid cannot have found this")

    def test_off_with_frame_pointers(self):
        report, leaks, _ = look_at(WITH_FRAME_POINTERS, *OFF, "-a", "-T", "1000")
        self.check_blocks(report, as_bcc_sees_them(leaks))
        named = [stack.names() for stack in report.stacks if stack.blocks[0][1] == 1001]
        self.assertEqual([names[:3] for names in named], [["leak_malloc", "work", "main"]])

    def test_combined_totals_are_the_same(self):
        for mode in (["--dwunw-mode=force"], ["--dwunw-mode=fallback"], OFF):
            with self.subTest(mode), target() as running:
                options = ("-p", str(running.pid), *mode, "-T", "1000", PAST_THE_END)
                with memleak("-C", *options) as combined, memleak(*options) as single:
                    running.work()
                    totals = [
                        sorted((stack.bytes, stack.count, str(stack.names())) for stack in finish(process)[0].stacks if stack.count)
                        for process in (combined, single)
                    ]
                self.assertGreater(len(totals[0]), 10)
                self.assertEqual(*totals)

    def test_combined_totals_with_more_mappings_than_are_published(self):
        """Found in use: such a process was walked by frame pointers alone, and -C had no totals."""
        crowded = """if True:
            import ctypes, sys
            libc = ctypes.CDLL(None)
            libc.mmap.restype = libc.malloc.restype = ctypes.c_void_p
            start = libc.mmap(None, 16400 * 4096, 1, 0x22, -1, 0)
            for page in range(0, 16400, 2): # more executable mappings than can be published
                assert libc.mprotect(ctypes.c_void_p(start + page * 4096), 4096, 5) == 0
            print("ready", flush=True)
            sys.stdin.readline()
            for _ in range(100):
                libc.malloc(4321)
            print("done", flush=True)
            sys.stdin.readline()
            """
        process = subprocess.Popen(
            ["/usr/bin/python3", "-c", crowded], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            self.assertEqual(process.stdout.readline(), "ready\n")
            with memleak("-C", "-p", str(process.pid), "-T", "1000", PAST_THE_END) as combined:
                process.stdin.write("\n")
                self.assertEqual(process.stdout.readline(), "done\n")
                report, _, errors = finish(combined)
        finally:
            process.kill()
            process.communicate()
        self.assertNotIn("going on with frame-pointer stacks", errors)
        self.assertIn((432100, 100), [(stack.bytes, stack.count) for stack in report.stacks])

    def test_without_cfi(self):
        # The program's own frames can only be had by frame pointers, and say so; libc's have CFI.
        for mode in ("force", "fallback"):
            report, leaks, _ = look_at(WITHOUT_CFI, f"--dwunw-mode={mode}", "-a", "-T", "1000")
            self.check_blocks(report, leaks)
            for stack in (stack for stack in report.stacks if stack.blocks[0][1] in leaks):
                self.assertIn("[frame pointer]", [(frame.mark or "").strip() for frame in stack.frames], stack)
                self.assertIn(leaks[stack.blocks[0][1]][1], stack.names(), stack)

    def test_both_walks_and_both_placements_see_the_same(self):
        choices = [
            (f"--dwunw-walk={walk}", f"--probe-placement={placement}", f"--dwunw-mode={mode}")
            for walk in ("kernel", "user")
            for placement in ("auto", "entry")
            for mode in ("force", "fallback")
        ]
        with target() as running, contextlib.ExitStack() as tools:
            options = ("-p", str(running.pid), "-a", "-T", "1000", "-z", "1000")
            processes = [tools.enter_context(memleak(*options, *choice, PAST_THE_END)) for choice in choices]
            leaks = running.work()
            reports = [finish(process)[0] for process in processes]
        seen = []
        for report in reports:
            self.check_blocks(report, leaks)
            self.check_callers(report, leaks, whole=True)
            seen.append(sorted((sorted(stack.blocks), [frame.address for frame in stack.frames]) for stack in report.stacks))
        for one in seen[1:]:
            self.assertEqual(one, seen[0])

    def test_the_walk_is_the_kernels(self):
        report, *_ = look_at(TARGET, "-T", "1000")
        self.assertEqual((report.account.partial, report.others), (0, {}), "nothing is sent to user space")

    def test_placement_without_dwarf(self):
        # Each block once, by the call that made it: off in all but the stacks.
        report, leaks, _ = look_at(WITH_FRAME_POINTERS, *OFF, "--probe-placement=auto", "-a", "-T", "1000")
        self.check_blocks(report, leaks)
        self.assertIsNone(report.account)
        named = [stack.names() for stack in report.stacks if stack.blocks[0][1] == 1001]
        self.assertEqual([names[:3] for names in named], [["leak_malloc", "work", "main"]])

    def test_verbose_says_where_the_probes_are(self):
        with target() as running:
            done = run("-v", "-p", str(running.pid), "1", "1")
        self.assertRegex(done.stderr, r"(?m)^probes: uprobe session: ")
        self.assertRegex(done.stderr, r"(?m)^probe: free: offset \d+: ")
        self.assertRegex(done.stderr, r"(?m)^frame loop: bpf_loop, 512 frames$")

    def test_sizes(self):
        report, leaks, _ = look_at(TARGET, "--dwunw-mode=force", "-a", "-z", "1201", "-Z", "1409", "-T", "1000")
        self.check_blocks(report, {size: leak for size, leak in leaks.items() if 1201 <= size <= 1409})
        self.assertEqual(len(report.stacks), 3)

    def test_top(self):
        report, *_ = look_at(TARGET, "-T", "2")
        self.assertEqual((report.top, len(report.stacks)), (2, 2))
        self.assertGreaterEqual(report.stacks[0].bytes, report.stacks[1].bytes)

    def test_age(self):
        report, *_ = look_at(TARGET, "-o", "3600000", "-T", "1000")
        self.assertEqual(report.stacks, [])
        self.assertGreater(report.account.walked, 100)

    def test_age_greater_than_the_machines_uptime(self):
        report, *_ = look_at(TARGET, "-o", "1000000000000", "-T", "1000")
        self.assertEqual(report.stacks, [])

    def test_sampling(self):
        with target(None, "20000") as running:
            with memleak("-p", str(running.pid), "-s", "10", "--dwunw-mode=force", PAST_THE_END) as process:
                running.work()
                report, *_ = finish(process)
        self.assertTrue(0 < report.account.walked < 20000, report.account)


class Slices(unittest.TestCase):
    OPTIONS = ("--dwunw-walk=user", "--dwunw-stack-size=1024")

    def test_names_that_are_made_for_a_terminal(self):
        with tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/target"
            subprocess.run(["objcopy", "--redefine-sym", "leak_malloc=leak\x1b[2J", TARGET, program], check=True)
            report, _, errors = look_at(program, "--dwunw-mode=force", "-T", "1000")
        names = {stack.names()[0] for stack in report.stacks if stack.names()}
        self.assertEqual(errors, "")
        self.assertIn("leak\\x1b[2J", names)

    def test_a_stack_beyond_its_slice(self):
        report, *_ = look_at(TARGET, "--dwunw-mode=force", *self.OPTIONS, "-a", "-T", "1000", "-Z", "1901", "-z", "1901")
        (stack,) = report.stacks
        self.assertEqual(stack.notes, ["partial: stack slice exhausted"])
        self.assertEqual(set(stack.names()), {"leak_deep"})
        self.assertEqual(report.account.partial, 1)
        self.assertEqual(report.account.why_partial, "[stack slice exhausted: 1]")

    def test_a_partial_stack_is_shown_though_the_kernels_goes_further(self):
        options = (*self.OPTIONS, "-a", "-T", "1000", "-Z", "1901", "-z", "1901")
        for mode in ("fallback", "force"):
            report, *_ = look_at(WITH_FRAME_POINTERS, f"--dwunw-mode={mode}", *options)
            (stack,) = report.stacks
            self.assertEqual(stack.notes, ["partial: stack slice exhausted"])
            self.assertEqual(set(stack.names()), {"leak_deep"})
            self.assertLess(len(stack.frames), 101)


class Losses(unittest.TestCase):
    BLOCKS = 12000

    def test_a_ring_buffer_that_is_too_small(self):
        for mode in ("force", "fallback"):
            with target(None, str(self.BLOCKS), "distinct") as running:
                options = ("--dwunw-ring-size=256", f"--dwunw-mode={mode}", "-z", "48", "-Z", "48", "-T", "100000")
                with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                    # No stack is polled while the target works.
                    process.send_signal(signal.SIGSTOP)
                    running.work()
                    process.send_signal(signal.SIGCONT)
                    report, *_ = finish(process)
            self.assertGreater(report.account.dropped, 0)
            self.assertEqual(report.account.walked + report.account.dropped, self.BLOCKS)
            self.assertEqual(sum(stack.count for stack in report.stacks), self.BLOCKS)
            # Without frame pointers in the target, the kernel has nothing better.
            (lost,) = [stack for stack in report.stacks if not stack.is_complete()]
            self.assertEqual((lost.count, lost.frames), (report.account.dropped, []))
            self.assertEqual(lost.notes, ["no stack: the ring buffer is full"])
            self.assertEqual({stack.count for stack in report.stacks if stack is not lost}, {1}, "a row mixes stacks")
            self.assertEqual(report.others, {"without a stack": (report.account.dropped, {"the ring buffer is full": report.account.dropped})})
            self.assertEqual(report.options, {"without a stack": "--dwunw-ring-size"})

    def test_the_kernels_stack_where_dwunws_is_lost(self):
        """It is shown as what it is, one for each chain; the program has frame pointers."""
        with target(WITH_FRAME_POINTERS, str(self.BLOCKS), "distinct") as running:
            options = ("--dwunw-ring-size=256", "--stack-storage-size=1048576", "-z", "48", "-Z", "48", "-T", "100000")
            with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                process.send_signal(signal.SIGSTOP)
                running.work()
                process.send_signal(signal.SIGCONT)
                report, *_ = finish(process)
        self.assertGreater(report.account.dropped, 0)
        self.assertEqual(sum(stack.count for stack in report.stacks), self.BLOCKS)
        label = "kernel frame-pointer stack, because dwunw's was lost: the ring buffer is full"
        kernels = [stack for stack in report.stacks if stack.notes == [label]]
        self.assertGreater(len(kernels), self.BLOCKS / 2)
        for stack in kernels:
            self.assertEqual(stack.count, 1, stack)
            self.assertEqual(stack.names()[:21], ["leak_distinct"] * 21, stack)
            self.assertEqual(stack.names()[21], "main", stack)
        # Two kernel stacks whose places in the map are one: the second has none.
        others = [stack for stack in report.stacks if stack.notes and stack.notes != [label]]
        self.assertTrue(all(stack.notes == ["no stack: the ring buffer is full"] for stack in others), others)

    def check_that_no_row_mixes_stacks(self, report):
        """Each block has a stack of its own."""
        self.assertEqual(sum(stack.count for stack in report.stacks), self.BLOCKS)
        for stack in report.stacks:
            if stack.frames:
                self.assertEqual(stack.count, 1, stack)
                self.assertEqual(stack.names()[:22], ["leak_distinct"] * 21 + ["main"], stack)
            else:
                self.assertEqual([note.startswith("no stack: ") for note in stack.notes], [True], stack)

    def test_distinct_stacks_in_each_walk(self):
        for walk in ("kernel", "user"):
            for mode in ("fallback", "force"):
                with self.subTest(walk, mode=mode), target(None, str(self.BLOCKS), "distinct") as running:
                    options = (f"--dwunw-walk={walk}", f"--dwunw-mode={mode}", "-z", "48", "-Z", "48", "-T", "100000")
                    with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                        running.work()
                        report, *_ = finish(process)
                    self.check_that_no_row_mixes_stacks(report)
                    self.assertGreater(len(report.stacks), 1000)

    def test_a_limit_on_new_stacks_behind_one_path(self):
        why = "too many new stacks that begin with the same frames"
        for mode in ("fallback", "force"):
            with self.subTest(mode), target(WITHOUT_CFI, str(self.BLOCKS), "distinct") as running:
                options = ("--dwunw-path-limit=100", f"--dwunw-mode={mode}", "--stack-storage-size=1048576")
                sizes = ("-z", "48", "-Z", "48", "-T", "100000")
                with memleak("-p", str(running.pid), *options, *sizes, PAST_THE_END) as process:
                    running.work()
                    report, *_ = finish(process)
                self.check_that_no_row_mixes_stacks(report)
                lost, _ = report.others["without a stack"]
                self.assertEqual(report.others["without a stack"], (lost, {why: lost}))
                self.assertEqual(report.options, {"without a stack": "--dwunw-path-limit"})
                # Where no CFI says that a function has its own frame, the kernel's walk is a guess.
                self.assertEqual([(stack.count, stack.notes) for stack in report.stacks if not stack.frames], [(lost, [f"no stack: {why}"])])

    def test_stacks_beyond_the_memory_for_them(self):
        kept = {}
        for size in ("1", "64"):
            with target(None, str(self.BLOCKS), "distinct") as running:
                options = (f"--dwunw-kept-size={size}", "--dwunw-mode=force", "-z", "48", "-Z", "48", "-T", "100000")
                with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                    running.work()
                    kept[size], *_ = finish(process)
            self.assertEqual(sum(stack.count for stack in kept[size].stacks), self.BLOCKS)
        what = "stacks that found no room"
        (lost,) = [stack for stack in kept["1"].stacks if stack.notes]
        self.assertEqual(lost.notes, ["no stack: its record was lost or found no room"])
        self.assertEqual(kept["1"].options[what], "--dwunw-kept-size")
        self.assertGreaterEqual(kept["1"].others[what][0], lost.count)
        self.assertNotIn(what, kept["64"].others)

    def test_more_blocks_than_their_map_holds(self):
        blocks = 1_050_000
        with target(None, str(blocks)) as running:
            with memleak("-p", str(running.pid), "--dwunw-mode=force", "-z", "48", "-Z", "48", PAST_THE_END) as process:
                running.work()
                report, *_ = finish(process)
        lost, _ = report.others["blocks that found the map of outstanding blocks full"]
        self.assertEqual(report.account.walked, blocks)
        self.assertGreater(lost, 0)
        self.assertEqual(sum(stack.count for stack in report.stacks) + lost, blocks)
        self.assertEqual(set(report.options.values()), {"--dwunw-blocks"})
        # And with more room.
        with target(None, str(blocks)) as running:
            options = ("--dwunw-mode=force", f"--dwunw-blocks={blocks + 1000}", "-z", "48", "-Z", "48", PAST_THE_END)
            with memleak("-p", str(running.pid), *options) as process:
                running.work()
                report, *_ = finish(process)
        self.assertEqual(sum(stack.count for stack in report.stacks), blocks)
        self.assertEqual(report.others, {})

    def test_tables_beyond_their_room(self):
        linked = subprocess.run(["ldd", shutil.which("clang")], capture_output=True, text=True, check=True).stdout
        library = re.search(r"=> (\S*/libLLVM\S*)", linked)[1]
        program = f"import ctypes, sys; ctypes.CDLL({library!r}); print('ready', flush=True); sys.stdin.readline()"
        large = subprocess.Popen(["/usr/bin/python3", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(large.stdout.readline(), "ready\n")
            reports = {}
            for size in ("1", "16"):
                with memleak("-p", str(large.pid), f"--dwunw-table-size={size}", PAST_THE_END) as process:
                    reports[size], *_ = finish(process)
        finally:
            large.kill()
            large.communicate()
        what = "modules whose tables found no room"
        self.assertEqual(reports["1"].options.get(what), "--dwunw-table-size", reports["1"].others)
        self.assertNotIn(what, reports["16"].others)

    def test_a_target_that_never_rests(self):
        # memleak once took in records for as long as they came.
        with target(None, str(2**62)) as running:
            with memleak("-p", str(running.pid), "--dwunw-mode=force", "-z", "48", "-Z", "48", "1", "2") as process:
                running.go_on()
                output, errors = process.communicate(timeout=120)
        reports, _ = memleak_report.parse(output)
        self.assertEqual((process.returncode, errors, len(reports)), (0, "", 2))
        for stack in reports[-1].stacks:
            self.assertEqual(stack.notes, [])
        self.assertGreater(reports[-1].account.walked, 1000)


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
            BEFORE_MEMLEAK[:] = [program]
            try:
                with memleak("-p", str(running.pid), "1") as process:
                    running.work()
                    while not process.stdout.readline().startswith("dwunw: "):
                        pass
                    self.assertIsNone(process.poll(), "it lives")
                    running.go_on()  # and stays a zombie
                    _, errors = self.ended(process, running.pid)
            finally:
                BEFORE_MEMLEAK.clear()
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
            [MEMLEAK, "-c", "/usr/bin/cat", PAST_THE_END],
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
            command = shutil.copy(TARGET, f"{folder}/t")
            process = subprocess.Popen(
                [MEMLEAK, "-c", command, "--dwunw-mode=force", "-a", "-T", "1000", PAST_THE_END],
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
                command.write_text(f"#!/bin/sh\nkill -STOP $PPID\necho it is $$\nexec {TARGET}\n")
                command.chmod(0o755)
                process = subprocess.Popen(
                    [MEMLEAK, "-c", command, *mode, "-a", "-T", "1000", PAST_THE_END],
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


def runs_32_bit_programs():
    """Whether this kernel runs 32-bit programs. Only running one tells: ia32_emulation=off shows nowhere in /proc."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "exit"
        code = "void _start(void) { __asm__ volatile(\"int $0x80\" : : \"a\"(1), \"b\"(0)); }"
        flags = ["-m32", "-O2", "-static", "-nostdlib", "-fno-pic", "-no-pie", "-x", "c", "-"]
        subprocess.run(["cc", *flags, "-o", program], input=code, text=True, check=True)
        try:
            return subprocess.run([program], check=False).returncode == 0
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return False


class Errors(unittest.TestCase):
    def expect(self, done, status, text):
        self.assertEqual(done.returncode, status, done)
        self.assertRegex(done.stderr, text)

    def test_usage(self):
        for arguments, text in (
            (["-p", "x"], r"error arg:p x"),
            (["-p", "0"], r"error arg:p 0"),
            (["-o", "9223372036854775"], r"invalid AGE_MS: 9223372036854775"),
            (["1", "2", "3"], r"Unrecognized positional argument: 3"),
            (["--dwunw-mode=on"], r"invalid --dwunw-mode: on \(off, fallback or force\)"),
            (["--dwunw-walk=both"], r"invalid --dwunw-walk: both \(kernel or user\)"),
            (["--probe-placement=3"], r"invalid --probe-placement: 3 \(auto or entry\)"),
            (["--dwunw-stack-size=1023"], r"invalid --dwunw-stack-size: 1023"),
            (["--dwunw-stack-size=1k"], r"invalid --dwunw-stack-size: 1k"),
            (["--dwunw-ring-size=300"], r"invalid --dwunw-ring-size: 300 \(a power of two"),
            (["--dwunw-kept-size=4096"], r"invalid --dwunw-kept-size: 4096 \(1 to 4095\)"),
            (["--dwunw-table-size=0"], r"invalid --dwunw-table-size: 0"),
            (["--dwunw-path-limit=many"], r"invalid --dwunw-path-limit: many"),
            (["--dwunw-blocks=1000"], r"invalid --dwunw-blocks: 1000"),
        ):
            with self.subTest(arguments):
                self.expect(run(*arguments), 64, text)
                self.assertRegex(run(*arguments).stderr, "Usage: ")

        self.expect(run("-h"), 64, "invalid option -- 'h'")

    def test_help_and_version(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("--dwunw-mode", done.stdout)
        self.assertEqual(run("--version").stdout, "memleak 0.1\n")

    def test_sizes_the_wrong_way_round(self):
        done = run("-p", "1", "-z", "10", "-Z", "9")
        self.expect(done, 1, r"min size \(-z\) can't be greater than max_size \(-Z\)")
        self.assertEqual(done.stdout, "")

    def test_command_and_pid(self):
        self.expect(run("-p", "1", "-c", "/bin/true"), 1, "cannot specify both command and pid")

    def test_no_such_process(self):
        gone = subprocess.Popen(["/bin/true"])
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
        for state in ("zombie", "gone"):
            for mode in ("off", "fallback", "force"):
                with self.subTest(state=state, mode=mode):
                    done = run("-p", str(gone.pid), f"--dwunw-mode={mode}")
                    self.expect(done, 253, rf"\Aprocess {gone.pid}: No such process\n\Z")
                    self.assertEqual(done.stdout, "")
            gone.wait()

    # Each writes a byte when it has allocated.
    C_PROGRAM = (
        "#include <stdlib.h>\n#include <unistd.h>\n"
        'int main(void) { void *volatile p = malloc(1); return p && write(1, "x", 1) == 1 && pause(); }'
    )
    I386_PROGRAM = (
        'void _start(void) { int n; __asm__ volatile("int $0x80" : "=a"(n) : "0"(4), "b"(1), "c"("x"), "d"(1) : "memory");'
        ' for (;;) __asm__ volatile("int $0x80" : "=a"(n) : "0"(29)); }'
    )
    GO_PROGRAM = 'package main\nimport ("os"; "time")\nfunc main() { os.Stdout.WriteString("x"); time.Sleep(time.Hour) }\n'

    def expect_nothing_to_watch(self, program, what, environment=None):
        """`program` runs, `what` is said of it in each mode; then the same for it as a command."""
        watched = r"/\S+/libc\.so\.6"
        not_mapped = rf"does not map {watched}, so none of its functions will be seen"
        what = what.format(program=re.escape(program).replace("\x1b", r"\\x1b"), not_mapped=not_mapped, watched=watched)
        with subprocess.Popen([program], stdout=subprocess.PIPE, env=environment) as running:
            running.stdout.read(1)
            done = [run("-p", str(running.pid), f"--dwunw-mode={mode}", "1", "1") for mode in ("off", "fallback")]
            running.kill()
        for result in done:
            self.expect(result, 0, rf"WARNING: process {running.pid} {what}\n")
        if environment is None and "\x1b" not in program:
            self.expect(run("-c", program, "1", "1"), 0, rf"WARNING: process \d+ {what}\n")

    def test_nothing_to_watch(self):
        """Found in use: a static program's report was empty, with nothing said."""
        with tempfile.TemporaryDirectory() as folder:
            def build(name, source, *command):
                subprocess.run([*command, "-o", f"{folder}/{name}", "-x", "c", "-"], input=source, text=True, check=True)
                return f"{folder}/{name}"

            for name in ("static", "static\x1b"):
                static = build(name, self.C_PROGRAM, "cc", "-static")
                self.expect_nothing_to_watch(static, "{not_mapped}: it has malloc in its program {program}")
            musl = build("musl", self.C_PROGRAM, "musl-gcc")
            self.expect_nothing_to_watch(musl, r"{not_mapped}: it has /\S*musl\S*")
            i386 = build("i386", self.I386_PROGRAM, "cc", "-m32", "-O2", "-static", "-nostdlib", "-fno-pic", "-no-pie")
            if runs_32_bit_programs():
                self.expect_nothing_to_watch(
                    i386, "{not_mapped}; it has no allocator that memleak knows; it is a 32-bit program"
                )
            else:
                print("skipped: the 32-bit program: this kernel runs none (ia32_emulation=off)", file=sys.stderr)
            go_source = pathlib.Path(folder) / "go.go"
            go_source.write_text(self.GO_PROGRAM, encoding="ascii")
            subprocess.run(["go", "build", "-o", f"{folder}/go", go_source], check=True,
                           env={**os.environ, "GOCACHE": f"{folder}/cache", "HOME": folder})  # fmt: skip
            self.expect_nothing_to_watch(f"{folder}/go", "{not_mapped}: it has runtime.mallocgc in its program {program}")
            preloaded = build("dynamic", self.C_PROGRAM, "cc")
            self.expect_nothing_to_watch(
                preloaded, r"may not allocate with {watched}, which is watched: it has /\S+/libjemalloc\.so\.2",
                {**os.environ, "LD_PRELOAD": "libjemalloc.so.2"},
            )  # fmt: skip

    def test_an_object_that_is_cut(self):
        with target() as running:
            done = run("-p", str(running.pid), "-O", "/" + 40 * "a")
            self.expect(done, 254, rf"WARNING: -O is cut to its first 31 characters: /{30 * 'a'}\n")

    def test_a_weaker_mode_is_on_every_report(self):
        """A /proc of another pid namespace is refused; what goes on without dwunw must not look like it."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            command = shutil.copy(TARGET, f"{folder}/t")
            process = subprocess.Popen(
                ["unshare", "-pf", "--kill-child", MEMLEAK, "-c", command, "-a", "-T", "1000", "1", "2"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            lines = []
            while not lines or not lines[-1].startswith("dwunw: "):
                lines.append(process.stdout.readline())
                self.assertNotEqual(lines[-1], "")
            output, errors = process.communicate("\n\n", timeout=120)
        self.assertIn("going on with frame-pointer stacks", errors)
        reports, _ = memleak_report.parse(("".join(lines) + output).replace("\nleaked ", "\nx leaked "))
        self.assertEqual(len(reports), 2)
        for report in reports:
            self.assertRegex(report.off, "pid namespace")
            self.assertIsNone(report.account)

    def test_no_such_object_or_symbol(self):
        with target() as running:
            self.expect(run("-p", str(running.pid), "-O", "nosuch.so"), 254, "no program attached for malloc_enter")
            self.expect(run("-p", str(running.pid), "-S", "je_"), 254, "no program attached for malloc_enter")

    def test_not_root(self):
        with target() as running, tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # the build tree may be closed to others
            command = [shutil.copy(MEMLEAK, folder), "-p", str(running.pid), "--dwunw-mode=force"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, user=65534, group=65534, extra_groups=[]
            )
            self.expect(done, 255, "failed to load bpf object")


def verified_instructions(pid):
    """How many the kernel looked at for each program that the process holds."""
    programs = [info.read_text() for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    return [int(number) for text in programs for number in re.findall(r"^verified_insns:\s+(\d+)$", text, re.M)]


class Kernel(unittest.TestCase):
    def test_without_dwunw_the_kernel_verifies_none_of_its_walk(self):
        """Before Linux 6.8 global functions are verified also where nothing calls them: 81,598 instructions a program."""
        for options, fewest, most in (OFF, 0, 2000), (["--dwunw-mode=force"], 10000, 1 << 30):
            with self.subTest(options), target() as running:
                with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                    numbers = verified_instructions(process.pid)
                    self.assertGreater(len(numbers), 3)
                    self.assertGreater(max(numbers), fewest)
                    self.assertLess(max(numbers), most)

    """The kernel's own allocations. tracefs is mounted in a mount namespace that ends with the run."""

    def trace(self, *options):
        script = 'mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", MEMLEAK, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    def test_stacks(self):
        for options in (["-T", "5"], ["-P", "-F", "-T", "5"], ["--dwunw-mode=off"]):
            done = self.trace(*options, "1", "1")
            self.assertEqual(done.returncode, 0, done.stderr)
            reports, around = memleak_report.parse(done.stdout)
            self.assertIn("tracing kernel: true", around)
            self.assertGreater(len(reports[0].stacks), 0)
            self.assertIsNone(reports[0].account)
            named = [frame for stack in reports[0].stacks for frame in stack.frames if frame.name]
            self.assertGreater(len(named), 3)

    def test_force_is_refused(self):
        done = self.trace("--dwunw-mode=force", "1", "1")
        self.assertEqual(done.returncode, 234, done)  # -EINVAL
        self.assertRegex(done.stderr, "DWARF unwinding can't start: it is for a process's allocations")


if __name__ == "__main__":
    bpf_support.require_bpf()
    MEMLEAK, TARGET, FOLDER = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    WITH_FRAME_POINTERS, WITHOUT_CFI = f"{FOLDER}/memleak_target_fp", f"{FOLDER}/memleak_target_no_cfi"
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""memleak's reports beside the target's own record, in every mode: each leak, by its function; and stacks in slices."""

import collections
import contextlib
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import memleak_run  # noqa: E402
from memleak_run import OFF, PAST_THE_END, as_bcc_sees_them, finish, look_at, memleak, run, target  # noqa: E402

ROOTS = ("_start", "__clone3", "clone3")


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
        report, leaks, errors = look_at(memleak_run.TARGET, "--dwunw-mode=force", "-a", "-T", "1000")
        self.check_blocks(report, leaks)
        self.check_callers(report, leaks, whole=True)
        self.assertEqual((report.account.partial, report.account.dropped, errors), (0, 0, ""))
        self.assertFalse([frame for stack in report.stacks for frame in stack.frames if frame.mark])

    def test_fallback_is_the_default_and_the_same_where_dwarf_suffices(self):
        for options in ([], ["--dwunw-mode=fallback"]):
            report, leaks, errors = look_at(memleak_run.TARGET, *options, "-a", "-T", "1000")
            self.check_blocks(report, leaks)
            self.check_callers(report, leaks, whole=True)
            self.assertEqual((report.account.partial, report.account.dropped, errors), (0, 0, ""))

    def test_off(self):
        report, leaks, errors = look_at(memleak_run.TARGET, *OFF, "-a", "-T", "1000")
        leaks = as_bcc_sees_them(leaks)
        self.check_blocks(report, leaks)
        self.assertEqual((report.account, errors), (None, ""))
        for stack in report.stacks:
            _, function, mapped = leaks.get(stack.blocks[0][1], (0, None, True))
            if not mapped:
                self.assertEqual(stack.names()[0], function, stack)
                self.assertNotIn(stack.names()[-1], ROOTS, "bpf_get_stackid cannot have found this")

    def test_off_with_frame_pointers(self):
        report, leaks, _ = look_at(memleak_run.WITH_FRAME_POINTERS, *OFF, "-a", "-T", "1000")
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
            report, leaks, _ = look_at(memleak_run.WITHOUT_CFI, f"--dwunw-mode={mode}", "-a", "-T", "1000")
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
        report, *_ = look_at(memleak_run.TARGET, "-T", "1000")
        self.assertEqual((report.account.partial, report.others), (0, {}), "nothing is sent to user space")

    def test_placement_without_dwarf(self):
        # Each block once, by the call that made it: off in all but the stacks.
        report, leaks, _ = look_at(memleak_run.WITH_FRAME_POINTERS, *OFF, "--probe-placement=auto", "-a", "-T", "1000")
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
        report, leaks, _ = look_at(memleak_run.TARGET, "--dwunw-mode=force", "-a", "-z", "1201", "-Z", "1409", "-T", "1000")
        self.check_blocks(report, {size: leak for size, leak in leaks.items() if 1201 <= size <= 1409})
        self.assertEqual(len(report.stacks), 3)

    def test_top(self):
        report, *_ = look_at(memleak_run.TARGET, "-T", "2")
        self.assertEqual((report.top, len(report.stacks)), (2, 2))
        self.assertGreaterEqual(report.stacks[0].bytes, report.stacks[1].bytes)

    def test_age(self):
        report, *_ = look_at(memleak_run.TARGET, "-o", "3600000", "-T", "1000")
        self.assertEqual(report.stacks, [])
        self.assertGreater(report.account.walked, 100)

    def test_age_greater_than_the_machines_uptime(self):
        report, *_ = look_at(memleak_run.TARGET, "-o", "1000000000000", "-T", "1000")
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
            subprocess.run(["objcopy", "--redefine-sym", "leak_malloc=leak\x1b[2J", memleak_run.TARGET, program], check=True)
            report, _, errors = look_at(program, "--dwunw-mode=force", "-T", "1000")
        names = {stack.names()[0] for stack in report.stacks if stack.names()}
        self.assertEqual(errors, "")
        self.assertIn("leak\\x1b[2J", names)

    def test_a_stack_beyond_its_slice(self):
        report, *_ = look_at(memleak_run.TARGET, "--dwunw-mode=force", *self.OPTIONS, "-a", "-T", "1000", "-Z", "1901", "-z", "1901")
        (stack,) = report.stacks
        self.assertEqual(stack.notes, ["partial: stack slice exhausted"])
        self.assertEqual(set(stack.names()), {"leak_deep"})
        self.assertEqual(report.account.partial, 1)
        self.assertEqual(report.account.why_partial, "[stack slice exhausted: 1]")

    def test_a_partial_stack_is_shown_though_the_kernels_goes_further(self):
        options = (*self.OPTIONS, "-a", "-T", "1000", "-Z", "1901", "-z", "1901")
        for mode in ("fallback", "force"):
            report, *_ = look_at(memleak_run.WITH_FRAME_POINTERS, f"--dwunw-mode={mode}", *options)
            (stack,) = report.stacks
            self.assertEqual(stack.notes, ["partial: stack slice exhausted"])
            self.assertEqual(set(stack.names()), {"leak_deep"})
            self.assertLess(len(stack.frames), 101)


if __name__ == "__main__":
    memleak_run.main()

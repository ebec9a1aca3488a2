#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""What memleak says of stacks, blocks and tables that found no room. No row of a report mixes two stacks."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import memleak_report  # noqa: E402
import memleak_run  # noqa: E402
from memleak_run import PAST_THE_END, finish, memleak, target  # noqa: E402


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
        with target(memleak_run.WITH_FRAME_POINTERS, str(self.BLOCKS), "distinct") as running:
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
            with self.subTest(mode), target(memleak_run.WITHOUT_CFI, str(self.BLOCKS), "distinct") as running:
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


if __name__ == "__main__":
    memleak_run.main()

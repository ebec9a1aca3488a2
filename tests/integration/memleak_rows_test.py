#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that a report of memleak has one row for each call chain, and no false frame.

    memleak_rows_test.py MEMLEAK DATA_IN_RBP RELOAD PLUGIN_A PLUGIN_B
"""

import collections
import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import memleak_run  # noqa: E402
import workloads  # noqa: E402

DATA_IN_RBP = RELOAD = PLUGIN_A = PLUGIN_B = ""


def chain(stack):
    """What a reader sees of a stack, but for addresses."""
    return tuple((frame.module, frame.name, frame.offset, None if frame.module else frame.address) for frame in stack.frames)


class DataInRbp(unittest.TestCase):
    """The kernel's frame-pointer walk wandered through the data, and made hundreds of stacks of one."""

    BLOCKS = 3000

    def look_at(self, *options, arguments=()):
        sizes = ("-z", "64", "-Z", "64", "-T", "100000")
        with memleak_run.target(DATA_IN_RBP, str(self.BLOCKS), *arguments) as running:
            with memleak_run.memleak("-p", str(running.pid), *options, *sizes, memleak_run.PAST_THE_END) as process:
                running.work()
                report, _, errors = memleak_run.finish(process)
        self.assertEqual(errors, "")
        self.assertEqual(sum(stack.count for stack in report.stacks), self.BLOCKS)
        return report.stacks

    def check(self, stack):
        self.assertNotIn("never_called", stack.names())
        self.assertNotIn(None, stack.names())
        self.assertEqual(stack.names()[:2], ["take", "main"][: len(stack.frames)], stack)
        if len(stack.frames) == 1:
            self.assertEqual([note.split(":")[0] for note in stack.notes], ["partial"], stack)

    def test_one_stack(self):
        for walk in ("kernel", "user"):
            for mode in ("fallback", "force"):
                with self.subTest(walk, mode=mode):
                    (stack,) = self.look_at(f"--dwunw-walk={walk}", f"--dwunw-mode={mode}")
                    self.check(stack)
                    self.assertGreaterEqual(len(stack.frames), 1)

    def test_where_dwunws_stack_is_lost_nothing_is_made_up(self):
        stacks = self.look_at("--dwunw-path-limit=1", "--stack-storage-size=1048576", arguments=["noise"])
        lost = sum(stack.count for stack in stacks if not stack.frames)
        self.assertGreater(lost, self.BLOCKS / 2)
        for stack in stacks:
            self.assertFalse([note for note in stack.notes if note.startswith("kernel ")], stack)
            if stack.frames:
                self.check(stack)
        self.assertLessEqual(len(stacks), 2)


class ReloadedPlugins(unittest.TestCase):
    """A kernel stack is nothing but addresses, and those of one plugin have come to be another one's."""

    def test_no_kernel_stack_is_named_by_another_plugin(self):
        options = ("--dwunw-ring-size=256", "--stack-storage-size=1048576", "-z", "1234", "-Z", "2345", "-a", "-T", "10000")
        with memleak_run.target(RELOAD, PLUGIN_A, PLUGIN_B) as running:
            with memleak_run.memleak("-p", str(running.pid), *options, memleak_run.PAST_THE_END) as process:
                # dwunw's stacks are not polled: all but the first are lost, and the kernel's are checked.
                process.send_signal(signal.SIGSTOP)
                running.go_on()
                self.assertEqual(running.process.stdout.readline(), "done\n")
                process.send_signal(signal.SIGCONT)
                report, *_ = memleak_run.finish(process)
        self.assertGreater(report.account.dropped, 3500)
        blocks = collections.Counter()
        for stack in report.stacks:
            sizes = collections.Counter(size for _, size in stack.blocks)
            blocks.update(sizes)
            for size, others in ((1234, "leak_in_b"), (2345, "leak_in_a")):
                if sizes[size] and stack.frames:
                    self.assertEqual((len(sizes), others in stack.names()), (1, False), stack)
        self.assertEqual((blocks[1234], blocks[2345]), (3000, 3000))


class Node(unittest.TestCase):
    """Code of a compiler at run time: a leak was two rows, one with names as they stand in the file."""

    def test_no_chain_is_two_rows(self):
        if not workloads.is_installed("node"):
            self.skipTest("node is not installed")
        with workloads.start("node") as load:
            load.wait_until_busy()
            options = ("-p", str(load.pids[0]), "-T", "1000000")
            # With so small a ring much is lost, and the kernel's stacks are looked at.
            with memleak_run.memleak(*options, "--dwunw-ring-size=256", memleak_run.PAST_THE_END) as small:
                with memleak_run.memleak(*options, memleak_run.PAST_THE_END) as process:
                    ticks = workloads.cpu_ticks(load.pids[0])
                    workloads.wait_for(lambda: workloads.cpu_ticks(load.pids[0]) > ticks + 200, "node does not work")
                    reports = [memleak_run.finish(tool)[0] for tool in (process, small)]
        for report in reports:
            shown = [stack for stack in report.stacks if stack.frames]
            self.assertGreater(len(shown), 30)
            chains = collections.Counter(chain(stack) for stack in shown)
            self.assertEqual([one for one, rows in chains.items() if rows > 1], [])
            lost = [tuple(stack.notes) for stack in report.stacks if not stack.frames]
            self.assertEqual(len(lost), len(set(lost)), "a row for each reason")
            mangled = [frame for stack in shown for frame in stack.frames if (frame.name or "").startswith("_ZN")]
            self.assertEqual(mangled, [])
        self.assertGreater(reports[1].account.dropped, 0)


if __name__ == "__main__":
    bpf_support.require_bpf()
    memleak_run.MEMLEAK, DATA_IN_RBP, RELOAD, PLUGIN_A, PLUGIN_B = (os.path.abspath(sys.argv.pop(1)) for _ in range(5))
    unittest.main()

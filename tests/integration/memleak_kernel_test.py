#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""memleak and the kernel: how much of dwunw's walk it verifies, and its own allocations."""

import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import memleak_report  # noqa: E402
import memleak_run  # noqa: E402
from memleak_run import OFF, PAST_THE_END, memleak, target  # noqa: E402


def verified_instructions(pid):
    """How many the kernel looked at for each program that the process holds."""
    programs = [info.read_text() for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    return [int(number) for text in programs for number in re.findall(r"^verified_insns:\s+(\d+)$", text, re.M)]


class Verifier(unittest.TestCase):
    def test_without_dwunw_the_kernel_verifies_none_of_its_walk(self):
        """Before Linux 6.8 global functions are verified also where nothing calls them: 81,598 instructions a program."""
        for options, fewest, most in (OFF, 0, 2000), (["--dwunw-mode=force"], 10000, 1 << 30):
            with self.subTest(options), target() as running:
                with memleak("-p", str(running.pid), *options, PAST_THE_END) as process:
                    numbers = verified_instructions(process.pid)
                    self.assertGreater(len(numbers), 3)
                    self.assertGreater(max(numbers), fewest)
                    self.assertLess(max(numbers), most)


class KernelAllocations(unittest.TestCase):
    """tracefs is mounted in a mount namespace that ends with the run."""

    def trace(self, *options):
        script = 'mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", memleak_run.MEMLEAK, *options]
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


if __name__ == "__main__":
    memleak_run.main()

# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs `dwunw memleak`, and reads what it prints."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import memleak_report

TRACING = "Tracing outstanding memory allocs...  Hit Ctrl-C to end\n"
PAST_THE_END = "2000000000"  # seconds: the report comes when the tool is told to end
ROOTS = ("_start", "__clone3", "clone3", "__clone", "clone")
EVERYTHING = ("-o", "0", "-T", "1000000")

HEAD = re.compile(r"(\d+) bytes in (\d+) allocations from stack((?: \[[^]]*\])*)")
TOTAL = re.compile(r"memleak: (\d+) bytes in (\d+) allocations from (\d+) stacks(.*)")
MISMATCH = re.compile(r"(\d+) blocks of (.+) were freed by (.+)\. Allocated at")
LOST = re.compile(r"memleak: lost: (.+): (\d+)(?:; .+)?")


class Row(memleak_report.Stack):
    """A row; `marks` are what its first line says in brackets."""

    def __init__(self, head):
        super().__init__(int(head[1]), int(head[2]))
        self.marks = re.findall(r"\[([^]]*)\]", head[3])

    def __repr__(self):
        return f"{self.marks} {super().__repr__()}"


class Report:
    """A report. AssertionError: a line is not one of the tool's."""

    def __init__(self, header):
        self.top = int(memleak_report.HEADER.fullmatch(header)[1])
        self.rows, self.remarks, self.lost, self.mismatches = [], [], {}, []
        self.at = None  # whose frames come
        self.bytes = self.count = self.stacks = None

    def add(self, line):
        if match := HEAD.fullmatch(line):
            self.rows.append(Row(match))
            self.at = self.rows[-1]
        elif match := MISMATCH.fullmatch(line):
            self.at = memleak_report.Stack(0, int(match[1]))
            self.mismatches.append((match[2], match[3], self.at))
        elif line == "    freed at":
            self.at = memleak_report.Stack(0, self.at.count)
            self.mismatches[-1] += (self.at,)
        elif match := memleak_report.BLOCK.fullmatch(line):
            self.at.blocks.append((int(match[1], 16), int(match[2])))
        elif match := memleak_report.FRAME.fullmatch(line):
            frames = self.at.frames
            assert int(match[1]) == len(frames), line
            name, offset = match[3] or match[6], match[4] or match[7]
            frames.append(memleak_report.Frame(int(match[2], 16), name, offset and int(offset, 16), match[5], match[8]))
        elif match := re.fullmatch(r"\t\[(.*)\]", line):
            self.at.notes.append(match[1])
        elif match := TOTAL.fullmatch(line):
            self.bytes, self.count, self.stacks = (int(match[i]) for i in (1, 2, 3))
            self.remarks.append(match[4])
        elif match := LOST.fullmatch(line):
            self.lost[match[1]] = int(match[2])
        elif line.startswith("memleak: "):
            self.remarks.append(line)
        else:
            return False
        return True

    def by_site(self, prefix="site_"):
        """The rows whose stack has a function of this prefix, by the innermost of these functions."""
        sites = {}
        for row in self.rows:
            site = next((name for name in row.names() if name and name.startswith(prefix)), None)
            if site:
                sites.setdefault(site, []).append(row)
        return sites


def parse(text):
    """The reports, and all lines that belong to none: those of a command, if it writes to the same stream."""
    reports, others = [], []
    for line in text.splitlines():
        if memleak_report.HEADER.fullmatch(line):
            reports.append(Report(line))
        elif not reports or not reports[-1].add(line):
            others.append(line)
    for report in reports:
        assert report.bytes is not None, (report.top, text[-2000:])
    return reports, others


def run(tool, *arguments, timeout=120, **options):
    """A whole run of `dwunw memleak`."""
    return subprocess.run([tool, "memleak", *arguments], capture_output=True, text=True, timeout=timeout, check=False,
                          **options)  # fmt: skip


@contextlib.contextmanager
def attached(tool, *arguments, before=(), **options):
    """The tool, when it says that it traces. What follows in its output are reports."""
    command = [*before, tool, "memleak", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        line = ""
        while line != TRACING:
            line = process.stdout.readline()
            assert line, (process.wait(), process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process, number=signal.SIGINT):
    """Ends the tool by a signal: its last report, the lines of others, and what it said on standard error."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    reports, others = parse(output)
    return reports[-1], others, errors


def is_root(name):
    return name is not None and name in ROOTS


def arguments(*names):
    """The script's first arguments, as absolute paths; the rest stays for unittest."""
    values = [os.path.abspath(sys.argv.pop(1)) for _ in names]
    return values[0] if len(values) == 1 else values

# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Reads what examples/memleak_bcc_dwunw prints."""

import collections
import re

Frame = collections.namedtuple("Frame", "address name offset module mark")
Account = collections.namedtuple("Account", "walked distinct partial why_partial dropped")

HEADER = re.compile(r"\[\d+:\d+:\d+\] Top (\d+) stacks with outstanding allocations:")
HEAD = re.compile(r"(\d+) bytes in (\d+) allocations from stack")
BLOCK = re.compile(r"\taddr = (0x[0-9a-f]+) size = (\d+)")
# A process's frame has a module, the kernel's has none.
FRAME = re.compile(
    r"\t(\d+) \[<([0-9a-f]{16})>\] (?:<null sym>|(?:(.+)\+0x([0-9a-f]+) )?\[(/[^]]*|\[\w+\])\]|(.+)\+0x([0-9a-f]+))( \[(?:frame pointer|code)\])?"
)
ACCOUNT = re.compile(
    r"dwunw: (\d+) allocations walked, (\d+) distinct stacks, (\d+) partial((?: \[[^]]+: \d+\])*), (\d+) dropped \(ring buffer full\)"
)


# What else a line may say of all allocations, and the options that help.
OFF = re.compile(r"dwunw: off, stacks are by frame pointers: (.+)")
OTHER = re.compile(r"dwunw: ([^:]+): (\d+)((?: \[[^]]+: \d+\])*)(?:; raise (--[\w-]+(?:, --[\w-]+)*))?")


class Stack:
    """One stack of a report; `notes` are its lines in brackets."""

    def __init__(self, total, count):
        self.bytes, self.count = total, count
        self.blocks, self.frames, self.notes = [], [], []

    def names(self):
        return [frame.name for frame in self.frames]

    def is_complete(self):
        """It reaches the beginning of the stack, and memleak adds no note."""
        return bool(self.frames) and not self.notes

    def __repr__(self):
        frames = "\n".join(f"\t{frame}" for frame in self.frames)
        return f"{self.bytes} bytes in {self.count} blocks {self.notes}\n{frames}"


class Report:
    """One report. AssertionError: a line is not one of memleak's. `others`: dwunw's further lines, by name: a number,
    and numbers by reason. `options`: the options that they say to raise. `off`: why dwunw is off against the request."""

    def __init__(self, header, lines):
        self.top = int(HEADER.fullmatch(header)[1])
        self.stacks = []
        self.account = None
        self.off = None
        self.others = {}
        self.options = {}
        for line in lines:
            if match := HEAD.fullmatch(line):
                self.stacks.append(Stack(int(match[1]), int(match[2])))
            elif match := BLOCK.fullmatch(line):
                self.stacks[-1].blocks.append((int(match[1], 16), int(match[2])))
            elif match := FRAME.fullmatch(line):
                frames = self.stacks[-1].frames
                assert int(match[1]) == len(frames), line
                name, offset = match[3] or match[6], match[4] or match[7]
                frames.append(Frame(int(match[2], 16), name, offset and int(offset, 16), match[5], match[8]))
            elif match := re.fullmatch(r"\t\[(.*)\]", line):
                self.stacks[-1].notes.append(match[1])
            elif match := OFF.fullmatch(line):
                self.off = match[1]
            elif match := ACCOUNT.fullmatch(line):
                numbers = [int(match[i]) for i in (1, 2, 3)]
                self.account = Account(*numbers, match[4].strip(), int(match[5]))
            elif match := OTHER.fullmatch(line):
                why = {reason: int(count) for reason, count in re.findall(r"\[([^]]+): (\d+)\]", match[3])}
                self.others[match[1]] = (int(match[2]), why)
                if match[4]:
                    self.options[match[1]] = match[4]
            else:
                raise AssertionError(f"not a line of a report: {line!r}")


def parse(text):
    """The reports in memleak's output, in their order, and the lines around them."""
    reports, around, current = [], [], None
    for line in text.splitlines():
        if HEADER.fullmatch(line):
            current = [line]
            reports.append(current)
        elif current is not None and (line.startswith("\t") or HEAD.fullmatch(line) or line.startswith("dwunw: ")):
            current.append(line)
        else:
            current = None
            around.append(line)
    return [Report(lines[0], lines[1:]) for lines in reports], around

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Compares `dwunw stack` with `eu-stack`: the same stopped process, every thread, frame for frame.

Starts real programs under load (tests/support/workloads.py), stops each with SIGSTOP at many moments, and runs both
tools on it. A thread's stacks are

  equal       the same return addresses from the innermost frame to the root;
  eu shorter  eu-stack ended in an error of its own, and its frames are the beginning of dwunw's;
  eu wrong    dwunw reached the root, and eu-stack went on to an address that is not code, where it ended in an error; or the
              thread is in code without CFI and without a frame pointer of its own, and eu-stack, using rbp, left out the
              caller to which the code returns;
  we shorter  dwunw gave a reason why it stopped, and its frames are the beginning of eu-stack's;
  guessed     the thread is in code without CFI that may not have set rbp up: dwunw ends there and says so, and eu-stack uses
              rbp nevertheless;
  different   anything else.

Names are compared if both tools have one. Two names for one address (aliases) are equal if the process's own symbol tables
have both.

Exit status: 0 if every thread is `equal`, `eu shorter`, `eu wrong` or `guessed`; 1 otherwise. --allow-shorter also accepts
`we shorter`. --gdb prints gdb's stack of every thread that is not equal.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import workloads  # noqa: E402

TOOL_SECONDS = 120
FRAME = re.compile(r"#(\d+)\s+0x([0-9a-f]{16})(?: (.*))?")
OUR_FRAME_REST = re.compile(r"(?:(?P<name>.+?)\+0x(?P<offset>[0-9a-f]+))?(?: ?- (?P<module>[/\[].*?))?(?: ?\[no code\])?(?P<fp> ?\[frame pointer\])?(?P<code> ?\[code\])?")
VERSION = re.compile(r"@.*")


@dataclasses.dataclass
class Frame:
    pc: int
    name: str | None
    frame_pointer: bool = False
    by_code: bool = False


@dataclasses.dataclass
class Thread:
    tid: int
    frames: list = dataclasses.field(default_factory=list)
    problem: str | None = None  # why the walk ended before the root


class OutputError(Exception):
    """A tool printed what its layout does not allow."""


def parse(text, parse_rest, pid, kind="process"):
    """The layout that eu-stack and dwunw share; `parse_rest` takes what follows a frame's address."""
    lines = text.splitlines()
    if not lines or lines[0] != f"PID {pid} - {kind}":
        raise OutputError(f"no PID line: {lines[:1]}")
    threads = []
    for line in lines[1:]:
        if thread := re.fullmatch(r"TID (\d+):", line):
            threads.append(Thread(int(thread[1])))
        elif (frame := FRAME.fullmatch(line)) and threads:
            if int(frame[1]) != len(threads[-1].frames):
                raise OutputError(f"frames out of order: {line}")
            threads[-1].frames.append(parse_rest(int(frame[2], 16), frame[3] or ""))
        elif (reason := re.fullmatch(r"TID (\d+): (.+)", line)) and threads and threads[-1].tid == int(reason[1]):
            threads[-1].problem = reason[2]
        else:
            raise OutputError(f"unexpected line: {line}")
    return threads


def parse_dwunw(text, pid):
    def rest(pc, text):
        match = OUR_FRAME_REST.fullmatch(text)
        if not match:
            raise OutputError(f"unexpected frame: {text}")
        return Frame(pc, match["name"], bool(match["fp"]), bool(match["code"]))

    return parse(text, rest, pid)


def parse_eu_stack(text, errors, pid, kind="process"):
    threads = parse(text, lambda pc, text: Frame(pc, VERSION.sub("", text) or None), pid, kind)
    by_tid = {thread.tid: thread for thread in threads}
    for line in errors.splitlines():
        if found := re.search(r"dwfl_thread_getframes tid (\d+)(.*)", line):
            if int(found[1]) in by_tid:
                by_tid[int(found[1])].problem = found[2].strip()
    return threads


def executable_ranges(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        fields = [line.split(maxsplit=2) for line in maps]
    return [tuple(int(end, 16) for end in span.split("-")) for span, mode, _ in fields if "x" in mode]


def verdict(theirs, ours, is_code):
    """How one thread's two stacks relate; `is_code` says whether an address is executable."""
    their_pcs = [frame.pc for frame in theirs.frames]
    our_pcs = [frame.pc for frame in ours.frames]
    if their_pcs == our_pcs:
        # eu-stack may end in an error where we say that this was the root, and the other way round.
        if ours.problem and not theirs.problem:
            return "we shorter"
        return "eu shorter" if theirs.problem and not ours.problem else "equal"
    if theirs.problem and our_pcs[: len(their_pcs)] == their_pcs:
        return "eu shorter"
    if their_pcs[: len(our_pcs)] == our_pcs:
        if ours.problem:
            return "we shorter"
        if theirs.problem and not is_code(their_pcs[len(our_pcs)]):
            return "eu wrong"
    return "different"


def returns_to(pid, tid, pc):
    """Where a thread stopped at a `ret` at `pc` returns to; None where it stands elsewhere."""
    # Outside a system call the kernel shows -1, SP and pc.
    words = pathlib.Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
    if len(words) != 3 or int(words[2], 16) != pc:
        return None
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(pc)
        if memory.read(1) != b"\xc3":
            return None
        memory.seek(int(words[1], 16))
        return int.from_bytes(memory.read(8), "little")


def leaves_out_the_caller(theirs, ours, pid):
    """Whether eu-stack's stack lacks just the innermost one's caller, which the code, or the `ret` there, says is one. Behind
    that caller dwunw may end with a reason."""
    their_pcs = [frame.pc for frame in theirs.frames]
    our_pcs = [frame.pc for frame in ours.frames]
    without_caller = our_pcs[:1] + our_pcs[2:]
    compared = their_pcs[: len(without_caller)] if ours.problem else their_pcs
    if compared != without_caller or len(our_pcs) < 2:
        return False
    return ours.frames[1].by_code or returns_to(pid, ours.tid, our_pcs[0]) == our_pcs[1]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS, check=False)
    return done.stdout, done.stderr, done.returncode


def run_eu_stack(options, pid):
    out, errors, _ = run([options.eu_stack, "-n", "0", "-p", str(pid)])
    return parse_eu_stack(out, errors, pid)


def run_dwunw(options, pid):
    out, errors, status = run([options.dwunw, "stack", "-n", "0", "-p", str(pid)])
    if status != 0 or errors:
        raise OutputError(f"dwunw stack -p {pid} ended with {status}: {errors}")
    return parse_dwunw(out, pid)


GDB_SCRIPT = """
import gdb
for thread in sorted(gdb.selected_inferior().threads(), key=lambda thread: thread.ptid[1]):
    thread.switch()
    print(f"TID {thread.ptid[1]}:")
    try:
        frame = gdb.newest_frame()
        number = 0
        while frame is not None and number < 100000:
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                print(f"#{number} {frame.pc():#018x} {frame.name() or ''}")
                number += 1
            frame = frame.older()
        print(f"end: {gdb.frame_stop_reason_string(gdb.newest_frame().unwind_stop_reason())}")
    except gdb.error as error:
        print(f"end: {error}")
"""


def run_gdb(pid):
    """What gdb thinks, as text by thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(GDB_SCRIPT)
        script.flush()
        command = ["/usr/bin/gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]
        command += ["-iex", "set auto-load off", "-p", str(pid), "-x", script.name]
        out, _, _ = run(command)
    stacks = {}
    for line in out.splitlines():
        if found := re.fullmatch(r"TID (\d+):", line):
            stacks[int(found[1])] = current = []
        elif re.match(r"#\d+ 0x|end: ", line) and stacks:
            current.append(line)
    return stacks


def states(pid):
    found = []
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found.append(stat.read_text().rpartition(")")[2].split()[0])
    return found


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        workloads.wait_for(lambda: all(state in "Tt" for state in states(pid)), f"{pid} does not stop")
        yield
        # A tracer that leaves wakes its tracees, and they stop again by themselves.
        workloads.wait_for(
            lambda: all(state in "Tt" for state in states(pid)), f"{pid} runs again after the tools left it", seconds=5
        )
    finally:
        os.kill(pid, signal.SIGCONT)


class Aliases:
    """Which names a process's symbol tables have for one address, read with nm from its files and their debug files."""

    def __init__(self):
        self.names = {}

    def same(self, pid, pc, one, other):
        table = self._table(pid, pc)
        return bool(table.get(one, set()) & table.get(other, set()))

    def _table(self, pid, pc):
        path = self._path(pid, pc)
        if path not in self.names:
            addresses = collections.defaultdict(set)
            for file, dynamic in ((path, False), (path, True), (self._debug_file(path), False)):
                if file:
                    out, _, _ = run(["/usr/bin/nm", "--demangle", *(["-D"] if dynamic else []), file])
                    for line in out.splitlines():
                        if found := re.match(r"([0-9a-f]{16}) [A-Za-z] (.*)", line):
                            addresses[VERSION.sub("", found[2])].add(int(found[1], 16))
            self.names[path] = addresses
        return self.names[path]

    @staticmethod
    def _path(pid, pc):
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split(maxsplit=5)
            low, high = (int(part, 16) for part in words[0].split("-"))
            if low <= pc < high and len(words) == 6:
                return words[5]
        return None

    @staticmethod
    def _debug_file(path):
        if not path or not path.startswith("/"):
            return None
        out, _, _ = run(["/usr/bin/readelf", "-n", path])
        found = re.search(r"Build ID: ([0-9a-f]{2})([0-9a-f]+)", out)
        debug = found and f"/usr/lib/debug/.build-id/{found[1]}/{found[2]}.debug"
        return debug if debug and os.path.exists(debug) else None


@dataclasses.dataclass
class Figures:
    samples: int = 0
    threads: int = 0
    frames: int = 0
    names: int = 0
    aliases: int = 0
    only_ours: int = 0  # frames that only dwunw named
    only_theirs: int = 0
    frame_pointer: int = 0
    verdicts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    reasons: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong_names: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def describe(theirs, ours, gdb_stack, judge="eu-stack"):
    lines = [f"  {judge}: {theirs.problem or 'complete'}, dwunw: {ours.problem or 'complete'}"]
    rows = max(len(theirs.frames), len(ours.frames))
    first = next(
        (i for i in range(rows) if i >= min(len(theirs.frames), len(ours.frames)) or theirs.frames[i].pc != ours.frames[i].pc),
        rows,
    )
    for i in range(max(0, first - 3), min(rows, first + 5)):
        sides = []
        for stack in (theirs, ours):
            frame = stack.frames[i] if i < len(stack.frames) else None
            sides.append(f"{frame.pc:016x} {frame.name or '-'}{' [fp]' if frame.frame_pointer else ''}" if frame else "(end)")
        lines.append(f"  #{i:<3} {sides[0]:60.60} | {sides[1]}")
    if gdb_stack is not None:
        lines += [f"  gdb: {line}" for line in gdb_stack[max(0, first - 3) : first + 8]]
    return "\n".join(lines)


class Comparison:
    def __init__(self, options):
        self.options = options
        self.aliases = Aliases()
        self.random = random.Random(options.seed)

    def program(self, name):
        figures = Figures()
        with workloads.start(name) as load:
            load.wait_until_busy()
            for _ in range(self.options.samples):
                load.check_alive()
                for pid in load.find_pids():
                    try:
                        self.sample(name, pid, figures)
                    except ProcessLookupError:
                        continue  # a short-lived process (a compiler) has ended
                load.let_run(self.random)
        return figures

    def sample(self, name, pid, figures):
        with stopped(pid):
            # Neither tool may profit from what the other did to the process.
            if self.random.random() < 0.5:
                theirs, ours = run_eu_stack(self.options, pid), run_dwunw(self.options, pid)
            else:
                ours, theirs = run_dwunw(self.options, pid), run_eu_stack(self.options, pid)
            self.compare(name, pid, theirs, ours, figures)

    def compare(self, name, pid, theirs, ours, figures):
        figures.samples += 1
        their_tids, our_tids = sorted(t.tid for t in theirs), [t.tid for t in ours]
        if their_tids != our_tids:
            raise OutputError(f"{name}: threads differ: eu-stack {their_tids}, dwunw {our_tids}")
        if our_tids != sorted(int(task) for task in os.listdir(f"/proc/{pid}/task")):
            raise OutputError(f"{name}: not every thread was shown")
        by_tid = {thread.tid: thread for thread in theirs}
        gdb_stacks = None
        ranges = executable_ranges(pid)
        for our in ours:
            their = by_tid[our.tid]
            result = verdict(their, our, lambda pc: any(start <= pc < end for start, end in ranges))
            if result == "different" and leaves_out_the_caller(their, our, pid):
                result = "eu wrong"
            if result == "we shorter" and len(our.frames) == 1 and our.problem == "no call-frame information":
                result = "guessed"
            figures.threads += 1
            figures.frames += len(our.frames)
            figures.frame_pointer += sum(frame.frame_pointer for frame in our.frames)
            figures.verdicts[result] += 1
            if our.problem:
                figures.reasons[f"dwunw: {our.problem}"] += 1
            if their.problem:
                figures.reasons[f"eu-stack: {re.sub('0x[0-9a-f]+', '…', their.problem)}"] += 1
            self.compare_names(pid, their, our, figures)
            if result not in ("equal", "guessed") and (result != "eu shorter" or self.options.gdb):
                if self.options.gdb and gdb_stacks is None:
                    gdb_stacks = run_gdb(pid)
                print(f"{name} {pid}/{our.tid}: {result}\n{describe(their, our, (gdb_stacks or {}).get(our.tid))}")

    def compare_names(self, pid, theirs, ours, figures):
        for their, our in zip(theirs.frames, ours.frames):
            if their.pc != our.pc:
                return
            if their.name and our.name:
                figures.names += 1
                if their.name == our.name:
                    continue
                if self.aliases.same(pid, our.pc, their.name, our.name):
                    figures.aliases += 1
                else:
                    figures.wrong_names[(their.name, our.name)] += 1
            elif our.name:
                figures.only_ours += 1
            elif their.name:
                figures.only_theirs += 1


def report(name, figures):
    counts = figures.verdicts
    print(
        f"{name:13} {figures.samples:5} stops {figures.threads:6} threads {figures.frames:8} frames: "
        f"{counts['equal']} equal, {counts['eu shorter']} eu-stack shorter, "
        f"{counts['eu wrong']} eu-stack wrong, {counts['we shorter']} dwunw shorter, "
        f"{counts['different']} different; {figures.frame_pointer} by frame pointer; "
        f"names {figures.names}, of them {figures.aliases} aliases, {sum(figures.wrong_names.values())} differ; "
        f"named by dwunw only {figures.only_ours}, by eu-stack only {figures.only_theirs}; "
        f"{counts['guessed']} guessed by eu-stack"
    )
    for reason, count in sorted(figures.reasons.items()):
        print(f"    {count:6} {reason}")
    for (their, our), count in figures.wrong_names.most_common(20):
        print(f"    {count:6} names differ: eu-stack {their}, dwunw {our}")
    sys.stdout.flush()


def is_good(options, figures):
    counts = figures.verdicts
    return (
        counts["equal"] > 0
        and counts["different"] == 0
        and (counts["we shorter"] == 0 or options.allow_shorter)
        and not figures.wrong_names
        and figures.only_theirs == 0
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dwunw", required=True, help="the dwunw command")
    parser.add_argument("--eu-stack", default="/usr/bin/eu-stack")
    parser.add_argument("--programs", default="python3,redis-server,sqlite3", help="a list, or 'all' that are installed")
    parser.add_argument("--samples", type=int, default=10, help="stops of each program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--allow-shorter", action="store_true")
    parser.add_argument("--gdb", action="store_true", help="show gdb's view of every thread that is not equal")
    options = parser.parse_args()

    # ctest and people end us with signals: the programs have to end, too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))

    good = True
    for name in workloads.PROGRAMS if options.programs == "all" else options.programs.split(","):
        if options.programs == "all" and not workloads.is_installed(name):
            print(f"{name:13} skipped: not installed")
            continue
        comparison = Comparison(options)
        try:
            figures = comparison.program(name)
        except (workloads.WorkloadError, OutputError) as error:
            print(f"{name}: {error}")
            good = False
            continue
        report(name, figures)
        good = is_good(options, figures) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

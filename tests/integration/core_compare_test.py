#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Compares `dwunw stack --core` with `eu-stack --core` and gdb (the judges): the same core file, every thread, frame for frame.

    core_compare_test.py --dwunw … --corpus FOLDER      the cores that bench/collect.py took: a folder a program
    core_compare_test.py --dwunw … --take python3,…     takes cores of these programs itself, with `dwunw core`

The result of each comparison is one of these:

  equal          the same return addresses from the innermost frame to the root;
  judge shorter  the judge ended before the root, and its frames are the beginning of dwunw's;
  we shorter     dwunw gave a reason why it stopped, and its frames are the beginning of the judge's, which reached the
                 root by CFI alone;
  guessed        as `we shorter`, or the judge differs, but only from a frame on that no CFI covers: there the judge guesses,
                 and dwunw stops or uses a checked frame pointer; and the other judge does not agree;
  judge wrong    dwunw reached the root, and the other judge is equal to dwunw; or the judge went on to an address that is
                 not code (gdb does not know the dynamic linker before that has run); or the judge takes an address that
                 the core does not hold for the root, and the two others agree;
  different      anything else.

readelf says whether CFI covers a frame (--debug-dump=frames, the FDEs' ranges), not dwunw.

Exit status: 0 if no stack is `different` or `we shorter`.
"""

import argparse
import bisect
import collections
import dataclasses
import functools
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import stack_compare_test as stack_compare  # noqa: E402
import workloads  # noqa: E402

NT_AUXV, NT_FILE = 6, 0x46494C45
AT_ENTRY = 9
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1


@dataclasses.dataclass
class Mapping:
    start: int
    end: int
    offset: int
    path: str


class Core:
    """What of a core file the judges need."""

    def __init__(self, path):
        self.path = path
        self.pid = int(path.stem.rpartition("-")[2])
        self.data = path.read_bytes()
        self.files = []
        self.entry = 0
        self.code = []
        for kind, flags, offset, address, file_size, size in self._segments():
            if kind == PT_NOTE:
                self._read_notes(self.data[offset : offset + file_size])
            elif kind == PT_LOAD and flags & PF_X:
                self.code.append((address, address + size))

    def _segments(self):
        table, count = struct.unpack_from("<Q", self.data, 32)[0], struct.unpack_from("<H", self.data, 56)[0]
        for i in range(count):
            kind, flags, offset, address, _, file_size, size, _ = struct.unpack_from("<IIQQQQQQ", self.data, table + 56 * i)
            yield kind, flags, offset, address, file_size, size

    def _read_notes(self, notes):
        at = 0
        while at + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            at += 12 + (name_size + 3) // 4 * 4
            body = notes[at : at + size]
            at += (size + 3) // 4 * 4
            if kind == NT_AUXV:
                values = dict(struct.iter_unpack("<QQ", body))
                self.entry = values.get(AT_ENTRY, 0)
            elif kind == NT_FILE:
                count, page = struct.unpack_from("<QQ", body)
                names = body[16 + 24 * count :].split(b"\0")
                for i in range(count):
                    start, end, offset = struct.unpack_from("<QQQ", body, 16 + 24 * i)
                    self.files.append(Mapping(start, end, offset * page, names[i].decode(errors="replace")))

    def mapping(self, address):
        return next((file for file in self.files if file.start <= address < file.end), None)

    def is_code(self, address):
        return any(start <= address < end for start, end in self.code)

    @property
    def program(self):
        return self.mapping(self.entry).path


@functools.cache
def fde_ranges(path):
    """The FDEs' address ranges in a file, by readelf; and its PT_LOADs (offset, address, size)."""
    out, _, _ = stack_compare.run(["/usr/bin/readelf", "-W", "--debug-dump=frames", path])
    ranges = sorted(
        (int(low, 16), int(high, 16)) for low, high in re.findall(r" FDE .*? pc=([0-9a-f]+)\.\.([0-9a-f]+)", out)
    )
    out, _, _ = stack_compare.run(["/usr/bin/readelf", "-W", "-l", path])
    loads = [
        tuple(int(word, 16) for word in found) for found in re.findall(r"LOAD +(0x\w+) (0x\w+) 0x\w+ (0x\w+)", out)
    ]
    return ranges, loads


def has_cfi(core, frame_number, pc):
    """Whether an FDE covers the frame's code; None where it is not a file's."""
    address = pc - (frame_number > 0)
    mapping = core.mapping(address)
    if mapping is None or not pathlib.Path(mapping.path).is_file():
        return None
    ranges, loads = fde_ranges(mapping.path)
    offset = address - mapping.start + mapping.offset
    for start, link, size in loads:
        if start <= offset < start + size:
            place = link + offset - start
            at = bisect.bisect_right(ranges, (place, 1 << 64)) - 1
            return at >= 0 and ranges[at][0] <= place < ranges[at][1]
    return False


def run_eu_stack(core, options):
    out, errors, _ = stack_compare.run([options.eu_stack, "-n", "0", f"--core={core.path}", "-e", core.program])
    return {thread.tid: thread for thread in stack_compare.parse_eu_stack(out, errors, core.pid, "core")}


GDB_SCRIPT = """
import gdb
for thread in gdb.selected_inferior().threads():
    thread.switch()
    print(f"TID {thread.ptid[1]}:")
    frame, number, why = None, 0, None
    try:
        frame = gdb.newest_frame()
        while frame is not None and number < 100000:
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                print(f"#{number} {frame.pc():#018x}")
                number += 1
            older = frame.older()
            if older is None and frame.unwind_stop_reason() not in (gdb.FRAME_UNWIND_NO_REASON, gdb.FRAME_UNWIND_OUTERMOST):
                why = gdb.frame_stop_reason_string(frame.unwind_stop_reason())
            frame = older
    except gdb.error as error:
        why = str(error).replace(chr(10), " ")
    if why:
        print(f"TID {thread.ptid[1]}: {why}")
"""


def run_gdb(core, options):
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(GDB_SCRIPT)
        script.flush()
        command = [options.gdb, "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off"]
        # Frames as CFI has them, and down to the root.
        command += ["-iex", "set backtrace past-main on", "-iex", "set backtrace past-entry on"]
        command += [core.program, "-c", core.path, "-x", script.name]
        out, _, _ = stack_compare.run(command)
    lines = [line for line in out.splitlines() if re.match(r"TID \d+:|#\d+ 0x[0-9a-f]{16}$", line)]
    text = "\n".join([f"PID {core.pid} - core", *lines])
    return {
        thread.tid: thread
        for thread in stack_compare.parse(text, lambda pc, _: stack_compare.Frame(pc, None), core.pid, "core")
    }


def run_dwunw(core, options):
    out, errors, status = stack_compare.run([options.dwunw, "stack", "-n", "0", "--core", core.path])
    if status != 0 or errors:
        raise stack_compare.OutputError(f"dwunw stack --core {core.path} ended with {status}: {errors}")
    return stack_compare.parse_dwunw(out, core.pid)


def pcs(stack):
    return [frame.pc for frame in stack.frames]


def same_to_the_root(one, other):
    return one is not None and other is not None and pcs(one) == pcs(other) and not one.problem and not other.problem


def first_difference(one, other):
    common = 0
    for a, b in zip(pcs(one), pcs(other)):
        if a != b:
            break
        common += 1
    return common


def compare(core, ours, theirs, other):
    """The verdict on one judge's stack; `other` is the other judge's."""
    relation = stack_compare.verdict(theirs, ours, core.is_code)
    if relation == "equal":
        return "equal"
    if relation == "eu shorter":
        return "judge shorter"
    # eu-stack takes a return address that the core does not hold for the root.
    if other is not None and pcs(ours) == pcs(theirs) == pcs(other) and ours.problem and other.problem:
        return "judge wrong"
    # The last frame that both have leads to where they part.
    common = first_difference(ours, theirs)
    leads_nowhere = not ours.problem and common < len(theirs.frames) and not core.is_code(theirs.frames[common].pc)
    if leads_nowhere or same_to_the_root(ours, other):
        return "judge wrong"
    parting = common - 1
    if parting >= 0 and not has_cfi(core, parting, ours.frames[parting].pc):
        return "guessed"
    return relation


@dataclasses.dataclass
class Figures:
    cores: int = 0
    threads: int = 0
    frames: int = 0
    complete: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    confirmed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    verdicts: dict = dataclasses.field(default_factory=lambda: {"eu-stack": collections.Counter(), "gdb": collections.Counter()})
    reasons: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Comparison:
    def __init__(self, options):
        self.options = options

    def core(self, name, path, figures):
        core = Core(path)
        ours = run_dwunw(core, self.options)
        judges = {"eu-stack": run_eu_stack(core, self.options)}
        if self.options.gdb:
            judges["gdb"] = run_gdb(core, self.options)
        figures.cores += 1
        for our in ours:
            figures.threads += 1
            figures.frames += len(our.frames)
            figures.complete["dwunw"] += not our.problem
            if our.problem:
                figures.reasons[our.problem] += 1
            theirs = {judge: stacks.get(our.tid) for judge, stacks in judges.items()}
            all_three = {"dwunw": our, **theirs}
            for who, one in all_three.items():
                figures.confirmed[who] += any(same_to_the_root(one, all_three[other]) for other in all_three if other != who)
            for judge, their in theirs.items():
                if their is None:
                    raise stack_compare.OutputError(f"{path}: {judge} does not show thread {our.tid}")
                other = next((stack for name, stack in theirs.items() if name != judge), None)
                result = compare(core, our, their, other)
                figures.complete[judge] += not their.problem
                figures.verdicts[judge][result] += 1
                if result in ("different", "we shorter") or result in self.options.show:
                    print(f"{path} {our.tid}: {judge}: {result}\n{stack_compare.describe(their, our, None, judge)}")

    def program(self, name, cores):
        figures = Figures()
        for core in cores:
            self.core(name, core, figures)
        return figures


VERDICTS = ("equal", "judge shorter", "judge wrong", "guessed", "we shorter", "different")


def report(name, figures):
    complete = ", ".join(f"{who} {count}" for who, count in sorted(figures.complete.items()))
    confirmed = ", ".join(f"{who} {count}" for who, count in sorted(figures.confirmed.items()))
    print(f"{name:13} {figures.cores:4} cores {figures.threads:6} threads {figures.frames:8} frames; complete: {complete}")
    print(f"    complete, and the same as another unwinder's: {confirmed}")
    for judge, counts in figures.verdicts.items():
        if counts:
            print(f"    {judge:9}" + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]))
    for reason, count in sorted(figures.reasons.items()):
        print(f"    {count:6} dwunw: {reason}")
    sys.stdout.flush()


def is_good(figures):
    if any(counts[verdict] for counts in figures.verdicts.values() for verdict in ("different", "we shorter")):
        return False
    # A root that only one of three finds may be a guess.
    return figures.threads > 0 and figures.confirmed["dwunw"] == max(figures.confirmed.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dwunw", required=True, help="the dwunw command")
    parser.add_argument("--eu-stack", default="/usr/bin/eu-stack")
    parser.add_argument("--gdb", default="/usr/bin/gdb", help="'' for none")
    parser.add_argument("--corpus", type=pathlib.Path)
    parser.add_argument("--take", default="", help="a list of programs")
    parser.add_argument("--programs", default="", help="of the corpus; default: all")
    parser.add_argument("--cores", type=int, default=0, help="of each program, at most, chosen by chance; 0: all")
    parser.add_argument("--show", default="", help="verdicts to show stacks of, besides those that fail")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if bool(options.corpus) == bool(options.take):
        parser.error("either --corpus or --take")

    with tempfile.TemporaryDirectory(prefix="dwunw-cores-") as own:
        corpus = options.corpus or pathlib.Path(own)
        if options.take:
            collect = pathlib.Path(__file__).resolve().parent.parent.parent / "bench" / "collect.py"
            command = [collect, "--dwunw", options.dwunw, "--corpus", corpus, "--programs", options.take]
            subprocess.run([*command, "--moments", str(options.cores or 4)], check=True)
        return compare_all(options, corpus)


def compare_all(options, corpus):
    chance = random.Random(options.seed)
    names = options.programs.split(",") if options.programs else sorted(p.name for p in corpus.iterdir() if p.name[0] != ".")
    good = bool(names)
    for name in names:
        cores = sorted((corpus / name).iterdir())
        if options.cores and len(cores) > options.cores:
            cores = sorted(chance.sample(cores, options.cores))
        try:
            figures = Comparison(options).program(name, cores)
        except (workloads.WorkloadError, stack_compare.OutputError) as error:
            print(f"{name}: {error}")
            good = False
            continue
        report(name, figures)
        good = is_good(figures) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

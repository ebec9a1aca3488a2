#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Compares stacks of code without CFI with the same stacks with CFI.

    frames_without_cfi_test.py --dwunw …                     random programs, compiled half with frame pointers and half without
    frames_without_cfi_test.py --dwunw … --programs python3  real programs and their libraries

Each program runs with its CFI. The test walks cores of it twice: with its own files, which gives the truth, and with copies
whose CFI was removed (strip_cfi.py).

  right   the whole stack;
  short   the beginning of the stack, and a reason why it ends;
  wrong   anything else: a false frame, a missing frame, or a part that is called complete.

Exit status: 0 if no stack is wrong, at least --at-least were compared, and at least --right percent are right.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import random_program  # noqa: E402
import strip_cfi  # noqa: E402
import workloads  # noqa: E402

# Compiler, what all files get, what a half gets beside that: with and without a frame pointer.
VARIANTS = {
    "gcc-O2": ("gcc", "-O2"),
    "gcc-Os": ("gcc", "-Os"),
    "gcc-O3": ("gcc", "-O3"),
    "gcc-O1": ("gcc", "-O1 -fno-reorder-functions"),
    "gcc-O2-sections": ("gcc", "-O2 -ffunction-sections -fno-plt -mavx2"),
    "clang-O2": ("clang", "-O2"),
    "clang-Os": ("clang", "-Os"),
    "g++-O2": ("g++", "-O2"),
    "clang++-O2": ("clang++", "-O2"),
    "gcc-O2-static": ("gcc", "-O2 -static"),
}


def stacks(dwunw, core, *options):
    """By thread: the frames' addresses, whether they are all, and how each was found."""
    out = subprocess.run([dwunw, "stack", "--core", core, "--json", "--no-symbols", *options], stdout=subprocess.PIPE).stdout
    return {
        thread["tid"]: (
            [int(frame["pc"], 16) for frame in thread["frames"]],
            thread["complete"],
            [frame["source"] for frame in thread["frames"]],
        )
        for thread in json.loads(out)["threads"]
    }


class Figures:
    def __init__(self):
        self.counts = collections.Counter()
        self.ended_after = collections.Counter()

    def compare(self, truth, found, what):
        for tid, (pcs, complete, _) in truth.items():
            if not complete:
                self.counts["no truth"] += 1
                continue
            ours, ours_complete, sources = found.get(tid, ([], False, []))
            self.counts["frames by code"] += sources.count("code")
            self.counts["frames by frame pointer"] += sources.count("frame-pointer")
            if ours == pcs and ours_complete:
                self.counts["right"] += 1
            elif ours == pcs[: len(ours)] and not ours_complete:
                # Only _start is left to find, whose end the file no longer says.
                whole_but_root = len(ours) == len(pcs)
                self.counts["right" if whole_but_root else "short"] += 1
                if not whole_but_root:
                    self.ended_after[ours[-1]] += 1
            else:
                self.counts["wrong"] += 1
                at = next((i for i, (a, b) in enumerate(zip(ours, pcs)) if a != b), min(len(ours), len(pcs)))
                print(f"{what} thread {tid}: wrong at frame {at}")
                for i in range(max(0, at - 3), at + 3):
                    left = f"{ours[i]:x} {sources[i]}" if i < len(ours) else "-"
                    right = f"{pcs[i]:x}" if i < len(pcs) else "-"
                    print(f"    {i:3} {left:32} {right}")

    def total(self):
        return self.counts["right"] + self.counts["short"] + self.counts["wrong"]

    def line(self):
        total = self.total() or 1
        return (
            f"{self.total()} stacks: {self.counts['right']} right ({100 * self.counts['right'] / total:.1f} %), "
            f"{self.counts['short']} short, {self.counts['wrong']} wrong; frames: {self.counts['frames by code']} by code, "
            f"{self.counts['frames by frame pointer']} by frame pointer; {self.counts['no truth']} without a truth"
        )


def build(folder, variant, seed, functions):
    compiler, options = VARIANTS[variant]
    cpp = compiler.endswith("++")
    program = random_program.Program(seed, functions=functions, cpp=cpp)
    sources = program.write(folder)
    chance = random.Random(seed)
    objects = []
    for number, source in enumerate(sources):
        pointer = "-fomit-frame-pointer" if number % 2 else "-fno-omit-frame-pointer"
        target = source.with_suffix(".o")
        command = [compiler, *options.split(), "-w", "-fasynchronous-unwind-tables", "-fno-stack-protector", pointer]
        subprocess.run([*command, "-c", source, "-o", target], check=True)
        objects.append(target)
    chance.shuffle(objects)
    executable = folder / "program"
    subprocess.run([compiler, *options.split(), *objects, "-pthread", "-o", executable], check=True)
    return executable


class RandomProgram(workloads.Load):
    def __init__(self, executable):
        super().__init__()
        self.executable = executable

    def begin(self):
        self.run(self.executable)

    def end(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def cores_of(load, dwunw, folder, count, chance):
    load.wait_until_busy()
    for i in range(count):
        load.let_run(chance)
        for pid in load.pids:
            core = folder / f"core-{i}-{pid}"
            done = subprocess.run([dwunw, "core", "-p", str(pid), "-o", core], stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                raise workloads.WorkloadError(f"no core of {pid}: {done.stderr}")
            yield core


def without_cfi(folder, core, dwunw, only=None):
    """A folder that has the core's files without their CFI, laid out as the core names them."""
    out = subprocess.run([dwunw, "stack", "--core", core, "--json", "--no-symbols"], stdout=subprocess.PIPE).stdout
    for thread in json.loads(out)["threads"]:
        for frame in thread["frames"]:
            module = frame.get("module") or ""
            if not module.startswith("/"):
                continue
            target = folder / module[1:]
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if only and not only(module):
                shutil.copy(module, target)
            else:
                strip_cfi.strip(module, target)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dwunw", required=True)
    parser.add_argument("--beside", help="another dwunw, whose figures are printed too")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--programs", help="real programs instead")
    parser.add_argument("--functions", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--cores", type=int, default=10, help="a program")
    parser.add_argument("--libraries", action="store_true", help="take the CFI out of libraries as well")
    parser.add_argument("--at-least", type=int, default=0, help="stacks compared")
    parser.add_argument("--right", type=float, default=0, help="percent of them that have to be right")
    parser.add_argument("--keep", help="a folder that keeps the programs and the cores")
    parser.add_argument("--leave-out", type=int, help="spoil what dwunw found by this frame: the test of this test")
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()

    chance = random.Random(arguments.first_seed)
    walkers = {"dwunw": arguments.dwunw} | ({"beside": arguments.beside} if arguments.beside else {})
    all_figures = {name: Figures() for name in walkers}

    def judge(core, stripped, label, figures):
        truth = stacks(arguments.dwunw, core)
        for name, walker in walkers.items():
            found = stacks(walker, core, "--sysroot", stripped)
            if arguments.leave_out:
                for pcs, _, sources in found.values():
                    del pcs[arguments.leave_out : arguments.leave_out + 1], sources[arguments.leave_out : arguments.leave_out + 1]
            figures[name].compare(truth, found, f"{label} {core.name} {name}")

    def report(label, figures):
        for name, one in figures.items():
            print(f"{label} {name}: {one.line()}", flush=True)
            all_figures[name].counts.update(one.counts)
            if arguments.verbose:
                for pc, count in one.ended_after.most_common(8):
                    print(f"    {count} ended after {pc:x}")

    with contextlib.ExitStack() as stack:
        if arguments.keep:
            root = pathlib.Path(arguments.keep)
            root.mkdir(parents=True, exist_ok=True)
        else:
            root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dwunw-frames-")))
        if arguments.programs:
            for program in arguments.programs.split(","):
                folder = root / program
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                figures = {name: Figures() for name in walkers}
                with workloads.start(program) as load:
                    for core in cores_of(load, arguments.dwunw, folder, arguments.cores, chance):
                        judge(core, without_cfi(folder / "stripped", core, arguments.dwunw), program, figures)
                        if not arguments.keep:
                            core.unlink()
                report(program, figures)
        else:
            for variant in arguments.variants.split(","):
                for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                    folder = root / f"{variant}-{seed}"
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    executable = build(folder, variant, seed, arguments.functions)
                    figures = {name: Figures() for name in walkers}
                    only = None if arguments.libraries else (lambda path: path == str(executable))
                    with RandomProgram(executable) as load:
                        for core in cores_of(load, arguments.dwunw, folder, arguments.cores, chance):
                            stripped = without_cfi(folder / "stripped", core, arguments.dwunw, only)
                            judge(core, stripped, f"{variant}-{seed}", figures)
                            if not arguments.keep:
                                core.unlink()
                    report(f"{variant}-{seed}", figures)

    for name, figures in all_figures.items():
        print(f"all {name}: {figures.line()}")
    ours = all_figures["dwunw"]
    enough = ours.total() >= arguments.at_least and 100 * ours.counts["right"] >= arguments.right * ours.total()
    return 0 if enough and ours.counts["wrong"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

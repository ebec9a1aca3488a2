#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs memleak --dwunw-mode=force on programs of the distribution under load, and counts the complete stacks.

    memleak_complete_test.py --memleak FILE [--programs python3,redis-server,…|all] [--seconds N] [-- memleak options]

For each process it looks at memleak's counts of all walks, and at each stack of its report. It fails if less than 99 % of
either are complete, if a frame outside JIT code has no module, or if a program's processes allocate almost nothing. A walk
leaves JIT code by its frame pointer, and marks the next frame.
"""

import argparse
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import memleak_report  # noqa: E402
import workloads  # noqa: E402

WANTED = 0.99
FEWEST_WALKED = 100

class RedisOnLibc(workloads.Redis):
    """Debian's redis allocates through jemalloc, which has no mmap for memleak's required probes: libc goes first."""

    def run(self, *command, **options):
        return super().run(*command, env=dict(os.environ, LD_PRELOAD="libc.so.6"), **options)


PROGRAMS = {**workloads.PROGRAMS, "redis-server": RedisOnLibc}


def frames_without_module(stack):
    """Those of them that are not JIT code's."""
    outer_marks = [frame.mark for frame in stack.frames[1:]] + [None]
    return [frame for frame, outer in zip(stack.frames, outer_marks) if not frame.module and not frame.mark and not outer]


def look_at(memleak, name, pid, seconds, options):
    """One process: the number of allocations walked, and whether their stacks are as they should be."""
    command = [memleak, "-p", str(pid), "--dwunw-mode=force", "-T", "100000", *options, str(seconds), "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if run.returncode:
        print(f"{name} {pid}: memleak exits with {run.returncode}: {run.stderr[-500:]}")
        return 0, False
    reports, _ = memleak_report.parse(run.stdout)
    stacks, account = reports[-1].stacks, reports[-1].account
    incomplete = [stack for stack in stacks if not stack.is_complete()]
    unknown = [frame for stack in stacks for frame in frames_without_module(stack)]
    whole = 1 - account.partial / account.walked if account.walked else 1
    whole_shown = 1 - len(incomplete) / len(stacks) if stacks else 1
    depths = sorted(len(stack.frames) for stack in stacks) or [0]
    good = whole >= WANTED and whole_shown >= WANTED and not unknown
    print(
        f"{name} {pid}: {'good' if good else 'BAD'}: {account.walked} walked, {whole:.2%} complete {account.why_partial},"
        f" {account.dropped} dropped; {len(stacks)} outstanding stacks, {whole_shown:.2%} complete,"
        f" depth {depths[len(depths) // 2]} (most {depths[-1]}), {len(unknown)} frames without a module",
        flush=True,
    )
    if not good:
        print(*incomplete[:2], *unknown[:4], sep="\n")
    return account.walked, good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--memleak", required=True)
    parser.add_argument("--programs", default="python3,redis-server,sqlite3,nginx,perl,node")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    bpf_support.require_bpf()

    names = args.programs.split(",")
    if args.programs == "all":
        names = [name for name in workloads.PROGRAMS if workloads.is_installed(name)]
    bad = 0
    for name in names:
        with PROGRAMS[name]() as load:
            load.wait_until_busy()
            results = [look_at(args.memleak, name, pid, args.seconds, args.options) for pid in load.pids]
        walked = sum(count for count, _ in results)
        if walked < FEWEST_WALKED:
            print(f"{name}: BAD: only {walked} walked")
        bad += walked < FEWEST_WALKED or not all(good for _, good in results)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""storm_test.py --memleak FILE --target FILE --plugins DIR [--seconds N]: runs memleak on a program in which plugins, threads
and children come and go all the time.

The program logs the callers of each block that it keeps. The test demands: no stack in memleak's report differs from the
log by one frame; fewer than one block in a thousand has no complete stack, and each of those says why; fewer than one stack
in a thousand found the ring buffer full; memleak's memory stays below 100 MB and does not grow in the second half."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import memleak_report  # noqa: E402

MOST_MEMORY_KB = 100 << 10
MOST_GROWTH_KB = 24 << 10  # the table of ids doubles beside its old self, and nothing is forgotten below 16 MB
MOST_LOST = 0.001  # of stacks and blocks; --most-lost is for those that found the ring buffer full
REPORT_EACH = 10  # s: each one also forgets what no block has any more
ALLOCATOR = {"malloc", "__libc_malloc"}


def memory_kb(pid):
    """Resident without the file pages it shares."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def judge(truth, report):
    """Blocks by what their stacks are: whole, partial (with their notes), wrong, or not in the report."""
    found = {"whole": 0, "partial": 0, "wrong": 0, "missing": 0}
    kinds = {"plugin": [0, 0], "other": [0, 0]}
    notes, wrong, seen = {}, [], set()
    for stack in report.stacks:
        names = stack.names()
        while names and names[0] in ALLOCATOR:
            names = names[1:]
        for address, _ in stack.blocks:
            true = truth.get(address)
            if true is None:
                continue
            seen.add(address)
            kind = kinds["plugin" if "plugin_run" in true else "other"]
            kind[0] += 1
            if names[:len(true)] == true and not stack.notes:
                found["whole"] += 1
                continue
            kind[1] += 1
            # A frame without a name says nothing wrong, and a stack with a note may end early.
            agrees = all(name in (None, one) for name, one in zip(names, true))
            if not agrees or (len(names) < len(true) and not stack.notes):
                found["wrong"] += 1
                wrong.append((true, stack))
                continue
            found["partial"] += 1
            note = ", ".join(stack.notes)
            notes[note] = notes.get(note, 0) + 1
    found["missing"] = len(truth) - len(seen)
    return found, kinds, notes, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--memleak", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--plugins", required=True)
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("STORM_SECONDS", "270")))
    parser.add_argument("--most-lost", type=float, default=MOST_LOST)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    bpf_support.require_bpf()

    plugins = sorted(pathlib.Path(args.plugins).glob("*storm_plugin_*.so"), key=lambda path: int(path.stem.split("_")[-1]))
    assert len(plugins) >= 20, plugins
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory) / "log"
        target = subprocess.Popen([args.target, str(args.seconds), str(log), *map(str, plugins)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        pid = json.loads(target.stdout.readline())["pid"]
        memleak = subprocess.Popen([args.memleak, "-p", str(pid), "-a", "-T", "1000000", "--dwunw-mode=force",
                                    *args.options, str(REPORT_EACH)], stdout=subprocess.PIPE, text=True)
        lines, ready = [], threading.Event()

        def read():
            for line in memleak.stdout:
                lines.append(line)
                if line.startswith("Tracing outstanding"):
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        ready.wait()
        assert lines and lines[-1].startswith("Tracing outstanding"), "memleak did not start: " + "".join(lines)
        target.stdin.write("\n")
        target.stdin.flush()

        sizes, done = [], threading.Event()

        def watch():
            while not done.wait(1):
                sizes.append(memory_kb(memleak.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        totals = json.loads(target.stdout.readline())
        done.set()
        watcher.join()
        spent = cpu_seconds(memleak.pid)
        memleak.send_signal(2)
        assert memleak.wait(timeout=300) == 0, memleak.returncode
        reader.join()
        target.communicate("\n", timeout=30)
        truth = {}
        for line in log.read_text(encoding="ascii").splitlines():
            address, *names = line.split()
            truth[int(address, 16)] = names
    reports, _ = memleak_report.parse("".join(lines))
    report = reports[-1]
    found, kinds, notes, wrong = judge(truth, report)
    dropped, walked = report.account.dropped, report.account.walked
    half = sizes[len(sizes) // 2:]
    print(f"{args.seconds} s: {totals['plugins']} plugins loaded, {totals['threads']} threads, {totals['children']} children,"
          f" {totals['paths']} paths")
    print(f"{walked} stacks, {report.account.distinct} distinct, {dropped} dropped ({dropped / max(walked, 1):.3%}); "
          f"{report.others}")
    print(f"{len(truth)} blocks kept: {found}; plugins' {kinds['plugin'][0]}, not whole {kinds['plugin'][1]}; others "
          f"{kinds['other'][0]}, not whole {kinds['other'][1]}; notes {notes}")
    if found["missing"]:
        shown = {address for stack in report.stacks for address, _ in stack.blocks}
        print(f"missing: {[(hex(address), names) for address, names in truth.items() if address not in shown][:5]}")
    print(f"memleak: memory {sizes[0] if sizes else 0} KB at first, {max(sizes, default=0)} KB at most,"
          f" {half[-1] - half[0] if half else 0} KB more in the second half; {spent / args.seconds:.0%} of a core")
    print(f"memory, MB, at ten times: {[size // 1024 for size in sizes[:: max(len(sizes) // 10, 1)]]}")
    bad = []
    if wrong:
        bad.append(f"{found['wrong']} wrong, as this one: {wrong[0][0]}\n{wrong[0][1]}")
    by_ring = notes.get("no stack: the ring buffer is full", 0)
    if found["partial"] + found["missing"] - by_ring > MOST_LOST * len(truth):
        bad.append("too many blocks without a whole stack")
    if by_ring > args.most_lost * len(truth):
        bad.append("too many blocks found the ring buffer full")
    if dropped > args.most_lost * walked:
        bad.append("too many stacks found the ring buffer full")
    if max(sizes, default=0) > MOST_MEMORY_KB or (len(half) > 60 and half[-1] - half[0] > MOST_GROWTH_KB):
        bad.append("memory")
    if totals["plugins"] < 10 * args.seconds or not truth:
        bad.append("no storm")
    for line in bad:
        print(f"BAD: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

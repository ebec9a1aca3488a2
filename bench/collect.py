#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Takes the corpus of `make bench`: core files of real programs under load, at many moments each.

tests/support/workloads.py has the programs and their loads. `dwunw core` takes the cores: registers, whole stacks, the
file map; the modules stay the installed files. If a program's folder is complete, it stays unchanged, so that runs on one
corpus can be compared; --again takes new cores.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))
import workloads  # noqa: E402

# Single-purpose workloads of the tests, no programs that anyone profiles.
LEFT_OUT = ("at-return",)
CRASHES = ("signals",)
CRASHES_ALLOWED = 100


def take_cores(options, load, moment, folder):
    """Cores of the program's processes as they are now; how many."""
    taken = 0
    for pid in load.find_pids()[: options.processes]:
        command = [options.dwunw, "core", "-p", str(pid), "-o", folder / f"{moment:03}-{pid}.core"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            taken += 1
        elif os.path.exists(f"/proc/{pid}"):
            raise workloads.WorkloadError(f"dwunw core -p {pid}: {done.stderr}")
    return taken


def take(options, name, folder):
    """Cores of every process of one program at `options.moments` moments; how many."""
    chance = random.Random(f"{options.seed} {name}")
    moment = taken = 0
    # Unsafe signal handlers crash their program now and then.
    for attempt in range(CRASHES_ALLOWED):
        try:
            with workloads.start(name) as load:
                load.wait_until_busy()
                while moment < options.moments:
                    load.check_alive()
                    taken += take_cores(options, load, moment, folder)
                    moment += 1
                    load.let_run(chance)
            return taken
        except workloads.WorkloadError:
            if name not in CRASHES or attempt == CRASHES_ALLOWED - 1:
                raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dwunw", required=True, type=pathlib.Path, help="the dwunw command")
    parser.add_argument("--corpus", required=True, type=pathlib.Path, help="where the cores go: a folder a program")
    parser.add_argument("--programs", default="all", help="a list, or 'all' that are installed")
    parser.add_argument("--moments", type=int, default=20, help="of each program")
    parser.add_argument("--processes", type=int, default=10, help="of each program, at most, at each moment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="also for programs that the corpus has")
    options = parser.parse_args()
    # The programs have to end, too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))

    good = True
    for name in workloads.PROGRAMS if options.programs == "all" else options.programs.split(","):
        folder = options.corpus / name
        if name in LEFT_OUT or (folder.exists() and not options.again):
            continue
        if options.programs == "all" and not workloads.is_installed(name):
            print(f"collect: {name}: not installed")
            continue
        unfinished = options.corpus / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            taken = take(options, name, unfinished)
        except workloads.WorkloadError as error:
            print(f"collect: {name}: {error}")
            good = False
            continue
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        size = sum(core.stat().st_size for core in folder.iterdir())
        print(f"collect: {name}: {taken} cores, {size / 1e6:.1f} MB", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

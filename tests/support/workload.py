# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""A program under load: how it is started, watched and ended. workloads.py has the programs.

Every program runs in a folder of its own under a temporary one, on unix sockets or free loopback ports. What was started
is ended by pid when the block is left, however it is left; should the test itself be killed, the kernel ends its direct
children (PR_SET_PDEATHSIG), and a limit on CPU time ends every process that still runs.
"""

import contextlib
import ctypes
import os
import pathlib
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CPU_LIMIT_SECONDS = 600
BUSY_TICKS = 20  # of 10 ms: a program that has used this much CPU is at work
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class WorkloadError(Exception):
    """A program could not be started, or did not do what was expected of it."""


def pause(seconds):
    """Lets time pass between two looks at something; never a means to be in time."""
    select.select([], [], [], seconds)


def wait_for(condition, what, seconds=30):
    """Looks until `condition()` is true; its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise WorkloadError(f"timed out after {seconds} s: {what}")
        pause(0.01)


def cpu_ticks(pid):
    """User plus system time of a process in clock ticks."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def child_pids(pid):
    """Direct children, of all threads."""
    found = []
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in children.read_text().split()]
    return sorted(found)


def thread_count(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def _in_child():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_SECONDS, CPU_LIMIT_SECONDS))


class Load:
    """One program at work. Subclasses start processes with `run` and name those to look at in `find_pids`."""

    needs = ()  # files that have to be there

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dwunw-load-"))
        self.log = open(self.folder / "log", "w+b")
        self.processes = []
        self.pids = []

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def begin(self):
        raise NotImplementedError

    def find_pids(self):
        return [self.processes[0].pid]

    def run(self, *command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.folder,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=_in_child,
            **options,
        )
        self.processes.append(process)
        return process

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def said(self):
        """The end of what the processes printed, for messages."""
        self.log.flush()
        return (self.folder / "log").read_bytes()[-2000:].decode(errors="replace")

    def check_alive(self):
        for process in self.processes:
            if process.poll() is not None:
                raise WorkloadError(f"{process.args[0]} ended with status {process.returncode}:\n{self.said()}")

    def wait_until_busy(self):
        """Returns when every process to look at has done work."""

        def busy():
            self.check_alive()
            self.pids = self.find_pids()
            return self.pids and all(self.is_busy(pid) for pid in self.pids)

        wait_for(busy, f"{type(self).__name__} is not busy:\n{self.said()}", seconds=60)

    def is_busy(self, pid):
        return cpu_ticks(pid) >= BUSY_TICKS

    def let_run(self, chance):
        """Returns when the program has worked on for a few ticks; `chance` (a random.Random) says how many."""
        pids = self.find_pids()
        goal = chance.randint(1, 4)
        before = {pid: cpu_ticks(pid) for pid in pids}

        def worked():
            self.check_alive()
            now = self.find_pids()
            return now != pids or sum(cpu_ticks(pid) - before[pid] for pid in now) >= goal

        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            wait_for(worked, "the program works on")

    def end(self):
        descendants = []
        for process in self.processes:
            if process.poll() is None:
                descendants += descendants_of(process.pid)
        # Children first: a supervisor would only start them again after itself has gone.
        for process in reversed(self.processes):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                    process.terminate()
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for pid, born in descendants:
            if start_time(pid) == born:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_time(pid):
    """When a process began; with its pid, which process it is. None when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def descendants_of(pid):
    found = []
    for child in child_pids(pid):
        found += descendants_of(child)
        found.append((child, start_time(child)))
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

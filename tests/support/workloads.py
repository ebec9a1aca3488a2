# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Real programs under load, for tests that look at them from outside.

    with workloads.start("redis-server") as load:
        load.wait_until_busy()
        … load.pids …

workload.py says how they run.
"""

import os

from workload import BUSY_TICKS, Load, WorkloadError, cpu_ticks, pause, wait_for  # noqa: F401
from workload_interpreters import Java, Node, Perl, Php, Python, Ruby, Signals
from workload_programs import (
    AtReturn, Bash, Clang, Ffmpeg, Gcc, Gdb, Nginx, Openssl, Postgres, Redis, Restic, Ripgrep, Sqlite, StressNg,
    Vim, Xz,
)

PROGRAMS = {
    "python3": Python,
    "redis-server": Redis,
    "sqlite3": Sqlite,
    "nginx": Nginx,
    "perl": Perl,
    "node": Node,
    "gdb": Gdb,
    "openssl": Openssl,
    "bash": Bash,
    "xz": Xz,
    "postgres": Postgres,
    "vim": Vim,
    "g++": Gcc,
    "clang++": Clang,
    "ffmpeg": Ffmpeg,
    "rg": Ripgrep,
    "restic": Restic,
    "java": Java,
    "ruby": Ruby,
    "php": Php,
    "signals": Signals,
    "stress-ng": StressNg,
    "at-return": AtReturn,
}


def is_installed(name):
    return all(os.path.exists(path) for path in PROGRAMS[name].needs)


def start(name):
    """A program by name, as a context manager; WorkloadError where it is not installed."""
    load = PROGRAMS[name]
    for path in load.needs:
        if not os.path.exists(path):
            raise WorkloadError(f"{name}: {path} is not installed")
    return load()

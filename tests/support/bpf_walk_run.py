# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs bpf_walk_user, which walks stacks inside the kernel, on a program that records its own stacks."""

import json
import pathlib
import subprocess


class Failure(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failure(message)


def child_of(pid):
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


class Target:
    def __init__(self, program, *arguments, prefix=(), generations=0):
        """`generations`: the program is this many children further down, in a pid namespace with its own numbers."""
        self.process = subprocess.Popen([*prefix, program, *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.pid = json.loads(self.process.stdout.readline())["pid"]
        if generations:
            self.pid = self.process.pid
            for _ in range(generations):
                self.pid = child_of(self.pid)
        self.truth = {}
        self.plugins = {}

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self):
        for line in self.process.stdout:
            record = json.loads(line)
            if "done" in record:
                return
            self.truth[record["number"]] = record["returns"]
            self.plugins[record["number"]] = record["plugin"]
        raise Failure("the target ended early")

    def end(self):
        if self.process.poll() is None:
            try:
                self.process.communicate("\n", timeout=30)
            except (BrokenPipeError, ValueError):
                self.process.wait(timeout=30)


class Walker:
    def __init__(self, program, targets, *options, file, function="probe_here"):
        pids = [option for target in targets for option in ("-p", str(target.pid))]
        self.process = subprocess.Popen([program, *pids, *map(str, options), file, function], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        check(line, f"bpf_walk_user {options} did not start")
        self.calls = []
        self.counters = None

    def end(self):
        output, _ = self.process.communicate("", timeout=120)
        check(self.process.returncode == 0, f"bpf_walk_user: status {self.process.returncode}")
        for line in output.splitlines():
            record = json.loads(line)
            if "number" in record:
                self.calls.append(record)
            elif "calls" in record:
                self.nested = record["calls"]
            elif "counters" in record:
                self.counters = record["counters"]
            else:
                raise Failure(f"bpf_walk_user: {line}")
        for counter in ("id_collisions", "records_malformed", "lost_to_memory", "calls_beyond"):
            check(self.counters[counter] == 0, f"{counter}: {self.counters[counter]}")

#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""return_probes_test.py RUN TARGET SUBJECT ROUNDS: tests what return probes do to a program, and which calls they see.

The target calls two probed functions: from signal handlers on alternate stacks above and below the thread's own; from
fibers and coroutines that switch between calls and within them, and that move to another thread. It also jumps out of
calls. It checks all its own results. The test runs each attach form: the program must never die, and each return must be
paired with its own entry. It does not run return probes without a session, because the kernel's fault breaks them.
"""
import json
import os
import subprocess
import sys

AUTO, SESSION, MULTI, SINGLE = range(4)
RETURNS_AUTO, RETURN_PROBES, RETURN_INSTRUCTIONS = range(3)
SKIPPED = 77
NO_SUCH_FORM = 3

FORMS = {
    "auto": (AUTO, RETURNS_AUTO),
    "session": (SESSION, RETURNS_AUTO),
    "multi": (MULTI, RETURNS_AUTO),
    "single": (SINGLE, RETURNS_AUTO),
    "instructions": (AUTO, RETURN_INSTRUCTIONS),
}
# A return probe cannot follow a call to another thread, and the program sees it: functions that do so, or whose callers
# look, are for the other form.
BY_INSTRUCTION_ONLY = {"fibers_migrate_inside", "own_eyes"}


def run(command, subject, rounds, form):
    attach, returns = FORMS[form]
    done = subprocess.run([command[0], str(attach), str(returns), command[1], subject, str(rounds)],
                          capture_output=True, text=True, timeout=600, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode == NO_SUCH_FORM:
        print(f"{subject}, {form}: {lines[0]['reason']}")
        return None
    assert done.returncode == 0, f"{subject}, {form}: {done.stderr[-2000:]}"
    result = {}
    for line in lines:
        result.update(line)
    print(f"{subject}, {form}: {result}")
    return result


def check(subject, rounds, form, seen):
    def expect(name, value, slack=0):
        assert abs(seen[name] - value) <= slack, f"{subject}, {form}: {name}: {seen[name]}, not {value}"

    expect("signal", 0)
    expect("status", 0)
    expect("wrong", 0)
    by_instruction = "instructions" in seen["reason"]
    if subject.startswith("alt_"):
        # The handler's call comes while the other one is pending.
        expect("calls", 2 * rounds)
        expect("ended", rounds)
        expect("other_stack", rounds)
        expect("abandoned", 0)
    elif subject in ("fibers_between", "fibers_migrate"):
        expect("ended", seen["calls"])
        expect("other_stack", 0)
        expect("abandoned", 0)
    elif subject in ("fibers_inside", "fibers_migrate_inside"):
        # Every call is accounted for: seen, or counted as why not.
        expect("entered", seen["ended"] + seen["other_stack"] + seen["abandoned"], slack=1)
        assert seen["ended"] > 0
        if by_instruction:
            assert seen["ended"] >= rounds
    elif subject == "own_eyes":
        expect("ended", seen["calls"] - 1)  # one of them is of a function without probes
    else:
        # 34 calls of a coroutine behind each jump, or one on the same stack: all are seen.
        expect("ended", seen["calls"])
        expect("calls", rounds * (34 if subject == "jump_then_coroutine" else 1))
        expect("abandoned", rounds, slack=1)
        expect("other_stack", 0)


def main():
    command, subject, rounds = sys.argv[1:3], sys.argv[3], int(sys.argv[4])
    ran = 0
    if os.geteuid() != 0:
        print("skipped: attaching needs root")
        return 1 if os.environ.get("DWUNW_REQUIRE_BPF") else SKIPPED
    for form in FORMS:
        if subject in BY_INSTRUCTION_ONLY and form in ("auto", "session"):
            continue
        seen = run(command, subject, rounds, form)
        if seen is not None:
            check(subject, rounds, form, seen)
            ran += 1
    assert ran >= 2, "no form ran"
    return 0


sys.exit(main())

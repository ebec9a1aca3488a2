#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""many_mappings_test.py USER TARGET PLUGINS MAPPINGS [SECONDS]: walks a process with thousands of executable mappings that
loads ten plugins a second. Every stack must be present and true. If all mappings can be published, the kernel walks the
stacks that do not lead through a plugin. Otherwise user space walks the stacks through unpublished mappings, and a counter
counts them. Prints the cost."""

import collections
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

MOST_PUBLISHED = 8191


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    user, target_file, folder, mappings = sys.argv[1:5]
    seconds = sys.argv[5] if len(sys.argv) > 5 else "5"
    bpf_support.require_bpf()
    plugins = sorted(map(str, pathlib.Path(folder).glob("*storm_plugin_*.so")))
    target = subprocess.Popen([target_file, mappings, seconds, *plugins], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    pid = json.loads(target.stdout.readline())["pid"]
    walker = subprocess.Popen([user, "-p", str(pid), target_file, "probe_here"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert walker.stdout.readline(), "bpf_walk_user did not start"
    before = cpu_seconds(walker.pid)
    target.stdin.write("\n")
    target.stdin.flush()
    calls = json.loads(target.stdout.readline())["done"]
    spent = cpu_seconds(walker.pid) - before
    output, _ = walker.communicate("", timeout=120)
    target.communicate("\n", timeout=30)

    found = collections.Counter()
    counters = None
    for line in output.splitlines():
        record = json.loads(line)
        counters = record.get("counters", counters)
        if "number" not in record:
            continue
        stack = record["kernel"]
        assert "missing" not in stack, stack
        assert stack["status"] == "reached the root", stack
        files = [pathlib.Path(frame[3]).name for frame in stack["frames"]]
        through_plugin = [name for name in files if "storm_plugin_" in name]
        # probe_here, own_call; then from_plugin, three of the plugin and with_plugin; main and what called it.
        assert len(through_plugin) in (0, 3), files
        if through_plugin:
            plugin = pathlib.Path(plugins[record["number"] // 8 % len(plugins)]).name
            assert through_plugin == [plugin] * 3, (plugin, files)
            assert len(files) == 3 + 3 + 2 + 3, files
        else:
            assert len(files) == 3 + 3, files
        found[(bool(through_plugin), stack["reason"])] += 1
    assert sum(found.values()) == calls, (found, calls)
    print(f"{mappings} mappings: {calls} stacks {dict(found)}; {counters['publications']} publications;"
          f" {spent / float(seconds):.1%} of a core")
    assert counters["publications"] >= 1, counters
    if int(mappings) < MOST_PUBLISHED - 100:
        assert found[(False, "complete")] > 0.9 * sum(n for (plugin, _), n in found.items() if not plugin), found
    return 0


if __name__ == "__main__":
    sys.exit(main())

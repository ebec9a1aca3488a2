#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""`dwunw table FILE` beside `readelf --debug-dump=frames-interp FILE`: the CFA, the return address and rbp, row for row.

    table_readelf.py --dwunw FILE --rows N FILE…

Each FILE is a path, or a library's name, looked up as the dynamic linker does. Fails where a row differs, and where a file
has fewer than N rows: an empty comparison proves nothing.

readelf prints a row for each change of any register, and the rows of the CIE where an FDE changes nothing; so equal
neighbours of one FDE are one here, as they are in `dwunw table`.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys

ENTRY = re.compile(r"([0-9a-f]{8,16}) [0-9a-f]+ [0-9a-f]+ (CIE|FDE)(.*)")
FDE = re.compile(r" cie=([0-9a-f]+) pc=(?:[0-9a-f]+:)?([0-9a-f]+)\.\.([0-9a-f]+)")
ROW = re.compile(r"[0-9a-f]{16} ")
SPACED_REGISTER = re.compile(r"r(\d+) \((\w+)\)")


class Interpreted:
    """One CIE or FDE as readelf interprets it."""

    def __init__(self, cie_rule=None, start=0, end=0):
        self.cie_rule, self.start, self.end = cie_rule, start, end
        self.columns = []
        self.rows = []

    def add(self, line):
        address, *values = SPACED_REGISTER.sub(r"\2", line).split()
        found = dict(zip(self.columns, values, strict=True))
        # An unmentioned register keeps its value, and readelf writes u for both; a return address can only be undefined.
        rbp = found.get("rbp", "u")
        rule = (found["CFA"], found.get("ra", "s"), "s" if rbp == "u" else rbp)
        self.rows.append((int(address, 16), rule))

    def merged(self):
        """(start, end, rule), equal neighbours merged, empty ones left out."""
        rows = self.rows or [(self.start, self.cie_rule)]
        ends = [start for start, _ in rows[1:]] + [self.end]
        spans = [(start, end, rule) for (start, rule), end in zip(rows, ends) if start < end]
        for rule, group in itertools.groupby(spans, key=lambda span: span[2]):
            group = list(group)
            yield group[0][0], group[-1][1], rule


def readelf_rows(path):
    command = ["readelf", "--debug-dump=frames-interp", "--debug-dump=no-follow-links", path]
    environment = dict(os.environ, LC_ALL="C")
    cies, rows, entry = {}, [], None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in itertools.chain(process.stdout, ["00000000 0 0 CIE the end"]):
            if match := ENTRY.match(line):
                if entry and entry.end:
                    rows.extend(entry.merged())
                if match[2] == "CIE":
                    entry = cies[int(match[1], 16)] = Interpreted()
                else:
                    fde = FDE.match(match[3])
                    cie = cies[int(fde[1], 16)].rows
                    entry = Interpreted(cie[-1][1] if cie else None, int(fde[2], 16), int(fde[3], 16))
            elif line.lstrip().startswith("LOC "):
                entry.columns = line.split()[1:]
            elif ROW.match(line):
                entry.add(line)
        errors = process.stderr.read()
    if process.returncode or errors:
        sys.exit(f"readelf {path}: status {process.returncode}: {errors[:500]}")
    return sorted(rows)


def dwunw_rows(dwunw, path):
    output = subprocess.run([dwunw, "table", path], capture_output=True, text=True, check=True).stdout
    rows = []
    for line in output.splitlines():
        start, end, *rule = line.split()
        rows.append((int(start, 16), int(end, 16), tuple(rule)))
    return rows


def find(name):
    if "/" in name:
        return name
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for line in known.splitlines():
        if line.strip().startswith(name + " ") and "x86-64" in line:
            return os.path.realpath(line.rpartition("=> ")[2])
    sys.exit(f"{name}: not installed")


def compare(dwunw, path, fewest):
    """The number of rows that differ, of one file."""
    expected, found = readelf_rows(path), dwunw_rows(dwunw, path)
    different = sorted(set(expected) ^ set(found))
    print(f"{path}: {len(expected)} rows by readelf, {len(found)} by dwunw, {len(different)} different", flush=True)
    for row in different[:10]:
        start, end, rule = row
        print(f"    {'readelf' if row in set(expected) else 'dwunw'}: {start:x} {end:x} {' '.join(rule)}")
    if len(expected) < fewest:
        print(f"    fewer than {fewest} rows")
    return different or len(expected) != len(found) or len(expected) < fewest


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dwunw", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    wrong = [path for path in map(find, args.files) if compare(args.dwunw, path, args.rows)]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

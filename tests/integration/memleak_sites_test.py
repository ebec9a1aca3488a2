#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that dwunw memleak finds what known sites leave, with counts, bytes and stacks, under every allocator and in every
form of a program, without being told which.

    memleak_sites_test.py DWUNW TARGET STATIC STATIC_PIE MUSL MUSL_STATIC MUSL_STATIC_PIE

All are memleak_sites_target.c; TARGET has the sites of C++, too.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import dwunw_memleak  # noqa: E402

DWUNW = TARGET = STATIC = STATIC_PIE = MUSL = MUSL_STATIC = MUSL_STATIC_PIE = ""
ROUNDS = 25
PRELOADS = ("libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2")
FORMS = {"_ZnwmSt11align_val_t": "site_new_aligned", "_ZnamSt11align_val_t": "site_new_array_aligned"}
# The sites whose caller is not all_sites or cxx_sites.
CALLED_OTHERWISE = ("site_callback", "site_handler", "site_deep")


@contextlib.contextmanager
def started(program, **environment):
    process = subprocess.Popen([program, str(ROUNDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                               env=dict(os.environ, **environment))  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def read_sites(lines):
    """Site -> (blocks, bytes), as the program tells them."""
    words = [line.split() for line in lines if line.startswith("site ")]
    return {name: (int(blocks), int(size)) for _, name, blocks, size in words}

UNPROBED = "functions that could not be probed, whose blocks are not seen"


class Sites(unittest.TestCase):
    maxDiff = None

    def look_at(self, program, **environment):
        with started(program, **environment) as process:
            with dwunw_memleak.attached(
                DWUNW, *dwunw_memleak.EVERYTHING, "-p", str(process.pid), dwunw_memleak.PAST_THE_END
            ) as tool:
                process.stdin.write("\n")
                sites = read_sites(iter(process.stdout.readline, "done\n"))
                report, others, errors = dwunw_memleak.finish(tool)
            self.assertEqual((tool.returncode, others), (0, []), errors)
            process.stdin.write("\n")
            self.assertEqual(process.wait(30), 3)
        return sites, report, errors

    def run_command(self, *arguments):
        done = dwunw_memleak.run(DWUNW, *dwunw_memleak.EVERYTHING, *arguments, input="\n\n")
        reports, lines = dwunw_memleak.parse(done.stdout)
        self.assertEqual((done.returncode, len(reports)), (3, 1), done.stderr)
        around = [line for line in lines if not line.startswith("site ") and line + "\n" != dwunw_memleak.TRACING]
        self.assertEqual(around, ["ready", "done"])
        return read_sites(lines), reports[0], done.stderr

    def check(self, sites, report, errors, whole=True):
        self.assertGreater(len(sites), 20)
        rows = report.by_site()
        # What cannot be probed is told, by name.
        unprobed = re.findall(r"^dwunw: not probed: .*: (\w+): ", errors, re.M)
        for symbol in unprobed:
            site = FORMS.get(symbol, "site_" + symbol)
            self.assertNotIn(site, rows)
            del sites[site]
        shown = {site: (sum(row.count for row in rows[site]), sum(row.bytes for row in rows[site])) for site in rows}
        self.assertEqual(shown, sites)
        self.assertEqual(report.lost, {UNPROBED: len(unprobed)} if unprobed else {})
        self.assertEqual(report.mismatches, [], "each block is freed by the function that belongs to its own")
        for site, of_site in rows.items():
            self.assertEqual(len(of_site), 1, of_site)
            self.check_stack(site, of_site[0], whole)

    def preloads(self):
        return [name for name in PRELOADS if os.path.exists("/usr/lib/x86_64-linux-gnu/" + name)] or self.skipTest("none installed")

    def check_stack(self, site, row, whole):
        names = row.names()
        is_mapping = "mmap" in site or site == "site_mremap"
        self.assertEqual(row.marks, ["mapped"] if is_mapping else [], row)
        self.assertEqual(names.count(site), 101 if site == "site_deep" else 1, row)
        if site not in CALLED_OTHERWISE:
            self.assertIn(names[names.index(site) + 1], ("all_sites", "cxx_sites"), row)
        if whole:
            self.assertTrue(row.is_complete(), row)
            self.assertIn("all_sites", names, row)
            self.assertIn("thread_main", names, row)
            self.assertIn(names[-1], dwunw_memleak.ROOTS, row)
            self.assertNotIn(None, names, row)

    def test_libc(self):
        sites, report, errors = self.look_at(TARGET)
        self.assertGreaterEqual(len(sites), 29)
        self.assertEqual(errors, "")
        self.check(sites, report, errors)

    def test_a_command(self):
        """From its first instruction on; its output and its status are its own."""
        sites, report, errors = self.run_command(dwunw_memleak.PAST_THE_END, "--", TARGET, str(ROUNDS))
        self.assertEqual(errors, "")
        self.check(sites, report, errors)

    def test_a_command_line_in_one_word(self):
        self.check(*self.run_command("-c", f"{TARGET} 1", dwunw_memleak.PAST_THE_END))

    def test_preloaded_allocators(self):
        for name in self.preloads():
            with self.subTest(name):
                self.check(*self.look_at(TARGET, LD_PRELOAD=name))

    def test_allocators_preloaded_by_a_command_that_executes_another(self):
        for name in self.preloads():
            with self.subTest(name):
                command = ["env", "LD_PRELOAD=" + name, TARGET, str(ROUNDS)]
                self.check(*self.run_command(dwunw_memleak.PAST_THE_END, "--", *command))

    def test_static(self):
        for program in (STATIC, STATIC_PIE):
            with self.subTest(program):
                self.check(*self.look_at(program))
                self.check(*self.run_command(dwunw_memleak.PAST_THE_END, "--", program, "1"))

    def test_musl(self):
        """Debian's musl has no call-frame information: its own functions may end a stack."""
        for program in (MUSL, MUSL_STATIC, MUSL_STATIC_PIE):
            with self.subTest(program):
                if program == MUSL and not os.path.exists("/lib/ld-musl-x86_64.so.1"):
                    self.skipTest("musl is not installed")
                self.check(*self.look_at(program), whole=False)
                self.check(*self.run_command(dwunw_memleak.PAST_THE_END, "--", program, "1"), whole=False)


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, TARGET, STATIC, STATIC_PIE, MUSL, MUSL_STATIC, MUSL_STATIC_PIE = dwunw_memleak.arguments(*range(7))
    unittest.main()

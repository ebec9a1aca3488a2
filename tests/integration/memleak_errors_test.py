#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""What memleak says when it cannot run, or runs and has nothing to watch."""

import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import memleak_report  # noqa: E402
import memleak_run  # noqa: E402
from memleak_run import run, target  # noqa: E402


def runs_32_bit_programs():
    """Whether this kernel runs 32-bit programs. Only running one tells: ia32_emulation=off shows nowhere in /proc."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "exit"
        code = "void _start(void) { __asm__ volatile(\"int $0x80\" : : \"a\"(1), \"b\"(0)); }"
        flags = ["-m32", "-O2", "-static", "-nostdlib", "-fno-pic", "-no-pie", "-x", "c", "-"]
        subprocess.run(["cc", *flags, "-o", program], input=code, text=True, check=True)
        try:
            return subprocess.run([program], check=False).returncode == 0
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return False


class Errors(unittest.TestCase):
    def expect(self, done, status, text):
        self.assertEqual(done.returncode, status, done)
        self.assertRegex(done.stderr, text)

    def test_usage(self):
        for arguments, text in (
            (["-p", "x"], r"error arg:p x"),
            (["-p", "0"], r"error arg:p 0"),
            (["-o", "9223372036854775"], r"invalid AGE_MS: 9223372036854775"),
            (["1", "2", "3"], r"Unrecognized positional argument: 3"),
            (["--dwunw-mode=on"], r"invalid --dwunw-mode: on \(off, fallback or force\)"),
            (["--dwunw-walk=both"], r"invalid --dwunw-walk: both \(kernel or user\)"),
            (["--probe-placement=3"], r"invalid --probe-placement: 3 \(auto or entry\)"),
            (["--dwunw-stack-size=1023"], r"invalid --dwunw-stack-size: 1023"),
            (["--dwunw-stack-size=1k"], r"invalid --dwunw-stack-size: 1k"),
            (["--dwunw-ring-size=300"], r"invalid --dwunw-ring-size: 300 \(a power of two"),
            (["--dwunw-kept-size=4096"], r"invalid --dwunw-kept-size: 4096 \(1 to 4095\)"),
            (["--dwunw-table-size=0"], r"invalid --dwunw-table-size: 0"),
            (["--dwunw-path-limit=many"], r"invalid --dwunw-path-limit: many"),
            (["--dwunw-blocks=1000"], r"invalid --dwunw-blocks: 1000"),
        ):
            with self.subTest(arguments):
                self.expect(run(*arguments), 64, text)
                self.assertRegex(run(*arguments).stderr, "Usage: ")

        self.expect(run("-h"), 64, "invalid option -- 'h'")

    def test_help_and_version(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("--dwunw-mode", done.stdout)
        self.assertEqual(run("--version").stdout, "memleak 0.1\n")

    def test_sizes_the_wrong_way_round(self):
        done = run("-p", "1", "-z", "10", "-Z", "9")
        self.expect(done, 1, r"min size \(-z\) can't be greater than max_size \(-Z\)")
        self.assertEqual(done.stdout, "")

    def test_command_and_pid(self):
        self.expect(run("-p", "1", "-c", "/bin/true"), 1, "cannot specify both command and pid")

    def test_no_such_process(self):
        gone = subprocess.Popen(["/bin/true"])
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
        for state in ("zombie", "gone"):
            for mode in ("off", "fallback", "force"):
                with self.subTest(state=state, mode=mode):
                    done = run("-p", str(gone.pid), f"--dwunw-mode={mode}")
                    self.expect(done, 253, rf"\Aprocess {gone.pid}: No such process\n\Z")
                    self.assertEqual(done.stdout, "")
            gone.wait()

    # Each writes a byte when it has allocated.
    C_PROGRAM = (
        "#include <stdlib.h>\n#include <unistd.h>\n"
        'int main(void) { void *volatile p = malloc(1); return p && write(1, "x", 1) == 1 && pause(); }'
    )
    I386_PROGRAM = (
        'void _start(void) { int n; __asm__ volatile("int $0x80" : "=a"(n) : "0"(4), "b"(1), "c"("x"), "d"(1) : "memory");'
        ' for (;;) __asm__ volatile("int $0x80" : "=a"(n) : "0"(29)); }'
    )
    GO_PROGRAM = 'package main\nimport ("os"; "time")\nfunc main() { os.Stdout.WriteString("x"); time.Sleep(time.Hour) }\n'

    def expect_nothing_to_watch(self, program, what, environment=None):
        """`program` runs, `what` is said of it in each mode; then the same for it as a command."""
        watched = r"/\S+/libc\.so\.6"
        not_mapped = rf"does not map {watched}, so none of its functions will be seen"
        what = what.format(program=re.escape(program).replace("\x1b", r"\\x1b"), not_mapped=not_mapped, watched=watched)
        with subprocess.Popen([program], stdout=subprocess.PIPE, env=environment) as running:
            running.stdout.read(1)
            done = [run("-p", str(running.pid), f"--dwunw-mode={mode}", "1", "1") for mode in ("off", "fallback")]
            running.kill()
        for result in done:
            self.expect(result, 0, rf"WARNING: process {running.pid} {what}\n")
        if environment is None and "\x1b" not in program:
            self.expect(run("-c", program, "1", "1"), 0, rf"WARNING: process \d+ {what}\n")

    def test_nothing_to_watch(self):
        """Found in use: a static program's report was empty, with nothing said."""
        with tempfile.TemporaryDirectory() as folder:
            def build(name, source, *command):
                subprocess.run([*command, "-o", f"{folder}/{name}", "-x", "c", "-"], input=source, text=True, check=True)
                return f"{folder}/{name}"

            for name in ("static", "static\x1b"):
                static = build(name, self.C_PROGRAM, "cc", "-static")
                self.expect_nothing_to_watch(static, "{not_mapped}: it has malloc in its program {program}")
            musl = build("musl", self.C_PROGRAM, "musl-gcc")
            self.expect_nothing_to_watch(musl, r"{not_mapped}: it has /\S*musl\S*")
            i386 = build("i386", self.I386_PROGRAM, "cc", "-m32", "-O2", "-static", "-nostdlib", "-fno-pic", "-no-pie")
            if runs_32_bit_programs():
                self.expect_nothing_to_watch(
                    i386, "{not_mapped}; it has no allocator that memleak knows; it is a 32-bit program"
                )
            else:
                print("skipped: the 32-bit program: this kernel runs none (ia32_emulation=off)", file=sys.stderr)
            go_source = pathlib.Path(folder) / "go.go"
            go_source.write_text(self.GO_PROGRAM, encoding="ascii")
            subprocess.run(["go", "build", "-o", f"{folder}/go", go_source], check=True,
                           env={**os.environ, "GOCACHE": f"{folder}/cache", "HOME": folder})  # fmt: skip
            self.expect_nothing_to_watch(f"{folder}/go", "{not_mapped}: it has runtime.mallocgc in its program {program}")
            preloaded = build("dynamic", self.C_PROGRAM, "cc")
            self.expect_nothing_to_watch(
                preloaded, r"may not allocate with {watched}, which is watched: it has /\S+/libjemalloc\.so\.2",
                {**os.environ, "LD_PRELOAD": "libjemalloc.so.2"},
            )  # fmt: skip

    def test_an_object_that_is_cut(self):
        with target() as running:
            done = run("-p", str(running.pid), "-O", "/" + 40 * "a")
            self.expect(done, 254, rf"WARNING: -O is cut to its first 31 characters: /{30 * 'a'}\n")

    def test_a_weaker_mode_is_on_every_report(self):
        """A /proc of another pid namespace is refused; what goes on without dwunw must not look like it."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            command = shutil.copy(memleak_run.TARGET, f"{folder}/t")
            process = subprocess.Popen(
                ["unshare", "-pf", "--kill-child", memleak_run.MEMLEAK, "-c", command, "-a", "-T", "1000", "1", "2"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            lines = []
            while not lines or not lines[-1].startswith("dwunw: "):
                lines.append(process.stdout.readline())
                self.assertNotEqual(lines[-1], "")
            output, errors = process.communicate("\n\n", timeout=120)
        self.assertIn("going on with frame-pointer stacks", errors)
        reports, _ = memleak_report.parse(("".join(lines) + output).replace("\nleaked ", "\nx leaked "))
        self.assertEqual(len(reports), 2)
        for report in reports:
            self.assertRegex(report.off, "pid namespace")
            self.assertIsNone(report.account)

    def test_no_such_object_or_symbol(self):
        with target() as running:
            self.expect(run("-p", str(running.pid), "-O", "nosuch.so"), 254, "no program attached for malloc_enter")
            self.expect(run("-p", str(running.pid), "-S", "je_"), 254, "no program attached for malloc_enter")

    def test_not_root(self):
        with target() as running, tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # the build tree may be closed to others
            command = [shutil.copy(memleak_run.MEMLEAK, folder), "-p", str(running.pid), "--dwunw-mode=force"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, user=65534, group=65534, extra_groups=[]
            )
            self.expect(done, 255, "failed to load bpf object")


if __name__ == "__main__":
    memleak_run.main()

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests that dwunw memleak finds known blocks in programs of the distribution and of other languages, without being told
their allocator.

    memleak_programs_test.py DWUNW GO_SOURCE FOLDER   FOLDER keeps what Go builds
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
import dwunw_memleak  # noqa: E402
import workload  # noqa: E402

DWUNW = GO_SOURCE = FOLDER = ""
SIZE = 1000003
LARGE = ("-o", "0", "-T", "1000", "-z", str(SIZE), "-Z", str(SIZE + 1000))


@contextlib.contextmanager
def started(*command, **options):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Programs(unittest.TestCase):
    def look_at(self, pid, work, *options):
        with dwunw_memleak.attached(DWUNW, *options, "-p", str(pid), dwunw_memleak.PAST_THE_END) as tool:
            work()
            report, others, errors = dwunw_memleak.finish(tool)
        self.assertEqual((tool.returncode, others, errors), (0, [], ""))
        self.assertEqual(report.lost, {})
        return report

    def check_complete(self, report, *names):
        for row in report.rows:
            self.assertTrue(row.is_complete(), row)
            self.assertTrue(all(frame.module for frame in row.frames), row)
            for name in names:
                self.assertIn(name, row.names(), row)

    def talk(self, process):
        process.stdin.write("\n")
        self.assertEqual(process.stdout.readline(), "done\n")

    def test_python(self):
        script = """if True:
            print("ready", flush=True)
            input()
            kept = [bytearray(1000003) for _ in range(7)]
            dropped = [bytearray(1000003) for _ in range(5)]
            del dropped
            print("done", flush=True)
            input()"""
        with started("/usr/bin/python3", "-c", script) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            report = self.look_at(process.pid, lambda: self.talk(process), *LARGE)
        self.assertEqual((report.count, report.bytes), (7, 7 * (SIZE + 1)))
        self.check_complete(report, "PyByteArray_Resize", "Py_BytesMain", "_start")

    def test_redis_with_its_own_jemalloc(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            options = ("--port", "0", "--unixsocket", path, "--save", "", "--dir", folder)
            with started("/usr/bin/redis-server", *options) as process:
                workload.wait_for(lambda: os.path.exists(path), "redis-server's socket")

                def work():
                    self.ask(path, *([b"SET", b"key%d" % i, b"x" * SIZE] for i in range(9)), [b"DEL", b"key7", b"key8"])
                    self.ask(path, [b"PING"])  # the connection before is closed by now

                report = self.look_at(process.pid, work, "-a", *LARGE)
                self.assertEqual(report.count, 7)
                self.check_complete(report, "main", "aeMain")

    def ask(self, path, *commands):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(path)
            for command in commands:
                words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in command)
                connection.sendall(b"*%d\r\n%s" % (len(command), words))
                answer = connection.recv(100)
                self.assertTrue(answer.startswith((b"+", b":")), answer)

    def test_go_with_cgo(self):
        """The stack ends where Go's runtime switches stacks, with the reason."""
        folder = pathlib.Path(FOLDER)
        program = str(folder / "memleak_go")
        environment = dict(os.environ, GOCACHE=str(folder / "go_cache"), GOFLAGS="-mod=mod", CGO_ENABLED="1")
        subprocess.run(["go", "build", "-o", program, GO_SOURCE], env=environment, timeout=280, check=True, cwd=folder)
        with started(program) as process:
            self.assertEqual(process.stdout.readline(), f"ready {process.pid}\n")
            report = self.look_at(process.pid, lambda: self.talk(process), "-o", "0", "-z", "1001", "-Z", "1001")
        rows = [row for row in report.rows if row.names()[0] == "leaks_in_c"]
        self.assertEqual((sum(row.count for row in rows), sum(row.bytes for row in rows)), (200, 200 * 1001))
        for row in rows:
            self.assertRegex(row.names()[1], "^(_cgo_.*_Cfunc_leaks_in_c|runtime.asmcgocall.*)$")  # it may end in a jump
            self.assertTrue(row.is_complete() or "switched stacks" in row.notes[0], row)


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, GO_SOURCE, FOLDER = dwunw_memleak.arguments(*range(3))
    unittest.main()

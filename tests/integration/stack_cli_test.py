#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests the dwunw command as a user sees it: layouts, JSON, error texts, exit codes, and its effect on the target.

    stack_cli_test.py path/to/dwunw path/to/deep_target
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import workloads  # noqa: E402

DWUNW = DEEP_TARGET = ""
LIBC = ctypes.CDLL(None, use_errno=True)
FRAME = re.compile(r"#(\d+) +0x[0-9a-f]{16}( \S.*\+0x[0-9a-f]+)?( - [/\[].*)?( \[no code\])?( \[frame pointer\])?")
ROW = re.compile(
    r"[0-9a-f]+ [0-9a-f]+ (exp|r[a-z0-9]+[+-]\d+) (c[+-]\d+|v[+-]\d+|exp|vexp|u|s|r[a-z0-9]+) "
    r"(c[+-]\d+|v[+-]\d+|exp|vexp|u|s|r[a-z0-9]+)"
)


def dwunw(*arguments, **options):
    return subprocess.run(
        [DWUNW, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, **options
    )


def state(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def status_field(pid, name):
    return re.search(rf"^{name}:\s*(\S+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]


def parent_of(pid):
    try:
        return status_field(pid, "PPid")
    except OSError:
        return None  # it has ended


@contextlib.contextmanager
def child(*command, **options):
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def sleeper():
    with child("/bin/sleep", "1000") as process:
        workloads.wait_for(
            lambda: "nanosleep" in pathlib.Path(f"/proc/{process.pid}/wchan").read_text(), "sleep sleeps"
        )
        yield process


class Failure(unittest.TestCase):
    def expect_failure(self, done, text, status=1):
        self.assertEqual(done.returncode, status, done)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, text)
        self.assertTrue(done.stderr.startswith("dwunw: "), done.stderr)


class General(Failure):
    def test_help_and_version(self):
        for arguments in (["--help"], ["stack", "--help"], ["table", "--help"]):
            done = dwunw(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("Usage: dwunw", done.stdout)
        done = dwunw("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"\Adwunw \d+\.\d+\.\d+\n\Z")

    def test_usage_errors(self):
        for arguments in (
            [], ["walk"], ["--walk"], ["stack"], ["stack", "-p"], ["stack", "-p", "x"], ["stack", "-p", "0"],
            ["stack", "-p", "-1"], ["stack", "-p", "99999999999"], ["stack", "-p", "1", "-n", "-1"], ["table"],
            ["stack", "-p", "1", "more"], ["table", "/bin/true", "--at", "xyz"],
            ["table", "/bin/true", "--at", "1", "--summary"],
        ):  # fmt: skip
            with self.subTest(arguments):
                self.expect_failure(dwunw(*arguments), "Try 'dwunw --help'", status=2)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            for arguments in (["--help"], ["table", "/bin/true"], ["table", "/bin/true", "--summary"]):
                done = subprocess.run([DWUNW, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
                self.assertEqual(done.returncode, 1, arguments)
                self.assertEqual(done.stderr, "dwunw: standard output: No space left on device\n")

    def test_a_reader_that_leaves(self):
        for ignore_sigpipe in (False, True):
            with subprocess.Popen(
                [DWUNW, "table", "/usr/bin/gdb"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                restore_signals=not ignore_sigpipe,  # Python ignores SIGPIPE
            ) as process:
                process.stdout.readline()
                process.stdout.close()
                self.assertEqual(process.stderr.read(), "")
                self.assertEqual(process.wait(), 1 if ignore_sigpipe else -signal.SIGPIPE)


class Table(Failure):
    def test_rows(self):
        done = dwunw("table", "/bin/true")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        rows = done.stdout.splitlines()
        self.assertGreater(len(rows), 20)
        last = 0
        for row in rows:
            self.assertRegex(row, ROW)
            start, end = (int(word, 16) for word in row.split()[:2])
            self.assertLessEqual(last, start)
            self.assertLess(start, end)
            last = start

    def test_row_at_an_address(self):
        row = dwunw("table", "/bin/true").stdout.splitlines()[5]
        start, end = row.split()[:2]
        for address in (start, "0x" + start, f"{int(end, 16) - 1:x}"):
            self.assertEqual(dwunw("table", "/bin/true", "--at", address).stdout, row + "\n")
        self.expect_failure(
            dwunw("table", "/bin/true", "--at", "1"), "/bin/true: no call-frame information covers 1"
        )

    def test_summary(self):
        rows = len(dwunw("table", "/bin/true").stdout.splitlines())
        done = dwunw("table", "/bin/true", "--summary")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, rf"(?m)^rows +{rows}$")
        for line in ("FDEs +[1-9]", "unique rules +[1-9]", "bytes +[1-9]", "bytes a row +[0-9.]+", "build time +[0-9]"):
            self.assertRegex(done.stdout, "(?m)^" + line)

    def test_files_that_are_no_elf_files(self):
        with tempfile.TemporaryDirectory() as folder:
            empty = pathlib.Path(folder, "empty")
            empty.touch()
            cut = pathlib.Path(folder, "cut")
            cut.write_bytes(pathlib.Path("/bin/true").read_bytes()[:200])
            fifo = pathlib.Path(folder, "fifo")
            os.mkfifo(fifo)
            steering = pathlib.Path(folder, "a\x1b[31m\nb")
            for path, text in (
                ("/etc/passwd", "/etc/passwd: not an ELF file"),
                ("/nonexistent/file", "/nonexistent/file: no such file"),
                (empty, "empty: not an ELF file"),
                (cut, "cut: malformed ELF file"),
                (folder, f"{folder}: "),
                (fifo, f"{fifo}: "),
                ("/dev/null", "/dev/null: "),
                (steering, r"a\\x1b\[31m\\x0ab: no such file"),
            ):
                with self.subTest(path):
                    self.expect_failure(dwunw("table", path), text)

    @unittest.skipUnless(os.getuid() == 0, "skipped: becoming another user needs root")
    def test_permission(self):
        with tempfile.NamedTemporaryFile() as file:
            os.chmod(file.name, 0o600)
            self.expect_failure(dwunw("table", file.name, user=65534), f"{file.name}: permission denied")


class Stack(Failure):
    def check_layout(self, text, pid):
        lines = text.splitlines()
        self.assertEqual(lines[0], f"PID {pid} - process")
        frames = 0
        for line in lines[1:]:
            if line.startswith("#"):
                self.assertRegex(line, r"\A" + FRAME.pattern + r"\Z")
                self.assertEqual(int(FRAME.match(line)[1]), frames)
                frames += 1
            else:
                self.assertRegex(line, r"\ATID \d+:( .+)?\Z")
                frames = 0

    def test_a_sleeping_process(self):
        with sleeper() as process:
            done = dwunw("stack", "-p", process.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.check_layout(done.stdout, process.pid)
            lines = done.stdout.splitlines()
            self.assertEqual(lines[1], f"TID {process.pid}:")
            self.assertRegex(lines[2], r"^#0  0x0000[0-9a-f]{12} \S*nanosleep\S*\+0x[0-9a-f]+ - /\S+/libc\.so\.6$")
            self.assertRegex(lines[-1], r"^#\d+ +0x0000[0-9a-f]{12} - /usr/bin/sleep$", "_start has no name here")
            self.assertEqual(state(process.pid), "S")
            self.assertEqual(status_field(process.pid, "TracerPid"), "0")

    def test_no_symbols(self):
        with sleeper() as process:
            named = dwunw("stack", "-p", process.pid).stdout
            done = dwunw("stack", "-p", process.pid, "--no-symbols")
            self.assertEqual(done.returncode, 0)
            self.assertEqual(re.sub(r" [^ ]+\+0x[0-9a-f]+ - ", " - ", named), done.stdout)

    def test_frames_limit(self):
        with sleeper() as process:
            everything = dwunw("stack", "-n", "0", "-p", process.pid).stdout.splitlines()
            self.assertGreater(len(everything), 4)
            done = dwunw("stack", "-n", "2", "-p", process.pid)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(done.stdout.splitlines(), [*everything[:4], f"TID {process.pid}: frame limit"])

    def test_a_deep_stack(self):
        source = "import sys, time; sys.setrecursionlimit(10**6)\ndef f(n):\n  return max([n], key=lambda x: f(n - 1)) if n else time.sleep(1000)\nf(2000)"
        with child("/usr/bin/python3", "-c", source) as process:
            workloads.wait_for(
                lambda: "nanosleep" in pathlib.Path(f"/proc/{process.pid}/wchan").read_text(), "python sleeps"
            )
            done = dwunw("stack", "-p", process.pid)
            self.assertEqual(done.stdout.count("\n#"), 256)
            self.assertEqual(done.stdout.splitlines()[-1], f"TID {process.pid}: frame limit")
            done = dwunw("stack", "-n", "0", "-p", process.pid)
            self.assertGreater(done.stdout.count("\n#"), 4000)
            self.assertRegex(done.stdout.splitlines()[-1], r"^#\d+ ")

    # As one JSON document they took a gigabyte, and a system call a word took five seconds.
    def test_a_million_frames(self):
        sanitized = b"__asan_init" in pathlib.Path(DWUNW).read_bytes()  # which keeps what was freed
        most_kib = (1000 if sanitized else 200) << 10
        with child(DEEP_TARGET, 10**6, stdout=subprocess.PIPE) as process, tempfile.TemporaryFile("w+") as out:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            for options in ([], ["--json"]):
                out.truncate(0)
                out.seek(0)
                tool = subprocess.Popen([DWUNW, "stack", "-n0", "--max-hold=0", *options, f"-p{process.pid}"], stdout=out)
                _, status, usage = os.wait4(tool.pid, 0)
                tool.returncode = os.waitstatus_to_exitcode(status)
                self.assertEqual(tool.returncode, 0)
                self.assertLess(usage.ru_maxrss, most_kib)
                out.seek(0)
                self.assertEqual(sum("down" in line for line in out), 10**6 + 1)
            out.seek(0)
            deep = json.load(out)["threads"][-1]
            self.assertEqual(len([frame for frame in deep["frames"] if frame["symbol"] == "down"]), 10**6 + 1)
            self.assertTrue(deep["complete"])

    def test_json(self):
        with sleeper() as process:
            text = dwunw("stack", "-p", process.pid).stdout
            done = dwunw("stack", "--json", "-p", process.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            report = json.loads(done.stdout)
            self.assertEqual(report["pid"], process.pid)
            (thread,) = report["threads"]
            self.assertEqual((thread["tid"], thread["name"]), (process.pid, "sleep"))
            self.assertEqual((thread["complete"], thread["stopped_by"]), (True, "reached the root"))
            lines = [f"PID {process.pid} - process", f"TID {process.pid}:"]
            for number, frame in enumerate(thread["frames"]):
                symbol = f" {frame['symbol']}+{frame['symbol_offset']:#x}" if "symbol" in frame else ""
                lines.append(f"#{number:<2} {int(frame['pc'], 16):#018x}{symbol} - {frame['module']}")
                self.assertEqual(frame["exact_pc"], number == 0)
                self.assertFalse(frame["signal"])
                self.assertEqual(frame["source"], "cfi" if number else "registers")
                self.assertRegex(frame["build_id"], "^[0-9a-f]{40}$")
                self.assertRegex(frame["module_offset"], "^0x[0-9a-f]+$")
            self.assertEqual(lines, text.splitlines())

    def test_threads_and_hostile_names(self):
        source = (
            "import ctypes, threading, time\n"
            "libc = ctypes.CDLL(None)\n"
            "def named(): libc.prctl(15, b'\\xff\\x1b[31m', 0, 0, 0); time.sleep(1000)\n"
            "[threading.Thread(target=named).start() for _ in range(5)]\n"
            "print('ready', flush=True)\ntime.sleep(1000)"
        )
        with child("/usr/bin/python3", "-c", source, stdout=subprocess.PIPE, text=True) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            done = dwunw("stack", "-p", process.pid)
            self.check_layout(done.stdout, process.pid)
            tids = [int(tid) for tid in re.findall(r"^TID (\d+):$", done.stdout, re.M)]
            self.assertEqual(tids, sorted(int(task) for task in os.listdir(f"/proc/{process.pid}/task")))
            self.assertEqual(len(tids), 6)
            done = dwunw("stack", "--json", "-p", process.pid)
            self.assertIn("\ufffd\x1b[31m", {thread["name"] for thread in json.loads(done.stdout)["threads"]})
            process.stdout.close()

    def test_a_stopped_process_stays_stopped(self):
        with sleeper() as process:
            process.send_signal(signal.SIGSTOP)
            workloads.wait_for(lambda: state(process.pid) == "T", "SIGSTOP works")
            for _ in range(3):
                done = dwunw("stack", "-p", process.pid)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.check_layout(done.stdout, process.pid)
                workloads.wait_for(lambda: state(process.pid) == "T", "it stays stopped", seconds=5)
            process.send_signal(signal.SIGCONT)
            workloads.wait_for(lambda: state(process.pid) == "S", "SIGCONT works")

    def test_interrupted_while_the_target_is_stopped(self):
        # Many signals at many moments: the target runs on after each.
        with workloads.start("python3") as load:
            load.wait_until_busy()
            (pid,) = load.pids
            interrupted = 0
            for attempt in range(60):
                process = subprocess.Popen([DWUNW, "stack", "-p", str(pid)], stdout=subprocess.DEVNULL)
                workloads.pause(0.0005 * attempt)
                process.send_signal(signal.SIGINT if attempt % 2 else signal.SIGKILL)
                interrupted += process.wait() < 0
                before = workloads.cpu_ticks(pid)
                workloads.wait_for(lambda: workloads.cpu_ticks(pid) > before, "the target runs on", seconds=10)
                self.assertEqual(status_field(pid, "TracerPid"), "0")
            self.assertGreater(interrupted, 5)

    def test_a_target_that_exits_meanwhile(self):
        outcomes = set()
        for attempt in range(40):
            with child("/bin/sh", "-c", "exec /usr/bin/python3 -S -c 'import threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, args=(0.001,)).start()'") as process:
                workloads.pause(0.001 * attempt)
                done = dwunw("stack", "-p", process.pid)
                outcomes.add(done.returncode)
                if done.returncode == 0:
                    self.check_layout(done.stdout, process.pid)
                else:
                    self.assertEqual(done.returncode, 1)
                    self.assertRegex(done.stderr, rf"\Adwunw: {process.pid}: (no such process|has exited .*)\n\Z")
        self.assertIn(0, outcomes)

    def test_no_such_process(self):
        with child("/bin/true") as process:
            process.wait()
        self.expect_failure(dwunw("stack", "-p", process.pid), rf"dwunw: {process.pid}: no such process\n")
        self.expect_failure(dwunw("stack", "-p", 2**31 - 1), "no such process")

    def test_zombie(self):
        process = subprocess.Popen(["/bin/true"])
        workloads.wait_for(lambda: state(process.pid) == "Z", "true exits")
        self.expect_failure(dwunw("stack", "-p", process.pid), "zombie")
        process.wait()

    def test_a_main_thread_that_ended_before_the_others(self):
        source = (
            "import ctypes, threading, time\n"
            "threading.Thread(target=lambda: time.sleep(1000)).start()\n"
            "ctypes.CDLL(None).pthread_exit(None)"
        )
        with child("/usr/bin/python3", "-c", source) as process:
            workloads.wait_for(lambda: state(process.pid) == "Z", "the main thread ends")
            done = dwunw("stack", "-p", process.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.check_layout(done.stdout, process.pid)
            (tid,) = [int(task) for task in os.listdir(f"/proc/{process.pid}/task") if int(task) != process.pid]
            self.assertEqual(re.findall(r"^TID (\d+):$", done.stdout, re.M), [str(tid)])
            self.assertRegex(done.stdout, r"\n#\d+ +0x\S+ \S*clone\S*\+0x\S+ - \S+/libc\.so\.6\n\Z")

    def test_kernel_thread(self):
        kernel_threads = [
            int(entry.name)
            for entry in pathlib.Path("/proc").iterdir()
            if entry.name.isdigit() and parent_of(entry.name) == "2"
        ]
        if not kernel_threads:
            self.skipTest("skipped: no kernel threads are visible here")
        self.expect_failure(dwunw("stack", "-p", kernel_threads[0]), "kernel thread: it has no user stack")

    def test_a_thread_that_is_not_the_process(self):
        started = threading.Event()
        end = threading.Event()
        tid = []

        def run():
            tid.append(threading.get_native_id())
            started.set()
            end.wait()

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        self.expect_failure(dwunw("stack", "-p", tid[0]), f"is a thread of process {os.getpid()}")
        end.set()
        thread.join()

    @unittest.skipUnless(os.getuid() == 0, "skipped: becoming another user needs root")
    def test_permission(self):
        with sleeper() as process:
            self.expect_failure(
                dwunw("stack", "-p", process.pid, user=65534, group=65534, extra_groups=[]),
                f"{process.pid}: permission denied: run as root",
            )

    def test_another_tracer(self):
        with sleeper() as process:
            ptrace_seize = 0x4206
            self.assertEqual(LIBC.ptrace(ptrace_seize, process.pid, None, None), 0)
            self.expect_failure(
                dwunw("stack", "-p", process.pid), f"permission denied: process {os.getpid()} is tracing it"
            )


if __name__ == "__main__":
    DWUNW, DEEP_TARGET = (os.path.abspath(sys.argv.pop(1)) for _ in range(2))
    unittest.main()

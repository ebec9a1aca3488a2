#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests `dwunw core` and `dwunw stack --core`: compares the stacks in cores of dwunw, gcore and the kernel with those of the
live process, and with those of eu-stack and gdb on the same file.

    core_cli_test.py path/to/dwunw [test …]
"""

import contextlib
import glob
import os
import pathlib
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import stack_compare_test as stack_compare  # noqa: E402
import workloads  # noqa: E402

DWUNW = ""
GDB = ("/usr/bin/gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off",
       "-iex", "set backtrace past-main on")  # fmt: skip

SYS_PAUSE = 34
SYS_CLOCK_NANOSLEEP = 230


def run(*command, **options):
    options.setdefault("timeout", 120)
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, errors="replace", check=False, **options
    )


def dwunw(*arguments, **options):
    return run(DWUNW, *arguments, **options)


def good(done):
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"{done.args} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def stack_of(*arguments):
    return good(dwunw("stack", "-n", "0", *arguments))


def threads_of(text):
    pid = int(re.match(r"PID (\d+) - process\n", text)[1])
    return {thread.tid: thread for thread in stack_compare.parse_dwunw(text, pid)}


def eu_stack(core, exe):
    done = run("/usr/bin/eu-stack", "-n", "0", f"--core={core}", "-e", exe)
    pid = int(re.match(r"PID (\d+) - core\n", done.stdout)[1])
    text = done.stdout.replace("- core\n", "- process\n", 1)
    return {thread.tid: thread for thread in stack_compare.parse_eu_stack(text, done.stderr, pid)}


def gdb_stacks(core, exe):
    """Addresses by thread, and how gdb ended."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(stack_compare.GDB_SCRIPT)
        script.flush()
        out = run(*GDB, exe, core, "-x", script.name).stdout
    stacks = {}
    for line in out.splitlines():
        if found := re.fullmatch(r"TID (\d+):", line):
            stacks[int(found[1])] = current = ([], [])
        elif found := re.match(r"#\d+ 0x([0-9a-f]+)", line):
            current[0].append(int(found[1], 16))
        elif line.startswith("end: "):
            current[1].append(line)
    return stacks


def all_in_system_call(pid, number):
    """Whether every thread of a process waits in this system call."""
    calls = [path.read_text().split()[0] for path in pathlib.Path(f"/proc/{pid}/task").glob("*/syscall")]
    return bool(calls) and all(call == str(number) for call in calls)


def gcore(pid, folder):
    done = run("/usr/bin/gcore", "-o", folder / "gcore", pid)
    path = folder / f"gcore.{pid}"
    if not path.exists():
        raise AssertionError(f"gcore: {done.stdout}{done.stderr}")
    return path


def is_code_of(core):
    """Whether an address lies in executable memory of a core."""
    listing = subprocess.run(["/usr/bin/readelf", "--segments", "--wide", core], capture_output=True, text=True, check=True).stdout
    loads = re.findall(r"^  LOAD +0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+ 0x[0-9a-f]+ 0x([0-9a-f]+) [R ][W ]E", listing, re.M)
    ranges = [(int(start, 16), int(start, 16) + int(size, 16)) for start, size in loads]
    assert ranges, f"{core}: no executable segment"
    return lambda pc: any(start <= pc < end for start, end in ranges)


@contextlib.contextmanager
def temporary_folder():
    with tempfile.TemporaryDirectory(prefix="dwunw-core-") as name:
        yield pathlib.Path(name).resolve()


class Judged(unittest.TestCase):
    def check_judges(self, core, exe, text):
        """eu-stack and gdb see in the core what `text`, a complete walk, says."""
        ours = threads_of(text)
        theirs = eu_stack(core, exe)
        self.assertEqual(sorted(theirs), sorted(ours))
        equal = 0
        is_code = is_code_of(core)
        for tid, thread in ours.items():
            verdict = stack_compare.verdict(theirs[tid], thread, is_code)
            # Wrong: in the first instructions of a thread eu-stack takes a register for the caller.
            self.assertIn(verdict, ("equal", "eu shorter", "eu wrong"), stack_compare.describe(theirs[tid], thread, None))
            equal += verdict == "equal"
        self.assertGreater(equal, 0)
        stacks = gdb_stacks(core, exe)
        self.assertEqual(sorted(stacks), sorted(ours))
        for tid, thread in ours.items():
            pcs = [frame.pc for frame in thread.frames]
            self.assertEqual([hex(pc) for pc in stacks[tid][0]], [hex(pc) for pc in pcs], f"gdb: {stacks[tid][1]}")


class Programs(Judged):
    def check_program(self, name):
        with workloads.start(name) as load, temporary_folder() as folder:
            load.wait_until_busy()
            pid = load.pids[0]
            exe = os.readlink(f"/proc/{pid}/exe")
            with stack_compare.stopped(pid):
                live = stack_of("-p", pid)
                self.assertEqual(good(dwunw("core", "-p", pid, "-o", folder / "ours")), "")
                theirs = gcore(pid, folder)
                self.assertEqual(stack_of("-p", pid), live, "it stood still")
                json = good(dwunw("stack", "--json", "-p", pid))
            self.assertNotRegex(live, r"(?m)^TID \d+: ")
            for core in (folder / "ours", theirs):
                with self.subTest(core.name):
                    self.assertEqual(stack_of("--core", core), live)
                    self.check_judges(core, exe, live)
            # Of other threads than the main one a core does not tell the name.
            nameless = re.compile(r'"name": ".*"')
            self.assertEqual(
                nameless.sub("", good(dwunw("stack", "--json", "--core", folder / "ours"))), nameless.sub("", json)
            )

    def test_python3(self):
        self.check_program("python3")

    def test_redis_server(self):
        self.check_program("redis-server")

    def test_perl(self):
        self.check_program("perl")


SOURCE = r"""
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int work(int depth);
static char other_stack[65536];
static void handler(int signal) { (void)signal; work(3); }
static sem_t started;
static void *sleeper(void *arg) { (void)arg; sem_post(&started); for (;;) pause(); }
int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc > 2)
        unlink(argv[0]);
    sem_init(&started, 0, 0);
    pthread_create(&thread, NULL, sleeper, NULL);
    sem_wait(&started);
    if (argc > 1 && strcmp(argv[1], "handler") == 0) {
        stack_t stack = { .ss_sp = other_stack, .ss_size = sizeof other_stack };
        struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
        sigaltstack(&stack, NULL);
        sigaction(SIGUSR1, &action, NULL);
        raise(SIGUSR1);
    }
    if (argc > 1 && strcmp(argv[1], "crash") == 0)
        return work(-5) + 1;
    return work(5) + 1;
}
"""
# What is rebuilt has another build-id and other rules.
LIBRARY = r"""
#include <stdlib.h>
#include <unistd.h>
volatile int sink;
__attribute__((noinline)) int work(int depth)
{
    volatile char room[ROOM];
    room[0] = (char)depth;
    if (depth == 0) { write(1, "ready\n", 6); for (;;) pause(); }
    if (depth == -1) abort();
    sink = work(depth < 0 ? depth + 1 : depth - 1) + room[0];
    return sink;
}
"""


class Example:
    """A program with a library of its own, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "main.c").write_text(SOURCE)
        (folder / "work.c").write_text(LIBRARY)
        self.build(32)

    def build(self, room):
        self.library = self.folder / "libwork.so"
        self.program = self.folder / "program"
        cc = ("/usr/bin/cc", "-O1", "-g0", "-fomit-frame-pointer", "-Wl,--build-id")
        good(run(*cc, f"-DROOM={room}", "-shared", "-fPIC", "-o", self.library, self.folder / "work.c"))
        good(run(
            *cc, f"-DROOM={room}", "-o", self.program, self.folder / "main.c", self.library, "-Wl,-rpath,$ORIGIN", "-pthread",
        ))  # fmt: skip

    @contextlib.contextmanager
    def running(self, *arguments):
        with subprocess.Popen([self.program, *arguments], stdout=subprocess.PIPE, text=True) as process:
            try:
                if process.stdout.readline() != "ready\n":
                    raise AssertionError("the example does not get ready")
                workloads.wait_for(lambda: all_in_system_call(process.pid, SYS_PAUSE), "every thread pauses")
                yield process.pid
            finally:
                process.kill()

    def core(self, *arguments):
        """A core of our own, and the live process's stacks."""
        with self.running(*arguments) as pid:
            live = stack_of("-p", pid)
            core = self.folder / "core.ours"
            good(dwunw("core", "-p", pid, "-o", core))
        return core, live


class Modules(Judged):
    def setUp(self):
        self.folder = self.enterContext(temporary_folder())
        self.example = Example(self.folder)

    def reason(self, *arguments):
        """The frames of the main thread, and why there are no more."""
        thread = min(threads_of(stack_of(*arguments)).items())[1]
        return len(thread.frames), thread.problem

    def test_in_place(self):
        core, live = self.example.core()
        self.assertEqual(live.count("work+"), 6)
        self.assertEqual(stack_of("--core", core), live)
        self.check_judges(core, self.example.program, live)

    def test_on_an_alternate_stack(self):
        core, live = self.example.core("handler")
        self.assertEqual(live.count("work+"), 4)
        self.assertIn("main+", live)
        self.assertEqual(stack_of("--core", core), live)
        self.check_judges(core, self.example.program, live)

    def test_a_kernel_core(self):
        pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
        if pattern.startswith(("|", "/")):
            print("core_pattern sends the kernel's cores elsewhere: gcore's of a live process instead", file=sys.stderr)
            with self.example.running() as pid:
                core = gcore(pid, self.folder)
            expected = 6
        else:
            def limits():
                resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

            done = run(self.example.program, "crash", cwd=self.folder, preexec_fn=limits)
            self.assertEqual(done.returncode, -signal.SIGABRT)
            (core,) = glob.glob(str(self.folder / "core*"))
            expected = 5
        text = stack_of("--core", core)
        self.assertEqual(text.count("work+"), expected)
        self.assertNotRegex(text, r"(?m)^TID \d+: ")
        self.check_judges(core, self.example.program, text)

    def test_sysroot(self):
        core, live = self.example.core()
        root = self.folder / "root"
        for path in {line.rpartition(" - ")[2] for line in live.splitlines() if line.startswith("#")}:
            copy = root / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        self.example.program.unlink()
        self.example.library.unlink()
        self.assertEqual(stack_of("--core", core, "--sysroot", root), live)
        frames, problem = self.reason("--core", core)
        self.assertEqual(problem, "no such file")
        self.assertLess(frames, 4)
        (root / str(self.example.program).lstrip("/")).rename(self.folder / "moved")
        frames, problem = self.reason("--core", core, "--sysroot", root)
        self.assertEqual(problem, "no such file")
        self.assertEqual(stack_of("--core", core, "--sysroot", root, "--exe", self.folder / "moved"), live)

    def test_a_rebuilt_file_is_refused(self):
        core, live = self.example.core()
        self.example.build(4096)
        frames, problem = self.reason("--core", core)
        self.assertEqual(problem, "module file is not the one that is mapped")
        # The frames inside the library's are the live process's; there it ends.
        self.assertLess(frames, 4)
        live = re.sub(r" [^ ]+\+0x[0-9a-f]+ - ", " - ", live)
        self.assertTrue(live.startswith("\n".join(stack_of("--core", core, "--no-symbols").splitlines()[: 2 + frames])))

    def test_deleted_files(self):
        core, live = self.example.core("", "delete itself")
        self.assertIn("program (deleted)", live)
        # What was mapped has no symbol tables.
        live = re.sub(r" [^ ]+\+0x[0-9a-f]+ - (.*program)", r" - \1", live)
        self.assertEqual(stack_of("--core", core), live)

    def test_a_gcore_of_everything(self):
        with self.example.running() as pid:
            pathlib.Path(f"/proc/{pid}/coredump_filter").write_text("0x7f")
            live = stack_of("-p", pid, "--no-symbols")
            core = gcore(pid, self.folder)
        self.assertEqual(stack_of("--core", core, "--no-symbols"), live)
        # It holds the text: without the files, and beside wrong ones.
        self.example.build(4096)
        self.assertEqual(stack_of("--core", core, "--no-symbols"), live)
        self.example.program.unlink()
        self.example.library.unlink()
        self.assertEqual(stack_of("--core", core, "--no-symbols"), live)

    def test_stack_bytes(self):
        source = "import time\ndef f(n):\n  return max([n], key=lambda x: f(n - 1)) if n else print('ready', flush=True) or time.sleep(1000)\nf(200)"
        with subprocess.Popen(["/usr/bin/python3", "-c", source], stdout=subprocess.PIPE, text=True) as process:
            try:
                self.assertEqual(process.stdout.readline(), "ready\n")
                workloads.wait_for(lambda: all_in_system_call(process.pid, SYS_CLOCK_NANOSLEEP), "python sleeps")
                live = stack_of("-p", process.pid)
                sizes = []
                for size in (8192, 65536, 0):
                    core = self.folder / f"core.{size}"
                    good(dwunw("core", "-p", process.pid, "-o", core, "--stack-bytes", size))
                    sizes.append(core.stat().st_size)
                    lines = stack_of("--core", core).splitlines()
                    if size == 0:
                        self.assertEqual(lines, live.splitlines())
                    else:
                        self.assertEqual(lines[-1], f"TID {process.pid}: memory unreadable")
                        self.assertEqual(lines[:-1], live.splitlines()[: len(lines) - 1])
                        self.assertGreater(len(lines), 10)
                self.assertLess(sizes[0], sizes[1])
                self.assertLess(sizes[1], sizes[2])
            finally:
                process.kill()


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(temporary_folder())
        self.process = subprocess.Popen(["/bin/sleep", "1000"])
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        workloads.wait_for(lambda: all_in_system_call(self.process.pid, SYS_CLOCK_NANOSLEEP), "sleep sleeps")

    def expect_failure(self, done, text, status=1):
        self.assertEqual(done.returncode, status, done)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, text)

    def test_usage(self):
        for arguments in (
            ["core"], ["core", "-p", "1"], ["core", "-o", "x"], ["core", "-p", "0", "-o", "x"],
            ["core", "-p", "1", "-o", "x", "--stack-bytes", "-1"], ["stack", "--core"], ["stack", "--core", "x", "-p", "1"],
            ["stack", "-p", "1", "--sysroot", "/"], ["stack", "-p", "1", "--exe", "x"],
        ):  # fmt: skip
            with self.subTest(arguments):
                self.expect_failure(dwunw(*arguments), "Try 'dwunw --help'", status=2)

    def test_the_file(self):
        core = self.folder / "core"
        old = os.umask(0)
        try:
            good(dwunw("core", "-p", self.process.pid, "-o", core))
        finally:
            os.umask(old)
        self.assertEqual(stat.S_IMODE(core.stat().st_mode), 0o600)
        victim = self.folder / "victim"
        victim.write_text("precious")
        link = self.folder / "link"
        link.symlink_to(victim)
        self.expect_failure(dwunw("core", "-p", self.process.pid, "-o", link), "link: exists and is not a regular file")
        self.expect_failure(dwunw("core", "-p", self.process.pid, "-o", "/dev/null"), "not a regular file")
        self.expect_failure(dwunw("core", "-p", self.process.pid, "-o", self.folder), "not a regular file")
        self.expect_failure(dwunw("core", "-p", self.process.pid, "-o", core / "x"), "core/x: Not a directory")
        self.assertEqual(victim.read_text(), "precious")
        # A file of that name is replaced.
        good(dwunw("core", "-p", self.process.pid, "-o", victim))
        self.assertIn(b"sleep", victim.read_bytes())
        self.assertEqual(sorted(os.listdir(self.folder)), ["core", "link", "victim"])

    def test_nothing_is_left_of_a_core_that_could_not_be_written(self):
        def limits():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        core = self.folder / "core"
        core.write_text("the old one")
        done = dwunw("core", "-p", self.process.pid, "-o", core, preexec_fn=limits)
        self.expect_failure(done, "core: File too large")
        self.assertEqual(os.listdir(self.folder), ["core"])
        self.assertEqual(core.read_text(), "the old one")

    def test_processes_that_have_no_core(self):
        core = self.folder / "core"
        self.expect_failure(dwunw("core", "-p", 2**31 - 1, "-o", core), "no such process")
        with subprocess.Popen(["/bin/true"]) as child:
            workloads.wait_for(lambda: stack_compare.states(child.pid) == ["Z"], "it is a zombie")
            self.expect_failure(dwunw("core", "-p", child.pid, "-o", core), "zombie")
        self.assertEqual(os.listdir(self.folder), [])

    def test_files_that_are_no_cores(self):
        core = self.folder / "core"
        good(dwunw("core", "-p", self.process.pid, "-o", core))
        whole = core.read_bytes()
        cut = self.folder / "cut"
        for size, text in ((0, "not a core"), (3, "not a core"), (40, "malformed"), (1000, "malformed"), (5000, "malformed")):
            cut.write_bytes(whole[:size])
            self.expect_failure(dwunw("stack", "--core", cut), f"cut: {text}")
        for path, text in (("/bin/true", "not a core file"), ("/nonexistent", "no such file"), ("/dev/null", "not a core file")):
            self.expect_failure(dwunw("stack", "--core", path), text)
        # Truncated in its memory: still a core, and every stack says where it ends.
        cut.write_bytes(whole[: len(whole) - 12000])
        self.assertEqual(stack_of("--core", cut).splitlines()[-1], f"TID {self.process.pid}: memory unreadable")


if __name__ == "__main__":
    DWUNW = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs `dwunw stack` on one program in every form that a linker, a packager or a C library gives it.

    binary_forms_test.py DWUNW

The test builds each form, runs it, and stops it in a known place. Its stack must hold the program's own functions, in their
order, and end at the root. The forms differ in where the call-frame information is, and in what leads to it.
"""

import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import workloads  # noqa: E402

DWUNW = None

# outer → middle → inner, which stops the process. Each function has a frame that only its CFI describes. System calls are
# made here: musl's functions have no CFI.
CHAIN = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#define FUNCTION __attribute__((noinline, noclone FAR))
#ifndef FAR
#define FAR
#endif
volatile int sink;
void use(char *bytes) { sink += bytes[0]; __asm__ volatile("" ::"r"(bytes) : "memory"); }
static inline void send(long number) {
    long result = SYS_kill;
    __asm__ volatile("syscall" : "+a"(result) : "D"((long)getpid()), "S"(number) : "rcx", "r11", "memory");
}
FUNCTION void inner(void) { char space[40] = {1}; for (;;) { use(space); send(SIGSTOP); } }
FUNCTION void middle(void) { char space[200] = {2}; use(space); inner(); use(space); }
FUNCTION void outer(void) { char space[24] = {3}; use(space); middle(); use(space); }
"""
MAIN = CHAIN + "int main(void) { outer(); return 0; }\n"
CALLERS = ["inner", "middle", "outer"]

# The same in a signal handler, on the usual stack and on one of its own.
HANDLER = CHAIN + r"""
#include <stdlib.h>
static void handler(int number) { char space[72] = {5}; (void)number; use(space); outer(); use(space); }
FUNCTION void sends(void) { char space[56] = {4}; use(space); send(SIGUSR1); use(space); }
int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        stack_t other = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
        sigaltstack(&other, 0);
    }
    struct sigaction action = { .sa_handler = handler, .sa_flags = argc > 1 ? SA_ONSTACK : 0 };
    sigaction(SIGUSR1, &action, 0);
    sends();
    return 0;
}
"""

# A thread that no library knows of: the system call, and the function it shall run, whose frame is the first.
RAW_CLONE = CHAIN + r"""
#include <sched.h>
static char stack[1 << 16] __attribute__((aligned(16)));
__asm__(".globl start_raw\nstart_raw:\n .cfi_startproc\n"
        " mov $56, %eax\n syscall\n test %rax, %rax\n je 1f\n ret\n"
        "1: .cfi_undefined rip\n xor %ebp, %ebp\n call outer\n mov $60, %eax\n xor %edi, %edi\n syscall\n .cfi_endproc\n");
long start_raw(unsigned long flags, void *stack);
int main(void) {
    start_raw(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, stack + sizeof(stack));
    for (;;) pause();
}
"""

# A fiber of its own, which nothing called.
FIBER = CHAIN + r"""
#include <stdlib.h>
#include <ucontext.h>
static ucontext_t main_context, fiber;
int main(void) {
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = malloc(1 << 17);
    fiber.uc_stack.ss_size = 1 << 17;
    fiber.uc_link = &main_context;
    makecontext(&fiber, outer, 0);
    swapcontext(&main_context, &fiber);
    return 0;
}
"""

OPTIONS = ("-O2", "-fomit-frame-pointer", "-fno-stack-protector", "-Wno-implicit-function-declaration")
ONLY_DEBUG_FRAME = ("-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions")


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}: {done.stderr}")
    return done.stdout


def sections(path):
    return re.findall(r"^ *\[ *\d+\] (\S+)", run("/usr/bin/readelf", "-SW", path), re.MULTILINE)


class BinaryForms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="dwunw-forms-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def build(self, *options, source=MAIN, compiler="/usr/bin/cc"):
        (self.folder / "program.c").write_text(source)
        run(compiler, *OPTIONS, "-o", self.folder / "program", self.folder / "program.c", *options)
        return self.folder / "program"

    def stacks(self, program, *arguments):
        """Each thread's function names, and why its walk ended where that was not the root."""
        with subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL) as process:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/stat")
                workloads.wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "it does not stop")
                output = run(DWUNW, "stack", "-p", process.pid)
            finally:
                process.kill()
        threads = []
        for line in output.splitlines()[1:]:
            if re.fullmatch(r"TID \d+:", line):
                threads.append(([], []))
            elif frame := re.match(r"#\d+ +0x[0-9a-f]+(?: (\S+)\+0x)?", line):
                threads[-1][0].append(frame[1])
            else:
                threads[-1][1].append(line)
        return threads

    def expect(self, program, *arguments, names=True, root=True):
        ((found, ends),) = self.stacks(program, *arguments)
        if root:
            self.assertEqual(ends, [], found)
        if names:
            self.assertEqual([name for name in found if name in CALLERS], CALLERS, found)
            self.assertIn("main", found)
        return found

    def test_as_gcc_links_it(self):
        self.expect(self.build())

    def test_static_with_glibc(self):
        self.expect(self.build("-static"))

    def test_only_debug_frame(self):
        program = self.build(*ONLY_DEBUG_FRAME)
        self.assertIn(".debug_frame", sections(program))
        self.expect(program)

    def test_only_compressed_debug_frame(self):
        for kind in ("zlib", "zlib-gnu", "zstd"):
            with self.subTest(kind):
                program = self.build(*ONLY_DEBUG_FRAME)
                # Small sections are left as they are: make it a big one.
                more = "\n".join(f"void more_{i}(void) {{ use(0); use(0); }}" for i in range(300))
                program = self.build(*ONLY_DEBUG_FRAME, source=MAIN + more)
                run("/usr/bin/objcopy", f"--compress-debug-sections={kind}", program)
                if kind == "zlib-gnu":
                    self.assertIn(".zdebug_frame", sections(program))
                else:
                    line = next(l for l in run("/usr/bin/readelf", "-SW", program).splitlines() if " .debug_frame" in l)
                    self.assertRegex(line, r" C +\d+ +\d+ +\d+$")
                self.expect(program)

    def test_without_section_headers(self):
        program = self.build()
        data = bytearray(program.read_bytes())
        struct.pack_into("<Q", data, 0x28, 0)  # e_shoff
        struct.pack_into("<HHH", data, 0x3A, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
        program.write_bytes(data)
        # Nothing names its functions any more; the stack is as long as with the headers.
        found = self.expect(program, names=False)
        self.assertEqual(len(found), len(self.expect(self.build())))

    def test_without_eh_frame_hdr(self):
        program = self.build("-Wl,--no-eh-frame-hdr")
        self.assertNotIn(".eh_frame_hdr", sections(program))
        self.expect(program)

    def test_static_with_musl_without_eh_frame_hdr(self):
        program = self.build("-static", "-Wl,--no-eh-frame-hdr", compiler="/usr/bin/musl-gcc")
        self.assertNotIn(".eh_frame_hdr", sections(program))
        self.expect(program, root=False)

    def test_text_not_at_its_file_offset(self):
        self.expect(self.build("-no-pie", "-Wl,-Ttext-segment=0x7000000"))
        self.expect(self.build("-Wl,-z,noseparate-code"))
        self.expect(self.build("-Wl,-z,separate-code,-z,max-page-size=0x200000"))

    def test_several_executable_segments(self):
        program = self.build("-no-pie", '-DFAR=, section(".far_text")', "-Wl,--section-start=.far_text=0x10000000")
        loads = re.findall(r"LOAD .* R E ", run("/usr/bin/readelf", "-lW", program))
        self.assertGreaterEqual(len(loads), 2)
        self.expect(program)

    def test_discarded_functions(self):
        dropped = "\n".join(f"void dropped_{i}(void) {{ use(0); }}" for i in range(20))
        self.expect(self.build("-ffunction-sections", "-Wl,--gc-sections", source=MAIN + dropped))
        self.expect(self.build(*ONLY_DEBUG_FRAME, "-ffunction-sections", "-Wl,--gc-sections", source=MAIN + dropped))

    def test_signal_handlers(self):
        for compiler in ("/usr/bin/cc", "/usr/bin/musl-gcc"):
            for options in ((), ("-static",)):
                for arguments in ((), ("on its own stack",)):
                    with self.subTest(f"{compiler} {options} {arguments}"):
                        program = self.build(*options, source=HANDLER, compiler=compiler)
                        found = self.expect(program, *arguments, root=compiler == "/usr/bin/cc")
                        self.assertLess(found.index("handler"), found.index("sends"))
                        self.assertLess(found.index("sends"), found.index("main"))

    def test_frame_pointers_and_no_cfi_at_all(self):
        """As Deno and Bun ship: the entry point is the root there, too."""
        program = self.build("-fno-omit-frame-pointer", *ONLY_DEBUG_FRAME, "-g0", "-Wl,--no-eh-frame-hdr")
        run("/usr/bin/objcopy", "-R", ".eh_frame", program)
        self.assertEqual([name for name in sections(program) if "frame" in name], [])
        self.assertEqual(self.expect(program)[-1], "_start")

    def test_a_program_header_without_its_eh_frame_hdr(self):
        program = self.build("-fno-omit-frame-pointer")
        run("/usr/bin/objcopy", "-R", ".eh_frame", "-R", ".eh_frame_hdr", program)
        self.assertIn("GNU_EH_FRAME", run("/usr/bin/readelf", "-lW", program))
        self.assertEqual(self.expect(program)[-1], "_start")

    def test_a_fiber(self):
        ((found, ends),) = self.stacks(self.build(source=FIBER))
        self.assertEqual(ends, [], found)
        self.assertEqual(found[found.index("inner") :], [*CALLERS, "__start_context"])

    def test_cfi_in_the_separate_debug_file(self):
        """As Alpine's musl has it."""
        program = self.build(*ONLY_DEBUG_FRAME, "-Wl,--build-id")
        build_id = re.search(r"Build ID: ([0-9a-f]+)", run("/usr/bin/readelf", "-n", program))[1]
        folder = pathlib.Path("/usr/lib/debug/.build-id", build_id[:2])
        if not os.access("/usr/lib/debug/.build-id", os.W_OK):
            self.skipTest("skipped: /usr/lib/debug/.build-id cannot be written to")
        if not folder.exists():
            folder.mkdir()
            self.addCleanup(folder.rmdir)
        debug = folder / f"{build_id[2:]}.debug"
        self.addCleanup(debug.unlink, missing_ok=True)
        run("/usr/bin/objcopy", "--only-keep-debug", program, debug)
        run("/usr/bin/strip", program)
        self.assertNotIn(".debug_frame", sections(program))
        self.expect(program)

    def test_a_thread_of_a_raw_clone(self):
        threads = self.stacks(self.build(source=RAW_CLONE))
        self.assertEqual(len(threads), 2)
        for found, ends in threads:
            self.assertEqual(ends, [], found)
        found = threads[1][0]
        self.assertEqual(found[found.index("inner") :], [*CALLERS, "start_raw"])


def main():
    global DWUNW
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    DWUNW = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])


if __name__ == "__main__":
    main()

#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Runs a program whose path, symbols and thread names hold every byte and the bidirectional controls. No command and no mode
may print any of these unescaped, on either stream.

    hostile_names_test.py path/to/dwunw path/to/memleak_dwunw_user path/to/memleak_user
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unicodedata
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402

DWUNW = MEMLEAK = MEMLEAK_USER = ""

EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte != ord("/"))
CHARACTERS = "".join(map(chr, (0x9B, 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))).encode()
# What follows an @ is a symbol's version, which is left out; the kernel's map of a process has its own form of a new line.
SYMBOL = b"s" + EVERY_BYTE.replace(b"@", b"") + b"/" + CHARACTERS
FOLDER, FILE = EVERY_BYTE.replace(b"\n", b"")[:100], EVERY_BYTE.replace(b"\n", b"")[100:]
PLACEHOLDER = "A" * len(SYMBOL)
SOURCE = """
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static const unsigned char names[] = { NAMES };
static void *wait_for_ever(void *name)
{
	pthread_setname_np(pthread_self(), name);
	for (;;)
		pause();
}
__attribute__((noinline)) int PLACEHOLDER(void)
{
	void *volatile block;
	char byte;

	if (write(1, "ready\\n", 6) != 6 || read(0, &byte, 1) != 1)
		return 1;
	for (int i = 0; i < 10; i++)
		block = malloc(4321);
	return write(1, "done\\n", 5) != 5 || read(0, &byte, 1) != 1;
}
int main(void)
{
	for (unsigned i = 0; i < sizeof(names); i += 15) {
		char *name = calloc(1, 16);
		pthread_t thread;

		for (unsigned j = 0; j < 15 && i + j < sizeof(names); j++)
			name[j] = names[i + j];
		if (pthread_create(&thread, NULL, wait_for_ever, name))
			return 1;
	}
	return PLACEHOLDER();
}
"""


def escaped(name):
    """As it may be shown, character by character, where no piece of it is a printable one beyond ASCII."""
    return "".join(
        "\\\\" if byte == ord("\\") else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in name
    )


class Names(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Names that hold every byte, in folders and a file: a name has at most 255.
        cls.folder = tempfile.TemporaryDirectory()
        inner = os.path.join(os.fsencode(cls.folder.name), CHARACTERS, FOLDER)
        os.makedirs(inner)
        cls.program = os.path.join(inner, FILE)
        names = ",".join(map(str, EVERY_BYTE + CHARACTERS))
        subprocess.run(
            ["cc", "-O0", "-pthread", f"-DPLACEHOLDER={PLACEHOLDER}", f"-DNAMES={names}", "-o", cls.program, "-x", "c", "-"],
            input=SOURCE,
            text=True,
            check=True,
        )
        with open(cls.program, "rb") as file:
            contents = file.read()
        assert PLACEHOLDER.encode() in contents
        with open(cls.program, "wb") as file:
            file.write(contents.replace(PLACEHOLDER.encode(), SYMBOL))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check_clean(self, output):
        """Text of printable characters, lines and tabs."""
        self.assertIsInstance(output, bytes)
        for character in output.decode():
            if character not in "\n\t":
                self.assertNotIn(unicodedata.category(character), ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"), repr(character))

    def check_names(self, output):
        """The names are there, escaped."""
        self.check_clean(output)
        text = output.decode()
        self.assertIn(escaped(SYMBOL) + "+0x", text)
        self.assertIn("/".join(map(escaped, (CHARACTERS, FOLDER, FILE))), text)

    @contextlib.contextmanager
    def target(self):
        process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            yield process
        finally:
            process.kill()
            process.communicate()

    def dwunw(self, *arguments, status=0):
        done = subprocess.run([DWUNW, *arguments], capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, status, done)
        self.check_clean(done.stdout)
        self.check_clean(done.stderr)
        return done

    def test_stack_and_core(self):
        with self.target() as process:
            pid = str(process.pid)
            self.check_names(self.dwunw("stack", "-p", pid).stdout)
            core = self.program + b".core"
            self.assertEqual(self.dwunw("core", "-p", pid, "-o", core).stderr, b"")
            self.check_names(self.dwunw("stack", "--core", core).stdout)
            for of_whom in (("-p", pid), ("--core", core)):
                report = json.loads(self.dwunw("stack", "--json", *of_whom).stdout)
                frames = [frame for thread in report["threads"] for frame in thread["frames"]]
                # JSON is UTF-8: what is not becomes U+FFFD. The rest is the name itself.
                self.assertIn(self.program.decode(errors="replace"), {frame["module"] for frame in frames})
                self.assertIn(SYMBOL.decode(errors="replace"), {frame.get("raw_symbol") for frame in frames})
            report = json.loads(self.dwunw("stack", "--json", "-p", pid).stdout)
            names = {thread["name"] for thread in report["threads"]}
            self.assertIn("\x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f", names)
            self.assertGreater(len(report["threads"]), len(EVERY_BYTE) // 15)

    def test_table(self):
        shown = escaped(FILE).encode()
        self.assertIn(shown, self.dwunw("table", "--summary", self.program).stdout)
        self.dwunw("table", self.program)

    def test_errors(self):
        shown = escaped(FILE).encode()
        missing = self.program + b".no"
        for arguments, status in (
            (("table", missing), 1),
            (("stack", "--core", missing), 1),
            (("stack", "--core", self.program), 1),
            (("core", "-p", str(os.getpid()), "-o", missing + b"/x"), 1),
            (("stack", "-p", FILE), 2),
            (("table", "/bin/true", "--at", FILE), 2),
        ):
            with self.subTest(arguments):
                done = self.dwunw(*arguments, status=status)
                self.assertIn(shown[:40], done.stderr)
                self.assertEqual(done.stdout, b"")

    def check_memleak(self, command, attached, stream, more=()):
        with self.target() as target:
            process = subprocess.Popen([*command, str(target.pid), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                while attached not in (line := getattr(process, stream).readline()):
                    self.assertTrue(line, "it ended")
                    self.check_clean(line)
                target.stdin.write(b"\n")
                self.assertEqual(target.stdout.readline(), b"done\n")
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate(timeout=60)
            finally:
                process.kill()
                process.communicate()
        self.assertEqual(process.returncode, 0, errors)
        self.check_clean(errors)
        self.check_names(output)

    def test_memleak(self):
        for options in (
            ["--dwunw-mode=off"],
            ["--dwunw-mode=off", "-C"],
            ["--dwunw-mode=fallback"],
            ["--dwunw-mode=fallback", "-C"],
            ["--dwunw-mode=force", "--dwunw-walk=user"],
        ):
            with self.subTest(options):
                self.check_memleak(
                    [MEMLEAK, *options, "-T", "1000", "-p"], b"Tracing outstanding memory allocs", "stdout", ["2000000000"]
                )

    def test_the_small_memleak(self):
        self.check_memleak([MEMLEAK_USER], b"watching malloc", "stderr")


if __name__ == "__main__":
    bpf_support.require_bpf()
    DWUNW, MEMLEAK, MEMLEAK_USER = (os.path.abspath(sys.argv.pop(1)) for _ in range(3))
    unittest.main()

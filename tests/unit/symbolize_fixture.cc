// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A library with known symbols, for symbolize_module_symbols_test.cc; built plain, stripped, and stripped with
// .gnu_debugdata.

#define EXPORT __attribute__((visibility("default"), noinline))
#define LOCAL __attribute__((visibility("hidden"), noinline, used))

namespace fixture {
LOCAL int hidden_function(int a) { return a * 3 + 1; }
EXPORT int exported_function(int a) { return hidden_function(a) * 5; }
} // namespace fixture

extern "C" EXPORT int fixture_plain(int a) { return fixture::exported_function(a) + 7; }

// A label without type and size, as hand-written assembly leaves them, in a section of its own.
__asm__(".section fixture_labels, \"ax\", @progbits\n"
        ".globl fixture_label\n"
        "fixture_label:\n"
        ".fill 16, 1, 0x90\n"
        "ret\n"
        ".text\n");

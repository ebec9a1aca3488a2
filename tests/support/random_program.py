# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""A random C or C++ program of many functions in many files, for tests of stacks: threads that call down through
everything that makes a frame hard to see, for ever.

Direct and indirect calls, tail calls, calls that never return at the end of a function and in its middle, blocks that
compilers move to .text.unlikely, shrink-wrapped prologues, alloca, arrays that keep what earlier frames left there,
jump tables, callbacks from libc, arguments on the stack, realigned frames, exceptions.
"""

import pathlib
import random

HEADER = """
#include <alloca.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __cplusplus
#define LINK extern "C"
#else
#define LINK extern
#endif
#define NOINLINE __attribute__((noinline))
typedef long function(long, long);
LINK __thread unsigned long seed;
LINK function *const table[];
LINK void stop_here(long) __attribute__((noreturn));
LINK void fail_at(const char *, int) __attribute__((noreturn, cold));
LINK void look_at(void *);
LINK long many(long, long, long, long, long, long, long, long, long);
static inline unsigned long next(void) { seed = seed * 6364136223846793005ul + 1442695040888963407ul; return seed >> 33; }
"""

MAIN = """
#include <pthread.h>
#include <setjmp.h>
__thread unsigned long seed;
static __thread jmp_buf again;
void look_at(void *p) { __asm__ volatile("" ::"r"(p) : "memory"); }
NOINLINE long many(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
    volatile char s[24];
    s[0] = a;
    return a + b + c + d + e + f + g + h + i + s[0];
}
void fail_at(const char *what, int line) { volatile char s[40]; s[line & 31] = *what; for (volatile int i = 0; i < 2000; ++i); longjmp(again, 1); }
void stop_here(long n) { if (n == 123456789) printf("%ld", n); for (volatile int i = 0; i < 2000; ++i); fail_at("stopped", n & 7); }
static void *thread(void *arg) {
    seed = (unsigned long)arg * 77777;
    for (;;) {
        setjmp(again);
        table[next() % COUNT](next(), DEPTH);
    }
    return NULL;
}
int main(int argc, char **argv) {
    pthread_t t;
    for (long i = 1; i < THREADS; ++i)
        pthread_create(&t, NULL, thread, (void *)(i + 100 * argc));
    thread((void *)(long)argc);
    return argv == NULL;
}
"""


class Program:
    def __init__(self, seed, functions=120, files=8, cpp=False, depth=14, threads=12):
        self.chance = random.Random(seed)
        self.count = functions
        self.files = files
        self.cpp = cpp
        self.depth = depth
        self.threads = threads

    def call(self, i):
        c = self.chance
        j = c.randrange(self.count)
        return c.choice(
            [
                f"f{j}(a ^ n, n - 1)",
                f"f{j}(a + {j}, n - 1)",
                f"table[next() % {self.count}](a, n - 1)",
                f"table[(a + {i}) & {min(63, self.count - 1)}](a, n - 2)",
            ]
        )

    def statement(self, i):
        c = self.chance
        kind = c.randrange(17)
        call = self.call(i)
        v = f"v{c.randrange(1000)}"
        if kind <= 3:
            return f"    a += {call};\n"
        if kind == 4:
            return f"    {{ char {v}[{c.choice([16, 40, 100, 500, 1500])}]; look_at({v}); a += {call}; look_at({v}); }}\n"
        if kind == 5:
            return f"    {{ char *{v} = (char *)alloca(next() % {c.choice([32, 300])} + 1); look_at({v}); a += {call}; look_at({v}); }}\n"
        if kind == 6:
            return f"    if (__builtin_expect(next() % 90 == 0, 0)) {{ look_at(&a); {c.choice(['stop_here(a);', f'fail_at(__func__, {i});'])} }}\n"
        if kind == 7:
            arms = "".join(
                f"    case {k}: a += {self.call(i)}; break;\n" if k % 2 else f"    case {k}: a ^= {k}; break;\n" for k in range(9)
            )
            return f"    switch (next() % 11) {{\n{arms}    }}\n"
        if kind == 8:
            return f"    for (unsigned long {v} = next() % 3; {v} > 0; --{v}) {{ a += {call} + {v}; look_at(&a); }}\n"
        if kind == 9:
            return f"    {{ long {v}[8] = {{a, n, 3, 1, 4, 1, 5, 9}}; {self.key_set(i)} qsort({v}, 8, sizeof(long), compare{i}); a += {v}[3]; }}\n"
        if kind == 10:
            return f"    a += many(a, n, a + 1, n + 2, a ^ n, 6, 7, a * 3, {call});\n"
        if kind == 11:
            return f"    {{ char {v}[64]; snprintf({v}, sizeof {v}, \"%ld %lx\", a, n); a += strlen({v}); void *p = strdup({v}); look_at(p); free(p); }}\n"
        if kind == 12:
            return f"    {{ long x0 = a * 3, x1 = a + n, x2 = n * 7, x3 = a ^ 99, x4 = a - n, x5 = a | 5; a += {call}; a += x0 ^ x1 ^ x2 ^ x3 ^ x4 ^ x5; }}\n"
        if kind == 13 and c.randrange(8) == 0:
            return f"    {{ __attribute__((aligned(64))) char {v}[64]; look_at({v}); a += {call}; look_at({v}); }}\n"
        if kind == 14 and self.cpp:
            j = c.randrange(self.count)
            return f"    try {{ Held held(&a); a += f{j}(a, n - 1); if (next() % 20 == 0) throw a; }} catch (long x) {{ a -= x; a += {call}; }}\n"
        return f"    for (unsigned long {v} = next() & 255; {v} > 0; --{v}) a += {v} * a ^ n;\n"

    def key_set(self, i):
        return f"key = n;"

    def function(self, i):
        c = self.chance
        attributes = c.choice(["", "", "", "__attribute__((cold)) ", "NOINLINE ", "NOINLINE "])
        body = "".join(self.statement(i) for _ in range(c.randint(1, 5)))
        early = f"    if (n <= 0) return a + {i};\n"
        if c.randrange(3) == 0:
            early += f"    if (next() % 4 == 0) return a ^ {i};\n"  # before any frame: shrink-wrapping
        end = c.choice(
            [
                "    return a;\n",
                "    return a * 3 + 1;\n",
                f"    return {self.call(i)};\n",  # a tail call
                f"    if (next() % 50) return a;\n    stop_here(a);\n",
                f"    if (next() % 50) return a;\n    fail_at(__func__, {i});\n",
            ]
        )
        helper = (
            f"static int compare{i}(const void *x, const void *y) {{ long a = *(const long *)x, b = *(const long *)y;\n"
            f"    if (key > 2 && next() % 32 == 0) {{ long k = key; a += f{c.randrange(self.count)}(b, k - 3) & 1; key = k; }}\n"
            f"    return a < b ? -1 : a > b; }}\n"
            if f"compare{i})" in body
            else ""
        )
        return f"{helper}LINK long f{i}(long, long);\n{attributes}long f{i}(long a, long n) {{\n{early}{body}{end}}}\n"

    def write(self, folder):
        """The names of the files, main first."""
        folder = pathlib.Path(folder)
        suffix = "cc" if self.cpp else "c"
        declared = "".join(f"LINK long f{i}(long, long);\n" for i in range(self.count))
        declared += "static __thread long key __attribute__((unused));\n"
        if self.cpp:
            declared += "struct Held { long *p; Held(long *q) : p(q) { look_at(p); } ~Held() { *p += 1; look_at(p); } };\n"
        order = list(range(self.count))
        self.chance.shuffle(order)
        names = []
        for k in range(self.files):
            name = folder / f"part{k}.{suffix}"
            name.write_text(HEADER + declared + "".join(self.function(i) for i in order[k :: self.files]))
            names.append(name)
        main = MAIN.replace("COUNT", str(self.count)).replace("DEPTH", str(self.depth)).replace("THREADS", str(self.threads))
        functions = ", ".join(f"f{i}" for i in range(self.count))
        linkage = 'extern "C" {\n%s\n}\n' if self.cpp else "%s"
        path = folder / f"main.{suffix}"
        path.write_text(HEADER + declared + f"LINK function *const table[] = {{{functions}}};\n" + linkage % main)
        return [path, *names]

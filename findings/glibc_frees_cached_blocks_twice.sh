#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# glibc 2.36 (Debian's libc6 2.36-9+deb12u14): a thread that ends calls free once more for every block in its cache, which
# the program has freed already. So whoever watches the entry of free sees each such block freed twice, although the
# program freed it once: a leak finder takes the second call for a double free, or for a block from before it began.
# Output seen, for a thread that allocates and frees one block of 40 bytes:
#
#     free(block) by the program: 1, at the thread's end: 1
#
# Exits with 1 if that changes.
set -eu

version=2.36-9+deb12u14
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download "libc6=$version" >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
dpkg-deb -x ./*.deb root
lib=$PWD/root/lib/x86_64-linux-gnu

# The program tells its tracer the address of free, the block, and when it has freed the block.
cat >program.c <<'END'
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

volatile struct { void (*free)(void *); void *block; int freed; } told;

static void *work(void *arg) {
    told.block = malloc(40);
    told.free = free;
    raise(SIGUSR1);
    free((void *)told.block);
    told.freed = 1;
    return arg;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    return pthread_join(thread, 0);
}
END
cat >tracer.c <<'END'
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    uint64_t told = strtoull(argv[1], 0, 16), at = 0, block = 0;
    int counts[2] = {0, 0}, status;
    long word = 0;
    pid_t pid = fork(), tid;

    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, pid, 0, 0);
    while ((tid = waitpid(-1, &status, __WALL)) > 0) {
        int sig = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
        struct user_regs_struct regs;

        if (!WIFSTOPPED(status))
            continue;
        ptrace(PTRACE_GETREGS, tid, 0, &regs);
        if (sig == SIGUSR1) {
            at = ptrace(PTRACE_PEEKDATA, tid, told, 0);
            block = ptrace(PTRACE_PEEKDATA, tid, told + 8, 0);
            word = ptrace(PTRACE_PEEKTEXT, tid, at, 0);
            ptrace(PTRACE_POKETEXT, tid, at, (word & ~0xffL) | 0xcc);
            sig = 0;
        } else if (sig == SIGTRAP && at && regs.rip == at + 1) {
            if (regs.rdi == block)
                counts[(int)ptrace(PTRACE_PEEKDATA, tid, told + 16, 0) & 1]++;
            regs.rip = at;
            ptrace(PTRACE_SETREGS, tid, 0, &regs);
            ptrace(PTRACE_POKETEXT, tid, at, word);
            ptrace(PTRACE_SINGLESTEP, tid, 0, 0);
            waitpid(tid, &status, __WALL);
            ptrace(PTRACE_POKETEXT, tid, at, (word & ~0xffL) | 0xcc);
            sig = 0;
        } else if (sig == SIGTRAP || sig == SIGSTOP) {
            sig = 0;
        }
        ptrace(PTRACE_CONT, tid, 0, sig);
    }
    printf("free(block) by the program: %d, at the thread's end: %d\n", counts[0], counts[1]);
    return argc < 3 || counts[0] != 1 || counts[1] != 1;
}
END
cc -no-pie -O1 -fno-builtin -o program program.c -pthread
cc -o tracer tracer.c
told=$(nm program | awk '$3 == "told" { print $1 }')
"$lib/libc.so.6" | head -1
./tracer "$told" "$lib/ld-linux-x86-64.so.2" --library-path "$lib" ./program

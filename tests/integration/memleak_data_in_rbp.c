// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Code without CFI that keeps data in rbp calls malloc, as compiled Haskell does. rbp points to words that look like a
// saved frame pointer and a return address, and differ at each call. The program takes a number of blocks, and waits
// for a line before its work ("ready PID") and after it ("done"). Its only stack is take, main, and main's caller. With
// "noise" after the number, main's frame holds another number that looks like code at each call, so that the calls
// differ.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__asm__(".text\n"
        ".globl take\n"
        ".type take, @function\n"
        "take:\n"
        "    push %rbp\n"
        "    mov %rdi, %rbp\n" // data, for the whole function
        "    mov $64, %edi\n"
        "    call malloc@plt\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size take, . - take\n");
void *take(const uint64_t *data);

// Where the data says that its caller is: in no mapping, or in code that no call has left, or behind some call.
extern const char after_a_call[];
__attribute__((noinline, used)) void never_called(void) {
    __asm__ volatile("call take\n"
                     ".globl after_a_call\n"
                     "after_a_call:" ::
                         : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

static void wait_for_line(void) {
    char c;
    while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
        ;
}

int main(int argc, char **argv) {
    static uint64_t data[2];
    volatile uintptr_t noise = 0;
    const long blocks = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    char line[256];
    setvbuf(stdout, line, _IOLBF, sizeof(line));
    printf("ready %d\n", getpid());
    wait_for_line();
    for (long i = 0; i < blocks; i++) {
        switch (i % 3) {
        case 0:
            data[1] = 0x4200000000u + (uint64_t)i * 64;
            break;
        case 1:
            data[1] = (uint64_t)(uintptr_t)take + (uint64_t)i % 7;
            break;
        default:
            data[1] = (uint64_t)(uintptr_t)after_a_call;
        }
        if (argc > 2)
            noise = (uintptr_t)main + (uintptr_t)i % 4096;
        __asm__ volatile("" ::"r"(&noise) : "memory");
        take(data);
    }
    printf("leaked 64 %ld take\n", blocks);
    puts("done");
    wait_for_line();
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A function that switches stacks, and whose call-frame information says CFA = rsp+8 everywhere, as in Go's runtime. On
 * the other stack lie words that look like return addresses, but no call pushed them.
 *
 * Prints "ready PID", waits for a line, and leaks blocks of different sizes:
 *     1001   from the other stack: leaks_there, on_other_stack; no walk can find more
 *     1002   from the function that switches, before it does: leaks_here, before_switch, main
 * Then it prints "done" and waits on the other stack: waits_there, on_other_stack.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { kBlocks = 50, kStackWords = 65536 };

void *volatile kept;

/* on_other_stack(function, stack): calls it on that stack, and comes back. */
void on_other_stack(void (*function)(void), void *stack);
/* before_switch(function): calls it, then switches to a stack and back. */
void before_switch(void (*function)(void), void *stack);
/* A function with a call that is never executed: behind the call, CFA = rsp+8. */
extern const char behind_call_of_nobody[];

__asm__(".text\n"
        ".type on_other_stack, @function\n"
        "on_other_stack:\n"
        "    .cfi_startproc\n"
        "    mov %rsp, own_stack(%rip)\n"
        "    mov %rsi, %rsp\n"
        "    call *%rdi\n"
        "    mov own_stack(%rip), %rsp\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size on_other_stack, . - on_other_stack\n"
        ".type before_switch, @function\n"
        "before_switch:\n"
        "    .cfi_startproc\n"
        "    push %rbx\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_offset rbx, -16\n"
        "    mov %rsi, %rbx\n"
        "    call *%rdi\n"
        "    mov %rsp, own_stack(%rip)\n"
        "    mov %rbx, %rsp\n"
        "    mov own_stack(%rip), %rsp\n"
        "    pop %rbx\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size before_switch, . - before_switch\n"
        ".type calls_nobody, @function\n"
        "calls_nobody:\n"
        "    .cfi_startproc\n"
        "    call *%rax\n"
        "behind_call_of_nobody:\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size calls_nobody, . - calls_nobody\n"
        ".local own_stack\n"
        ".comm own_stack, 8, 8\n");

__attribute__((noinline)) static void leak(size_t size) {
    for (int i = 0; i < kBlocks; i++)
        kept = malloc(size);
    __asm__ volatile("" ::: "memory");
}

static void leaks_there(void) {
    leak(1001);
    __asm__ volatile("" ::: "memory");
}

static void leaks_here(void) {
    leak(1002);
    __asm__ volatile("" ::: "memory");
}

static void waits_there(void) {
    char byte;

    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    __asm__ volatile("" ::: "memory");
}

int main(void) {
    uint64_t *stack = calloc(kStackWords, sizeof(*stack));
    uint64_t *top = stack + kStackWords - 16;
    char byte;

    if (!stack)
        return 1;
    /* Two callers, and then zero, which is a stack's end. */
    top[0] = top[1] = (uint64_t)behind_call_of_nobody;
    printf("ready %d\n", getpid());
    fflush(stdout);
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 1;
    on_other_stack(leaks_there, top);
    before_switch(leaks_here, top);
    printf("done\n");
    fflush(stdout);
    on_other_stack(waits_there, top);
    return 0;
}

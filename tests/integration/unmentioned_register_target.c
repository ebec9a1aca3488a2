// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * A function that keeps its caller's SP in a register and calls a helper whose CFI does not mention the register, as in
 * OpenSSL's assembly: helper_… ← keeps_… ← caller ← main. The helper runs for ever.
 *
 *     unmentioned_register_target rax | r11 | written
 *
 * With `written` the helper uses the register for something else, and would restore it before it returned.
 */
#include <string.h>

#define HELPER(name, body)                                                                                             \
    ".type helper_" name ",@function\nhelper_" name ": .cfi_startproc\n" body ".cfi_endproc\n.size helper_" name       \
    ",.-helper_" name "\n"
#define KEEPS(name, reg)                                                                                               \
    ".globl keeps_" name "\n.type keeps_" name ",@function\nkeeps_" name ": .cfi_startproc\n mov %rsp,%" reg           \
    "\n .cfi_def_cfa_register " reg "\n sub $64,%rsp\n and $-32,%rsp\n call helper_" name "\nbehind_" name             \
    ": mov %" reg ",%rsp\n .cfi_def_cfa_register rsp\n ret\n .cfi_endproc\n.size keeps_" name ",.-keeps_" name "\n"

__asm__(".text\n" HELPER("rax", "1: pxor %xmm0,%xmm0\n movups (%rsp),%xmm1\n pause\n jmp 1b\n ret\n")
            HELPER("r11", "1: mov %rcx,%rax\n xor $1,%eax\n pause\n jmp 1b\n ret\n")
        /* rax is the address of a word that holds a return address, a stale one of another function. */
        HELPER("written", " mov %rax,%rdx\n lea 16(%rsp),%rax\n lea behind_rax(%rip),%rcx\n mov %rcx,(%rax)\n"
                          "1: pause\n jmp 1b\n mov %rdx,%rax\n ret\n") KEEPS("rax", "rax") KEEPS("r11", "r11")
            KEEPS("written", "rax"));

void keeps_rax(void);
void keeps_r11(void);
void keeps_written(void);

__attribute__((noinline)) static int caller(const char *how) {
    if (!strcmp(how, "rax"))
        keeps_rax();
    else if (!strcmp(how, "r11"))
        keeps_r11();
    else
        keeps_written();
    return (int)how[0] + 1;
}

int main(int argc, char **argv) { return argc > 1 ? caller(argv[1]) : 2; }

# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# Call-frame information in both sections, with what linkers leave in it: FDEs of discarded code, two for one place, one
# inside another. Those are written by hand, as no assembler directive makes them; the functions themselves do nothing.

# An FDE of [start, start + length) with one instruction: CFA = rsp + cfa.
.macro eh_fde cie, start, length, cfa
    .pushsection .eh_frame, "a", @progbits
    .long 2f - 1f
1:  .long 1b - \cie
    .quad \start
    .quad \length
    .byte 0, 0x0e, \cfa     # no augmentation data; DW_CFA_def_cfa_offset
    .balign 4, 0
2:  .popsection
.endm

.macro debug_fde cie, start, length, cfa
    .pushsection .debug_frame, "", @progbits
    .long 2f - 1f
1:  .long \cie - debug_frame_begin
    .quad \start
    .quad \length
    .byte 0x0e, \cfa
    .balign 4, 0
2:  .popsection
.endm

# The CIEs: CFA = rsp + 8, return address at CFA - 8.
    .section .eh_frame, "a", @progbits
eh_cie:
    .long 2f - 1f
1:  .long 0
    .byte 1
    .string "zR"
    .byte 1, 0x78, 16, 1, 0             # addresses are absolute
    .byte 0x0c, 7, 8, 0x90, 1
    .balign 4, 0
2:

    .section .debug_frame, "", @progbits
debug_frame_begin:
debug_cie:
    .long 2f - 1f
1:  .long 0xffffffff
    .byte 4
    .string ""
    .byte 8, 0, 1, 0x78, 16
    .byte 0x0c, 7, 8, 0x90, 1
    .balign 4, 0
2:  .long 0                             # padding

    .text
    .globl _start
_start:
in_eh_frame:        .fill 64, 1, 0x90
in_both:            .fill 64, 1, 0x90
in_debug_frame:     .fill 64, 1, 0x90
twice:              .fill 64, 1, 0x90
outer:              .fill 64, 1, 0x90
nowhere:            .fill 64, 1, 0x90

    eh_fde eh_cie, in_eh_frame, 64, 16
    eh_fde eh_cie, in_both, 64, 24
    debug_fde debug_cie, in_both, 64, 32            # covered
    debug_fde debug_cie, in_both + 63, 65, 40       # overlaps
    debug_fde debug_cie, in_debug_frame, 64, 48
    eh_fde eh_cie, twice, 64, 56
    eh_fde eh_cie, twice, 32, 64                    # the first stands
    eh_fde eh_cie, outer, 64, 72
    eh_fde eh_cie, outer + 16, 16, 80               # wins; behind it is a gap
    .weak discarded                                 # 0
    eh_fde eh_cie, discarded, 64, 88
    debug_fde debug_cie, discarded, 64, 88
    debug_fde debug_cie, nowhere, 0, 88             # empty

    .section .note.GNU-stack, "", @progbits

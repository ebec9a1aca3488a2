// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The opcode maps as rows: an opcode, or a range of them, and its traits. A later row replaces an earlier one.
//
//     {0x80, 0x81, kModRm | …}    opcodes 80 and 81
//     {0x69, kModRm | …}          opcode 69
//
// Sources: Intel SDM volume 2, appendix A, for all but XOP and the opcodes of AMD's own (AMD APM volumes 3, 4 and 6).
// An opcode without a row has no operand bytes in the maps of one byte and of 0F, and ModRM in all others. It writes no
// general register that an operand names.
//
// kListed is a promise, the rest are facts: only opcodes whose every write of a general register is in their row have
// it. Privileged and rare instructions do not have it.
//
// Proved by tests/unit/arch_x86_64_encoding_test (lengths), arch_x86_64_register_writes_test (writes),
// arch_x86_64_instruction_test and arch_x86_64_sp_instruction_test (actions); each beside Zydis.
#include "arch/x86_64/opcodes.h"

#include <cstddef>
#include <span>

namespace dwunw::arch::x86_64 {
namespace {

struct Row {
    unsigned first;
    unsigned last;
    Traits traits;
    constexpr Row(unsigned opcode, Traits its) : Row(opcode, opcode, its) {}
    constexpr Row(unsigned from, unsigned to, Traits its) : first(from), last(to), traits(its) {}
};

constexpr OpcodeMap all(Traits traits) {
    OpcodeMap map{};
    map.fill(traits);
    return map;
}
constexpr OpcodeMap with(OpcodeMap map, std::span<const Row> rows) {
    for (const Row &row : rows)
        for (unsigned opcode = row.first; opcode <= row.last; ++opcode)
            map[opcode] = row.traits;
    return map;
}

// Add, or, adc, sbb, and, sub, xor, cmp: two forms "rm, reg" and two "reg, rm", for bytes and for larger operands; then
// al and rax with an immediate.
constexpr OpcodeMap with_arithmetic(OpcodeMap map) {
    constexpr unsigned kCompare = 0x38;
    for (unsigned row = 0; row <= kCompare; row += 8) {
        const Traits writes = row == kCompare ? 0 : kWritesMask;
        map[row + 0] = kListed | kModRm | kOfBytes | (kWritesRm & writes);
        map[row + 1] = kListed | kModRm | (kWritesRm & writes);
        map[row + 2] = kListed | kModRm | kOfBytes | (kWritesReg & writes);
        map[row + 3] = kListed | kModRm | (kWritesReg & writes);
        map[row + 4] = kListed | kImmediate1 | (kWritesRax & writes);
        map[row + 5] = kListed | kImmediateOperand | (kWritesRax & writes);
        map[row + 6] = map[row + 7] = kUndefined;
    }
    return map;
}

// Behind the arithmetic rows, 00 to 3f.
constexpr Row kOneByteRows[] = {
    {0x0f, kEscape},
    {0x26, kPrefix}, // es, cs, ss, ds
    {0x2e, kPrefix},
    {0x36, kPrefix},
    {0x3e, kPrefix},
    {0x40, 0x4f, kPrefix}, // REX
    {0x50, 0x57, kListed | act(Action::kPush)},
    {0x58, 0x5f, kListed | kWritesOpcodeReg | act(Action::kPop)},
    {0x60, 0x61, kUndefined},
    {0x62, kEscape},                       // EVEX
    {0x63, kListed | kModRm | kWritesReg}, // movsxd
    {0x64, 0x67, kPrefix},                 // fs, gs, operand size, address size
    {0x68, kListed | kImmediateOperand | act(Action::kPush)},
    {0x69, kListed | kModRm | kImmediateOperand | kWritesReg}, // imul
    {0x6a, kListed | kImmediate1 | act(Action::kPush)},
    {0x6b, kListed | kModRm | kImmediate1 | kWritesReg},
    {0x70, 0x7f, kListed | kImmediate1 | act(Action::kBranch)},
    {0x80, kListed | kModRm | kImmediate1 | kOfBytes | kWritesVary}, // add, or, …, cmp with an immediate
    {0x81, kListed | kModRm | kImmediateOperand | kWritesVary},
    {0x82, kUndefined},
    {0x83, kListed | kModRm | kImmediate1 | kWritesVary},
    {0x84, 0x85, kListed | kModRm}, // test
    {0x86, kListed | kModRm | kOfBytes | kWritesRm | kWritesReg},
    {0x87, kListed | kModRm | kWritesRm | kWritesReg}, // xchg
    {0x88, kListed | kModRm | kOfBytes | kWritesRm},   // mov
    {0x89, kListed | kModRm | kWritesRm},
    {0x8a, kListed | kModRm | kOfBytes | kWritesReg},
    {0x8b, kListed | kModRm | kWritesReg},
    {0x8c, kModRm | kWritesRm},                               // mov from a segment register
    {0x8d, kListed | kModRm | kPartlyUndefined | kWritesReg}, // lea
    {0x8e, kModRm},                                           // mov to a segment register
    {0x8f, kEscape | kModRm | kPartlyUndefined | kWritesRm | act(Action::kPop)},
    {0x90, kListed | kWritesVary}, // nop; with REX.B, xchg %r8, %rax
    {0x91, 0x97, kListed | kWritesOpcodeReg | kWritesRax},
    {0x98, kListed | kWritesRax}, // cdqe
    {0x99, kListed | kWritesRdx}, // cqo
    {0x9a, kUndefined},
    {0x9c, act(Action::kPush)}, // pushf, popf
    {0x9d, act(Action::kPop)},
    {0xa0, 0xa3, kImmediateAddress}, // mov, rax and an absolute address
    {0xa8, kListed | kImmediate1},   // test
    {0xa9, kListed | kImmediateOperand},
    {0xb0, 0xb7, kListed | kImmediate1 | kOfBytes | kWritesOpcodeReg}, // mov
    {0xb8, 0xbf, kListed | kImmediateWhole | kWritesOpcodeReg},
    {0xc0, kListed | kModRm | kImmediate1 | kOfBytes | kWritesRm}, // shifts and rotates
    {0xc1, kListed | kModRm | kImmediate1 | kWritesRm},
    {0xc2, kListed | kImmediate2 | act(Action::kReturn)},
    {0xc3, kListed | act(Action::kReturn)},
    {0xc4, 0xc5, kEscape},                                 // VEX
    {0xc6, kModRm | kImmediate1 | kOfBytes | kWritesVary}, // mov; /7: xabort, xbegin
    {0xc7, kModRm | kImmediateOperand | kWritesVary},
    {0xc8, kImmediate3 | act(Action::kEnter)},
    {0xc9, kListed | kWritesVary | act(Action::kLeave)},
    {0xca, kImmediate2 | act(Action::kEnd)}, // far returns
    {0xcb, act(Action::kEnd)},
    {0xcc, act(Action::kEnd)}, // int3
    {0xcd, kImmediate1 | act(Action::kSystemCall)},
    {0xce, kUndefined},
    {0xcf, act(Action::kEnd)}, // iret
    {0xd0, kListed | kModRm | kOfBytes | kWritesRm},
    {0xd1, kListed | kModRm | kWritesRm},
    {0xd2, kListed | kModRm | kOfBytes | kWritesRm},
    {0xd3, kListed | kModRm | kWritesRm},
    {0xd4, 0xd6, kUndefined},
    {0xd8, 0xdf, kModRm},                             // x87
    {0xe0, 0xe3, kImmediate1 | act(Action::kBranch)}, // loop, jrcxz
    {0xe4, 0xe7, kImmediate1},                        // in, out
    {0xe8, kImmediate4 | act(Action::kCall)},
    {0xe9, kListed | kImmediate4 | act(Action::kJump)},
    {0xea, kUndefined},
    {0xeb, kListed | kImmediate1 | act(Action::kJump)},
    {0xf0, kPrefix},                                                      // lock
    {0xf1, act(Action::kEnd)},                                            // int1
    {0xf2, 0xf3, kPrefix},                                                // repeat
    {0xf4, act(Action::kEnd)},                                            // hlt
    {0xf5, kListed},                                                      // cmc
    {0xf6, kListed | kModRm | kImmediateOfTest | kOfBytes | kWritesVary}, // test, not, neg, mul, div
    {0xf7, kListed | kModRm | kImmediateOfTest | kWritesVary},
    {0xf8, 0xf9, kListed},                                              // clc, stc
    {0xfc, 0xfd, kListed},                                              // cld, std
    {0xfe, kListed | kModRm | kPartlyUndefined | kOfBytes | kWritesRm}, // inc, dec
    {0xff, kModRm | kPartlyUndefined | kWritesVary | act(Action::kByModRm)},
};

// MMX, SSE and their like, in map 0F and in map 1 of VEX and EVEX.
constexpr Row kVectorRows[] = {
    {0x10, 0x17, kListed | kModRm},
    {0x28, 0x2b, kListed | kModRm},
    {0x2c, 0x2d, kListed | kModRm | kWritesReg | kBehindRepeat}, // cvttsd2si, cvtsd2si
    {0x2e, 0x2f, kListed | kModRm},
    {0x50, kListed | kModRm | kWritesReg}, // movmskps
    {0x51, 0x6f, kListed | kModRm},
    {0x70, 0x73, kListed | kModRm | kImmediate1},
    {0x74, 0x76, kListed | kModRm},
    {0x7c, 0x7d, kListed | kModRm},
    {0x7e, kListed | kModRm | kWritesRm | kNotBehindF3}, // movd, movq; behind F3 to a vector
    {0x7f, kListed | kModRm},
    {0xc2, kListed | kModRm | kImmediate1},
    {0xc4, kListed | kModRm | kImmediate1},
    {0xc5, kListed | kModRm | kImmediate1 | kWritesReg}, // pextrw
    {0xc6, kListed | kModRm | kImmediate1},
    {0xd0, 0xd6, kListed | kModRm},
    {0xd7, kListed | kModRm | kWritesReg}, // pmovmskb
    {0xd8, 0xfe, kListed | kModRm},
};

constexpr Row k0fRows[] = {
    {0x00, 0x01, kModRm | kWritesVary}, // sldt, str; smsw
    {0x02, 0x03, kModRm | kWritesReg},  // lar, lsl
    {0x04, kUndefined},
    {0x05, act(Action::kSystemCall)},
    {0x06, 0},                 // clts
    {0x07, act(Action::kEnd)}, // sysret
    {0x08, 0x09, 0},           // invd, wbinvd
    {0x0a, kUndefined},
    {0x0b, kListed | act(Action::kEnd)}, // ud2
    {0x0c, kUndefined},
    {0x0d, kListed | kModRm},       // prefetch
    {0x0e, 0},                      // femms
    {0x0f, kModRm | kImmediate1},   // 3DNow!: the opcode stands last
    {0x18, 0x19, kListed | kModRm}, // prefetch, nop
    {0x1c, 0x1d, kListed | kModRm},
    {0x1e, kModRm | kWritesVary}, // endbr64, rdssp
    {0x1f, kListed | kModRm},
    {0x20, 0x21, kModRm | kOnlyRegisters | kWritesRm}, // from control and debug registers
    {0x22, 0x23, kModRm | kOnlyRegisters},
    {0x24, 0x27, kUndefined},
    {0x30, 0x33, 0},                  // wrmsr, rdtsc, rdmsr, rdpmc
    {0x34, act(Action::kSystemCall)}, // sysenter
    {0x35, act(Action::kEnd)},        // sysexit
    {0x36, kUndefined},
    {0x37, 0}, // getsec
    {0x39, kUndefined},
    {0x3b, 0x3f, kUndefined},
    {0x40, 0x4f, kListed | kModRm | kWritesReg},      // cmov
    {0x77, kListed},                                  // emms
    {0x78, kModRm | kImmediateOfExtrq | kWritesVary}, // vmread; extrq, insertq
    {0x80, 0x8f, kListed | kImmediate4 | act(Action::kBranch)},
    {0x90, 0x9f, kListed | kModRm | kOfBytes | kWritesRm}, // setcc
    {0xa0, act(Action::kPush)},                            // fs
    {0xa1, act(Action::kPop)},
    {0xa2, 0},                                          // cpuid
    {0xa3, kListed | kModRm},                           // bt
    {0xa4, kListed | kModRm | kImmediate1 | kWritesRm}, // shld
    {0xa5, kListed | kModRm | kWritesRm},
    {0xa8, act(Action::kPush)}, // gs
    {0xa9, act(Action::kPop)},
    {0xaa, act(Action::kEnd)},                          // rsm
    {0xab, kListed | kModRm | kWritesRm},               // bts
    {0xac, kListed | kModRm | kImmediate1 | kWritesRm}, // shrd
    {0xad, kListed | kModRm | kWritesRm},
    {0xae, kModRm | kWritesVary},                                 // fences, rdfsbase
    {0xaf, kListed | kModRm | kWritesReg},                        // imul
    {0xb0, kListed | kModRm | kOfBytes | kWritesRm | kWritesRax}, // cmpxchg
    {0xb1, kListed | kModRm | kWritesRm | kWritesRax},
    {0xb2, kModRm | kWritesReg},                                             // lss
    {0xb3, kListed | kModRm | kWritesRm},                                    // btr
    {0xb4, 0xb5, kModRm | kWritesReg},                                       // lfs, lgs
    {0xb6, 0xb8, kListed | kModRm | kWritesReg},                             // movzx, popcnt
    {0xb9, kModRm | act(Action::kEnd)},                                      // ud1
    {0xba, kListed | kModRm | kImmediate1 | kPartlyUndefined | kWritesVary}, // bt, bts, btr, btc
    {0xbb, kListed | kModRm | kWritesRm},                                    // btc
    {0xbc, 0xbf, kListed | kModRm | kWritesReg},                             // bsf, bsr, movsx
    {0xc0, kListed | kModRm | kOfBytes | kWritesRm | kWritesReg},            // xadd
    {0xc1, kListed | kModRm | kWritesRm | kWritesReg},
    {0xc3, kListed | kModRm},                 // movnti
    {0xc7, kModRm | kWritesVary},             // rdrand, rdseed, rdpid; senduipi
    {0xc8, 0xcf, kListed | kWritesOpcodeReg}, // bswap
    {0xff, kModRm | act(Action::kEnd)},       // ud0
};

constexpr Row kVector1Rows[] = {
    {0x0f, kUndefined},
    {0x41, 0x4b, kListed | kModRm | kOnlyVex},                               // kand, …
    {0x77, kListed | kPartlyUndefined},                                      // vzeroupper
    {0x78, 0x79, kListed | kModRm | kWritesReg | kBehindRepeat | kOnlyEvex}, // vcvttsd2usi
    {0x7a, 0x7b, kListed | kModRm | kOnlyEvex},
    {0x80, 0x8f, kUndefined},
    {0x90, 0x92, kListed | kModRm | kOnlyVex}, // kmov
    {0x93, kListed | kModRm | kWritesReg | kOnlyVex},
    {0x98, 0x99, kListed | kModRm | kOnlyVex}, // kortest, ktest
    {0xa4, kUndefined},
    {0xac, kUndefined},
    {0xae, kListed | kModRm | kOnlyVex}, // vldmxcsr
    {0xba, kUndefined},
};

// In map 0F 38 and in map 2.
constexpr Row kVectorRows2[] = {
    {0x00, 0x48, kListed | kModRm}, {0x4a, kListed | kModRm},       {0x4c, 0x5b, kListed | kModRm},
    {0x60, 0x7f, kListed | kModRm}, {0x83, 0xdf, kListed | kModRm},
};

constexpr Row k0f38Rows[] = {
    {0xf0, kListed | kModRm | kWritesReg},                 // movbe, crc32
    {0xf1, kListed | kModRm | kWritesReg | kBehindRepeat}, // crc32; movbe to memory
    {0xf6, kListed | kModRm | kWritesReg},                 // adcx, adox; wrss only reads it
    {0xfa, 0xfb, kModRm | kWritesReg | kBehindRepeat},     // encodekey
};

constexpr Row kVector2Rows[] = {
    {0xf2, kListed | kModRm | kWritesReg | kOnlyVex},                     // andn
    {0xf3, kListed | kModRm | kPartlyUndefined | kWritesVvvv | kOnlyVex}, // blsr
    {0xf5, kListed | kModRm | kWritesReg | kOnlyVex},                     // bzhi, pdep
    {0xf6, kListed | kModRm | kWritesReg | kWritesVvvv | kOnlyVex},       // mulx
    {0xf7, kListed | kModRm | kWritesReg | kOnlyVex},                     // bextr, shlx
};

// Of map 0F 3A and of map 3.
constexpr Row k0f3aRows[] = {
    {0x00, 0xdf, kListed | kModRm | kImmediate1},
    {0x14, 0x17, kListed | kModRm | kImmediate1 | kWritesRm},       // pextrb, extractps
    {0x60, 0x63, kListed | kModRm | kImmediate1 | kWritesRcx},      // pcmpestri
    {0xf0, kListed | kModRm | kImmediate1 | kWritesReg | kOnlyVex}, // rorx
};

// Half precision.
constexpr Row kVector5Rows[] = {
    {0x2c, 0x2d, kModRm | kWritesReg | kBehindRepeat},
    {0x78, 0x79, kModRm | kWritesReg | kBehindRepeat},
    {0x7e, kModRm | kWritesRm | kNotBehindF3}, // vmovw
};

constexpr Row kXop9Rows[] = {
    {0x01, 0x02, kModRm | kWritesVvvv}, // blcfill and its kind
    {0x12, kModRm | kWritesRm},         // slwpcb
};
constexpr Row kXop10Rows[] = {
    {0x10, kModRm | kImmediate4 | kWritesReg}, // bextr
};

constexpr OpcodeMap kVector1 = with(with(all(kModRm), kVectorRows), kVector1Rows);
constexpr OpcodeMap kVector2 = with(with(all(kModRm), kVectorRows2), kVector2Rows);
constexpr OpcodeMap kVector5 = with(all(kModRm), kVector5Rows);
constexpr OpcodeMap kVector6 = all(kModRm);
constexpr OpcodeMap kXop8 = all(kModRm | kImmediate1);
constexpr OpcodeMap kXop9 = with(all(kModRm), kXop9Rows);
constexpr OpcodeMap kXop10 = with(all(kModRm | kImmediate4), kXop10Rows);

} // namespace

constexpr OpcodeMap kOneByte = with(with_arithmetic({}), kOneByteRows);
constexpr OpcodeMap k0f = with(with(all(kModRm), kVectorRows), k0fRows);
constexpr OpcodeMap k0f38 = with(with(all(kModRm), kVectorRows2), k0f38Rows);
constexpr OpcodeMap k0f3a = with(all(kModRm | kImmediate1), k0f3aRows);

const OpcodeMap *vector_map(unsigned number) {
    switch (number) {
    case 1:
        return &kVector1;
    case 2:
        return &kVector2;
    case 3:
        return &k0f3a;
    case 5:
        return &kVector5;
    case 6:
        return &kVector6;
    default:
        return nullptr;
    }
}

const OpcodeMap *xop_map(unsigned number) {
    switch (number) {
    case 8:
        return &kXop8;
    case 9:
        return &kXop9;
    case 10:
        return &kXop10;
    default:
        return nullptr;
    }
}

} // namespace dwunw::arch::x86_64

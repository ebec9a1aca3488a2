// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An example, a handler that interrupts malloc:
//
//     pc              known to                     step                              frame
//     _int_malloc+40  libc's table: CFA = rsp+64   [CFA − 8] is in malloc            0
//     malloc+92       libc's table: CFA = rsp+16   [CFA − 8] is in main              1
//     main+17         the program's table          [CFA − 8] is in __libc_start_…    2
//     …               …                            _start: its RA is undefined       3: DWUNW_OK
//
// walk.cc has many more ways from one frame to the next: the interpreter, signal frames, pending return probes, code
// without CFI. They read files, decode code and allocate, so this walk leaves them alone. What remains is a lookup in
// arrays (Table::row_at), an equation (step_by_rule) and reads of the slice.
//
// Proved by tests/unit/unwind_table_walk_test (beside walk()) and capi_signal_test (100,000 times within malloc, where
// an allocation or a lock ends the test).
#include "unwind/table_walk.h"

#include "unwind/step.h"

namespace dwunw::unwind {
namespace {

// The rule in force at `pc`, as walk() would use it; nullptr where there is none or walk() would look at the code
// first.
const Rule *rule_at(const TableCode &code, CodeAddr pc) {
    const Table::Row row = code.table->row_at(code.bias.link(pc.lookup()));
    if (row.status != DWUNW_OK)
        return nullptr;
    // A pc behind the mapping: not this table's, and may be a uprobe's trampoline.
    if (pc.pc() >= code.end)
        return nullptr;
    // What was returned to may be no call's where the rules differ: a signal trampoline, a landing pad.
    const LinkAddr link = code.bias.link(pc.pc());
    if (pc.is_return_address() && row.end == link) {
        const Table::Row behind = code.table->row_at(link);
        if (behind.status != DWUNW_OK || *behind.rule != *row.rule)
            return nullptr;
    }
    return row.rule;
}

void write_frame(dwunw_frame &frame, CodeAddr pc, uint64_t sp, const TableCode &code) {
    frame = {};
    frame.pc = pc.pc().value;
    frame.sp = sp;
    frame.module = code.module;
    frame.module_offset = code.bias.link(pc.pc()).value;
    frame.flags = pc.is_return_address() ? 0 : DWUNW_FRAME_FLAG_EXACT_PC;
    frame.source = pc.is_return_address() ? DWUNW_SOURCE_CFI : DWUNW_SOURCE_REGISTERS;
}

} // namespace

WalkResult walk_by_tables(const TableWalkRequest &request) {
    const arch::Arch &arch = request.arch;
    Registers registers = request.registers;
    WalkResult result;
    result.status = DWUNW_ERR_WOULD_BLOCK;
    CodeAddr pc = CodeAddr::instruction(RunAddr(registers[arch.pc]));
    for (uint64_t last_cfa = 0;;) {
        const TableCode *code = request.space.find(pc.lookup());
        if (code == nullptr)
            return result;
        if (result.written == request.frames.size()) {
            result.status = DWUNW_ERR_FRAME_LIMIT;
            return result;
        }
        write_frame(request.frames[result.written++], pc, registers[arch.sp], *code);

        const Rule *rule = rule_at(*code, pc);
        if (rule == nullptr || rule->signal_frame)
            return result;
        // Of the registers that the table's walk does not carry, only frame 0's are known.
        if (rule->cfa_kind == CfaKind::kRegister && !rule->carries_cfa(arch) && result.written > 1 &&
            rule->ra_kind != ValueKind::kUndefined)
            return result;
        const Step step = step_by_rule(*rule, arch, pc.pc(), request.memory, registers);
        dwunw_frame &inner = request.frames[result.written - 1];
        inner.cfa = step.cfa;
        if (step.register_kept)
            inner.flags |= DWUNW_FRAME_FLAG_REGISTER_KEPT;
        if (step.outcome == Step::Outcome::kStopped && step.status == DWUNW_ERR_SLICE_EXHAUSTED)
            result.status = step.status;
        const RunAddr outer(registers[arch.pc]);
        // As in walk(): every thread's start pushes a zero.
        if (step.outcome == Step::Outcome::kRoot || (step.outcome == Step::Outcome::kFrame && outer.value == 0))
            result.status = DWUNW_OK;
        if (step.outcome != Step::Outcome::kFrame || result.status == DWUNW_OK)
            return result;
        if (outer == pc.pc() && step.cfa == last_cfa)
            return result;
        last_cfa = step.cfa;
        pc = CodeAddr::return_address(outer);
    }
}

} // namespace dwunw::unwind

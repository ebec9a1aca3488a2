// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Runs any bytes as the CFI programs of a CIE and its FDE. Proves that rows ascend without a hole and stay within the
// FDE, and that the two interpreters, for all registers and for a table's columns, give the same rows and fail at the
// same instruction.
//
// Input: the CIE's code and data alignment and pointer encoding (a byte each), the FDE's start and length (8 bytes
// each), the size of the CIE's instructions (a byte), these, the FDE's instructions.
#include "dwarf/cfi_program.h"

#include "arch/arch.h"
#include "fuzz.h"

#include <elf.h>

#include <vector>

namespace dwunw {
namespace {

using fuzz::require;
using namespace dwarf;

// Bounds the time, not the claims: an input is a few hundred bytes.
constexpr size_t kMaxRows = 4096;

struct TableRow {
    LinkAddr start;
    TableState state;
};

class TableRows final : public TableProgram::Visitor {
  public:
    bool row(LinkAddr start, const TableState &state) override {
        require(rows.empty() || rows.back().start <= start, "a table's rows ascend");
        rows.push_back({start, state});
        return rows.size() < kMaxRows;
    }
    // The state that holds from `start` on; nullptr before the first row.
    const TableState *at(LinkAddr start) const {
        const auto after = std::ranges::upper_bound(rows, start, {}, &TableRow::start);
        return after == rows.begin() ? nullptr : &std::prev(after)->state;
    }
    std::vector<TableRow> rows;
};

class AllRows final : public RowVisitor {
  public:
    AllRows(const Fde &fde, const TableRows &table, TableColumns columns)
        : fde_(fde), table_(table), columns_(columns), next_(fde.start) {}

    bool row(LinkAddr start, LinkAddr end, const RowState &state) override {
        require(start == next_ && start < end && end <= fde_.end, "rows follow one another within the FDE");
        const TableState *same = table_.at(start);
        require(same != nullptr && *same == table_state(state, columns_), "both machines say the same of a row");
        const TableState *last = table_.at(end - 1);
        require(last == same, "no row of the table begins inside a row");
        next_ = end;
        return ++rows < kMaxRows;
    }
    LinkAddr end() const { return next_; }
    size_t rows = 0;

  private:
    const Fde &fde_;
    const TableRows &table_;
    TableColumns columns_;
    LinkAddr next_;
};

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    const std::span<const uint8_t> section(data, size);
    Cursor cursor(section);
    Fde fde;
    fde.cie.version = 1;
    fde.cie.code_alignment = cursor.u8();
    fde.cie.data_alignment = static_cast<int8_t>(cursor.u8());
    fde.cie.return_address_register = 16;
    fde.cie.fde_encoding = cursor.u8();
    fde.start = LinkAddr(cursor.u64());
    const uint64_t length = cursor.u64();
    if (fde.start.value + length < fde.start.value)
        return 0; // parse_range refuses it
    fde.end = fde.start + length;
    const size_t cie_size = cursor.u8();
    fde.cie.instructions_offset = cursor.offset();
    fde.cie.instructions = fuzz::take(cursor, cie_size);
    fde.instructions_offset = cursor.offset();
    fde.instructions = fuzz::take(cursor, size);
    fde.bases.function = fde.start;

    const arch::Arch &arch = *arch::find_by_machine(EM_X86_64);
    const TableColumns columns{arch.sp, arch.fp, arch.ra};
    TableProgram program(columns);
    TableRows table;
    const auto initial = program.initial_state(fde.cie);
    const Status by_table = initial ? program.run(fde, *initial, table) : Status(initial.error());
    AllRows all(fde, table, columns);
    const Status by_all = run_cfi_program(fde, all);
    if (table.rows.size() >= kMaxRows || all.rows >= kMaxRows)
        return 0;
    require(by_table.status() == by_all.status() && by_table.error().value == by_all.error().value,
            "both machines fail alike");
    require(!by_all || all.end() == fde.end, "the last row ends with the FDE");
    return 0;
}

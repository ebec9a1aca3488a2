// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares a module's table with its FDEs. Proves that both give the same answer for every address tried (the ends of
// each function, of each row, and addresses from the input), that a row of the table holds up to its end, and that the
// rows equal the reference interpreter's if that can read the section.
//
// Input: hostile_cfi.h's, then offsets to try (2 bytes each).
#include "fuzz.h"
#include "hostile_cfi.h"
#include "support/reference_cfi.h"
#include "support/rule_text.h"
#include "unwind/module_cfi.h"

#include <elf.h>

#include <cstring>
#include <memory>

namespace dwunw {
namespace {

using fuzz::require;
using unwind::ModuleCfi;

constexpr uint64_t kStart = 0x1000;
constexpr uint64_t kEnd = 0x100000;
constexpr size_t kMaxFunctions = 24;
constexpr size_t kMaxRows = 256;

std::unique_ptr<ModuleCfi> module_of(const fuzz::HostileCfi &cfi) {
    unwind::CfiInput input;
    input.eh_frame = SectionBytes{cfi.section.data(), LinkAddr(0x800000)};
    input.machine = EM_X86_64;
    auto module = ModuleCfi::build(std::move(input));
    require(module.ok(), "a section is enough for a module");
    return std::move(*module);
}

void compare(const ModuleCfi &single, const ModuleCfi &compiled, uint64_t address) {
    const auto by_fde = single.rule_at(LinkAddr(address));
    const auto by_table = compiled.rule_at(LinkAddr(address));
    require(by_fde.status == by_table.status, "a table and an FDE have the same status");
    require(by_fde.status != DWUNW_OK || by_fde.rule == by_table.rule, "a table and an FDE have the same rule");
    require(by_fde.end > LinkAddr(address) && by_table.end > LinkAddr(address), "an answer holds for a byte at least");
}

void check_rows(const ModuleCfi &single, const ModuleCfi &compiled) {
    const unwind::Table &table = *compiled.table();
    LinkAddr at(kStart - 1);
    for (size_t i = 0; i < kMaxRows && at < LinkAddr(kEnd); ++i) {
        const auto row = table.row_at(at);
        require(row.end > at, "a row ends behind its address");
        for (const LinkAddr inside : {at, row.end - 1}) {
            const auto found = table.lookup(inside);
            require(found.status == row.status && found.rule == row.rule, "a row holds as far as it says");
            if (inside < LinkAddr(kEnd))
                compare(single, compiled, inside.value);
        }
        at = row.end;
    }
}

void compare_reference(const ModuleCfi &compiled, const fuzz::HostileCfi &cfi) {
    for (const reference::Fde &fde : reference::read_eh_frame(cfi.section.data(), 0x800000))
        for (size_t i = 0; i < fde.rows.size(); ++i) {
            const uint64_t end = i + 1 < fde.rows.size() ? fde.rows[i + 1].start : fde.end;
            const std::string expected = testing::text_of(fde.rows[i], fde);
            for (const uint64_t address : {fde.rows[i].start, end - 1}) {
                const auto found = compiled.table()->lookup(LinkAddr(address));
                require(found.status == DWUNW_OK, "what the reference reads is in the table");
                require(testing::text_of(*found.rule) == expected, "the table's rule is the reference's");
            }
        }
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    Cursor cursor({data, size});
    const auto cfi = fuzz::hostile_cfi(cursor, kMaxFunctions, kStart, kEnd);
    const auto single = module_of(cfi);
    const auto compiled = module_of(cfi);
    require(compiled->compile().ok(), "what is at hand can be compiled");
    for (const auto &function : cfi.functions)
        for (const uint64_t address : {function.start - 1, function.start, function.start + function.length - 1,
                                       function.start + function.length})
            compare(*single, *compiled, address);
    for (size_t i = 0; i < 32 && !cursor.at_end(); ++i)
        compare(*single, *compiled, kStart + cursor.u16());
    check_rows(*single, *compiled);
    if (cfi.valid)
        compare_reference(*compiled, cfi);
    return 0;
}

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Landing pads: the places at which an exception enters a function. .gcc_except_table has a table of them (LSDA) for
// each FDE that has some, in the layout of GCC's and LLVM's personality routines (Itanium C++ ABI: Exception Handling,
// §"The Language-Specific Data Area").
#pragma once

#include "base/result.h"
#include "base/section_bytes.h"
#include "dwarf/cfi_section.h"
#include "probe/placement.h"

namespace dwunw::probe {

// Whether a landing pad of any function lies in the range. (A function's `.cold` part has its own table, whose pads may
// lie in the other part.) DWUNW_ERR_CFI_MALFORMED: a table cannot be read, so a pad may be anywhere.
Result<bool> has_landing_pad(const dwarf::CfiSection &eh_frame, const SectionBytes &except_table, EntryRange range);

} // namespace dwunw::probe

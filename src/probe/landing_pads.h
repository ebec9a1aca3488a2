// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Landing pads: where an exception enters a function that it passes. They are listed in .gcc_except_table, in a table
// (LSDA) for each FDE that has some; its layout is that of GCC's and LLVM's personality routines (Itanium C++ ABI:
// Exception Handling, §"The Language-Specific Data Area", as those two write it).
#pragma once

#include "base/result.h"
#include "base/section_bytes.h"
#include "dwarf/cfi_section.h"
#include "probe/placement.h"

namespace dwunw::probe {

// Whether a landing pad of any function lies in the range (a function's `.cold` part has a table of its own, whose pads
// may be in the other part). DWUNW_ERR_CFI_MALFORMED: something cannot be read, so that a pad may be anywhere.
Result<bool> has_landing_pad(const dwarf::CfiSection &eh_frame, const SectionBytes &except_table, EntryRange range);

} // namespace dwunw::probe

// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Pointers in .eh_frame. One byte encodes a pointer's format and base (LSB Core, "DWARF Exception Header Encoding").
#pragma once

#include "base/address.h"
#include "base/cursor.h"
#include "base/result.h"

namespace dwunw::dwarf {

// The bases of the application bits of an encoding.
struct PointerBases {
    LinkAddr section;  // address of the section's first byte: DW_EH_PE_pcrel
    LinkAddr text;     // DW_EH_PE_textrel
    LinkAddr data;     // DW_EH_PE_datarel
    LinkAddr function; // DW_EH_PE_funcrel
};

// Reads one pointer at the cursor, whose offsets are section offsets. DWUNW_ERR_CFI_MALFORMED (value: the encoding): an
// unknown encoding, a truncated field, DW_EH_PE_omit, or DW_EH_PE_indirect, because only the running process knows the
// target.
Result<uint64_t> read_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases);

// Reads the field in `encoding`'s format without a base: a length (an FDE's address range).
Result<uint64_t> read_encoded_length(Cursor &cursor, uint8_t encoding);

// Skips a pointer, also an indirect one (a personality routine's).
Status skip_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases);

} // namespace dwunw::dwarf

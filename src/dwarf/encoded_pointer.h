// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Pointers in .eh_frame: a format and what they are relative to, in one byte (LSB Core, "DWARF Exception Header
// Encoding").
#pragma once

#include "base/address.h"
#include "base/cursor.h"
#include "base/result.h"

namespace dwunw::dwarf {

// What the application bits of an encoding are relative to.
struct PointerBases {
    LinkAddr section;  // address of the section's first byte: DW_EH_PE_pcrel
    LinkAddr text;     // DW_EH_PE_textrel
    LinkAddr data;     // DW_EH_PE_datarel
    LinkAddr function; // DW_EH_PE_funcrel
};

// Reads one pointer at the cursor, whose offsets are section offsets. DWUNW_ERR_CFI_MALFORMED (value: the encoding) for
// an unknown encoding, a truncated field, DW_EH_PE_omit, or DW_EH_PE_indirect, whose target only the running process
// knows.
Result<uint64_t> read_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases);

// Reads the field in `encoding`'s format alone: a length (an FDE's address range).
Result<uint64_t> read_encoded_length(Cursor &cursor, uint8_t encoding);

// Passes over a pointer, indirect ones too (a personality routine's).
Status skip_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases);

} // namespace dwunw::dwarf

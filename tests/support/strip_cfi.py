# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""A copy of an ELF file without call-frame information, in which every address is what it was.

.eh_frame and .eh_frame_hdr keep their places and say nothing; .debug_frame loses its name. So the copy stands for the
file in a core of a process that runs the file.
"""

import pathlib
import struct

SHT_NOBITS = 8


def sections(data):
    offset = struct.unpack_from("<Q", data, 40)[0]
    size, count, names = struct.unpack_from("<HHH", data, 58)
    found = []
    for i in range(count):
        name, kind, _, address, at, length = struct.unpack_from("<IIQQQQ", data, offset + i * size)
        found.append((name, kind, address, at, length))
    table = found[names]
    text = data[table[3] : table[3] + table[4]]
    return {
        text[name : text.index(b"\0", name)].decode(): (kind, address, at, length, table[3] + name)
        for name, kind, address, at, length in found
    }


def strip(source, target):
    """Writes the copy; true if there was anything to leave out."""
    data = bytearray(pathlib.Path(source).read_bytes())
    found = sections(bytes(data))
    if ".debug_frame" in found:
        name = found[".debug_frame"][4]
        data[name : name + 6] = b".gone_"
    if ".eh_frame" not in found:
        pathlib.Path(target).write_bytes(data)
        return False
    kind, address, at, length, _ = found[".eh_frame"]
    if kind != SHT_NOBITS:
        data[at : at + length] = bytes(length)
    if ".eh_frame_hdr" in found and found[".eh_frame_hdr"][0] != SHT_NOBITS:
        _, header_address, at, length, _ = found[".eh_frame_hdr"]
        # Version 1; .eh_frame relative to here; no entry.
        header = bytes([1, 0x1B, 0x03, 0x3B]) + struct.pack("<iI", address - header_address - 4, 0)
        data[at : at + length] = header + bytes(length - len(header))
    pathlib.Path(target).write_bytes(data)
    return True

#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# GNU readelf 2.40 (Debian's binutils 2.40-2), --debug-dump=frames-interp: an FDE without instructions has no row at all,
# although the row of its CIE holds for its whole range. A comparison of unwind tables with readelf's output, address by
# address, finds nothing for such functions: every leaf function that never changes its stack pointer.
# That version's listing of one function without and one with an instruction:
#
#     00000018 0000000000000010 0000001c FDE cie=00000000 pc=0000000000000000..0000000000000004
#
#     0000002c 0000000000000018 00000030 FDE cie=00000000 pc=0000000000000004..0000000000000007
#        LOC           CFA      rbp   ra
#     0000000000000004 rsp+8    u     c-8
#     0000000000000005 rsp+16   c-16  c-8
#
# Under the first one `0000000000000000 rsp+8 c-8` is missing, with its heading. Exits with 1 if that changes.
set -eu

version=2.40-2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for package in binutils binutils-common binutils-x86-64-linux-gnu libbinutils libctf0 libctf-nobfd0 libgprofng0; do
    apt-get download "$package=$version" >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
done
for package in ./*.deb; do
    dpkg-deb -x "$package" root
done
tools=root/usr/bin
LD_LIBRARY_PATH=$PWD/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH

cat >two.s <<'END'
    .text
empty:
    .cfi_startproc
    lea (%rdi, %rsi), %eax
    ret
    .cfi_endproc
pushes:
    .cfi_startproc
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    pop %rbp
    ret
    .cfi_endproc
END
"$tools/x86_64-linux-gnu-as" -o two.o two.s
"$tools/x86_64-linux-gnu-readelf" --version | head -1
"$tools/x86_64-linux-gnu-readelf" --debug-dump=frames-interp two.o | tee listing

rows() { awk -v fde="pc=0*$1[.][.]" '/(FDE|CIE)/ { inside = $0 ~ fde } inside && / rsp[+]/ { rows++ } END { print rows + 0 }' listing; }
[ "$(rows 0)" = 0 ] && [ "$(rows 4)" = 2 ]

#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# A dwunw that is wrong in one frame: what shows that stack_compare_test.py sees it. Usage: DWUNW=path break_a_frame.sh …
"$DWUNW" "$@" | sed 's/^#3  0x\([0-9a-f]\{14\}\)0\([0-9a-f]\) /#3  0x\11\2 /; t; s/^#3  0x\([0-9a-f]\{14\}\)[1-9a-f]\([0-9a-f]\) /#3  0x\10\2 /'

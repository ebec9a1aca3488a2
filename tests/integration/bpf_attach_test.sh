#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# bpf_attach_test.sh SOURCE RUN: runs RUN where BPF programs can be loaded; status 77 where not, 1 under
# DWUNW_REQUIRE_BPF=1.
set -euo pipefail
if ! why="$("$1/scripts/bpf-available")"; then
    echo "skipped: $why"
    [ "${DWUNW_REQUIRE_BPF:-0}" = 1 ] && exit 1
    exit 77
fi
exec "$2"

# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""For tests that load BPF programs."""

import os
import pathlib
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"


def require_bpf():
    """Ends the test with `skipped: reason` (status 77) where BPF cannot be loaded; that fails under DWUNW_REQUIRE_BPF=1."""
    probe = subprocess.run([SCRIPTS / "bpf-available"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return
    print(f"skipped: {probe.stdout.strip()}")
    sys.exit(1 if os.environ.get("DWUNW_REQUIRE_BPF") == "1" else 77)

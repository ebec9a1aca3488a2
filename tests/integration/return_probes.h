/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Shared by the target, the BPF programs and the driver of return_probes. */
#ifndef RETURN_PROBES_H
#define RETURN_PROBES_H

/* What a probed function returns for its first argument. */
#define RETURN_PROBES_RESULT(value) ((value)*3 + 1)

/* Cookies. */
#define RETURN_PROBES_CALL 1
#define RETURN_PROBES_LONGJMP 2

#endif

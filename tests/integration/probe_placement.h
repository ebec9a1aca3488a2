/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Shared by the BPF program and the program that attaches it. */
#ifndef PROBE_PLACEMENT_TEST_H
#define PROBE_PLACEMENT_TEST_H

#define MAX_FUNCTIONS 32
#define MAX_ARGUMENTS 6

/* What is counted of a function. A probe's cookie is its entry's slot | arguments << 32, for its return, too. */
enum { AT_ENTRY, AT_PLACEMENT, RETURN_AT_ENTRY, RETURN_AT_PLACEMENT, PLACES };
#define SLOT(function, place) ((function)*PLACES + (place))

struct seen {
    unsigned long long calls;
    unsigned long long sum; /* over calls, of a hash of SP and arguments, or of the value returned */
};

#endif

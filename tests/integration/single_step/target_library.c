// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "target_library.h"

#include <stdlib.h>

long library_add(long a, long b) { return a + b; }

long library_calls_back(int (*compare)(const void *, const void *), const long *value) {
    long other = *value + labs(*value);
    return compare(value, &other) + library_add(other, 1);
}

double library_floats(double a, double b, double c, double d, double e, double f, double g, double h, long i) {
    return a + b + c + d + e + f + g + h + (double)library_add(i, i);
}

/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Functions to be called through PLT stubs. */
#pragma once

long library_add(long a, long b);
long library_calls_back(int (*compare)(const void *, const void *), const long *value);
double library_floats(double a, double b, double c, double d, double e, double f, double g, double h, long i);

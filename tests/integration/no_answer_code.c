// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* The code that no_answer_target loads from its FUSE file. */
int call(int (*function)(void));

int call(int (*function)(void)) { return function() + 1; }

/* SPDX-License-Identifier: MIT */
/* header_check.c once more, in the other language. */
#include "header_check.c"

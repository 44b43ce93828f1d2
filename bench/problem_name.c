/* SPDX-License-Identifier: MIT */
#include "problem_name.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* " s2", or " s2x1"; nothing if both are 1. */
static void append_pair(char *name, const char *letter, int64_t high, int64_t wide)
{
    const size_t used = strlen(name);
    if (high == wide && high != 1) {
        snprintf(name + used, PROBLEM_NAME_SIZE - used, " %s%" PRId64, letter, high);
    } else if (high != wide) {
        snprintf(name + used, PROBLEM_NAME_SIZE - used, " %s%" PRId64 "x%" PRId64, letter, high,
                 wide);
    }
}

void problem_name(const doconv_conv_desc *d, char *name)
{
    int used = d->n != 1 ? snprintf(name, PROBLEM_NAME_SIZE, "mb%" PRId64 " ", d->n) : 0;
    snprintf(name + used, PROBLEM_NAME_SIZE - (size_t)used,
             "%" PRId64 "->%" PRId64 " %" PRId64 "x%" PRId64 " %" PRId64 "x%" PRId64, d->cin,
             d->cout, d->h, d->w, d->kh, d->kw);
    append_pair(name, "s", d->stride_h, d->stride_w);
    append_pair(name, "d", d->dilation_h, d->dilation_w);
    append_pair(name, "g", d->groups, d->groups);
}

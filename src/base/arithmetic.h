/* SPDX-License-Identifier: MIT */
/*
 * Small arithmetic on counts and strides, and the paddings that keep tensors off each other.
 * Any file may include this.
 */
#ifndef DOCONV_ARITHMETIC_H
#define DOCONV_ARITHMETIC_H

#include <stddef.h>
#include <stdint.h>

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

#endif

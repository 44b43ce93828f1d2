/* SPDX-License-Identifier: MIT */
/*
 * Small arithmetic on counts and strides, and the paddings that keep tensors off each other.
 * Any file may include this.
 */
#ifndef DOCONV_ARITHMETIC_H
#define DOCONV_ARITHMETIC_H

#include <stdbool.h>
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
/* Is a value none of the count ones that were seen before? Then it is added to them. */
static inline bool is_new(int value, int *seen, int *count)
{
    for (int i = 0; i < *count; i++) {
        if (seen[i] == value) {
            return false;
        }
    }
    seen[(*count)++] = value;
    return true;
}

static inline size_t most_bytes(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whole cache lines: buffers of different tasks share none. */
static inline size_t align_bytes(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}
static inline int64_t align_floats(int64_t floats)
{
    return (floats + 15) / 16 * 16;
}

/* A pitch that is no multiple of 4 KiB: those put every row into the same few cache sets. */
static inline ptrdiff_t unalias_floats(ptrdiff_t floats)
{
    return floats % 1024 == 0 ? floats + 16 : floats;
}

/* A pitch of an odd number of cache lines: rows spread over all cache sets, however many. */
static inline ptrdiff_t odd_lines_floats(ptrdiff_t floats)
{
    return (floats + 15) / 16 % 2 != 0 ? (floats + 15) / 16 * 16 : (floats + 15) / 16 * 16 + 16;
}

#endif

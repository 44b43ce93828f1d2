/* SPDX-License-Identifier: MIT */
#include "geometry/tap_ranges.h"

#include <stddef.h>

#include "base/arithmetic.h"

/*
 * The first output past i, whose taps [tap0, tap1) lie inside, that may meet others: where tap0 - 1
 * comes in, or the last one leaves. tap0 counts the taps before the image, also where tap1 is less
 * and none lies inside.
 */
static int64_t next_range(const struct dc_axis *a, int64_t tap0, int64_t tap1)
{
    int64_t last = INT64_MAX; /* place of tap 0, padding included, that is still alike */
    if (tap0 > 0) {
        last = a->pad - (tap0 - 1) * a->dilation - 1;
    }
    if (tap1 > tap0) {
        last = least(last, a->pad + a->size - 1 - (tap1 - 1) * a->dilation);
    }
    return last / a->stride >= a->out - 1 ? a->out : last / a->stride + 1;
}

int64_t dc_tap_ranges(const struct dc_axis *a, struct dc_tap_range *ranges, int64_t limit)
{
    int64_t count = 0, next = 0;
    for (int64_t i = 0; i < a->out; i = next) {
        if (count == limit) {
            return limit + 1;
        }
        const int64_t start = i * a->stride - a->pad;
        const int64_t tap0 = start >= 0 ? 0 : least(a->kernel, divide_up(-start, a->dilation));
        const int64_t tap1 =
            start > a->size - 1 ? 0 : least(a->kernel, (a->size - 1 - start) / a->dilation + 1);
        next = next_range(a, tap0, tap1);
        if (ranges != NULL) {
            ranges[count] =
                (struct dc_tap_range){i, next, tap1 > tap0 ? tap0 : 0, tap1 > tap0 ? tap1 : 0};
        }
        count++;
    }
    return count;
}

/* SPDX-License-Identifier: MIT */
#include "geometry/tap_ranges.h"

#include <stddef.h>

#include "base/arithmetic.h"

/* The last output after i, at most, that meets the same taps as i, whose range is given. */
static int64_t last_alike(const struct dc_axis *a, int64_t i, int64_t tap0, int64_t tap1)
{
    const int64_t start = i * a->stride - a->pad, span = (a->kernel - 1) * a->dilation;
    int64_t same = i;
    if (tap0 == 0 && tap1 == a->kernel) {
        same = (a->size - 1 - span + a->pad) / a->stride; /* the inside */
    } else if (tap1 == 0 && start > a->size - 1) {
        same = a->out - 1; /* nothing but padding, behind the image */
    } else if (tap1 == 0 && start + span < 0) {
        same = (a->pad - span - 1) / a->stride; /* or before it */
    }
    return most(i, least(same, a->out - 1));
}

int64_t dc_tap_ranges(const struct dc_axis *a, struct dc_tap_range *ranges)
{
    int64_t count = 0, begin = 0, last0 = 0, last1 = 0;
    for (int64_t i = 0; i <= a->out; i++) {
        const int64_t start = i * a->stride - a->pad;
        int64_t tap0 = start >= 0 ? 0 : least(a->kernel, divide_up(-start, a->dilation));
        int64_t tap1 =
            start > a->size - 1 ? 0 : least(a->kernel, (a->size - 1 - start) / a->dilation + 1);
        if (tap1 <= tap0) {
            tap0 = tap1 = 0;
        }
        if (i > 0 && (i == a->out || tap0 != last0 || tap1 != last1)) {
            if (ranges != NULL) {
                ranges[count] = (struct dc_tap_range){begin, i, last0, last1};
            }
            count++;
            begin = i;
        }
        last0 = tap0;
        last1 = tap1;
        i = last_alike(a, i, tap0, tap1); /* long stretches are stepped over */
    }
    return count;
}

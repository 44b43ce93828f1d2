/* SPDX-License-Identifier: MIT */
#include <stdint.h>

#include "base/log.h"
#include "base/overlap.h"

static bool overlap(const struct dc_range *a, const struct dc_range *b)
{
    const uintptr_t x = (uintptr_t)a->start, y = (uintptr_t)b->start;
    return x <= y ? y - x < a->bytes && b->bytes != 0 : x - y < b->bytes && a->bytes != 0;
}

doconv_status dc_check_overlaps(doconv_context *ctx, const struct dc_range *ranges, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t k = i + 1; k < count; k++) {
            const struct dc_range *a = &ranges[i], *b = &ranges[k];
            if (a->start != NULL && b->start != NULL && (a->written || b->written) &&
                overlap(a, b)) {
                return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "%s: overlaps %s", a->name, b->name);
            }
        }
    }
    return DOCONV_OK;
}

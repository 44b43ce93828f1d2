/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <string.h>

#include "base/log.h"
#include "base/versioned.h"

static doconv_status check_size(const doconv_context *ctx, const struct dc_struct *known,
                                size_t size)
{
    /* Every struct is made of whole words, as its size is one. */
    if (size >= known->smallest && size <= DC_LARGEST_STRUCT && size % sizeof size == 0) {
        return DOCONV_OK;
    }
    return dc_fail(ctx, DOCONV_MISMATCH,
                   "%s.size: %zu is no version's: the first has %zu bytes, this one %zu",
                   known->name, size, known->smallest, known->size);
}

doconv_status dc_read_struct(const doconv_context *ctx, const struct dc_struct *known,
                             const void *from, void *to)
{
    size_t size = known->size;
    if (from == NULL) {
        memset(to, 0, known->size);
        memcpy(to, &size, sizeof size);
        return DOCONV_OK;
    }
    memcpy(&size, from, sizeof size);
    const doconv_status status = check_size(ctx, known, size);
    if (status != DOCONV_OK) {
        return status;
    }
    for (size_t i = known->size; i < size; i++) {
        if (((const unsigned char *)from)[i] != 0) {
            return dc_fail(ctx, DOCONV_MISMATCH,
                           "%s.size: %zu, but this version has %zu bytes, and byte %zu is not zero",
                           known->name, size, known->size, i);
        }
    }
    const size_t common = size < known->size ? size : known->size;
    memcpy(to, from, common);
    memset((char *)to + common, 0, known->size - common);
    memcpy(to, &known->size, sizeof known->size);
    return DOCONV_OK;
}

doconv_status dc_write_struct(const doconv_context *ctx, const struct dc_struct *known,
                              const void *from, void *to, size_t size)
{
    const doconv_status status = check_size(ctx, known, size);
    if (status != DOCONV_OK) {
        return status;
    }
    const size_t common = size < known->size ? size : known->size;
    memcpy(to, from, common);
    memset((char *)to + common, 0, size - common);
    memcpy(to, &size, sizeof size);
    return DOCONV_OK;
}

doconv_status dc_check_numbers(const doconv_context *ctx, const struct dc_number *numbers,
                               size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct dc_number *n = &numbers[i];
        if (!(n->value >= 0.0 && n->value <= n->most)) { /* nor NaN */
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.%s: %.10g is not in 0..%.10g",
                           n->name, n->value, n->most);
        }
    }
    return DOCONV_OK;
}

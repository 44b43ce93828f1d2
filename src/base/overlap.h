/* SPDX-License-Identifier: MIT */
/* Whether what a call writes overlaps what it reads. Any file above src/base may include this. */
#ifndef DOCONV_OVERLAP_H
#define DOCONV_OVERLAP_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

/* Memory that a call is given; start may be NULL. */
struct dc_range {
    const char *name;
    const void *start;
    size_t bytes;
    bool written;
};

/*
 * INVALID_ARGUMENT if two ranges overlap of which one is written; the detail names them. ctx may be
 * NULL.
 */
doconv_status dc_check_overlaps(doconv_context *ctx, const struct dc_range *ranges, size_t count);

#endif

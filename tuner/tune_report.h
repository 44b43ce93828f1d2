/* SPDX-License-Identifier: MIT */
/* What a measurement found. For the tuner. */
#ifndef DOCONV_TUNE_REPORT_H
#define DOCONV_TUNE_REPORT_H

#include <stdbool.h>

#include <doconv/doconv_tune.h>

#include "cachefile.h"

struct doconv_tune_report {
    doconv_context *ctx;
    struct cache_entry entry;
    bool from_cache, stored;
    double rms_error[CACHEFILE_MEASURED]; /* of entry.measured */
};

#endif

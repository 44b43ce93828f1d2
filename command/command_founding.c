/* SPDX-License-Identifier: MIT */
#include "command_founding.h"

#include <string.h>

#include <doconv/doconv_tune.h>

#include "command_shared.h"

void command_print_confidence(const struct command_founding *f)
{
    printf("against   %s: %.4f ms\n", f->against, 1e3 * f->against_seconds);
    printf("sure      to %.1f%%%s\n", 100 * f->confidence,
           f->doubtful ? " (doubtful: measured again when tuning)" : "");
}

void command_print_founding(const struct command_founding *f)
{
    printf("cached    %s: %.4f ms, error %.2g of max|y|\n", f->variant, 1e3 * f->seconds, f->error);
    printf("when      %s\n", f->when);
    command_print_confidence(f);
}

int command_print_entry(doconv_context *context, const char *key)
{
    doconv_entries *entries;
    doconv_status status = doconv_entries_create(context, &entries);
    if (status == DOCONV_OK) {
        status = doconv_entries_read(entries);
    }
    const int count = doconv_entries_count(entries);
    for (int i = 0; i < count && status == DOCONV_OK; i++) {
        doconv_entry_info info = {.size = sizeof info};
        status = doconv_entries_get(entries, i, &info);
        if (status == DOCONV_OK && info.own && strcmp(info.key, key) == 0) {
            const struct command_founding founding = {.variant = info.variant,
                                                      .seconds = info.seconds,
                                                      .error = info.max_rel_error,
                                                      .when = info.when,
                                                      .against = info.against,
                                                      .against_seconds = info.against_seconds,
                                                      .confidence = info.confidence,
                                                      .doubtful = info.doubtful != 0};
            command_print_founding(&founding);
            break;
        }
    }
    doconv_entries_destroy(entries);
    return status == DOCONV_OK || status == DOCONV_IO_ERROR
               ? COMMAND_OK
               : command_library_error(context, status, "the cache's entry for \"%s\"", key);
}

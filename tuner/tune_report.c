/* SPDX-License-Identifier: MIT */
/* A report as callers see it. */
#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "tune_report.h"

void doconv_tune_report_destroy(doconv_tune_report *report)
{
    if (report != NULL) {
        dc_free(report->ctx, report);
    }
}

doconv_status doconv_tune_report_summary(const doconv_tune_report *report,
                                         doconv_tune_summary *summary)
{
    if (report == NULL || summary == NULL) {
        return report == NULL ? DOCONV_INVALID_ARGUMENT
                              : dc_fail(report->ctx, DOCONV_INVALID_ARGUMENT, "summary: NULL");
    }
    const doconv_tune_summary result = {
        .size = sizeof result,
        .variant = report->entry.variant,
        .seconds = 1e-12 * (double)report->entry.picoseconds,
        .max_rel_error = 1e-12 * (double)report->entry.max_rel_error_e12,
        .from_cache = report->from_cache,
        .noisy = report->entry.doubtful,
        .stored = report->stored,
        .measured = report->entry.count,
        .rms_error = report->entry.count > 0 ? report->rms_error[0] : 0.0,
        .confidence = 1e-6 * report->entry.confidence_ppm,
        .when = report->entry.when,
        .against = report->entry.against,
        .against_seconds = 1e-12 * (double)report->entry.against_picoseconds,
    };
    return DC_WRITE_STRUCT(report->ctx, doconv_tune_summary, &result, summary);
}

int doconv_tune_report_count(const doconv_tune_report *report)
{
    return report != NULL ? report->entry.count : 0;
}

doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index,
                                     doconv_tune_entry *entry)
{
    if (report == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (entry == NULL || index < 0 || index >= report->entry.count) {
        return dc_fail(report->ctx, DOCONV_INVALID_ARGUMENT, "entry: NULL, or index: %d is none",
                       index);
    }
    doconv_tune_entry result = dc_cachefile_public(&report->entry.measured[index]);
    result.rms_error = report->rms_error[index];
    return DC_WRITE_STRUCT(report->ctx, doconv_tune_entry, &result, entry);
}

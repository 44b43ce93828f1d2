/* SPDX-License-Identifier: MIT */
/**
 * @file doconv_tune.h @brief Measuring the variants of a problem, and the cache of winners.
 *
 * Plans use the cache by themselves (doconv_tune_mode); this header is for programs that tune ahead
 * of time and want to see the figures.
 */
#ifndef DOCONV_DOCONV_TUNE_H
#define DOCONV_DOCONV_TUNE_H

#include <doconv/doconv.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct doconv_tune_report doconv_tune_report;

/**
 * Called before each measuring round: done of total rounds (total may shrink as candidates are
 * dropped).
 */
typedef void (*doconv_tune_progress_fn)(void *user, int done, int total);

/** Set size and zero the rest for the defaults. */
typedef struct doconv_tune_options {
    size_t size;
    int force; /**< 1: measure though the cache has a winner */
    /**
     * aimed at for one problem; 0: 0.6. Each kept candidate gets its minimum of samples all the
     * same
     */
    double budget_seconds;
    doconv_tune_progress_fn progress;
    void *progress_user;
} doconv_tune_options;

/**
 * Measures the candidates of a problem, checks the winner against the reference kernel, stores it
 * in the cache (unless the result is noisy or the cache directory can't be used: a log line, not an
 * error) and reports. With a cached winner and force = 0 nothing is measured. Both options may be
 * NULL. plan_options.variant restricts the candidates; then nothing is stored. The caller owns the
 * report.
 */
DOCONV_API doconv_status doconv_tune(doconv_context *context, const doconv_conv_desc *desc,
                                     const doconv_plan_options *plan_options,
                                     const doconv_tune_options *options,
                                     doconv_tune_report **report);
DOCONV_API void doconv_tune_report_destroy(doconv_tune_report *report);

/** The outcome. Strings live as long as the report. */
typedef struct doconv_tune_summary {
    size_t size;          /**< in: sizeof(doconv_tune_summary) */
    const char *variant;  /**< the winner */
    double seconds;       /**< its median time; from the cache: as stored */
    double max_rel_error; /**< its largest |y - ref| / max|ref|; from the cache: as stored */
    int from_cache;       /**< 1: nothing was measured */
    int noisy;            /**< 1: the spread of the samples was too wide to trust */
    int stored;           /**< 1: now in the cache */
    int measured;         /**< variants measured */
} doconv_tune_summary;

DOCONV_API doconv_status doconv_tune_report_summary(const doconv_tune_report *report,
                                                    doconv_tune_summary *summary);

/** One measured candidate, fastest first. Strings live as long as the report. */
typedef struct doconv_tune_entry {
    size_t size; /**< in: sizeof(doconv_tune_entry) */
    const char *variant;
    double median_seconds;
    double spread; /**< median absolute deviation / median */
    int rounds;    /**< samples taken */
    int dropped;   /**< 1: dropped early, far behind */
} doconv_tune_entry;

/** Number of measured candidates: 0 if the winner came from the cache. */
DOCONV_API int doconv_tune_report_count(const doconv_tune_report *report);
DOCONV_API doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index,
                                                doconv_tune_entry *entry);

#ifdef __cplusplus
}
#endif

#endif

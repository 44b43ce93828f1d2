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
    /** 1: compute doconv_tune_entry.rms_error of every candidate that is measured */
    int errors;
} doconv_tune_options;

/**
 * Measures the candidates of an operation on a layer (plan_options.operation; NULL: its
 * convolution), checks the winner, stores it in the cache (unless the result is noisy or the cache
 * directory can't be used: a log line, not an error) and reports. What is measured is the whole
 * call: of fresh weights with their packing; of a DO-Conv layer's convolution with the fold, and of
 * its weight's gradient with the gradients of W and D. The check compares every tensor that the
 * winner writes, or a part of it where all would take long, with what shares no kernel with it: the
 * reference kernel, portable loops, sums in double. With a cached winner and force = 0 nothing is
 * measured. Both options may be NULL. plan_options.variant restricts the candidates; then nothing
 * is stored. The caller owns the report. Errors: INVALID_*, OVERFLOW, OUT_OF_MEMORY, MISMATCH
 * (size), NOT_FOUND (no candidate has the variant), UNSUPPORTED (no candidate takes the problem, or
 * every one gave a wrong result).
 */
DOCONV_API doconv_status doconv_tune(doconv_context *context, const doconv_conv_desc *desc,
                                     const doconv_plan_options *plan_options,
                                     const doconv_tune_options *options,
                                     doconv_tune_report **report);
DOCONV_API void doconv_tune_report_destroy(doconv_tune_report *report);

/** The outcome. Strings live as long as the report. */
typedef struct doconv_tune_summary {
    size_t size;         /**< in: sizeof(doconv_tune_summary) */
    const char *variant; /**< the winner */
    double seconds;      /**< its median time; from the cache: as stored */
    /** largest |y - ref| / max|ref| of any tensor that it writes; from the cache: as stored */
    double max_rel_error;
    int from_cache; /**< 1: nothing was measured */
    int noisy;      /**< 1: the spread of the samples was too wide to trust */
    int stored;     /**< 1: now in the cache */
    int measured;   /**< variants measured */
    /** as doconv_tune_entry's, of the winner; 0: from the cache */
    double rms_error;
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
    /**
     * root mean square of y - ref, relative to that of ref, of the tensor where it is largest, on
     * random values; ref is summed in double or by plain loops. The winner's, and the others' with
     * doconv_tune_options.errors; else 0
     */
    double rms_error;
} doconv_tune_entry;

/** Number of measured candidates: 0 if the winner came from the cache. */
DOCONV_API int doconv_tune_report_count(const doconv_tune_report *report);
DOCONV_API doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index,
                                                doconv_tune_entry *entry);

/**
 * Told of each file and directory that is removed: its name below the cache's directory, and the
 * bytes of a file. path lives for this call only.
 */
typedef void (*doconv_cache_report_fn)(void *user, const char *path, uint64_t bytes);

/** Set size and zero the rest for the defaults. */
typedef struct doconv_cache_clean_options {
    size_t size;
    int all; /**< 1: every environment, whatever its age, the context's own too */
    doconv_cache_report_fn report; /**< NULL: none */
    void *report_user;
} doconv_cache_clean_options;

/**
 * Cleans the directory of the context's cache: removes temporary files that a killed process left a
 * week ago or earlier, and environments (the winners of another CPU, instruction set or build of
 * the library) that nothing used for a week. Only files of the cache's own names are removed, and
 * symbolic links are not followed. What the context knows stays in its memory; the directory of
 * DOCONV_SYSTEM_CACHE is left alone. Storing a winner does the same, but of environments it removes
 * only those of other builds on this CPU: another machine may share the directory. options may be
 * NULL. Errors: INVALID_ARGUMENT, MISMATCH (size), IO_ERROR (something could not be read or
 * removed; the rest was), UNSUPPORTED (a build without the tuner).
 */
DOCONV_API doconv_status doconv_cache_clean(doconv_context *context,
                                            const doconv_cache_clean_options *options);

#ifdef __cplusplus
}
#endif

#endif

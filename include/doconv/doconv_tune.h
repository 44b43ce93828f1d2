/* SPDX-License-Identifier: MIT */
/**
 * @file doconv_tune.h @brief Measuring the variants of a problem, and the cache of winners.
 *
 * Plans use the cache by themselves (doconv_tune_mode); this header is for programs that tune ahead
 * of time, want to see the figures, or take winners from one machine to another. In a build without
 * the tuner its functions are UNSUPPORTED.
 */
#ifndef DOCONV_DOCONV_TUNE_H
#define DOCONV_DOCONV_TUNE_H

#include <doconv/doconv.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct doconv_tune_report doconv_tune_report;

/** The name that doconv_progress_fn had before plans could measure with it. */
typedef doconv_progress_fn doconv_tune_progress_fn;

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
    /** NULL: none. As in doconv_plan_options: the report is of the best so far, and `noisy` */
    doconv_cancel_fn cancel;
    void *cancel_user;
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

/* ----------------------------------------------------------------------- the cache's entries */

/**
 * A set of winners as the cache keeps them, of one environment (the winners of a CPU, an
 * instruction set and a build of the library) or of many, other machines' among them. It is sorted
 * by environment, then by key, and has one entry for each pair: of two that meet, that of more
 * samples stays, of as many the faster one. It comes from the cache's directory or from exports,
 * and goes there, or into a table that a program compiles in (doconv_context_options.table).
 *
 * A set takes some 6 KB an entry, from the context's allocator. It is the business of one thread at
 * a time, and the context must outlive it. What adds entries and fails for want of memory, or of a
 * directory that can be read, may have added some.
 */
typedef struct doconv_entries doconv_entries;

/** Makes an empty set. The caller owns it. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, UNSUPPORTED. */
DOCONV_API doconv_status doconv_entries_create(doconv_context *context, doconv_entries **entries);
DOCONV_API void doconv_entries_destroy(doconv_entries *entries);

/**
 * Adds every entry of the context's cache: those in its directory, all environments', and those
 * that it keeps in memory only. Files that are none of this version's entries are left out with a
 * warning to the log. The directory of DOCONV_SYSTEM_CACHE is not read. Errors: IO_ERROR (the
 * directory can't be read), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_read(doconv_entries *entries);

/**
 * Adds the entries of an export, which doconv_entries_write() wrote: all of them, or, if the size
 * bytes at text are cut off, changed or out of order anywhere, none. text needs no NUL and no
 * trust. Errors: INVALID_FILE (the detail names the line), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_parse(doconv_entries *entries, const char *text,
                                              size_t size);

/**
 * Drops all entries but those of an environment (its 16 hexadecimal digits; "own": the context's;
 * NULL: any) whose problem matches a pattern of the shell ("mb1_ic64*"; NULL: any). Errors:
 * INVALID_ARGUMENT.
 */
DOCONV_API doconv_status doconv_entries_keep(doconv_entries *entries, const char *environment,
                                             const char *pattern);

/** One entry. Strings live until the set changes. */
typedef struct doconv_entry_info {
    size_t size;             /**< in: sizeof(doconv_entry_info) */
    const char *environment; /**< 16 hexadecimal digits: the hash of manifest */
    /** lines "NAME VALUE": doconv-cache (the format), library, cpu, isa, l1d, l2, l3, kernels */
    const char *manifest;
    /** the problem, then after a blank each, what else its best choice depends on */
    const char *key;
    const char *variant;     /**< the winner */
    double seconds;          /**< its median time */
    double max_rel_error;    /**< as in doconv_tune_summary */
    int64_t workspace_bytes; /**< that it needs */
    int64_t samples;         /**< taken of all candidates */
    int measured;            /**< candidates, doconv_entries_get_measured() */
    int own;                 /**< 1: of the context's environment */
} doconv_entry_info;

/** Number of entries; 0 for NULL. */
DOCONV_API int doconv_entries_count(const doconv_entries *entries);
DOCONV_API doconv_status doconv_entries_get(const doconv_entries *entries, int index,
                                            doconv_entry_info *info);
/** A measured candidate of an entry, fastest first. */
DOCONV_API doconv_status doconv_entries_get_measured(const doconv_entries *entries, int index,
                                                     int candidate, doconv_tune_entry *measured);

/**
 * Takes the next length bytes of a text, whole lines. 0: go on; anything else ends the call, which
 * returns DOCONV_IO_ERROR.
 */
typedef int (*doconv_write_fn)(void *user, const char *text, size_t length);

/**
 * Writes the set as one text, an export: each environment's manifest and entries, sorted, each
 * entry with a checksum. Equal sets give equal bytes; what changes in an entry changes lines of
 * its own. Errors: IO_ERROR (write asked to end), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_write(const doconv_entries *entries, doconv_write_fn write,
                                              void *user);

/**
 * Writes the set's choices as C: a constant doconv_table (doconv_context_options.table) called name
 * (an identifier of at most 63 characters; NULL: "tuned_table"), with external linkage, in C11 or
 * C++. A key has a row for each ISA that it was tuned for. Where machines with one ISA have
 * different winners, that one is taken by which all of them together lose least, as far as they
 * measured it. Errors: NOT_FOUND (the set is empty), INVALID_ARGUMENT, IO_ERROR (write asked to
 * end), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_write_table(const doconv_entries *entries, const char *name,
                                                    doconv_write_fn write, void *user);

/** What choices lose against a machine's own. */
typedef struct doconv_regret {
    size_t size;  /**< in: sizeof(doconv_regret) */
    int problems; /**< keys that both have */
    /** of these, where the machine measured the choice; nothing is known of the others */
    int known;
    /** share of the speed that is lost: 1 - geometric mean of own winner's time / choice's time */
    double loss;
    double worst;          /**< the largest share of a key */
    const char *worst_key; /**< its key, until the set changes; "" if known is 0 */
} doconv_regret;

/**
 * Tells what the choices of an environment would lose on another one of the set, by what that one
 * measured when it was tuned. from, on: names of environments, as doconv_entry_info has them; from
 * NULL: the choices that doconv_entries_write_table() would write of the whole set. Errors:
 * INVALID_ARGUMENT, OUT_OF_MEMORY, MISMATCH (size).
 */
DOCONV_API doconv_status doconv_entries_regret(const doconv_entries *entries, const char *from,
                                               const char *on, doconv_regret *regret);

/**
 * Stores the set in the context's cache as winners are stored: in its directory, each entry with
 * its environment, other machines' too, atomically, one after the other; where the context has no
 * directory, in its memory, entries of its own environment alone. An entry that is there already
 * stays if it has as many samples. This context's plans find them from then on; other contexts may
 * have looked for a key before. stored (may be NULL): how many entries were, on failure too.
 * Errors: IO_ERROR, OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_store(const doconv_entries *entries, int *stored);

/**
 * Removes the entries with these environments and keys from the directory of the context's cache,
 * and from this context's memory. removed (may be NULL): how many files there were, on failure too.
 * Errors: IO_ERROR.
 */
DOCONV_API doconv_status doconv_entries_forget(const doconv_entries *entries, int *removed);

#ifdef __cplusplus
}
#endif

#endif

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
     * for one problem, preparation and check included; 0: 0.25. It ends with the call that runs
     * then, earlier where the choice is clear. Time that other processes took is not counted, up to
     * as much again, or twice as much while the choice is in doubt
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
 * convolution), checks the winner, stores it in the cache (unless its directory can't be used: a
 * log line, not an error) and reports. A result that is doubtful, as a busy machine may leave it,
 * is stored too, is used like any other, and is measured again by the next context that tunes this
 * problem; the better founded one stays. What is measured is the whole
 * call: of fresh weights with their packing; of a DO-Conv layer's convolution with the fold, and of
 * its weight's gradient with the gradients of W and D; of a layer with composition AUTO
 * (DOCONV_OPERATION_LAYER_STEP, _FORWARD) its whole step or forward pass, after each operation of
 * both compositions that the cache has not was measured by itself. The check compares every tensor
 * that the winner writes, or a part of it where all would take long, with what shares no kernel
 * with it: the reference kernel, portable loops, sums in double. With a cached winner and force = 0
 * nothing is measured. Both options may be NULL. plan_options.variant restricts the candidates;
 * then nothing is stored. The caller owns the report. Errors: INVALID_*, OVERFLOW, OUT_OF_MEMORY,
 * MISMATCH (size), NOT_FOUND (no candidate has the variant), UNSUPPORTED (no candidate takes the
 * problem, or every one gave a wrong result).
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
    int noisy;      /**< 1: doubtful: too little is sure to rely on it (confidence) */
    int stored;     /**< 1: now in the cache */
    int measured;   /**< variants measured */
    /** as doconv_tune_entry's, of the winner; 0: from the cache */
    double rms_error;
    /**
     * 0..1: how sure that no other measured candidate is faster by more than the tolerance of 2 %
     */
    double confidence;
    const char *when;       /**< it was measured: UTC, "2026-11-27T22:56:22Z" */
    const char *against;    /**< what the library would have taken without measuring ... */
    double against_seconds; /**< ... and its median time */
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
    int dropped;   /**< 1: sampled no more from some round on, or wrong */
    /**
     * root mean square of y - ref, relative to that of ref, of the tensor where it is largest, on
     * random values; ref is summed in double or by plain loops. The winner's, and the others' with
     * doconv_tune_options.errors; else 0
     */
    double rms_error;
    int clean;       /**< of the samples, those during which no other process had the cores */
    int retaken;     /**< tries that another process disturbed, and that were made again */
    const char *why; /**< it was dropped: "slower" than the best, or "wrong"; "": it was not */
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
 * by environment, then by key, and has one entry for each pair: of two that meet, one that is not
 * doubtful stays, then that of more samples, of as many the faster one. It comes from the cache's
 * directory or from exports, and goes there, or into a table that a program compiles in
 * (doconv_context_options.table).
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
    const char *when;        /**< these four as in doconv_tune_summary */
    const char *against;
    double against_seconds;
    double confidence;
    int doubtful; /**< 1: a later run that tunes measures it again */
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
 * stays if it has as many samples and is no more doubtful. This context's plans find them from then
 * on; other contexts may have looked for a key before. stored (may be NULL): how many entries were,
 * on failure too.
 * Errors: IO_ERROR, OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_entries_store(const doconv_entries *entries, int *stored);

/**
 * Removes the entries with these environments and keys from the directory of the context's cache,
 * and from this context's memory. removed (may be NULL): how many files there were, on failure too.
 * Errors: IO_ERROR.
 */
DOCONV_API doconv_status doconv_entries_forget(const doconv_entries *entries, int *removed);

/* ---------------------------------------------------------------------------- whole networks */

/** As an input or residual of a layer: what the network is given. */
#define DOCONV_NETWORK_INPUT (-1)

/** The longest name of a layer, with its NUL. */
#define DOCONV_NETWORK_NAME_SIZE 128

/**
 * A layer of a network with its edges. It reads outputs of layers before it. Set size (of all
 * layers the same: it is also the distance from one to the next) and zero the rest.
 */
typedef struct doconv_network_layer {
    size_t size; /**< sizeof(doconv_network_layer) */
    /**
     * unique; printable ASCII or UTF-8 without blanks, but not "-". NULL: "layerN", N from 1 on
     */
    const char *name;
    /** with bias, post-ops, accuracy as it will run; its layouts are chosen unless fixed below */
    const doconv_conv_desc *desc;
    /**
     * indices of the layers whose outputs it reads, or DOCONV_NETWORK_INPUT; of several, the
     * channels follow one another
     */
    const int *inputs;
    int input_count; /**< 0: the layer before; the first layer: what the network is given */
    int residual; /**< likewise, of the tensor that is added; ignored unless desc has a residual */
    int fixed_src, fixed_dst; /**< 1: the layout is desc's */
} doconv_network_layer;

/** Set size and zero the rest for the defaults. */
typedef struct doconv_network_options {
    size_t size;
    /**
     * that may be chosen, bits 1 << doconv_layout. 0: NHWC and the channel-blocked layout as wide
     * as the vectors of the context's ISA. Sources of fewer channels than such a block may be NCHW
     * too, and are never blocked
     */
    unsigned layouts;
    /** of what the network is given; NULL: whichever suits its readers */
    const doconv_layout *input_layout;
    /** of each output that no layer reads; NULL: whichever is fastest */
    const doconv_layout *output_layout;
    /**
     * what may be done for a time that is not known, as for a context; DOCONV_TUNE_DEFAULT: as the
     * context says
     */
    doconv_tune_mode mode;
    /** a deadline for the call, kept but for one problem that is being measured; 0: none */
    double budget_seconds;
    double problem_seconds; /**< doconv_tune_options.budget_seconds for each problem */
    size_t workspace_limit; /**< as in doconv_plan_options */
    size_t packed_limit;    /**< as in doconv_plan_options */
    /** called before each problem is measured, and at the end; total may grow */
    doconv_tune_progress_fn progress;
    void *progress_user;
    /** asked before each problem is measured; not 0: no more, as at the deadline. NULL: never */
    doconv_cancel_fn cancel;
    void *cancel_user;
    /**
     * combinations of layouts of the tensors in use that are looked at from a layer to the next,
     * the fastest so far; 0: 4096. With fewer of them the choice is exact
     */
    int most_states;
} doconv_network_options;

/**
 * What was chosen for the layers of a network. It belongs to no thread, and is immutable; the
 * context must outlive it.
 */
typedef struct doconv_network_plan doconv_network_plan;

/**
 * Chooses a variant and layouts for each layer, so that the network takes least time: that of all
 * layers, weights cold (doconv_plan_options.cold_weights), and of the copies (doconv_reorder())
 * where a layer wants a tensor in another layout than its producer writes, or the residual in
 * another than its dst. A tensor is copied to a layout once, whoever reads the copy. Between a
 * producer's image and a reader's of another size stand operations that are not the library's
 * (pooling, ...): they keep the layout, and nothing is counted for them. The same holds for joining
 * the channels of several inputs, which must come in one layout; blocked, if each has whole blocks.
 *
 * A problem's time comes from the cache, or is measured (and stored) as the mode says: off:
 * estimates; read: the cache, else estimates; tune: the cache, else measured; force: measured;
 * only: the cache, else NOT_FOUND where the network can't do without. Equal layers are one problem.
 * Each is measured in each layout alone, and in a pair of two where that is expected to be on the
 * fastest way; what is not measured, or not by the deadline or for want of memory, is estimated by
 * what is. A choice of the context's table stands, at its estimate.
 *
 * The choice is exact for these times (dynamic programming, layer by layer, over the layouts of the
 * tensors that are still to be read), unless more combinations than most_states meet in a layer.
 * options may be NULL. The caller owns the plan: doconv_network_plan_destroy(). An engine runs it
 * with a doconv_plan of each choice (doconv_plan_options.variant) and its copies. Errors:
 * INVALID_*, OVERFLOW, UNSUPPORTED (no choice of layouts has a variant for each layer), NOT_FOUND
 * (mode only), OUT_OF_MEMORY, MISMATCH (size). The detail names the layer.
 */
DOCONV_API doconv_status doconv_tune_network(doconv_context *context,
                                             const doconv_network_layer *layers, int count,
                                             const doconv_network_options *options,
                                             doconv_network_plan **plan);
DOCONV_API void doconv_network_plan_destroy(doconv_network_plan *plan);

/** What a layer does. Strings and desc live as long as the plan. */
typedef struct doconv_network_choice {
    size_t size; /**< in: sizeof(doconv_network_choice) */
    const char *name;
    const doconv_conv_desc *desc; /**< with the layouts that were chosen */
    const char *problem;          /**< its text */
    const char *variant;
    /** of the variant: "table", "cache", "measured", "estimate", ... (doconv_plan_origin()) */
    const char *origin;
    double seconds;        /**< as predicted */
    size_t workspace_size; /**< that its plan needs */
} doconv_network_choice;

/** Number of layers; 0 for NULL. */
DOCONV_API int doconv_network_plan_count(const doconv_network_plan *plan);
DOCONV_API doconv_status doconv_network_plan_get(const doconv_network_plan *plan, int index,
                                                 doconv_network_choice *choice);

/** A tensor that is copied to another layout on an edge. */
typedef struct doconv_network_reorder {
    size_t size;  /**< in: sizeof(doconv_network_reorder) */
    int producer; /**< the layer that wrote it, or DOCONV_NETWORK_INPUT */
    int consumer; /**< the layer that reads it; the number of layers: the network's caller */
    int input;    /**< which of the consumer's inputs; -1: its residual */
    doconv_layout from, to;
    int64_t n, c, h, w; /**< as the consumer reads it */
    double seconds;     /**< of the copy; 0 where it is reused */
    int reused;         /**< 1: the copy was made for an edge before */
    int estimated;      /**< 1: seconds were not measured */
} doconv_network_reorder;

/** Number of such edges, in the order of the consumers; 0 for NULL. */
DOCONV_API int doconv_network_plan_reorder_count(const doconv_network_plan *plan);
DOCONV_API doconv_status doconv_network_plan_get_reorder(const doconv_network_plan *plan, int index,
                                                         doconv_network_reorder *reorder);

/** All of a network. */
typedef struct doconv_network_total {
    size_t size;            /**< in: sizeof(doconv_network_total) */
    double seconds;         /**< of layers and copies */
    double reorder_seconds; /**< of the copies */
    size_t workspace_size;  /**< the largest of a layer */
    /**
     * by doconv_layout: seconds if all outputs have this layout, and all sources that can; 0: it is
     * not among the layouts, or not possible
     */
    double single_seconds[4];
    int estimated; /**< layers and copies whose seconds were not measured */
    int exact;     /**< 0: there were more states than allowed; the choice may not be the best */
    int measured;  /**< problems that the call measured; 0 for a plan that was read */
} doconv_network_total;

DOCONV_API doconv_status doconv_network_plan_total(const doconv_network_plan *plan,
                                                   doconv_network_total *total);

/**
 * Writes a plan as one text, which doconv_network_plan_parse() reads: for whom it was made (the
 * hash of the environment's manifest, as doconv_entry_info has it, threads and limits), then each
 * layer and its copies, and a checksum. Equal plans give equal bytes. Errors: IO_ERROR (write asked
 * to end), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_network_plan_write(const doconv_network_plan *plan,
                                                   doconv_write_fn write, void *user);

/** Set size and zero the rest for the defaults. */
typedef struct doconv_network_parse_options {
    size_t size;
    /**
     * 1: take a plan of another environment (CPU, instruction set, build of the library), whose
     * variants may not be the fastest here, or not exist
     */
    int any_environment;
    int any_threads; /**< 1: take a plan for another number of threads */
} doconv_network_parse_options;

/**
 * Reads a plan: all of it, or, if the size bytes at text are cut off or changed anywhere, nothing.
 * text needs no NUL and no trust. options may be NULL. The caller owns the plan. Errors:
 * INVALID_FILE (the detail names the line), MISMATCH (it was made for another environment or number
 * of threads, and the options don't allow that; or the context is deterministic, and the plan was
 * not made so), OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_network_plan_parse(doconv_context *context, const char *text,
                                                   size_t size,
                                                   const doconv_network_parse_options *options,
                                                   doconv_network_plan **plan);

#ifdef __cplusplus
}
#endif

#endif

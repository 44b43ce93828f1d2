/* SPDX-License-Identifier: MIT */
/*
 * Timing the variants of one problem, of any operation, against each other, and checking one
 * against what shares no kernel with it. For the tuner.
 */
#ifndef DOCONV_MEASURE_H
#define DOCONV_MEASURE_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv_tune.h>

#include "evict.h"
#include "plan/problem.h"
#include "plan/solver.h"

#define MEASURE_ROUNDS 96 /* most samples of a candidate */

enum measured_state {
    MEASURED_RACING,  /* sampled in each round */
    MEASURED_SETTLED, /* as good as the leader, or as far as its race got: sampled no more */
    MEASURED_SLOWER,  /* than the leader, surely: likewise */
    MEASURED_WRONG    /* its result is: never timed, never chosen */
};

/* A variant ready to run. */
struct measured {
    doconv_plan *plan;
    doconv_weights *weights;
    bool owns_weights; /* variants with the same packed layout share theirs */
    bool is_default;   /* what the library would take without measuring */
    enum measured_state state;
    double once; /* seconds of one of its first calls */
    int repeats; /* calls of a sample */
    /* Seconds of a call in each round; 0: it was not in it. */
    double samples[MEASURE_ROUNDS];
    bool clean[MEASURE_ROUNDS]; /* the sample had its cores to itself */
    int rounds;                 /* samples taken; of these */
    int clean_rounds;           /* are clean; */
    int retaken;                /* tries that others disturbed, and that were made again */
    /* How sure (0..1) that it is not faster than the leader by more than the tolerance. */
    double confidence;
    double median;    /* of its samples, of the clean ones if there are any */
    double spread;    /* their median absolute deviation / median */
    double rms_error; /* of its result, if it was checked; else 0 */
};

/* The tensors that operations have; which of them, dc_problem.operation says. */
enum measure_tensor {
    /* Read: reproducible values in [-0.5, 0.5). */
    MEASURE_SRC,
    MEASURE_RESIDUAL,
    MEASURE_BIAS,
    MEASURE_WEIGHT, /* of a convolution that folds none */
    MEASURE_W,
    MEASURE_D,
    MEASURE_GRAD_DST,
    MEASURE_GRAD_FOLDED,
    /* Written. */
    MEASURE_DST,
    MEASURE_FOLDED, /* the weight that W and D fold to: by DC_FOLD, or before a convolution */
    MEASURE_GRAD_SRC,
    MEASURE_GRAD_WEIGHT,
    MEASURE_GRAD_W,
    MEASURE_GRAD_D,
    MEASURE_TENSORS, /* how many */
    MEASURE_FIRST_WRITTEN = MEASURE_DST
};

struct measure_set {
    doconv_context *ctx;
    struct dc_problem problem;
    bool cold;                       /* weights are not in cache when a call starts */
    float *tensors[MEASURE_TENSORS]; /* NULL: the operation has none */
    size_t bytes[MEASURE_TENSORS];
    char *workspace; /* shared by all */
    size_t workspace_size;
    float *expected;    /* dst by the reference kernel, where it is compared; NULL: not yet */
    dc_evict_fn *evict; /* makes weights cold; NULL: flushing the caches does */
    char *flush;        /* memory for that; NULL: not needed */
    size_t flush_bytes; /* twice as large as the caches */
    struct measured *items;
    int count, capacity;
    int round; /* the one that is being sampled */
    /* Time: when it began by the wall and by the thread's own, what others took, what there is. */
    double wall_start, thread_start, lost, budget;
    doconv_cancel_fn cancel; /* may be NULL */
    void *cancel_user;
    bool cancelled;
    double most_lost; /* of what others took: so much is not counted */
};

/*
 * Tensors and room for capacity candidates; options: those of their plans, or NULL. OUT_OF_MEMORY
 * with its detail; dc_measure_set_destroy() is right for a set of zeros, and after any failure.
 */
doconv_status dc_measure_set_create(doconv_context *ctx, const struct dc_problem *problem,
                                    const doconv_plan_options *options, int capacity,
                                    struct measure_set *set);
void dc_measure_set_destroy(struct measure_set *set);

/*
 * Appends a candidate of the problem: its plan, its weights, room in the workspace. The first one
 * is the default. On failure the set is as before.
 */
doconv_status dc_measure_set_add(struct measure_set *set, const doconv_plan_options *options,
                                 const char *variant);

/*
 * Time is up when as much of it is spent as the budget allows. What other processes took is not
 * counted, up to as much again: on one thread by its own time, else by the samples that they
 * disturbed. A set's time begins when it is created.
 */
void dc_measure_set_budget(struct measure_set *set, double seconds);
/*
 * After dc_measure_finish(): twice as much of what others took is not counted, and those that may
 * be the faster ones race again.
 */
void dc_measure_extend(struct measure_set *set);
double dc_measure_left(const struct measure_set *set); /* of the budget; negative: overdrawn */
/* Does the caller (set->cancel) want it to end? It is not asked again once it does. */
bool dc_measure_cancelled(struct measure_set *set);

/*
 * An item's first calls, which tell how long it takes; they are its sample of this round where they
 * are long enough.
 */
void dc_measure_calibrate(struct measure_set *set, struct measured *item);
/* Its sample of this round; taken again where others disturb it, as often as makes sense. */
void dc_measure_sample(struct measure_set *set, struct measured *item);

/*
 * Rounds in which each item that is racing (at least one) has a sample, in another order each time,
 * until the ranking is stable, or less of the budget is left than `later` seconds, which other
 * races need, or it is cancelled, which is asked after each; but until each has two samples no more
 * than `reserve` are kept. Who has two clean samples and is surely slower than the leader drops
 * out. Then those that are near the leader are settled; the default stays in the race for another
 * one. progress may be NULL. Returns the leader's index; -1: there was time for no sample.
 */
int dc_measure_race(struct measure_set *set, double later, double reserve,
                    doconv_progress_fn progress, void *progress_user);

/*
 * Medians, spreads and confidences of all; the winner goes first, the others behind it by their
 * medians, wrong ones last. The default wins unless another is faster by a margin. Returns the
 * confidence in the winner: the least of all others'; 1 if there is none.
 */
double dc_measure_finish(struct measure_set *set);

/* Lets all that are not wrong race again: the leader that they were measured against is. */
void dc_measure_again(struct measure_set *set);

/*
 * Runs an item once: all of the operation, so with folding and packing where weights are fresh, and
 * with the fold's gradient behind that of a DO-Conv layer's weight. Past the public calls: a
 * verbose context would log thousands of executes, and the log would be timed.
 */
void dc_measure_run(const struct measure_set *set, const struct measured *item);

struct check_result {
    double max_rel_error; /* the largest |y - ref| / max|ref| of any tensor; infinite for a NaN */
    double rms_error;     /* likewise of the root mean squares */
    bool right;           /* each is within the rounding that the candidate declares */
};

/*
 * Runs an item once on tensors and a workspace full of NaN and compares what it writes with what
 * shares no kernel with it: the context's reference kernel, portable loops, sums in double. Where
 * all would take long, a part is compared: some of the planes of dst, some elements of a gradient;
 * the weight's gradient behind those of W and D is then any kernel's of which such elements are
 * right. UNSUPPORTED if the context has no reference kernel, OUT_OF_MEMORY.
 */
doconv_status dc_measure_check(struct measure_set *set, const struct measured *item,
                               struct check_result *result);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Plans and packed weights, and the choice of a candidate. For src/plan, what stands above it, and
 * the tuner.
 */
#ifndef DOCONV_PLAN_H
#define DOCONV_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "base/context.h"
#include "plan/candidate.h"
#include "plan/problem.h"

struct dc_tensors;

/* Immutable once made. */
struct doconv_plan {
    doconv_context *ctx;
    struct dc_problem problem;
    struct dc_candidate candidate;
    const char *origin;
    char *source; /* the key that a choice "nearest" or "neighbour" is from; else NULL */
    /* Of the plans that it is made of, by its own: dc_plan_part_options(). */
    doconv_plan_options parts;
    uint64_t packed_layout; /* of a convolution: plans with the same one share weights */
    /*
     * Of the operation's whole call, fold and fresh weights included, from a 64-byte boundary on.
     */
    size_t workspace_size;
    void *state; /* the solver's; one block from dc_alloc() */
    /*
     * Of a DO-Conv layer's convolution with fresh weights: the fold before it. Of its weight's
     * gradient: the fold's gradient after it. Else NULL.
     */
    doconv_plan *fold;
    /* What the solver does itself, by prepare(): takes tensors->fresh; runs plan->fold in parts. */
    bool takes_fresh, folds_parts;
};

struct doconv_weights {
    doconv_context *ctx;
    uint64_t packed_layout;
    float *data; /* 64-byte aligned */
};

/* The plan of any operation, without a verbose line. On failure *plan is NULL. */
doconv_status dc_plan_create(doconv_context *ctx, const struct dc_problem *problem,
                             const doconv_plan_options *options, doconv_plan **plan);

/*
 * What options (or NULL) say for the plans that a plan is made of: what their choices may rest on,
 * how long one is measured and who may end that. Progress is the plan's own alone.
 */
doconv_plan_options dc_plan_part_options(const doconv_plan_options *options);

/* Sets the candidate of a plan whose problem is set, with origin and source. */
doconv_status dc_plan_choose(doconv_plan *plan, const doconv_plan_options *options);

/*
 * One call. workspace: plan->workspace_size bytes, 64-byte aligned. Weights that are fresh are
 * folded and packed here, unless the solver does it on the way.
 */
void dc_plan_run(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace);

/*
 * The plan of a DC_FOLD or DC_FOLD_GRADIENT for one call: the one that the last call left, if it is
 * of the same layer and the tuner has chosen nothing since. On failure *taken is NULL; else the
 * caller leaves it, with its plan, for the next call.
 */
doconv_status dc_plan_take(doconv_context *ctx, const struct dc_problem *problem,
                           struct dc_kept **taken, const doconv_plan **plan);
void dc_plan_leave(struct dc_kept *taken);

/* Runs such a problem once in memory of its own. */
doconv_status dc_plan_once(doconv_context *ctx, const struct dc_problem *problem,
                           const struct dc_tensors *tensors);

/* The first 64-byte boundary of a caller's workspace, which has 64 bytes more for it. */
static inline char *dc_align_workspace(void *workspace)
{
    return (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64;
}

/* The problem that a caller's descriptor and options name. options: checked, or NULL. */
doconv_status dc_plan_problem(doconv_context *ctx, const doconv_conv_desc *desc,
                              const doconv_plan_options *options, struct dc_problem *problem);

/* A caller's options, or NULL for the defaults, as checked ones of this version. */
doconv_status dc_plan_options_read(doconv_context *ctx, const doconv_plan_options *from,
                                   doconv_plan_options *options);

/*
 * The cache's key: the problem and everything else that the best choice depends on. size >=
 * DC_KEY_SIZE.
 */
void dc_plan_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, char *key, size_t size);

/*
 * Every candidate, accepted ones first, best estimate first. The caller frees list->items with
 * dc_free(). Where training promises the same bits (fresh weights, gradients, folds), those
 * accepted have one order of sums, whatever the number of threads.
 */
doconv_status dc_enumerate(doconv_context *ctx, const struct dc_problem *problem,
                           const doconv_plan_options *options, struct dc_candidate_list *list);
/*
 * The same with the best candidate first and the others in no order, and without texts, but where
 * options name a variant: dc_candidate_describe() makes them.
 */
doconv_status dc_enumerate_quickly(doconv_context *ctx, const struct dc_problem *problem,
                                   const doconv_plan_options *options,
                                   struct dc_candidate_list *list);

#endif

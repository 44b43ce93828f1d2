/* SPDX-License-Identifier: MIT */
/*
 * What a solver is: an algorithm for an operation, which turns kernels into candidates, prepares a
 * plan and runs it. For src/plan, the solvers and the tuner.
 */
#ifndef DOCONV_SOLVER_H
#define DOCONV_SOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "geometry/packed_weights.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"

/* OIHW */
struct dc_weight_view dc_weight_view(const struct dc_problem *problem, const float *weight);

/* Weights that change in each call: where they lie, or what they are folded from. */
struct dc_weight_source {
    struct dc_weight_view view;
    const float *bias; /* or NULL */
    /* The plan of a DC_FOLD; NULL: the weight is there. Else it is folded to what view sees. */
    const doconv_plan *fold;
    const float *w, *d;
    float *folded;
};

/* The tensors of a call: which, the operation says. NULL: it has none, or it is not wanted. */
struct dc_tensors {
    /* Read: */
    const float *src, *residual, *bias;
    const float *packed;                  /* of a convolution: weights packed for the plan; or */
    const struct dc_weight_source *fresh; /* weights of this call */
    const float *w, *d;
    const float *grad_dst;
    const float *grad_folded; /* the gradient of the weight that W and D fold to */
    /* Written: */
    float *dst, *weight;
    float *grad_src, *grad_weight, *grad_w, *grad_d;
};

/*
 * Orders in which convolutions add up an output: solvers that add the same products in the same
 * order, and so get the same bits, have the same number.
 */
enum dc_order_of_sums {
    DC_SUMS_CHANNELS, /* 16 channels, their taps, the next 16: direct tiles */
    DC_SUMS_DEPTHWISE,
    DC_SUMS_GROUPED,
    DC_SUMS_REFERENCE,
    DC_SUMS_WINOGRAD /* and what follows: a number for each form, see its solver */
};

/* Outputs [out, out + outs) and inputs [in, in + ins) of a layer of one group. */
struct dc_part {
    int64_t out, outs, in, ins;
};

/*
 * Parts of a fold or of its gradient, on the calling thread, with the same bits as the whole: for
 * what makes or takes the weight a part at a time, while that is in cache.
 */
struct dc_part_hooks {
    /* Inputs of a part begin at multiples of it, and are no more; 0: this layer has no parts. */
    int64_t (*inputs)(const doconv_plan *plan);
    size_t (*scratch_floats)(const doconv_plan *plan);
    /*
     * DC_FOLD: tensors->weight is the part alone, outs x ins-of-the-layer x taps. DC_FOLD_GRADIENT:
     * tensors->grad_folded is, outs x ins x taps; all outputs in order, DC_COMPOSE_CHUNK or a
     * multiple of them (the last may be fewer) in each call, with one scratch. scratch: 64-byte
     * aligned.
     */
    void (*run)(const doconv_plan *plan, const struct dc_part *part,
                const struct dc_tensors *tensors, float *scratch);
};

/*
 * Folds the outputs [out, out + outs) of a source that has a fold, some inputs at a time, and hands
 * each part to pack() while it is in L1 or L2: view sees it. source->folded has room for all
 * outputs (whole), or for these alone. scratch: 64-byte aligned, the fold's scratch_floats.
 */
void dc_fold_block(const struct dc_weight_source *source, int64_t out, int64_t outs, int64_t cin,
                   bool whole, float *scratch,
                   void (*pack)(void *arg, const struct dc_weight_view *view,
                                const struct dc_part *part),
                   void *arg);

/* Packed weights of a convolution that can be made a block of outputs at a time. */
struct dc_block_hooks {
    int64_t (*count)(const doconv_plan *plan);
    /* Floats of the OIHW weight that a block is made of. */
    int64_t (*weight_floats)(const doconv_plan *plan);
    /*
     * Block `index` of all, on the calling thread, into its place in packed; folded first if the
     * source has a fold: then source->folded has room for the block alone, and scratch is 64-byte
     * aligned with the fold's scratch_floats.
     */
    void (*make)(const doconv_plan *plan, const struct dc_weight_source *source, int64_t index,
                 float *packed, float *scratch);
};

struct dc_solver {
    const char *name;
    enum dc_operation operation;
    /* Of the kernels that it is asked to make candidates of; NONE: it is asked once, for none. */
    enum dc_family family;
    /*
     * Appends the candidates of a kernel and returns NULL, or the reason why there is none (a
     * constant string). Only problem->threads tells how many threads there are.
     */
    const char *(*enumerate)(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list);
    /* A candidate's parameters as text, ":NAME=VALUE,...", one to one. NULL: it has none. */
    void (*describe)(const struct dc_candidate *candidate, char *text, size_t size);
    /*
     * Fixes in plan->state what execute needs, and adds to packed_layout what pack depends on
     * beside what is in it. NULL: nothing to prepare.
     */
    doconv_status (*prepare)(doconv_plan *plan);
    /* Frees what plan->state points to, not state itself. NULL: nothing. */
    void (*release)(doconv_plan *plan);
    /* On the context's threads. workspace: 64-byte aligned. */
    void (*execute)(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace);
    /* DC_CONVOLUTION only, on the context's threads. bias: or NULL. */
    void (*pack)(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed);
    /*
     * Its candidates are made of plans of other operations, have no kernel of their own and are
     * measured against each other whatever the estimate says.
     */
    bool composes;
    const struct dc_block_hooks *blocks; /* NULL: weights are made as a whole */
    const struct dc_part_hooks *parts;   /* NULL: likewise a fold, or its gradient */
};

/*
 * Output blocks of a unit of work, where `units` units with all blocks are there already: outputs
 * are cut only where these leave threads idle, for each cut reads the input once more.
 */
int64_t dc_cut_outputs(int threads, int64_t units, int64_t blocks);

#endif

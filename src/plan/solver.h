/* SPDX-License-Identifier: MIT */
/*
 * What a solver is: an algorithm that turns kernels into candidates, prepares a plan, packs weights
 * and runs. For src/plan, the solvers and the tuner.
 */
#ifndef DOCONV_SOLVER_H
#define DOCONV_SOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"

/*
 * Where the weight of a plan's convolution lies: output o and input c of group g meet at kernel row
 * y and column x by data[g * group + o * out + c * in + y * row + x * column]. Strides may be
 * negative.
 */
struct dc_weight_view {
    const float *data;
    ptrdiff_t group, out, in, row, column;
};
/* OIHW */
struct dc_weight_view dc_weight_view(const struct dc_problem *problem, const float *weight);

/* Weights that change with each call: where they lie, or what they are folded from. */
struct dc_weight_source {
    struct dc_weight_view view;
    const float *bias; /* or NULL */
    /* fold NULL: the weight is there. Else it is folded into `folded`, which is what view sees. */
    const doconv_fold_desc *fold;
    const float *w, *d;
    float *folded;
};

struct dc_solver {
    const char *name;
    /* solvers that add in the same order, and so to the same bits, have the same number */
    int order_of_sums;
    enum dc_family family;
    /*
     * Appends the candidates of a kernel and returns NULL, or the reason why there is none (a
     * constant string).
     */
    const char *(*enumerate)(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list);
    /*
     * Fixes everything that execute needs in plan->state, and adds to packed_layout what pack
     * depends on beside what is in it.
     */
    doconv_status (*prepare)(doconv_plan *plan);
    /* On the context's threads. bias: or NULL. */
    void (*pack)(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed);
    /* workspace: 64-byte aligned. */
    void (*execute)(const doconv_plan *plan, const float *packed, const float *src,
                    const float *residual, float *dst, char *workspace);
    /*
     * For DC_ORDER_PACK, then not NULL: execute, weights made on the way. Bytes of workspace in
     * all.
     */
    void (*execute_fresh)(const doconv_plan *plan, const struct dc_weight_source *source,
                          const float *src, const float *residual, float *dst, char *workspace);
    size_t (*fresh_workspace_size)(const doconv_plan *plan, const doconv_fold_desc *fold);
};

extern const struct dc_solver dc_solver_direct, dc_solver_depthwise, dc_solver_grouped,
    dc_solver_planes, dc_solver_reference;
extern const struct dc_solver *const dc_solvers[]; /* NULL at the end */
/* NULL: the kernel does no convolution */
const struct dc_solver *dc_solver_of(const struct dc_kernel *kernel);

/*
 * Everything of a dc_reference_args but the image and the output channel. weight: OIHW; bias,
 * residual: or NULL.
 */
struct dc_reference_args dc_reference_args(const struct dc_problem *problem, const float *src,
                                           const float *weight, const float *bias,
                                           const float *residual, float *dst);

/*
 * Output blocks of a unit of work, where `units` units with all blocks are there already: outputs
 * are cut only where these leave threads idle, for each cut reads the input once more.
 */
int64_t dc_cut_outputs(const doconv_context *ctx, int64_t units, int64_t blocks);

#endif

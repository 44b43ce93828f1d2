/* SPDX-License-Identifier: MIT */
/*
 * What is to be computed: an operation on the tensors of a layer, validated, with what follows from
 * it, and its text. Any file above src/base may include this.
 */
#ifndef DOCONV_PROBLEM_H
#define DOCONV_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "geometry/tap_ranges.h"

/*
 * Each is chosen, planned, run, explained and tuned in the same way. Values are those of
 * doconv_operation.
 */
enum dc_operation {
    DC_CONVOLUTION,      /* src, weight, bias, residual -> dst */
    DC_FOLD,             /* W, D -> weight */
    DC_FOLD_GRADIENT,    /* W, D, grad_weight -> grad_w, grad_d */
    DC_FEATURE_FORWARD,  /* src, W, D, bias -> dst, without the weight that W and D fold to */
    DC_FEATURE_BACKWARD, /* src, W, D, grad_dst -> grad_src, grad_w, grad_d, likewise */
    DC_WEIGHT_GRADIENT, /* src, grad_dst -> grad_weight (with a fold: W, D too -> grad_w, grad_d) */
    /* A DO-Conv layer as a whole: which composition, of which of the operations above. */
    DC_LAYER_FORWARD, /* src, W, D, bias -> dst */
    DC_LAYER_STEP,    /* src, W, D, bias, grad_dst -> dst, grad_src, grad_w, grad_d */
    DC_OPERATIONS     /* how many */
};

static inline bool dc_is_layer(enum dc_operation operation)
{
    return operation == DC_LAYER_FORWARD || operation == DC_LAYER_STEP;
}

/*
 * The same for equal problems: padding that no output reads is left out, a mapping that is the
 * paper's for this layer is PAPER, and an identity that d_mul < KH*KW has no room for is 0. An
 * operation that knows nothing of D_mul has a plain desc, and one that knows nothing of pixels the
 * smallest image: see dc_problem_for(). An empty batch is a problem of one image that is never run.
 */
struct dc_problem {
    enum dc_operation operation;
    int threads; /* that the work is cut for */
    /* Of a convolution: they change in each call, so packing them counts; or no cache has them. */
    bool fresh_weights, cold_weights;
    doconv_conv_desc desc;
    doconv_fold_desc fold; /* what W and D of a DO-Conv layer fold to; d_mul 0: a plain layer */
    bool empty;            /* the descriptor's n is 0; desc's is 1 then */
    int64_t hout, wout;
    int64_t group_cin, group_cout; /* Cin/groups, Cout/groups */
    float lo, hi;                  /* ReLU and clamp in one */
    double macs;                   /* multiply-adds of the plain convolution */
    size_t src_bytes, dst_bytes, weight_bytes;
};

/* The convolution of a descriptor. ctx may be NULL: no detail of a failure, one thread. */
doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem);

/* The fold alone, as doconv_fold() has it, which knows no pixels. */
doconv_status dc_problem_create_fold(doconv_context *ctx, const doconv_fold_desc *fold,
                                     enum dc_operation operation, struct dc_problem *problem);

/*
 * An operation on a layer, whose DC_CONVOLUTION is given. What does not bear on the operation is
 * left out, so that layers share its choice: post-operations of gradients, the image of a fold.
 */
struct dc_problem dc_problem_for(const struct dc_problem *layer, enum dc_operation operation);

/*
 * Are W, D and the weight of sizes that memory can have, with room for what is computed from these?
 * Every count of desc is at least 1, and groups divide cin.
 */
bool dc_fold_fits(const doconv_fold_desc *desc);

/* The convolution along each axis of the image. */
static inline struct dc_axis dc_rows_axis(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    return (struct dc_axis){d->h, p->hout, d->kh, d->stride_h, d->dilation_h, d->pad_top};
}
static inline struct dc_axis dc_columns_axis(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    return (struct dc_axis){d->w, p->wout, d->kw, d->stride_w, d->dilation_w, d->pad_left};
}

/*
 * Narrow groups, in vectors of output channels: the first input channel that the vector from
 * `channel` on sees, and how many it sees (none past the last).
 */
static inline int64_t dc_first_input(const struct dc_problem *p, int64_t channel)
{
    return channel / p->group_cout * p->group_cin;
}
static inline int64_t dc_inputs_seen(const struct dc_problem *p, int64_t vector, int64_t channel)
{
    const int64_t groups = p->group_cout < vector ? vector / p->group_cout : 1;
    return least(groups * p->group_cin, p->desc.cin - dc_first_input(p, channel));
}
/* Does no group end inside a vector of outputs, and does each see no more than one of inputs? */
static inline bool dc_groups_fit_vector(const struct dc_problem *p, int64_t vector)
{
    const bool ends_inside = vector % p->group_cout != 0 && p->group_cout % vector != 0;
    const int64_t seen =
        p->group_cout < vector ? vector / p->group_cout * p->group_cin : p->group_cin;
    return !ends_inside && seen <= vector;
}

/* For each input of a group and each lane of a vector of outputs: the lane of its input. */
static inline void dc_group_lanes(const struct dc_problem *p, int64_t vector, int32_t *lanes)
{
    for (int64_t i = 0; i < p->group_cin; i++) {
        for (int64_t o = 0; o < vector; o++) {
            lanes[i * vector + o] =
                (int32_t)(p->group_cout < vector ? o / p->group_cout * p->group_cin + i : i);
        }
    }
}

/* Canonical text of the descriptor; size >= DOCONV_PROBLEM_TEXT_SIZE. */
void dc_problem_format(const struct dc_problem *problem, char *text, size_t size);

/* "convolution", "fold", "fold_gradient", ... */
const char *dc_operation_name(enum dc_operation operation);

#endif

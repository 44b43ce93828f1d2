/* SPDX-License-Identifier: MIT */
/* Packed weights of direct plans: all at once, or a block of output channels as it is folded. */
#include "base/arithmetic.h"
#include "geometry/packed_weights.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

void dc_direct_pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                    float *packed)
{
    const struct dc_direct_state *s = plan->state;
    dc_pack_weights(plan->ctx, plan->problem.threads, &s->weights, &plan->candidate.kernel->direct,
                    weight, bias, packed);
}

/* A block that is folded a part at a time. */
struct making {
    const doconv_plan *plan;
    int64_t index;
    float *block;
};

static void pack_part(void *arg, const struct dc_weight_view *view, const struct dc_part *part)
{
    const struct making *m = arg;
    const struct dc_direct_state *s = m->plan->state;
    dc_pack_inputs(&s->weights, &m->plan->candidate.kernel->direct, view, m->index, part->in,
                   part->ins, m->block);
}

void dc_direct_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                          int64_t index, bool whole, float *bias, float *block, float *scratch)
{
    const struct dc_direct_state *s = plan->state;
    const struct dc_packed_weights *w = &s->weights;
    dc_pack_bias(w, index, source->bias, bias);
    if (source->fold == NULL) {
        dc_pack_inputs(w, &plan->candidate.kernel->direct, &source->view, index, 0, w->cin, block);
        return;
    }
    struct making making = {.plan = plan, .index = index, .block = block};
    const int64_t out = index * w->tile_channels;
    dc_fold_block(source, out, least(w->tile_channels, w->cout - out), w->cin, whole, scratch,
                  pack_part, &making);
}

static int64_t count(const doconv_plan *plan)
{
    const struct dc_direct_state *s = plan->state;
    return s->weights.groups * s->weights.out_blocks;
}

static int64_t weight_floats(const doconv_plan *plan)
{
    const struct dc_direct_state *s = plan->state;
    return s->weights.tile_channels * s->weights.cin * s->weights.kh * s->weights.kw;
}

static void make(const doconv_plan *plan, const struct dc_weight_source *source, int64_t index,
                 float *packed, float *scratch)
{
    const struct dc_direct_state *s = plan->state;
    dc_direct_make_block(plan, source, index, false, packed + index * s->weights.tile_channels,
                         packed + s->weights.bias_floats + index * s->weights.block_floats,
                         scratch);
}

const struct dc_block_hooks dc_direct_blocks = {
    .count = count,
    .weight_floats = weight_floats,
    .make = make,
};

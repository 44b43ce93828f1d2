/* SPDX-License-Identifier: MIT */
/* Packed weights of direct plans: all at once, or a block of output channels as it is folded. */
#include "base/arithmetic.h"
#include "geometry/packed_weights.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

/* Inputs that are folded before they are packed: both stay in L1 or L2. */
#define FOLDED_INPUTS (8 * DC_CHANNEL_BLOCK)

void dc_direct_pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                    float *packed)
{
    const struct dc_direct_state *s = plan->state;
    dc_pack_weights(plan->ctx, plan->problem.threads, &s->weights, &plan->candidate.kernel->direct,
                    weight, bias, packed);
}

void dc_direct_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                          int64_t index, bool whole, float *bias, float *block, float *scratch)
{
    const struct dc_direct_state *s = plan->state;
    const struct dc_packed_weights *w = &s->weights;
    const struct dc_direct_kernel *kernel = &plan->candidate.kernel->direct;
    dc_pack_bias(w, index, source->bias, bias);
    if (source->fold == NULL) {
        dc_pack_inputs(w, kernel, &source->view, index, 0, w->cin, block);
        return;
    }
    struct dc_part part = {.out = index * w->tile_channels};
    part.outs = least(w->tile_channels, w->cout - part.out);
    struct dc_weight_view view = source->view;
    view.first = whole ? 0 : part.out;
    const struct dc_tensors tensors = {
        .w = source->w,
        .d = source->d,
        .weight = source->folded + (part.out - view.first) * view.out,
    };
    for (part.in = 0; part.in < w->cin; part.in += part.ins) {
        part.ins = least(FOLDED_INPUTS, w->cin - part.in);
        source->fold->candidate.solver->parts->run(source->fold, &part, &tensors, scratch);
        dc_pack_inputs(w, kernel, &view, index, part.in, part.ins, block);
    }
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

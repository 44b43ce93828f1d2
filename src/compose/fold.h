/* SPDX-License-Identifier: MIT */
/*
 * Folding W and D of a DO-Conv layer into the weight of a convolution, and back. For what stands
 * above src/base.
 */
#ifndef DOCONV_FOLD_H
#define DOCONV_FOLD_H

#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

/* A caller's descriptor as a checked one of this version. */
doconv_status dc_fold_read(doconv_context *ctx, const doconv_fold_desc *from,
                           doconv_fold_desc *desc);
/* Of both calls below, whose workspace is 64-byte aligned. */
size_t dc_fold_workspace_size(const doconv_context *ctx, const doconv_fold_desc *desc);
/* doconv_fold() of a valid descriptor whose layer has a D. */
void dc_fold_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                 const float *d, float *weight, char *workspace);
/*
 * Outputs [out, out + outs) and inputs [in, in + ins) of a layer of one group; `in` is a multiple
 * of DC_CHANNEL_BLOCK.
 */
struct dc_fold_part {
    int64_t out, outs, in, ins;
};
/* A part of dc_fold_run(), bitwise, on the calling thread. scratch: 64-byte aligned. */
size_t dc_fold_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc);
void dc_fold_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                  const struct dc_fold_part *part, const float *w, const float *d, float *weight,
                  float *scratch);
/* doconv_fold_gradient() likewise. */
void dc_fold_gradient_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                          const float *d, const float *grad_weight, float *grad_w, float *grad_d,
                          char *workspace);

/*
 * The same a part at a time, on the calling thread: for some inputs, all outputs in order,
 * DC_COMPOSE_CHUNK or a multiple of them (the last may be fewer) in each call, with the same
 * scratch, 64-byte aligned. grad_weight has the part alone: outs x ins x taps. grad_w or grad_d
 * NULL: not wanted. Bitwise what dc_fold_gradient_run() gives.
 */
/* most that a part has; 0: no parts */
int64_t dc_fold_gradient_part_inputs(const doconv_context *ctx, const doconv_fold_desc *desc);
size_t dc_fold_gradient_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc);
void dc_fold_gradient_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                           const struct dc_fold_part *part, const float *w, const float *d,
                           const float *grad_weight, float *grad_w, float *grad_d, float *scratch);

#endif

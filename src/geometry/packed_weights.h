/* SPDX-License-Identifier: MIT */
/*
 * Packed weights as direct tiles read them, whatever algorithm the tile serves:
 *
 *   [bias: group][output block][tile channel]
 *   [group][output block][16 input channels][tap][input channel][tile channel]
 *
 * with zeros where channels end. For solvers whose kernels are direct tiles.
 */
#ifndef DOCONV_PACKED_WEIGHTS_H
#define DOCONV_PACKED_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

/*
 * Where the weight of a convolution lies: output o and input c of group g meet at kernel row y and
 * column x by data[g * group + (o - first) * out + c * in + y * row + x * column]. Strides may be
 * negative. first: the output (of the only group) that data begins with, where it is a part.
 */
struct dc_weight_view {
    const float *data;
    ptrdiff_t group, out, in, row, column;
    int64_t first;
};

struct dc_packed_weights {
    int64_t groups, cin, cout; /* cin, cout: of a group */
    int64_t kh, kw;
    int64_t tile_channels, out_blocks;   /* out_blocks: of a group */
    ptrdiff_t bias_floats, block_floats; /* all biases; one output block's weights */
};

struct dc_packed_weights dc_packed_weights(int64_t groups, int64_t cin, int64_t cout, int64_t kh,
                                           int64_t kw, int64_t tile_channels);

static inline size_t dc_packed_bytes(const struct dc_packed_weights *p)
{
    return (size_t)(p->bias_floats + p->groups * p->out_blocks * p->block_floats) * sizeof(float);
}

/* All of them, on the context's threads. bias: or NULL. */
void dc_pack_weights(const doconv_context *ctx, int threads, const struct dc_packed_weights *p,
                     const struct dc_direct_kernel *kernel, const struct dc_weight_view *weight,
                     const float *bias, float *packed);

/* The biases of block `index` of all groups' blocks. bias: all of them, or NULL. */
void dc_pack_bias(const struct dc_packed_weights *p, int64_t index, const float *bias, float *to);

/*
 * Inputs [first, first + count) of block `index` of all groups' blocks, on the calling thread;
 * first is a multiple of DC_CHANNEL_BLOCK, and so is count, but for the last. block: where the
 * block's weights begin.
 */
void dc_pack_inputs(const struct dc_packed_weights *p, const struct dc_direct_kernel *kernel,
                    const struct dc_weight_view *weight, int64_t index, int64_t first,
                    int64_t count, float *block);
/*
 * Likewise DC_CHANNEL_BLOCK inputs, or what there is left of them, to `to` alone: taps x inputs x
 * tile channels, and up to 15 floats behind the last ones.
 */
void dc_pack_unit(const struct dc_packed_weights *p, const struct dc_direct_kernel *kernel,
                  const struct dc_weight_view *weight, int64_t index, int64_t first, float *to);

#endif

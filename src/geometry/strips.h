/* SPDX-License-Identifier: MIT */
/*
 * Where vectors of channels lie in a tensor, and the loads and stores of a part of it: what every
 * solver gives its kernels. Any file above src/base may include this.
 */
#ifndef DOCONV_STRIPS_H
#define DOCONV_STRIPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arithmetic.h"
#include "base/layout.h"
#include "kernel.h"

/*
 * Can a vector of a tensor's channels, from `first` on, be read where it is? channels: the
 * tensor's. Where they are one block, map->block is 0.
 */
static inline bool dc_vector_in_place(const struct dc_tensor_map *map, int64_t channels,
                                      int64_t vector, int64_t first)
{
    return map->channel == 1 && first % map->block_channels + vector <=
                                    (map->block != 0 ? map->block_channels : channels);
}

/*
 * Can every vector that starts at a multiple of itself in a group of `group` channels be read where
 * it is, as long as it is full?
 */
static inline bool dc_groups_in_place(const struct dc_tensor_map *map, int64_t groups,
                                      int64_t group, int64_t vector)
{
    return map->channel == 1 &&
           (map->block == 0 || (map->block_channels % vector == 0 &&
                                (groups == 1 || group % map->block_channels == 0)));
}

/* The source side of a load: `channels` channels of an image from `first` on, h x w pixels. */
static inline struct dc_load_args dc_load_from(const struct dc_tensor_map *map, const float *image,
                                               int64_t first, int64_t channels, int64_t h,
                                               int64_t w)
{
    return (struct dc_load_args){
        .channels = channels,
        .src = image,
        .src_block_channels = map->block_channels,
        .src_block = map->block,
        .src_channel = map->channel,
        .src_row = map->row,
        .src_pixel = map->pixel,
        .src_first_channel = first,
        .h = h,
        .w = w,
        .step_x = 1,
        .step_y = 1,
    };
}

/* The target side of a store: channels from `first` on, pixels map->pixel apart, no post-ops. */
static inline struct dc_store_args dc_store_to(const struct dc_tensor_map *map, int64_t first,
                                               int64_t channels, int64_t stored)
{
    return (struct dc_store_args){
        .channels = channels,
        .stored = stored,
        .dst_block_channels = map->block_channels,
        .dst_block = map->block,
        .dst_channel = map->channel,
        .dst_pixel = map->pixel,
        .dst_first_channel = first,
        .lo = -__builtin_inff(),
        .hi = __builtin_inff(),
    };
}

/*
 * to[column * to_step + row] = from[row * from_step + column]: what a store into planes is.
 * DC_TILE_SLACK rows behind the last one may be read.
 */
static inline void dc_transpose(const struct dc_kernel *direct, const float *from,
                                ptrdiff_t from_step, int64_t rows, int64_t columns, float *to,
                                ptrdiff_t to_step)
{
    const struct dc_tensor_map planes = {
        .block_channels = PTRDIFF_MAX, .channel = to_step, .pixel = 1};
    struct dc_store_args store = dc_store_to(&planes, 0, columns, columns);
    store.tile = from;
    store.tile_channels = from_step;
    store.pixels = rows;
    store.dst = to;
    direct->direct.store(&store);
}

/*
 * Channels that the writer of [first, first + channels) stores, of a tensor of `all`: the last one
 * also writes the zeros of a blocked layout's last block.
 */
static inline int64_t dc_channels_stored(int64_t block, int64_t first, int64_t channels,
                                         int64_t all)
{
    return first + channels >= all ? divide_up(all, block) * block - first : channels;
}

/*
 * `chunk` of struct dc_grouped_args: the most kernel columns that a kernel can take together. edge:
 * as there.
 */
static inline int64_t dc_taps_together(int64_t kw, int64_t stride_w, int64_t dilation_w,
                                       int64_t edge)
{
    if (dilation_w != 1 || stride_w > 2 || edge > DC_GROUPED_EDGE) {
        return 1;
    }
    return kw == 5 && edge <= DC_GROUPED_EDGE_5 ? 5 : 3;
}

#endif

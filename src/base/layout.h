/* SPDX-License-Identifier: MIT */
/*
 * Where the elements of a tensor lie. Any file of src and tuner may include this.
 */
#ifndef DOCONV_LAYOUT_H
#define DOCONV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

/*
 * Strides of a tensor in a layout. Blocked: channel c is at c / block_channels * block + c %
 * block_channels * channel.
 */
struct dc_tensor_map dc_tensor_map(doconv_layout layout, int64_t c, int64_t h, int64_t w);
int64_t dc_layout_block(doconv_layout layout); /* 8, 16, or 1 */
static inline ptrdiff_t channel_at(const struct dc_tensor_map *map, int64_t channel)
{
    return channel / map->block_channels * map->block +
           channel % map->block_channels * map->channel;
}

#endif

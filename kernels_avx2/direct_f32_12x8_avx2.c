/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 12 pixels x 8 output channels: for groups and rests of 8 channels, where the
 * tiles of more vectors would be left with too few accumulators to hide the latency of an FMA.
 */
#include "vec_avx2.h"

#define TILE_PIXELS 12
#define TILE_VECTORS 1
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

DIRECT_TILES_12(1)

static tile_row_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DIRECT_NAMES_12(1)},
};

static void run(const struct dc_run_args *args)
{
    run_direct_tiles(args, tiles);
}

const struct dc_kernel dck_direct_f32_12x8_avx2 = {
    .name = "direct_f32_12x8@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DIRECT_FUNCTIONS(run, load_strip, store_tile, pack_tile),
};

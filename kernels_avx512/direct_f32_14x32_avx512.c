/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 14 pixels x 32 output channels: 28 accumulators, 2 weights, 1 broadcast of 32
 * registers; 0.57 loads an FMA.
 */
#include "vec_avx512.h"

#define TILE_PIXELS 14
#define TILE_VECTORS 2
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

DIRECT_TILES_14(1)
DIRECT_TILES_14(2)

static tile_row_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DIRECT_NAMES_14(1)},
    {DIRECT_NAMES_14(2)},
};

static void run(const struct dc_run_args *args)
{
    run_direct_tiles(args, tiles);
}

const struct dc_kernel dck_direct_f32_14x32_avx512 = {
    .name = "direct_f32_14x32@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DIRECT_FUNCTIONS(run, load_strip, store_tile, pack_tile),
};

/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 4 pixels x 24 output channels: 12 accumulators, 3 weights, 1 broadcast: all
 * 16 registers; 0.58 loads an FMA.
 */
#include "vec_avx2.h"

#define TILE_PIXELS 4
#define TILE_VECTORS 3
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

DIRECT_TILES_4(1)
DIRECT_TILES_4(2)
DIRECT_TILES_4(3)

static tile_row_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DIRECT_NAMES_4(1)},
    {DIRECT_NAMES_4(2)},
    {DIRECT_NAMES_4(3)},
};

static void run(const struct dc_run_args *args)
{
    run_direct_tiles(args, tiles);
}

const struct dc_kernel dck_direct_f32_4x24_avx2 = {
    .name = "direct_f32_4x24@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DIRECT_FUNCTIONS(run, load_strip, store_tile, pack_tile),
};

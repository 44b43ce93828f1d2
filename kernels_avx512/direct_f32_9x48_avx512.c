/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 9 pixels x 48 output channels: 27 accumulators, 3 weights, 1 broadcast of 32
 * registers; 0.44 loads an FMA.
 */
#include "vec_avx512.h"

#define TILE_PIXELS 9
#define TILE_VECTORS 3
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

DIRECT_TILES_9(1)
DIRECT_TILES_9(2)
DIRECT_TILES_9(3)

static tile_row_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DIRECT_NAMES_9(1)},
    {DIRECT_NAMES_9(2)},
    {DIRECT_NAMES_9(3)},
};

static void run(const struct dc_run_args *args)
{
    run_direct_tiles(args, tiles);
}

const struct dc_kernel dck_direct_f32_9x48_avx512 = {
    .name = "direct_f32_9x48@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DIRECT_FUNCTIONS(run, load_strip, store_tile, pack_tile),
};

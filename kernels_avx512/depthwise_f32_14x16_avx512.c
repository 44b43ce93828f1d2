/* SPDX-License-Identifier: MIT */
/* Depthwise convolution, 14 pixels x 1 vector of channels, any kernel size. */
#include "vec_avx512.h"

#define TILE_PIXELS 14
#define TILE_VECTORS 1
#include "body_depthwise.h"
#include "body_load.h"
#include "body_store.h"

DEPTHWISE_TILES_14

static tile_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DEPTHWISE_NAMES_14},
};

static void run(const struct dc_run_args *args)
{
    run_tiles(args, tiles);
}

const struct dc_kernel dck_depthwise_f32_14x16_avx512 = {
    .name = "depthwise_f32_14x16@avx512",
    .revision = 1,
    .op = DC_OP_DEPTHWISE,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    .run = run,
    .load = load_strip,
    .store = store_tile,
};

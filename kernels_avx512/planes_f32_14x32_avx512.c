/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolution between planes, 14 output channels x 32 pixels: 28 accumulators, 2 vectors of
 * pixels, 1 broadcast of 32 registers; 0.57 loads an FMA.
 */
#include "vec_avx512.h"

#define TILE_OUTPUTS 14
#define TILE_VECTORS 2
#include "body_planes.h"

PLANES_TILES_14(1)
PLANES_TILES_14(2)

static planes_fn *const tiles[TILE_VECTORS][TILE_OUTPUTS] = {
    {PLANES_NAMES_14(1)},
    {PLANES_NAMES_14(2)},
};

static void planes(const struct dc_planes_args *args)
{
    run_planes(args, tiles);
}

const struct dc_kernel dck_planes_f32_14x32_avx512 = {
    .name = "planes_f32_14x32@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_OUTPUTS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PLANES_FUNCTIONS(planes, gather_panel),
};

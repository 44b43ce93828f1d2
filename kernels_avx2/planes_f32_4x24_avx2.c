/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolution between planes, 4 output channels x 24 pixels: 12 accumulators, 3 vectors of
 * pixels, 1 broadcast of 16 registers; 0.58 loads an FMA.
 */
#include "vec_avx2.h"

#define TILE_OUTPUTS 4
#define TILE_VECTORS 3
#include "body_planes.h"

PLANES_TILES_4(1)
PLANES_TILES_4(2)
PLANES_TILES_4(3)

static planes_fn *const tiles[TILE_VECTORS][TILE_OUTPUTS] = {
    {PLANES_NAMES_4(1)},
    {PLANES_NAMES_4(2)},
    {PLANES_NAMES_4(3)},
};

static void planes(const struct dc_planes_args *args)
{
    run_planes(args, tiles);
}

const struct dc_kernel dck_planes_f32_4x24_avx2 = {
    .name = "planes_f32_4x24@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_OUTPUTS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PLANES_FUNCTIONS(planes, gather_panel),
};

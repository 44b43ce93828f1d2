/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolution between planes, 6 output channels x 16 pixels: 12 accumulators, 2 vectors of
 * pixels, 1 broadcast of 16 registers; 0.67 loads an FMA.
 */
#include "vec_avx2.h"

#define TILE_OUTPUTS 6
#define TILE_VECTORS 2
#include "body_planes.h"

PLANES_TILES_6(1)
PLANES_TILES_6(2)

static planes_fn *const tiles[TILE_VECTORS][TILE_OUTPUTS] = {
    {PLANES_NAMES_6(1)},
    {PLANES_NAMES_6(2)},
};

static void planes(const struct dc_planes_args *args)
{
    run_planes(args, tiles);
}

const struct dc_kernel dck_planes_f32_6x16_avx2 = {
    .name = "planes_f32_6x16@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_OUTPUTS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PLANES_FUNCTIONS(planes, gather_panel),
};

/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolution between planes, 9 output channels x 48 pixels: 27 accumulators, 3 vectors of
 * pixels, 1 broadcast of 32 registers; 0.44 loads an FMA.
 */
#include "vec_avx512.h"

#define TILE_OUTPUTS 9
#define TILE_VECTORS 3
#include "body_planes.h"

PLANES_TILES_9(1)
PLANES_TILES_9(2)
PLANES_TILES_9(3)

static planes_fn *const tiles[TILE_VECTORS][TILE_OUTPUTS] = {
    {PLANES_NAMES_9(1)},
    {PLANES_NAMES_9(2)},
    {PLANES_NAMES_9(3)},
};

static void planes(const struct dc_planes_args *args)
{
    run_planes(args, tiles);
}

const struct dc_kernel dck_planes_f32_9x48_avx512 = {
    .name = "planes_f32_9x48@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_OUTPUTS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PLANES_FUNCTIONS(planes, gather_panel),
};

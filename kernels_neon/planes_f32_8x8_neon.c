/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolution between planes, 8 output channels x 8 pixels: 16 accumulators, 2 vectors of
 * weights, 2 of pixels of 32 registers. Weights are multiplied by lane: 0.25 loads an FMA.
 */
#include "vec_neon.h"

#define TILE_OUTPUTS 8
#define TILE_VECTORS 2
#define PLANES_WEIGHTS const vec w_low = v_load(w), w_high = v_load(w + 4);
#define PLANES_LANE(o, v)                                                                          \
    a##o##_##v = vfmaq_laneq_f32(a##o##_##v, x##v, (o) < 4 ? w_low : w_high, (o) % 4);
#define PLANES_ROW(L, o) L(PLANES_LANE, o)
#include "body_planes.h"

PLANES_TILES_8(1)
PLANES_TILES_8(2)

static planes_fn *const tiles[TILE_VECTORS][TILE_OUTPUTS] = {
    {PLANES_NAMES_8(1)},
    {PLANES_NAMES_8(2)},
};

static void planes(const struct dc_planes_args *args)
{
    run_planes(args, tiles);
}

const struct dc_kernel dck_planes_f32_8x8_neon = {
    .name = "planes_f32_8x8@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_OUTPUTS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PLANES_FUNCTIONS(planes, gather_panel),
};

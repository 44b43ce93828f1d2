/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 8 pixels x 8 output channels: 16 accumulators, 8 vectors of 4 inputs, 2
 * weights of 32 registers. Inputs are loaded as vectors and multiplied by lane: 0.25 loads an FMA,
 * and no dup.
 */
#include "vec_neon.h"

#define TILE_PIXELS 8
#define TILE_VECTORS 2

/* Used as the list of PIXELS_n, whose other argument it leaves alone. */
#define LANE_LOAD(unused, p) const vec x##p = v_load(&X##p);
#define LANE_FMA(p, v) a##p##_##v = vfmaq_laneq_f32(a##p##_##v, w##v, x##p, LANE);

/* Four inputs at a time. */
#define LANE_STEP(P, NV, N)                                                                        \
    {                                                                                              \
        enum { LANE = (N) };                                                                       \
        VECTORS_##NV(DIRECT_WEIGHT, 0) PIXELS_##P(VECTORS_##NV, LANE_FMA) w += TILE_CHANNELS;      \
        DIRECT_FETCH_WEIGHTS(N)                                                                    \
    }
#define DIRECT_FOUR_STEPS(P, NV)                                                                   \
    PIXELS_##P(LANE_LOAD, 0) LANE_STEP(P, NV, 0) LANE_STEP(P, NV, 1) LANE_STEP(P, NV, 2)           \
        LANE_STEP(P, NV, 3) r0 += 4;                                                               \
    r7 += 4;
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

DIRECT_TILES_8(1)
DIRECT_TILES_8(2)

static tile_row_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {DIRECT_NAMES_8(1)},
    {DIRECT_NAMES_8(2)},
};

static void run(const struct dc_run_args *args)
{
    run_direct_tiles(args, tiles);
}

const struct dc_kernel dck_direct_f32_8x8_neon = {
    .name = "direct_f32_8x8@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DIRECT_FUNCTIONS(run, load_strip, store_tile, pack_tile),
};

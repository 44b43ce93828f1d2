/* SPDX-License-Identifier: MIT */
/*
 * Direct convolution, 8 pixels x 8 output channels: 16 accumulators, 8 vectors of 4 inputs, 2
 * weights of 32 registers. Inputs are loaded as vectors and multiplied by lane: 0.25 loads an FMA,
 * and no dup.
 */
#include "vec_neon.h"

#define TILE_PIXELS 8
#define TILE_VECTORS 2
#include "body_direct.h"
#include "body_load.h"
#include "body_pack.h"
#include "body_store.h"

/* Used as the list of PIXELS_n, whose other argument it leaves alone. */
#define LANE_LOAD(unused, p) const vec x##p = v_load(&X##p);
#define LANE_FMA(p, v) a##p##_##v = vfmaq_laneq_f32(a##p##_##v, w##v, x##p, LANE);

/* As DIRECT_TILE, four inputs at a time. */
#define LANE_STEP(P, NV, N)                                                                        \
    {                                                                                              \
        enum { LANE = (N) };                                                                       \
        VECTORS_##NV(DIRECT_WEIGHT, 0) PIXELS_##P(VECTORS_##NV, LANE_FMA) w += TILE_CHANNELS;      \
        DIRECT_FETCH_WEIGHTS(N)                                                                    \
    }
#define LANE_TILE(P, NV)                                                                           \
    static void direct_tile_##P##_##NV(const struct dc_run_args *args, ptrdiff_t first,            \
                                       ptrdiff_t count)                                            \
    {                                                                                              \
        const ptrdiff_t s = args->src_pixel * (ptrdiff_t)sizeof(float), s3 = 3 * s, s5 = 5 * s;    \
        uintptr_t soon = (uintptr_t)args->soon, soon_step = 64;                                    \
        const uintptr_t soon_end = soon + (uintptr_t)args->soon_floats * sizeof(float);            \
        for (; count > 0; count--, first += (P)) {                                                 \
            const float *const src = args->src + first * args->src_pixel;                          \
            DIRECT_FETCH_START(P)                                                                  \
            TILE_START(P, NV)                                                                      \
            const struct dc_segment *segment = args->segments;                                     \
            for (ptrdiff_t left = args->segment_count; left > 0; left--, segment++) {              \
                const float *w = args->weights + segment->weight_offset;                           \
                const float *r0 = src + segment->src_offset,                                       \
                            *r7 = (P) > 7 ? r0 + 7 * args->src_pixel : r0;                         \
                ptrdiff_t j = segment->length;                                                     \
                DIRECT_FETCH_INPUTS(P)                                                             \
                if (__builtin_expect(j % 4 != 0, 0)) {                                             \
                    do {                                                                           \
                        DIRECT_STEP(P, NV, 0)                                                      \
                    } while (--j % 4 != 0);                                                        \
                }                                                                                  \
                while (j != 0) {                                                                   \
                    PIXELS_##P(LANE_LOAD, 0) LANE_STEP(P, NV, 0) LANE_STEP(P, NV, 1)               \
                        LANE_STEP(P, NV, 2) LANE_STEP(P, NV, 3) r0 += 4;                           \
                    r7 += 4, j -= 4;                                                               \
                }                                                                                  \
                (void)r7, (void)s3, (void)s5;                                                      \
            }                                                                                      \
            TILE_FINISH(P, NV)                                                                     \
        }                                                                                          \
    }

LANE_TILE(1, 1)
LANE_TILE(2, 1)
LANE_TILE(3, 1)
LANE_TILE(4, 1)
LANE_TILE(5, 1)
LANE_TILE(6, 1)
LANE_TILE(7, 1)
LANE_TILE(8, 1)
LANE_TILE(1, 2)
LANE_TILE(2, 2)
LANE_TILE(3, 2)
LANE_TILE(4, 2)
LANE_TILE(5, 2)
LANE_TILE(6, 2)
LANE_TILE(7, 2)
LANE_TILE(8, 2)

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

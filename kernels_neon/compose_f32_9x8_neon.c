/* SPDX-License-Identifier: MIT */
/*
 * Folding W and D: 9 taps x 2 rows of 4 channels: 18 sums. With three rows compilers spill, as they
 * load ahead.
 */
#include "vec_neon.h"

#define TILE_TAPS 9
#define TILE_ROWS 2
#define HOLD_TAPS 0
#define NINES 0
#define OCTETS 0
#define OUTPUT_LANES 0

static inline vec join_rows(const float *base, const ptrdiff_t *lanes)
{
    return v_load(base + lanes[0]);
}

static inline vec join_few(const float *base, const ptrdiff_t *lanes, int n)
{
    return v_load_first(base + lanes[0], n);
}

static inline void split_rows(float *base, const ptrdiff_t *lanes, vec v)
{
    v_store(base + lanes[0], v);
}

static inline void split_few(float *base, const ptrdiff_t *lanes, vec v, int n)
{
    v_store_first(base + lanes[0], v, n);
}

static inline void transpose_quads(vec *a, vec *b, vec *c, vec *d)
{
    const float32x4x2_t x = vtrnq_f32(*a, *b), y = vtrnq_f32(*c, *d);
    *a = vcombine_f32(vget_low_f32(x.val[0]), vget_low_f32(y.val[0]));
    *b = vcombine_f32(vget_low_f32(x.val[1]), vget_low_f32(y.val[1]));
    *c = vcombine_f32(vget_high_f32(x.val[0]), vget_high_f32(y.val[0]));
    *d = vcombine_f32(vget_high_f32(x.val[1]), vget_high_f32(y.val[1]));
}

/* Never called: NINES is 0. */
static inline void nines_in(const float *src, ptrdiff_t src_step, ptrdiff_t rows, float *dst)
{
    (void)src, (void)src_step, (void)rows, (void)dst;
}
static inline void nines_out(const float *src, float *dst, ptrdiff_t dst_step, ptrdiff_t rows)
{
    (void)src, (void)dst, (void)dst_step, (void)rows;
}

#include "body_compose.h"
#include "body_compose_gradient.h"

COMPOSE_TILES_9(1)
COMPOSE_TILES_9(2)

static compose_fn *const tiles[TILE_ROWS][TILE_TAPS] = {{COMPOSE_NAMES_9(1)}, {COMPOSE_NAMES_9(2)}};

static void compose(const struct dc_compose_args *args)
{
    run_compose(args, tiles);
}

static void compose_gradient(const struct dc_compose_gradient_args *args)
{
    run_compose_gradient(args, tiles);
}

const struct dc_kernel dck_compose_f32_9x8_neon = {
    .name = "compose_f32_9x8@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = TILE_TAPS,
    .tile_channels = TILE_ROWS * V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_COMPOSE_FUNCTIONS(compose, compose_gradient),
};

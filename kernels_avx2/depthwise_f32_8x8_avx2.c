/* SPDX-License-Identifier: MIT */
/*
 * Depthwise convolution, 8 pixels x 1 vector of channels, any kernel size: so few sums that
 * registers are left for the columns that neighbours share, which saves two loads of three.
 */
#include "vec_avx2.h"

#define TILE_PIXELS 8
#define PERMUTES 0
#define SLIDES 1
#include "body_grouped.h"
#include "body_load.h"
#include "body_store.h"
#include "body_taps.h"

GROUPED_TILES_8

static grouped_fn *const tables[3][TILE_PIXELS] = GROUPED_TABLE(8);

static void grouped(const struct dc_grouped_args *args)
{
    run_grouped(args, tables);
}

const struct dc_kernel dck_depthwise_f32_8x8_avx2 = {
    .name = "depthwise_f32_8x8@avx2",
    .revision = 2,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_DEPTHWISE_FUNCTIONS(grouped, load_strip, store_tile, taps_correlate, taps_scatter,
                           taps_spread),
};

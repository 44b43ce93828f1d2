/* SPDX-License-Identifier: MIT */
/*
 * Convolution in narrow groups, and depthwise with a multiplier, 7 pixels x 1 vector of channels,
 * any kernel size.
 */
#include "vec_avx2.h"

#define TILE_PIXELS 7
#define PERMUTES 1
#define SLIDES 1
#include "body_grouped.h"
#include "body_load.h"
#include "body_store.h"

GROUPED_TILES_7

static grouped_fn *const tables[3][TILE_PIXELS] = GROUPED_TABLE(7);

static void grouped(const struct dc_grouped_args *args)
{
    run_grouped(args, tables);
}

const struct dc_kernel dck_grouped_f32_7x8_avx2 = {
    .name = "grouped_f32_7x8@avx2",
    .revision = 2,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_GROUPED_FUNCTIONS(grouped, load_strip, store_tile),
};

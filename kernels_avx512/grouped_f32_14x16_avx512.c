/* SPDX-License-Identifier: MIT */
/*
 * Convolution in narrow groups, and depthwise with a multiplier, 14 pixels x 1 vector of channels,
 * any kernel size.
 */
#include "vec_avx512.h"

#define TILE_PIXELS 14
#define PERMUTES 1
#define SLIDES 1
#include "body_grouped.h"
#include "body_load.h"
#include "body_store.h"

GROUPED_TILES_14

static grouped_fn *const tables[3][TILE_PIXELS] = GROUPED_TABLE(14);

static void grouped(const struct dc_grouped_args *args)
{
    run_grouped(args, tables);
}

const struct dc_kernel dck_grouped_f32_14x16_avx512 = {
    .name = "grouped_f32_14x16@avx512",
    .revision = 2,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_GROUPED_FUNCTIONS(grouped, load_strip, store_tile),
};

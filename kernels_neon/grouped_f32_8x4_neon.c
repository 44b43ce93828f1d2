/* SPDX-License-Identifier: MIT */
/*
 * Convolution in narrow groups, and depthwise with a multiplier, 8 pixels x 1 vector of channels,
 * any kernel size.
 */
#include "vec_neon.h"

#define TILE_PIXELS 8
#define PERMUTES 1
#define SLIDES 1
#include "body_grouped.h"
#include "body_load.h"
#include "body_store.h"

GROUPED_TILES_8

static grouped_fn *const tables[3][TILE_PIXELS] = GROUPED_TABLE(8);

static void grouped(const struct dc_grouped_args *args)
{
    run_grouped(args, tables);
}

const struct dc_kernel dck_grouped_f32_8x4_neon = {
    .name = "grouped_f32_8x4@neon",
    .revision = 2,
    .isa = DC_ISA_NEON,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_GROUPED_FUNCTIONS(grouped, load_strip, store_tile),
};

/* SPDX-License-Identifier: MIT */
/* A single pixel x up to 128 output channels: 8 sums hide the latency of two FMAs a cycle. */
#include "vec_avx512.h"

#define TILE_VECTORS 8
#include "body_pixel.h"

PIXEL_TILES_8

static pixel_fn *const tiles[TILE_VECTORS] = {PIXEL_NAMES_8};

static void run(const struct dc_pixel_args *args)
{
    run_pixel(args, tiles);
}

const struct dc_kernel dck_pixel_f32_1x128_avx512 = {
    .name = "pixel_f32_1x128@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = 1,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PIXEL_FUNCTIONS(run),
};

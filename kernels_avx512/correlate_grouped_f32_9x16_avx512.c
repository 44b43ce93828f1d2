/* SPDX-License-Identifier: MIT */
/*
 * Gradients of weights, 9 taps x 1 vector of channels: groups of a vector or less, and depthwise
 * with a multiplier.
 */
#include "vec_avx512.h"

#define PERMUTES 1
#define SLIDES 1
#include "body_correlate.h"
#include "body_load.h"

const struct dc_kernel dck_correlate_grouped_f32_9x16_avx512 = {
    .name = "correlate_grouped_f32_9x16@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = 9,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_CORRELATE_FUNCTIONS(correlate, load_strip, PERMUTES),
};

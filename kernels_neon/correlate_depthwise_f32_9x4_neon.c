/* SPDX-License-Identifier: MIT */
/*
 * Gradients of weights, 9 taps x 1 vector of channels: each input channel with its output channel.
 */
#include "vec_neon.h"

#define PERMUTES 0
#define SLIDES 1
#include "body_correlate.h"
#include "body_load.h"

const struct dc_kernel dck_correlate_depthwise_f32_9x4_neon = {
    .name = "correlate_depthwise_f32_9x4@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = 9,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_CORRELATE_FUNCTIONS(correlate, load_strip, PERMUTES),
};

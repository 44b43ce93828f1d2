/* SPDX-License-Identifier: MIT */
#include "vec_neon.h"

#define WINOGRAD_AXES 1
#define WINOGRAD_TAPS 7
#define WINOGRAD_OUTPUTS 3
#include "body_winograd.h"

const struct dc_kernel dck_winograd_f32_1x3k7_neon = {
    .name = "winograd_f32_1x3k7@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = ROWS_OUT * WINOGRAD_OUTPUTS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 3.75f,
    DC_WINOGRAD_FUNCTIONS(WINOGRAD_AXES, WINOGRAD_OUTPUTS, WINOGRAD_TAPS, WINOGRAD_POINTS,
                          winograd_input, winograd_filter_rows, winograd_output,
                          winograd_pack_filters),
};

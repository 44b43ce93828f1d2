/* SPDX-License-Identifier: MIT */
#include "vec_avx2.h"

#define WINOGRAD_AXES 1
#define WINOGRAD_TAPS 3
#define WINOGRAD_OUTPUTS 4
#include "body_winograd.h"

const struct dc_kernel dck_winograd_f32_1x4_avx2 = {
    .name = "winograd_f32_1x4@avx2",
    .revision = 2,
    .isa = DC_ISA_AVX2,
    .tile_pixels = ROWS_OUT * WINOGRAD_OUTPUTS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.75f,
    DC_WINOGRAD_FUNCTIONS(WINOGRAD_AXES, WINOGRAD_OUTPUTS, WINOGRAD_TAPS, WINOGRAD_POINTS,
                          winograd_input, winograd_filter_rows, winograd_output,
                          winograd_pack_filters),
};

/* SPDX-License-Identifier: MIT */
#include "vec_avx2.h"

#define WINOGRAD_AXES 2
#define WINOGRAD_TAPS 3
#define WINOGRAD_OUTPUTS 2
#include "body_winograd.h"

const struct dc_kernel dck_winograd_f32_2x2_avx2 = {
    .name = "winograd_f32_2x2@avx2",
    .revision = 2,
    .isa = DC_ISA_AVX2,
    .tile_pixels = ROWS_OUT * WINOGRAD_OUTPUTS,
    .tile_channels = V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.25f,
    DC_WINOGRAD_FUNCTIONS(WINOGRAD_AXES, WINOGRAD_OUTPUTS, WINOGRAD_TAPS, WINOGRAD_POINTS,
                          winograd_input, winograd_filter_rows, winograd_output,
                          winograd_pack_filters),
};

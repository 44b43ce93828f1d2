/* SPDX-License-Identifier: MIT */
/* Sums of outer products, 6 rows x 16 lanes: 12 accumulators. */
#include "vec_avx2.h"

#define TILE_PIXELS 6
#define TILE_VECTORS 2
#include "body_load.h"
#include "body_product.h"

PRODUCT_TILES_6(1)
PRODUCT_TILES_6(2)

static product_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {PRODUCT_NAMES_6(1)},
    {PRODUCT_NAMES_6(2)},
};

static void product(const struct dc_product_args *args)
{
    run_product(args, tiles);
}

const struct dc_kernel dck_product_f32_6x16_avx2 = {
    .name = "product_f32_6x16@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PRODUCT_FUNCTIONS(product, load_strip, weave),
};

/* SPDX-License-Identifier: MIT */
/* Sums of outer products, 14 rows x 32 lanes: 28 accumulators. */
#include "vec_avx512.h"

#define TILE_PIXELS 14
#define TILE_VECTORS 2
#include "body_load.h"
#include "body_product.h"

PRODUCT_TILES_14(1)
PRODUCT_TILES_14(2)

static product_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {PRODUCT_NAMES_14(1)},
    {PRODUCT_NAMES_14(2)},
};

static void product(const struct dc_product_args *args)
{
    run_product(args, tiles);
}

const struct dc_kernel dck_product_f32_14x32_avx512 = {
    .name = "product_f32_14x32@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PRODUCT_FUNCTIONS(product, load_strip, weave),
};

/* SPDX-License-Identifier: MIT */
/* Sums of outer products, 8 rows x 8 lanes: 16 accumulators. */
#include "vec_neon.h"

#define TILE_PIXELS 8
#define TILE_VECTORS 2
#include "body_load.h"
#include "body_product.h"

PRODUCT_TILES_8(1)
PRODUCT_TILES_8(2)

static product_fn *const tiles[TILE_VECTORS][TILE_PIXELS] = {
    {PRODUCT_NAMES_8(1)},
    {PRODUCT_NAMES_8(2)},
};

static void product(const struct dc_product_args *args)
{
    run_product(args, tiles);
}

const struct dc_kernel dck_product_f32_8x8_neon = {
    .name = "product_f32_8x8@neon",
    .revision = 1,
    .isa = DC_ISA_NEON,
    .tile_pixels = TILE_PIXELS,
    .tile_channels = TILE_CHANNELS,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_PRODUCT_FUNCTIONS(product, load_strip, weave),
};

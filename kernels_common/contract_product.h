/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_PRODUCT: sums of outer products, for the gradient of weights. A tile is
 * rows x lanes: tile_pixels rows, tile_channels lanes. Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_PRODUCT_H
#define DOCONV_CONTRACT_PRODUCT_H

#include <stddef.h>

#include "contract_direct.h"
#include "contract_strip.h"

/*
 * Sums of outer products, for each of `lists` lists of segments:
 *
 *   sums[list][row][lane] = start + sum over segments s of the list, j in [0, s.length) of
 *       left[row * left_row + s.src_offset + j * left_step] *
 *       right[s.weight_offset + j * right_step + lane]
 *   start = 0, or what sums[list][row][lane] was where resume is other than 0
 * Additions are in the order of segments and j.
 *
 * A pixel is a j: its values in the left tensor are broadcast, those in the right one are vectors.
 */
struct dc_product_args {
    const float *left;
    ptrdiff_t left_row, left_step;
    /* 1..tile_pixels */
    ptrdiff_t rows;
    const float *right;
    ptrdiff_t right_step;
    /* 1..tile_channels; whole vectors are read and summed */
    ptrdiff_t lanes;
    /* of all lists, one after another */
    const struct dc_segment *segments;
    /* segments of each list; may be 0 */
    const ptrdiff_t *counts;
    ptrdiff_t lists;
    int resume;
    /* row r of list l at sums + l * sums_list + r * sums_row, of whole vectors */
    float *sums;
    ptrdiff_t sums_list, sums_row;
    /*
     * NULL, or where results will be stored: each list fetches tile_channels floats of each row,
     * behind those of the list before
     */
    const float *soon;
    ptrdiff_t soon_row;
};

/*
 * Weaves finished sums:
 *   dst[row * dst_row + lane * dst_lane + list] = sums[list * sums_list + row * sums_row + lane]
 */
struct dc_weave_args {
    const float *sums;
    ptrdiff_t sums_list, sums_row;
    ptrdiff_t lists, rows, lanes;
    float *dst;
    ptrdiff_t dst_row, dst_lane;
};

/* All functions are required. */
struct dc_product_kernel {
    void (*run)(const struct dc_product_args *args);
    void (*load)(const struct dc_load_args *args);
    void (*weave)(const struct dc_weave_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_PRODUCT_FUNCTIONS(run, load, weave)                                                     \
    .family = DC_FAMILY_PRODUCT, .product = {run, load, weave}

#endif

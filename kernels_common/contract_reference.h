/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_REFERENCE: any valid problem, without vectors. Its tile is 1 x 1.
 * Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_REFERENCE_H
#define DOCONV_CONTRACT_REFERENCE_H

#include <stddef.h>

#include "contract_strip.h"

/* The whole problem. A call computes one output channel of one image, `n`. */
struct dc_reference_args {
    const float *src;
    /* OIHW */
    const float *weight;
    /* each may be NULL: none */
    const float *bias, *residual;
    float *dst;
    struct dc_tensor_map src_map, dst_map;
    ptrdiff_t n, cin, h, w, cout, kh, kw, hout, wout;
    ptrdiff_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    /* at and past cout, in the padding of a blocked layout, zeros are written */
    ptrdiff_t out_channel;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
};

/* All functions are required. */
struct dc_reference_kernel {
    void (*run)(const struct dc_reference_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_REFERENCE_FUNCTIONS(run) .family = DC_FAMILY_REFERENCE, .reference = {run}

#endif

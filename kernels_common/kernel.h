/* SPDX-License-Identifier: MIT */
/*
 * The contract between the library and its kernels; included by every kernel and by all of src that
 * calls or names one. What a family of kernels is asked to do stands in its contract_*.h.
 *
 * A kernel is a const descriptor beside its loop. It sees pointers, strides and counts, never a
 * problem, so it can't decide anything. Kernels include only kernels_common, call nothing outside
 * their file, allocate nothing and can't fail. All counts and strides are in floats unless said
 * otherwise.
 */
#ifndef DOCONV_KERNEL_H
#define DOCONV_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "contract_strip.h"
#include "contract_reference.h"
#include "contract_direct.h"
#include "contract_grouped.h"
#include "contract_planes.h"
#include "contract_pixel.h"
#include "contract_winograd.h"
#include "contract_compose.h"
#include "contract_product.h"
#include "contract_correlate.h"

/* Pixels x channels of the largest tile of any kernel. */
#define DC_MAX_TILE_FLOATS 576

/* What a kernel computes: the first seven convolve and have solvers, the others serve training. */
enum dc_family {
    DC_FAMILY_REFERENCE,
    DC_FAMILY_DIRECT,
    DC_FAMILY_DEPTHWISE,
    DC_FAMILY_GROUPED,
    DC_FAMILY_PLANES,
    DC_FAMILY_PIXEL,
    DC_FAMILY_WINOGRAD,
    DC_FAMILY_COMPOSE,
    DC_FAMILY_PRODUCT,
    DC_FAMILY_CORRELATE,
    DC_FAMILY_NONE /* no kernel is: solvers of portable loops name it */
};

/* Values are those of doconv_isa, which kernels can't see. */
enum dc_isa { DC_ISA_NONE = 1, DC_ISA_AVX2 = 2, DC_ISA_AVX512 = 3, DC_ISA_NEON = 4 };

struct dc_kernel {
    /* "direct_f32_14x32@avx512": unique, ends in the ISA, stored in caches */
    const char *name;
    /* +1 when packing, rounding or the meaning of parameters changes */
    unsigned revision;
    enum dc_family family;
    enum dc_isa isa;
    /*
     * The full tile, in pixels and output channels unless the family's contract says otherwise.
     * tile_channels is the length of a row of packed weights. It is a multiple of vector, but for
     * DC_FAMILY_PLANES, where tile_pixels is one.
     */
    int tile_pixels;
    int tile_channels;
    /* floats of a vector */
    int vector;
    /* of the a-priori bound of a dot product; 1: summed directly */
    float error_amplification;
    /*
     * The functions, by family; a row sets them and the family by DC_..._FUNCTIONS() of its
     * contract. They are required, but where a contract says that one may be NULL.
     */
    union {
        struct dc_reference_kernel reference;
        struct dc_direct_kernel direct;
        /* DC_FAMILY_DEPTHWISE and DC_FAMILY_GROUPED */
        struct dc_grouped_kernel grouped;
        struct dc_planes_kernel planes;
        struct dc_pixel_kernel pixel;
        struct dc_winograd_kernel winograd;
        struct dc_compose_kernel compose;
        struct dc_product_kernel product;
        struct dc_correlate_kernel correlate;
    };
};

#endif

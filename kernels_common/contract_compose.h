/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_COMPOSE: folding D into W, and its gradients. A tile is taps x rows of
 * a vector of lanes: tile_pixels taps, tile_channels / vector rows. Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_COMPOSE_H
#define DOCONV_CONTRACT_COMPOSE_H

#include <stddef.h>

/* Blocks of channels that a call may have. */
#define DC_COMPOSE_BLOCKS 32
/* Rows whose products are summed before they are added to those of the rows before. */
#define DC_COMPOSE_CHUNK 32
/* Blocks of channels that a call for the gradient of D may have. */
#define DC_COMPOSE_GRADIENT_BLOCKS 4

/*
 * Folding. A lane of a vector is a channel of D, with every row of W that meets it.
 *
 *   array    shape
 *   w        rows of d_mul floats
 *   d        channels of [taps][d_mul], or of [d_mul][taps] where d_turned
 *   weight   rows of taps floats, one a row of W
 *
 * For each lane l of each block, t in [0, steps), m in [0, taps):
 *
 *   weight[results[l] + t * result_step][m] = sum over s in [0, d_mul), in order, of
 *       (D[m][s] + identity(m, s)) * w[rows[l] + t * row_step][s]
 *
 *   d_turned   D[m][s]                 identity(m, s) is 1, else 0, where
 *   0          d[channels[l]][m][s]    s < repeated && s % taps == m
 *   other      d[channels[l]][s][m]    m < repeated && m % d_mul == s      (the gradient of W)
 *
 * A kernel may begin sums with what the identity adds instead, but then does so for every row of a
 * lane's channel, and whatever the lane's place. Lanes may repeat one another: they write the same
 * bits to the same place. Blocks share transposed rows of D, so all of them should fit in L1.
 */
struct dc_compose_args {
    const float *w, *d;
    float *weight;
    /* [blocks][vector], in rows, rows and channels */
    const ptrdiff_t *rows, *results, *channels;
    /* 1..DC_COMPOSE_BLOCKS */
    ptrdiff_t blocks;
    /* steps in rows; steps >= 1 */
    ptrdiff_t row_step, result_step, steps;
    ptrdiff_t taps, d_mul, repeated;
    int d_turned;
    /* other than 0: rows come from memory rather than a cache, prefetching many of them pays */
    int in_memory;
    /* taps whose D is transposed at a time, 1..taps */
    ptrdiff_t panel;
    /*
     * 64-byte aligned, of so many floats:
     *   vector * (blocks * panel * d_mul + tile_channels / vector * (d_mul + panel))
     */
    float *scratch;
};

/*
 * The gradient of D, with blocks, rows and lanes as above; g is the gradient of the folded rows.
 *
 *   grad_d[channels[l]][m][s] = sum over t in [0, steps) of
 *       w[rows[l] + t * row_step][s] * g[g_rows[l] + t * g_step][m]
 *
 * Sums of DC_COMPOSE_CHUNK rows in order, added in order. Calls may share the rows out, all but the
 * last having multiples of DC_COMPOSE_CHUNK of them: sums wait in the scratch.
 */
struct dc_compose_gradient_args {
    const float *w, *g;
    float *grad_d;
    /* [blocks][vector] */
    const ptrdiff_t *rows, *g_rows, *channels;
    /* 1..DC_COMPOSE_GRADIENT_BLOCKS; their rows should follow each other in memory */
    ptrdiff_t blocks;
    /* steps in rows; steps >= 1 */
    ptrdiff_t row_step, g_step, steps;
    /* other than 0: a call came before this one; one will come, and grad_d isn't written yet */
    int resumes, goes_on;
    ptrdiff_t taps, d_mul;
    /* 64-byte aligned, dc_compose_gradient_floats() of them */
    float *scratch;
};

/*
 * Floats of scratch for the gradient of D, for a kernel with tiles of tile_taps taps x tile_rows
 * rows of `vector` lanes.
 */
static inline ptrdiff_t dc_compose_gradient_floats(ptrdiff_t taps, ptrdiff_t d_mul,
                                                   ptrdiff_t tile_taps, ptrdiff_t tile_rows,
                                                   ptrdiff_t vector, ptrdiff_t blocks)
{
    const ptrdiff_t columns = (d_mul + tile_taps - 1) / tile_taps * tile_taps +
                              (taps + tile_rows - 1) / tile_rows * tile_rows;
    return vector * ((blocks + 1) * taps * d_mul + (taps > d_mul ? taps : d_mul) +
                     blocks * DC_COMPOSE_CHUNK * columns);
}

/* All functions are required. vector <= DC_CHANNEL_BLOCK. */
struct dc_compose_kernel {
    void (*run)(const struct dc_compose_args *args);
    void (*gradient)(const struct dc_compose_gradient_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_COMPOSE_FUNCTIONS(run, gradient) .family = DC_FAMILY_COMPOSE, .compose = {run, gradient}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What the files of the direct solver share: the state of a plan, fixed by direct_plan.c, used by
 * direct_execute.c. For src/solvers/direct and src/library.c.
 */
#ifndef DOCONV_DIRECT_H
#define DOCONV_DIRECT_H

#include "geometry/packed_weights.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/problem.h"
#include "plan/solver.h"

struct dc_direct_segments {
    const struct dc_segment *items;
    ptrdiff_t count;
};

/* Where a run finds its input. */
enum dc_source {
    DC_SOURCE_INPLACE, /* src itself; padded taps are skipped by cutting rows into runs */
    DC_SOURCE_ROWS,    /* strip of zero-bordered rows */
    /* strip with a copy for each kernel column, so that pixels run on across rows */
    DC_SOURCE_FLAT
};

/* What a plan goes over first. */
enum dc_order {
    DC_ORDER_PIXELS,  /* all weights for some pixels, then the next pixels */
    DC_ORDER_WEIGHTS, /* all pixels for a block of weights, then the next block */
    DC_ORDER_PACK     /* the same, of weights that are made just before their use */
};

/* What a candidate chooses. */
struct dc_direct_parameters {
    int source, order; /* enum dc_source, enum dc_order */
    int rows;          /* output rows of a task */
    int k_block;       /* input channels of a pass over the reduction; 0: all */
};

/* Channels are seen as `groups` groups of cin inputs and cout outputs. */
struct dc_direct_state {
    enum dc_source source;
    enum dc_order order;
    /* pixels run on across rows; every row meets every tap, those in the padding as zeros */
    bool flat;
    bool direct_store; /* runs write dst themselves */
    /* units that follow each other share their output blocks, not their pixels */
    bool weights_first;
    int64_t groups, cin, cout;
    int64_t tile_channels, out_blocks, taps;
    int64_t k_block, k_blocks; /* input channels of a pass; passes */
    /*
     * as the solver sees them: images that follow each other may be one, see
     * dc_direct_joined_rows()
     */
    int64_t images, hout;
    int64_t rows, row_blocks;      /* output rows of a unit; units of an image and group */
    int64_t out_chunk, out_chunks; /* output blocks of a unit */
    int tasks;
    /* Ranges and the segments of each [last pass][y range][x range]. */
    struct dc_tap_range *y_ranges, *x_ranges;
    int64_t y_count, x_count;
    struct dc_direct_segments *segments;
    /*
     * Strip geometry in floats; phases: the residues of input rows modulo stride_h that a flat
     * strip keeps apart.
     */
    ptrdiff_t strip_pixel, strip_row, strip_block, strip_plane, strip_phase;
    int64_t strip_rows, strip_columns, phases;
    ptrdiff_t strip_floats, partial_floats, tile_pixels, task_floats;
    struct dc_packed_weights weights;
    /* Weights made on the way: a task's packed block, and that with the fold's scratch. */
    ptrdiff_t made_floats, fresh_floats;
    struct dc_tensor_map src_map, dst_map;
};

/* Pixels of a tile-buffer pass where runs can't store directly: fits L1 with the widest tile. */
#define DC_STORE_PIXELS 96

/*
 * Fills everything but ranges and segments (their counts are known); NULL or the reason why the
 * candidate can't be.
 */
const char *dc_direct_geometry(const struct dc_problem *problem, const struct dc_kernel *kernel,
                               const struct dc_direct_parameters *parameters,
                               struct dc_direct_state *state);
/*
 * Output rows of all images together, if each pixel comes from one pixel in place and the pixels of
 * all images are equally far apart, in src and in dst: then they are one image, and tiles are
 * filled however small the images are. Else 0.
 */
int64_t dc_direct_joined_rows(const struct dc_problem *problem, enum dc_source source);

/* The hooks of dc_solver_direct: direct_plan.c, direct_pack.c, direct_execute.c. */
doconv_status dc_direct_prepare(doconv_plan *plan);
void dc_direct_pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                    float *packed);
void dc_direct_execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace);
extern const struct dc_block_hooks dc_direct_blocks;

/*
 * One block's biases and weights, on the calling thread, folded first if the source has a fold:
 * then scratch is 64-byte aligned and has the fold's scratch_floats, and source->folded has the
 * whole weight (whole) or the block alone.
 */
void dc_direct_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                          int64_t index, bool whole, float *bias, float *block, float *scratch);

extern const struct dc_solver dc_solver_direct;

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What the files of the direct solver share: the state of a plan, fixed by direct_plan.c, used by
 * direct_execute.c.
 */
#ifndef DOCONV_DIRECT_H
#define DOCONV_DIRECT_H

#include "compose/fold.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"
#include "plan/solver.h"

/*
 * Output rows (or columns) [begin, end) that meet the same kernel taps [tap0, tap1) inside the
 * image.
 */
struct dc_direct_range {
    int64_t begin, end, tap0, tap1;
};

struct dc_direct_segments {
    const struct dc_segment *items;
    ptrdiff_t count;
};

/* Channels are seen as `groups` groups of cin inputs and cout outputs. */
struct dc_direct_state {
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
    struct dc_direct_range *y_ranges, *x_ranges;
    int64_t y_count, x_count;
    struct dc_direct_segments *segments;
    /*
     * Strip geometry in floats; phases: the residues of input rows modulo stride_h that a flat
     * strip keeps apart.
     */
    ptrdiff_t strip_pixel, strip_row, strip_block, strip_plane, strip_phase;
    int64_t strip_rows, strip_columns, phases;
    ptrdiff_t strip_floats, partial_floats, tile_pixels, task_floats;
    /* of packed weights: all biases; one output block's weights */
    ptrdiff_t bias_floats, block_floats;
    struct dc_tensor_map src_map, dst_map;
};

/* Pixels of a tile-buffer pass where runs can't store directly: fits L1 with the widest tile. */
#define DC_STORE_PIXELS 96

/*
 * Fills everything but ranges and segments (their counts are known); NULL or the reason why the
 * candidate can't be.
 */
const char *dc_direct_geometry(const doconv_context *ctx, const struct dc_problem *problem,
                               const struct dc_candidate *candidate, struct dc_direct_state *state);
/*
 * Output rows of all images together, if each pixel comes from one pixel in place and the pixels of
 * all images are equally far apart, in src and in dst: then they are one image, and tiles are
 * filled however small the images are. Else 0.
 */
int64_t dc_direct_joined_rows(const struct dc_problem *problem, enum dc_source source);
/* Segments of all ranges together; tells memory needs and refuses absurd kernels. */
int64_t dc_direct_ranges(int64_t size, int64_t pad, int64_t stride, int64_t dilation,
                         int64_t kernel, int64_t out, struct dc_direct_range *ranges);

doconv_status dc_direct_prepare(doconv_plan *plan);
void dc_direct_pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                    float *packed);
/*
 * Blocks [first, first + count) of output channels alone, of all groups' blocks. Their bias counts
 * as theirs.
 */
void dc_direct_pack_blocks(const doconv_plan *plan, const struct dc_weight_view *weight,
                           const float *bias, float *packed, int64_t first, int64_t count);
/*
 * One block, on the calling thread, folded first if the source has a fold: then scratch is 64-byte
 * aligned and has dc_fold_part_floats().
 */
void dc_direct_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                          int64_t index, float *bias, float *block, float *scratch);
/*
 * May a layer be folded block by block? Groups other than the paper's mix outputs of many blocks.
 */
bool dc_direct_folds_blocks(const doconv_fold_desc *fold);
/*
 * And do its blocks keep the tasks of a plan in DC_ORDER_PACK busy? A block that is folded is one
 * task's.
 */
bool dc_direct_shares_blocks(const doconv_plan *plan);
void dc_direct_execute(const doconv_plan *plan, const float *packed, const float *src,
                       const float *residual, float *dst, char *workspace);
void dc_direct_execute_fresh(const doconv_plan *plan, const struct dc_weight_source *source,
                             const float *src, const float *residual, float *dst, char *workspace);
size_t dc_direct_fresh_workspace_size(const doconv_plan *plan, const doconv_fold_desc *fold);

#endif

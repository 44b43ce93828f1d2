/* SPDX-License-Identifier: MIT */
/*
 * What the files of feature composition share: feature.c, which has the portable loops,
 * feature_plan.c, which chooses kernels and block sizes, and those that call the kernels:
 * feature_forward.c, feature_backward.c, feature_depthwise.c for depthwise layers, and
 * feature_pack.c for all. For src/compose/feature*.
 */
#ifndef DOCONV_FEATURE_STATE_H
#define DOCONV_FEATURE_STATE_H

#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/*
 * How a forward pass goes: over pixels, with W packed; over W's rows, for few pixels; or a
 * depthwise layer's own.
 */
enum dc_feature_way { DC_FEATURE_PIXELS, DC_FEATURE_ROWS, DC_FEATURE_DEPTHWISE };

/* What a candidate of a forward pass chooses. */
struct dc_feature_parameters {
    int way; /* enum dc_feature_way */
};

/*
 * Kernels see blocks of 16 lanes: Z of a block is `steps` vectors a pixel, of which vector q's lane
 * l is (input channel l % count, s = q * copies + l / count) for the block's `count` channels.
 * Layers of few input channels have several copies of them side by side, so that lanes aren't
 * empty.
 */
struct dc_feature {
    enum dc_feature_way way;
    doconv_context *ctx;
    struct dc_problem problem;
    struct dc_tensor_map src_map, dst_map;
    int64_t d_mul, taps;
    int64_t repeated; /* channels of Z, of each input channel's, that the identity adds to */
    int forward_tasks, backward_tasks;
    ptrdiff_t forward_floats, backward_floats; /* of the workspace, a task's */
    /* With kernels: */
    const struct dc_kernel *depthwise; /* makes Z */
    const struct dc_kernel *gemm;      /* contracts it with W: a direct kernel */
    int64_t copies, steps, blocks;     /* blocks: of a group */
    /* of a depthwise layer, whose blocks are of all groups; 0: another layer */
    int64_t multiplier;
    /* that blocks are of: for a depthwise layer one, with all channels */
    int64_t groups, group_cin;
    int64_t edge, chunk;      /* of dc_grouped_args */
    ptrdiff_t factors_floats; /* D of a block, packed */
    /* Forward: a unit is a chunk of pixels against a chunk of output blocks. */
    int64_t pass_blocks;    /* of a pass over the reduction */
    int64_t images, height; /* of a chunk, in rows: images is 1, or height all of an image */
    int64_t chunks_image;   /* chunks of an image, or 1 */
    int64_t chunk_pixels;   /* most of a chunk */
    int64_t out_blocks, out_chunk, out_chunks;
    bool in_place, direct_store;
    /*
     * of depthwise layers: the blocks of a chunk's pixels lie side by side in memory, and follow
     * each other
     */
    bool blocks_together;
    ptrdiff_t strip_floats, z_floats, partial_floats, panel_floats, natural_floats, segment_floats;
    /* Forward for few pixels: rows are those of W, where it is, and lanes are pixels. */
    int64_t panels; /* of tile_channels pixels */
    ptrdiff_t panel_inputs, panels_floats, sums_floats;
    /* Backward: a task owns blocks, and walks all chunks of pixels. */
    const struct dc_kernel *wide; /* its lanes are those of all steps together */
    int64_t parts;                /* tiles of them */
    /*
     * W's order of (channel, s) for these lanes, and Z is reordered: for fewer pixels than outputs.
     * Else steps, and W is
     */
    bool natural;
    int64_t walk_images, walk_rows, walk_pixels;
    int64_t plane;        /* of the planes of dst's gradient: floats between them */
    bool planes_in_place; /* dst's gradient itself */
    bool pixels_in_place; /* likewise; else a copy in blocks of 16 channels */
    ptrdiff_t image_floats, walk_floats, weight_floats, map_floats, group_segment_floats;
    ptrdiff_t planes_floats, pixels_floats; /* shared by the tasks */
};

/* The hooks of the solvers in feature_plan.c. */
void dc_feature_forward_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                                char *workspace);
void dc_feature_backward_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                                 char *workspace);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What the files of the Winograd solver share: the state of a plan, fixed by winograd_plan.c, used
 * by winograd_execute.c and winograd_pack.c. For these and for library.c.
 */
#ifndef DOCONV_WINOGRAD_H
#define DOCONV_WINOGRAD_H

#include "geometry/packed_weights.h"
#include "kernel.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* What a candidate chooses. */
struct dc_winograd_parameters {
    int block; /* tiles of a block; where one axis is transformed: rows (columns) of an image */
    int outs;  /* output blocks whose products wait for each other; 0: all */
    /*
     * Weights are packed as they are, and input channels of an output block, so many at a time, are
     * transformed in the call; 0: they are transformed when they are packed.
     */
    int chunk;
    /*
     * 1: for weights of the call, with a chunk: points of all inputs first; then each output block,
     * made just before its use.
     */
    int made;
    int down; /* one axis is transformed, and its tiles lie down the columns, not along the rows */
};

/*
 * A problem as a plan sees it: with rows and columns exchanged where tiles lie down the columns. So
 * tiles are parts of rows for all that follows, and the kernels know nothing else.
 */
struct dc_winograd_view {
    int64_t h, w, hout, wout, kh, kw, pad_top, pad_left;
    struct dc_tensor_map src_map, dst_map;
};

/*
 * Tiles have numbers, along rows, through all images: a block is a range of them. Where one axis is
 * transformed a tile is a part of a row (of the view), and a block is whole rows of an image.
 *
 * Two buffers: points, which the input's transform makes of a block of one group, and products,
 * which a GEMM for each point makes of these:
 *
 *   points    [point][tile][input channel]
 *   products  [output block][point][tile][tile channel]
 */
struct dc_winograd_state {
    const struct dc_kernel *kernel, *gemm;
    bool in_place;     /* the transform reads src itself, not a strip */
    bool direct_store; /* outputs go to dst themselves, where they fill vectors */
    bool down;         /* of the parameters */
    struct dc_winograd_view view;
    bool shared;     /* points are made first, all of them, and then used by several tasks */
    int64_t outputs; /* of a tile, along an axis that is transformed */
    int64_t tile_height;
    int64_t points, taps;      /* of all axes; kernel rows that are summed in the products */
    int64_t groups, cin, cout; /* cin, cout: of a group */
    int64_t tile_channels, out_blocks;
    int64_t tile_rows, tile_columns; /* tiles of an image */
    int64_t tiles;                   /* of all images */
    int64_t block, blocks;           /* tiles of a block; blocks, of all images */
    int64_t row_blocks;              /* blocks of an image, where they are whole rows; else 0 */
    int64_t places;                  /* blocks and groups */
    int64_t outs;                    /* output blocks whose products are made together */
    int64_t chunk;                   /* input channels that are transformed in the call, or 0 */
    bool made;                       /* an output block at a time, for all places */
    int64_t out_chunk, out_chunks;   /* output blocks of a unit; units of a place */
    int tasks;
    /* Floats: pitches of points and products; what the buffers take, a strip, and a task. */
    ptrdiff_t points_tile, points_point, points_floats;
    ptrdiff_t products_point, products_floats;
    ptrdiff_t strip_row, strip_floats, rows_floats, task_floats;
    /* Lines of tiles, and tiles of each, that go through a strip together; through stored rows. */
    int64_t strip_lines, strip_tiles, store_lines, store_tiles;
    /* A chunk's filters, as points: [point][tap][input channel of the chunk][tile channel]. */
    ptrdiff_t filters_tap, filters_point, filters_floats;
    /* A task's block of weights that it makes, and its biases; and what making it needs, too. */
    ptrdiff_t made_floats, fresh_floats;
    /* Each block: [point][tap][input channel][tile channel]; with a chunk, as direct tiles do. */
    struct dc_packed_weights weights;
    bool stream; /* they are packed past the caches */
};

/* Input channels of a chunk, at most. */
#define DC_WINOGRAD_MOST_CHUNK 128
/* Kernel rows that products may sum. */
#define DC_WINOGRAD_TAPS 16
/*
 * Tiles that are copied to a strip at a time, and stored from a buffer: both stay in L1. Down the
 * columns, of several columns, for their pixels are neighbours in memory.
 */
#define DC_WINOGRAD_STRIP_TILES 12
#define DC_WINOGRAD_STORE_TILES 8
#define DC_WINOGRAD_DOWN_LINES 16
#define DC_WINOGRAD_DOWN_TILES 8

/* down: as in the parameters. */
struct dc_winograd_view dc_winograd_view(const struct dc_problem *problem, bool down);

/* Fills the state; NULL, or the reason why the candidate can't be. */
const char *dc_winograd_geometry(const struct dc_problem *problem, const struct dc_kernel *kernel,
                                 const struct dc_kernel *gemm,
                                 const struct dc_winograd_parameters *parameters,
                                 struct dc_winograd_state *state);

/* The hooks of dc_solver_winograd: winograd_plan.c, winograd_pack.c, winograd_execute.c. */
doconv_status dc_winograd_prepare(doconv_plan *plan);
void dc_winograd_pack(const doconv_plan *plan, const struct dc_weight_view *weight,
                      const float *bias, float *packed);
/*
 * One block's weights, on the calling thread, folded first if the source has a fold: then scratch
 * is 64-byte aligned and has the fold's scratch_floats, and source->folded has the whole weight
 * (whole) or the block alone.
 */
void dc_winograd_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                            int64_t index, bool whole, float *block, float *scratch);
void dc_winograd_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                         char *workspace);
extern const struct dc_block_hooks dc_winograd_blocks;

extern const struct dc_solver dc_solver_winograd;

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The contract between the library and its kernels. A kernel is a const descriptor beside its loop:
 * it sees pointers, strides and counts, never a problem, so it can't decide anything. Kernels
 * include only kernels_common, call nothing outside their file, allocate nothing and can't fail.
 * All counts and strides are in floats unless said otherwise.
 */
#ifndef DOCONV_KERNEL_H
#define DOCONV_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Vectors of output channels in the widest tile of any kernel. */
#define DC_MAX_TILE_VECTORS 8
/* pixels x channels of the largest tile of any kernel: the tile buffer of the store path. */
#define DC_MAX_TILE_FLOATS 512
/* Pixels past the end of a dc_store_args tile that may be read (never stored). */
#define DC_TILE_SLACK 8
/* The channel block of strips and of packed weights. */
#define DC_CHANNEL_BLOCK 16

/*
 * Those that convolve, and those that have no solver: DC_OP_COMPOSE folds, DC_OP_PRODUCT and
 * DC_OP_CORRELATE compute gradients of weights.
 */
enum dc_op {
    DC_OP_REFERENCE,
    DC_OP_DIRECT,
    DC_OP_DEPTHWISE,
    DC_OP_GROUPED,
    DC_OP_PLANES,
    DC_OP_COMPOSE,
    DC_OP_PRODUCT,
    DC_OP_CORRELATE
};

/*
 * Columns that a tile of a grouped kernel may have outside of the image on a side, where it takes
 * taps side by side.
 */
#define DC_GROUPED_EDGE 3

/* Values are those of doconv_isa, which kernels can't see. */
enum dc_isa { DC_ISA_NONE = 1, DC_ISA_AVX2 = 2, DC_ISA_AVX512 = 3, DC_ISA_NEON = 4 };

/*
 * A stretch of the reduction whose inputs are contiguous for each pixel:
 *   for j in [0, length): acc[pixel][channel] += src[pixel * src_pixel + src_offset + j] * weights[weight_offset + j * tile_channels + channel]
 */
struct dc_segment {
    ptrdiff_t src_offset;
    ptrdiff_t weight_offset;
    ptrdiff_t length;
    /* other than 0: the inputs of the segment that follows may not be in L1, prefetch them */
    ptrdiff_t fetch;
};

/*
 * A run against one block of output channels: `lines` lines (of a row or a column each) of `pixels`
 * pixels that share their segments. The order of the additions of one output is that of segments
 * and j, whatever the number of pixels, so that every split into runs gives the same bits.
 */
struct dc_run_args {
    const float *src;
    ptrdiff_t src_pixel, src_line;
    const struct dc_segment *segments;
    ptrdiff_t segment_count; /* may be 0: all taps lie in the padding */
    const float *weights;    /* tile_channels floats a row, rows 64-byte aligned */
    /* packed weights that the next run will want: prefetched into L2 during this one */
    const float *soon;
    ptrdiff_t soon_floats; /* of them; 0: none */
    const float *bias;     /* tile_channels floats, 64-byte aligned; used if partial_in is NULL */
    /*
     * [lines][pixels][tile_channels], 64-byte aligned: sums so far; NULL at the start of the
     * reduction
     */
    const float *partial_in;
    /*
     * likewise: where unfinished (or not directly storable) sums go; then nothing below is used but
     * lines, pixels and channels
     */
    float *partial_out;
    ptrdiff_t lines, pixels; /* >= 1 */
    ptrdiff_t channels;      /* valid output channels, 1..tile_channels */
    /*
     * Direct store. Vector v of the block goes to dst + line * dst_line + pixel * dst_pixel +
     * dst_vector[v].
     */
    float *dst;
    const float *residual; /* strides as dst; NULL: none; may equal dst */
    ptrdiff_t dst_pixel, dst_line;
    ptrdiff_t dst_vector[DC_MAX_TILE_VECTORS];
    /*
     * channels to write: channels, or more: those past channels are written as zero (blocked
     * layouts)
     */
    ptrdiff_t stored;
    /* every stored value becomes min(max(v, lo), hi) (NaN stays NaN); -inf, inf: unchanged */
    float lo, hi;
    /* set by the kernel itself: where the next line's pixels start, to prefetch */
    uintptr_t src_next;
};

/*
 * Fills part of a strip: the zero-bordered copy of input rows that lets every layout, padding and
 * stride share the loops above. Strip: element (c, y, x) at strip[c / 16 * strip_block + y *
 * strip_row + x * strip_pixel + c % 16], strip_pixel >= min(channels, 16). Source: element (c, y,
 * x) at src[c / src_block_channels * src_block + c % src_block_channels * src_channel + y * src_row
 * + x * src_pixel]; NHWC: src_block_channels = INT64_MAX's worth (one block), src_channel = 1.
 * NCHW: src_channel = H*W, src_pixel = 1. Strip pixel x of row y reads source column x0 + x *
 * step_x and row y0 + y * step_y; outside [0, h) x [0, w) it is zero. copies 0: lanes of a strip's
 * pixel past the channels are zero, as many as it has. Else channels * copies <= 16, strip_pixel is
 * 16, and lane k * channels + c has channel c for k in [0, copies).
 */
struct dc_load_args {
    float *strip;
    ptrdiff_t strip_block, strip_row, strip_pixel;
    ptrdiff_t channels, rows, columns;
    const float *src; /* channel 0 of the part, row 0, column 0 */
    ptrdiff_t src_block_channels, src_block, src_channel, src_row, src_pixel;
    /* channel 0's place in its block, for parts that start inside one */
    ptrdiff_t src_first_channel;
    ptrdiff_t h, w, y0, x0, step_y, step_x;
    ptrdiff_t copies;
};

/*
 * Stores finished sums [pixels][tile_channels] into any layout, with the post-ops: the path for
 * layouts that a run can't store directly. Channel c of pixel p (counted from first_channel in its
 * block): as in dc_load_args with dst_pixel as the pixel stride.
 */
struct dc_store_args {
    const float *tile; /* followed by DC_TILE_SLACK pixels of anything */
    ptrdiff_t tile_channels;
    ptrdiff_t pixels, channels, stored;
    float *dst; /* block 0, channel place 0, first pixel */
    const float *residual;
    ptrdiff_t dst_block_channels, dst_block, dst_channel, dst_pixel;
    ptrdiff_t dst_first_channel;
    float lo, hi;
};

/* Lanes that a call of a packing kernel may have: no tile has more channels. */
#define DC_PACK_LANES 64

/*
 * DC_OP_DIRECT: packs weights. For lane < lanes and each j < columns with place[j] >= 0:
 * to[place[j] + lane] = src[lane * lane_step + j]. Columns that no place is for are read all the
 * same.
 */
struct dc_pack_args {
    const float *src;
    ptrdiff_t lane_step, lanes;
    const ptrdiff_t *place;
    ptrdiff_t columns;
    float *to;
    const float *soon; /* what will be packed next, to be fetched: rows of floats */
    ptrdiff_t soon_rows, soon_step, soon_floats;
};

/*
 * Rows [y0, y1) of one vector of output channels of an image, for DC_OP_DEPTHWISE and
 * DC_OP_GROUPED: every output channel c sees `planes` input channels,
 *   acc[y][x][c] = bias[c] + sum over ky, i, kx: src[(y * stride_h - pad_top + ky * dilation_h) * src_row +
 *                  (x * stride_w - pad_left + kx * dilation_w) * src_pixel + lanes[i][c]] * weight(ky, i, kx, c), where row and column lie inside [0, h) x [0, w).
 * A vector of inputs is read whole: lanes that no output needs must be readable too. Weights: [kx /
 * chunk][ky][i][kx % chunk][vector].
 */
struct dc_grouped_args {
    const float *src; /* row 0, column 0 */
    ptrdiff_t src_row, src_pixel, h, w;
    const float *weights, *bias; /* 64-byte aligned */
    /*
     * [planes][vector], each in [0, vector); unused by DC_OP_DEPTHWISE, whose only plane is in
     * order
     */
    const int32_t *lanes;
    ptrdiff_t planes;
    ptrdiff_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    /*
     * kernel columns side by side: 3 (needs dilation_w 1, stride_w 1 or 2, edge <=
     * DC_GROUPED_EDGE), else 1
     */
    ptrdiff_t chunk;
    ptrdiff_t edge; /* most columns that the kernel reaches out of the image on a side */
    ptrdiff_t y0, y1, wout;
    float *dst;            /* row y0, pixel 0 */
    const float *residual; /* strides as dst; NULL: none; may equal dst */
    ptrdiff_t dst_row, dst_pixel;
    ptrdiff_t channels, stored; /* as in dc_run_args, but stored <= vector */
    float lo, hi;
};

/*
 * A tap of a depthwise convolution with `steps` outputs a channel, backward, over a rectangle of
 * output pixels (DC_OP_DEPTHWISE). A lane is a channel; with z(step, y, p) = z + steps_at[step] + y
 * * z_row + p * z_pixel, the gradient of an output, and x(y, p) = x + y * x_row + p * x_pixel, what
 * the tap reads:
 *   taps_correlate: factors[step * factors_step] += sum over y, p of z(step, y, p) * x(y, p)
 *   taps_scatter: x(y, p) += sum over steps of factors[step * factors_step] * z(step, y, p)
 */
struct dc_taps_args {
    const float *z;
    const ptrdiff_t *steps_at;
    ptrdiff_t z_row, z_pixel;
    float *x; /* only read by taps_correlate */
    ptrdiff_t x_row, x_pixel;
    float *factors; /* only read by taps_scatter */
    ptrdiff_t factors_step;
    ptrdiff_t steps, rows, pixels; /* >= 1 */
};

/*
 * DC_OP_PLANES: pixels against one block of output channels of a 1x1 convolution between planes;
 * vectors are of pixels:
 *   acc[output][pixel] = bias[output] + sum over c of weights[c * tile_channels + output] * src[c * src_channel + pixel], c in order.
 */
struct dc_planes_args {
    const float *src;      /* readable to the end of the last vector */
    ptrdiff_t src_channel; /* >= tile_pixels, unless there is one tile or none */
    /*
     * floats from a tile's pixels to the next one's: tile_pixels where the tensor is read in place
     */
    ptrdiff_t src_tile;
    const float *weights;
    const float *bias;         /* tile_channels floats */
    ptrdiff_t channels;        /* of the reduction, >= 1 */
    ptrdiff_t outputs, pixels; /* >= 1; outputs <= tile_channels */
    float *dst;
    const float *residual; /* strides as dst; NULL: none; may equal dst */
    ptrdiff_t dst_channel; /* pixels are contiguous */
    float lo, hi;          /* as in dc_run_args */
    int fetch_next;        /* prefetch the next tile's pixels while a tile is computed */
};

/*
 * DC_OP_PLANES: copies pixels into a panel, tile by tile: pixel i of channel c goes to panel[i /
 * tile_pixels * panel_tile + c * tile_pixels + i % tile_pixels]. Pixel i is number first + i of an
 * image of rows of `columns`, and lies at src[c * src_channel + y * src_row + x * step]. The rest
 * of the last vector is zeroed.
 */
struct dc_gather_args {
    float *panel;
    ptrdiff_t panel_tile;
    float *line; /* scratch: pixels and a vector */
    const float *src;
    ptrdiff_t src_channel, src_row, step, columns;
    ptrdiff_t channels, first, pixels;
};

/* Blocks of channels that a call of a composing kernel may have. */
#define DC_COMPOSE_BLOCKS 32

/*
 * Folding, for DC_OP_COMPOSE. W is rows of d_mul floats, D is channels of taps x d_mul, the result
 * is rows of taps floats, one a row of W. A lane of a vector is a channel of D with every row of W
 * that meets it: for each lane l of each block, t in [0, steps), m in [0, taps), with r = rows[l] +
 * t * row_step,
 *   weight[results[l] + t * result_step][m] =
 *       sum over s in [0, d_mul), in order, of (d[channels[l]][m][s] + (s < repeated && s % taps == m ? 1 : 0)) * w[r][s]
 * or, for the gradient of W, with d[channels[l]][s][m] + (m < repeated && m % d_mul == s ? 1 : 0).
 * A kernel may begin sums with what the identity adds instead, but then does so for every row of a
 * lane's channel, and whatever the lane's place. Lanes may repeat one another: they write the same
 * bits to the same place. Blocks share transposed rows of D, so all of them should fit in L1.
 */
struct dc_compose_args {
    const float *w, *d;
    float *weight;
    const ptrdiff_t *rows, *results, *channels; /* [blocks][vector] */
    ptrdiff_t blocks;                           /* 1..DC_COMPOSE_BLOCKS */
    ptrdiff_t row_step, result_step, steps;     /* steps >= 1 */
    ptrdiff_t taps, d_mul, repeated;
    int d_turned; /* D's channels are d_mul x taps */
    /* rows come from there rather than from a cache: prefetching many of them pays */
    int in_memory;
    ptrdiff_t panel; /* taps whose D is transposed at a time, 1..taps */
    /*
     * 64-byte aligned: vector * (blocks * panel * d_mul + tile_channels / vector * (d_mul + panel))
     * floats
     */
    float *scratch;
};

/* Rows whose products a composing kernel sums before it adds them to those of the rows before. */
#define DC_COMPOSE_CHUNK 32
/* Blocks of channels that a call for the gradient of D may have. */
#define DC_COMPOSE_GRADIENT_BLOCKS 4

/*
 * The gradient of D, for DC_OP_COMPOSE: with blocks, rows and lanes as in dc_compose_args,
 * grad_d[channels[l]][m][s] becomes the sum over t in [0, steps) of w[rows[l] + t * row_step][s] *
 * g[g_rows[l] + t * g_step][m], g being the gradient of the composed rows. Sums of DC_COMPOSE_CHUNK
 * rows in order, added in order. Calls may share the rows out, all but the last having multiples of
 * DC_COMPOSE_CHUNK of them: sums wait in the scratch.
 */
struct dc_compose_gradient_args {
    const float *w, *g;
    float *grad_d;
    const ptrdiff_t *rows, *g_rows, *channels; /* [blocks][vector] */
    /* 1..DC_COMPOSE_GRADIENT_BLOCKS: their rows should follow each other in memory */
    ptrdiff_t blocks;
    ptrdiff_t row_step, g_step, steps; /* steps >= 1 */
    /* other than 0: a call came before this one; one will come, and grad_d isn't written yet */
    int resumes, goes_on;
    ptrdiff_t taps, d_mul;
    float *scratch; /* 64-byte aligned: dc_compose_gradient_floats() of them */
};

/*
 * Floats of scratch that a kernel with tiles of so many taps and rows of `vector` lanes needs for
 * so many blocks.
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

/*
 * DC_OP_PRODUCT: sums of outer products, for each of `lists` lists of segments:
 *   sums[list][row][lane] (+)= over its segments, in order, and j in [0, length):
 *       left[row * left_row + src_offset + j * left_step] * right[weight_offset + j * right_step + lane]
 * A pixel is a j: its values in the left tensor are broadcast, those in the right one are vectors.
 */
struct dc_product_args {
    const float *left;
    ptrdiff_t left_row, left_step;
    ptrdiff_t rows; /* 1..tile_pixels */
    const float *right;
    ptrdiff_t right_step;
    ptrdiff_t lanes;                   /* 1..tile_channels; whole vectors are read and summed */
    const struct dc_segment *segments; /* of all lists, one after another */
    const ptrdiff_t *counts;           /* of segments of each list; may be 0 */
    ptrdiff_t lists;
    int resume;  /* other than 0: sums are added to */
    float *sums; /* row r of list l at sums + l * sums_list + r * sums_row, of whole vectors */
    ptrdiff_t sums_list, sums_row;
    const float
        /*
         * NULL, or where results will be stored: each list fetches tile_channels floats of each
         * row, behind those of the list before
         */
        *soon;
    ptrdiff_t soon_row;
};

/*
 * DC_OP_PRODUCT: weaves finished sums: dst[row * dst_row + lane * dst_lane + list] = sums[list *
 * sums_list + row * sums_row + lane].
 */
struct dc_weave_args {
    const float *sums;
    ptrdiff_t sums_list, sums_row;
    ptrdiff_t lists, rows, lanes;
    float *dst;
    ptrdiff_t dst_row, dst_lane;
};

/*
 * DC_OP_CORRELATE: the gradient of the weights of one vector of output channels in narrow groups,
 * over rows [y0, y1) of an image:
 *   sums[i][ky][kx][c] += sum over y, x: grad[(y - y0) * grad_row + x * grad_pixel + c] * src[(y * stride_h - pad_top + ky * dilation_h) * src_row +
 *                         (x * stride_w - pad_left + kx * dilation_w) * src_pixel + lanes[i][c]], where row and column lie inside [0, h) x [0, w).
 * Whole vectors are read on both sides.
 */
struct dc_correlate_args {
    const float *src; /* row 0, column 0 */
    ptrdiff_t src_row, src_pixel, h, w;
    const float *grad; /* row y0, pixel 0 */
    ptrdiff_t grad_row, grad_pixel;
    /*
     * [planes][vector], each in [0, vector); NULL if in order, as in each of a depthwise
     * convolution's
     */
    const int32_t *lanes;
    ptrdiff_t planes;
    ptrdiff_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    ptrdiff_t y0, y1, wout;
    float *sums; /* [planes][kh][kw][vector] */
};

/*
 * The whole problem, for DC_OP_REFERENCE: strides of logical axes; blocked layouts through
 * block_channels as above.
 */
struct dc_tensor_map {
    ptrdiff_t image, block_channels, block, channel, row, pixel;
};
struct dc_reference_args {
    const float *src, *weight /* OIHW */, *bias /* or NULL */, *residual /* or NULL */;
    float *dst;
    struct dc_tensor_map src_map, dst_map;
    /* n: the image's index; one call does one (image, output channel) */
    ptrdiff_t n, cin, h, w, cout, kh, kw, hout, wout;
    ptrdiff_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    ptrdiff_t out_channel; /* 0..stored-1: at and past cout zeros are written */
    float lo, hi;
};

struct dc_kernel {
    const char *name;  /* "direct_f32_14x32@avx512": unique, stored in caches */
    unsigned revision; /* +1 when packing, rounding or meaning of parameters changes */
    enum dc_op op;
    enum dc_isa isa;
    int tile_pixels; /* pixels of the full tile; DC_OP_PLANES: a multiple of vector */
    /*
     * output channels of the tile = row length of packed weights; a multiple of vector but for
     * DC_OP_PLANES
     */
    int tile_channels;
    int vector;                /* floats of a vector */
    float error_amplification; /* of the a-priori bound of a dot product; 1: direct */
    void (*run)(const struct dc_run_args *args);
    void (*load)(const struct dc_load_args *args);
    void (*store)(const struct dc_store_args *args);
    void (*pack)(const struct dc_pack_args *args); /* DC_OP_DIRECT only */
    /* DC_OP_DEPTHWISE and DC_OP_GROUPED only, then run is NULL */
    void (*grouped)(const struct dc_grouped_args *args);
    void (*taps_correlate)(const struct dc_taps_args *args); /* DC_OP_DEPTHWISE only, as is */
    void (*taps_scatter)(const struct dc_taps_args *args);   /* this one */
    void (*planes)(const struct dc_planes_args *args);       /* DC_OP_PLANES only, and so */
    /* this one; then run, load and store are NULL */
    void (*gather)(const struct dc_gather_args *args);
    /* DC_OP_REFERENCE only, then all others are NULL */
    void (*reference)(const struct dc_reference_args *args);
    void (*compose)(const struct dc_compose_args *args); /* DC_OP_COMPOSE only, and so */
    void (*compose_gradient)(
        /* this one; then all others are NULL; its tile: taps x rows of a vector of lanes */
        const struct dc_compose_gradient_args *args);
    /* DC_OP_CORRELATE only, with load; then run and store are NULL */
    void (*correlate)(const struct dc_correlate_args *args);
    /* of DC_OP_CORRELATE; other than 0: it takes lanes; else they must be NULL */
    int deals;
    /* DC_OP_PRODUCT only, its tile: rows x lanes; */
    void (*product)(const struct dc_product_args *args);
    /* and so this one; with load, without run and store */
    void (*weave)(const struct dc_weave_args *args);
};

#endif

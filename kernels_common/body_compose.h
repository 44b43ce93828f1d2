/* SPDX-License-Identifier: MIT */
/*
 * Composing W with D: lanes are channels, so each of a row's W[s] meets its own D[m][s], and a tile
 * of TILE_TAPS taps x TILE_ROWS rows is
 *   sum[row][m] += D[s][m] * W[s][row], vectors all of them.
 * D is transposed once for all rows, W's rows as they come, and sums on their way out: that is the
 * cost beside the FMAs. The including file has defined the vector operations, TILE_TAPS, TILE_ROWS,
 * HOLD_TAPS and
 *   join_rows(base, lanes)       a vector of rows 4 apart: [four floats from base + lanes[0] |
 *                                from base + lanes[4] | ...]
 *   join_few(base, lanes, n)     the same with n < 4 floats of each row; the others are zero
 *   split_rows, split_few        their inverses
 *   transpose_quads(a, b, c, d)  transposes 4 x 4 floats in each quarter (half, whole) of the
 *                                vectors, in place
 * and, where OCTETS is 1, octet_in(base, lanes, to, stride), which is rows_in() of eight columns,
 * and, where NINES is 1, for vectors of consecutive rows of nine floats: for r in [0, rows)
 *   nines_in(src, src_step, rows, dst)
 *       dst[(s * rows + r) * V_LENGTH + lane] = src[r * src_step + lane * 9 + s]
 *   nines_out(src, dst, dst_step, rows)
 *       dst[r * dst_step + lane * 9 + m] = src[(r * 9 + m) * V_LENGTH + lane]
 * and, where OUTPUT_LANES is 1, all of it for nine taps and D_mul 9 another way:
 *   compose_nines(struct nines), defined after this file
 */
#ifndef DOCONV_BODY_COMPOSE_H
#define DOCONV_BODY_COMPOSE_H

#include "kernel.h"

#define TAPS_1(L, X) L(X, 0)
#define TAPS_2(L, X) TAPS_1(L, X) L(X, 1)
#define TAPS_3(L, X) TAPS_2(L, X) L(X, 2)
#define TAPS_4(L, X) TAPS_3(L, X) L(X, 3)
#define TAPS_5(L, X) TAPS_4(L, X) L(X, 4)
#define TAPS_6(L, X) TAPS_5(L, X) L(X, 5)
#define TAPS_7(L, X) TAPS_6(L, X) L(X, 6)
#define TAPS_8(L, X) TAPS_7(L, X) L(X, 7)
#define TAPS_9(L, X) TAPS_8(L, X) L(X, 8)
#define ROWS_1(X, m) X(m, 0)
#define ROWS_2(X, m) ROWS_1(X, m) X(m, 1)
#define ROWS_3(X, m) ROWS_2(X, m) X(m, 2)
#define ROWS_4(X, m) ROWS_3(X, m) X(m, 3)

#define COMPOSE_ZERO(m, r) vec a##m##_##r = v_zero();
/*
 * A step of the sums. Taps one by one against the rows in registers; with HOLD_TAPS rows one by one
 * against the taps: whatever is fewer.
 */
#define COMPOSE_FMA(m, r) a##m##_##r = v_accumulate(tap, w##r, a##m##_##r);
#define COMPOSE_LOAD_ROW(m, r) const vec w##r = v_load(w + (r)*V_LENGTH);
#define COMPOSE_TAP(L, m)                                                                          \
    {                                                                                              \
        const vec tap = v_load(d + (m)*V_LENGTH);                                                  \
        L(COMPOSE_FMA, m)                                                                          \
    }
#define COMPOSE_FMA_HELD(r, m) a##m##_##r = v_accumulate(d##m, row, a##m##_##r);
#define COMPOSE_LOAD_TAP(r, m) const vec d##m = v_load(d + (m)*V_LENGTH);
#define COMPOSE_HELD_ROW(P, r)                                                                     \
    {                                                                                              \
        const vec row = v_load(w + (r)*V_LENGTH);                                                  \
        HELD_##P(COMPOSE_FMA_HELD, r)                                                              \
    }
#define HELD_1(X, r) X(r, 0)
#define HELD_2(X, r) HELD_1(X, r) X(r, 1)
#define HELD_3(X, r) HELD_2(X, r) X(r, 2)
#if HOLD_TAPS
#define COMPOSE_STEP(P, R) HELD_##P(COMPOSE_LOAD_TAP, 0) ROWS_##R(COMPOSE_HELD_ROW, P)
#else
#define COMPOSE_STEP(P, R) ROWS_##R(COMPOSE_LOAD_ROW, 0) TAPS_##P(COMPOSE_TAP, ROWS_##R)
#endif
#define COMPOSE_STORE(m, r) v_store(sums + (r)*pitch + (m)*V_LENGTH, a##m##_##r);

/*
 * d: [count][P][V_LENGTH], w: [count][R][V_LENGTH]; the sums of a row are pitch floats from those
 * of the one before.
 */
typedef void compose_fn(const float *d, const float *w, ptrdiff_t count, float *sums,
                        ptrdiff_t pitch);
#define COMPOSE_TILE(P, R)                                                                         \
    static void compose_tile_##P##_##R(const float *d, const float *w, ptrdiff_t count,            \
                                       float *sums, ptrdiff_t pitch)                               \
    {                                                                                              \
        TAPS_##P(ROWS_##R, COMPOSE_ZERO) for (; count > 0; count--)                                \
        {                                                                                          \
            COMPOSE_STEP(P, R) d += (P)*V_LENGTH;                                                  \
            w += (R)*V_LENGTH;                                                                     \
        }                                                                                          \
        TAPS_##P(ROWS_##R, COMPOSE_STORE)                                                          \
    }

/*
 * dst[column * stride + lane] = base[lanes[lane] + column]. Eight or four columns at a time; the
 * last four may overlap those before.
 */
static inline void rows_in(const float *base, const ptrdiff_t *lanes, ptrdiff_t columns, float *dst,
                           ptrdiff_t stride)
{
    if (columns < 4) {
        vec q[4];
        for (int i = 0; i < 4; i++) {
            q[i] = join_few(base, lanes + i, (int)columns);
        }
        transpose_quads(&q[0], &q[1], &q[2], &q[3]);
        for (ptrdiff_t i = 0; i < columns; i++) {
            v_store(dst + i * stride, q[i]);
        }
        return;
    }
    ptrdiff_t j = 0;
#if OCTETS
    for (; j + 8 <= columns; j += 8) {
        octet_in(base + j, lanes, dst + j * stride, stride);
    }
    if (j == columns) {
        return;
    }
    j = j + 4 <= columns ? j : columns - 4;
#endif
    for (;; j = j + 8 <= columns ? j + 4 : columns - 4) {
        vec a = join_rows(base + j, lanes), b = join_rows(base + j, lanes + 1),
            c = join_rows(base + j, lanes + 2), d = join_rows(base + j, lanes + 3);
        transpose_quads(&a, &b, &c, &d);
        float *to = dst + j * stride;
        v_store(to, a);
        v_store(to + stride, b);
        v_store(to + 2 * stride, c);
        v_store(to + 3 * stride, d);
        if (j + 4 == columns) {
            return;
        }
    }
}

/* base[lanes[lane] + column] = src[column * V_LENGTH + lane] */
static inline void rows_out(const float *src, ptrdiff_t columns, float *base,
                            const ptrdiff_t *lanes)
{
    if (columns < 4) {
        vec q[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        for (ptrdiff_t i = 0; i < columns; i++) {
            q[i] = v_load(src + i * V_LENGTH);
        }
        transpose_quads(&q[0], &q[1], &q[2], &q[3]);
        for (int i = 0; i < 4; i++) {
            split_few(base, lanes + i, q[i], (int)columns);
        }
        return;
    }
    for (ptrdiff_t j = 0;; j = j + 8 <= columns ? j + 4 : columns - 4) {
        const float *from = src + j * V_LENGTH;
        vec a = v_load(from), b = v_load(from + V_LENGTH), c = v_load(from + 2 * V_LENGTH),
            d = v_load(from + 3 * V_LENGTH);
        transpose_quads(&a, &b, &c, &d);
        split_rows(base + j, lanes, a);
        split_rows(base + j, lanes + 1, b);
        split_rows(base + j, lanes + 2, c);
        split_rows(base + j, lanes + 3, d);
        if (j + 4 == columns) {
            return;
        }
    }
}

/*
 * Taps [m0, m0 + count) of a block's D: tiles one after another, [s][tap of the tile][lane] each.
 */
static inline void prepare_taps(const struct dc_compose_args *args, const ptrdiff_t *channels,
                                ptrdiff_t m0, ptrdiff_t count, float *to)
{
    ptrdiff_t lanes[V_LENGTH];
    for (int i = 0; i < V_LENGTH; i++) {
        lanes[i] = channels[i] * args->taps * args->d_mul;
    }
    const ptrdiff_t tiles = (count + TILE_TAPS - 1) / TILE_TAPS;
    for (ptrdiff_t i = 0, m = m0; i < tiles; i++) {
        const ptrdiff_t taps = count / tiles + (i < count % tiles);
        if (args->d_turned) {
            for (ptrdiff_t s = 0; s < args->d_mul; s++) {
                rows_in(args->d + s * args->taps + m, lanes, taps, to + s * taps * V_LENGTH,
                        V_LENGTH);
            }
        } else {
            for (ptrdiff_t j = 0; j < taps; j++) {
                rows_in(args->d + (m + j) * args->d_mul, lanes, args->d_mul, to + j * V_LENGTH,
                        taps * V_LENGTH);
            }
        }
        /*
         * The identity repeats along what D_mul is of the layer: that is taps, where D is turned.
         */
        const ptrdiff_t period = args->d_turned ? args->d_mul : args->taps;
        for (ptrdiff_t r = 0; r < args->repeated; r++) {
            const ptrdiff_t tap = (args->d_turned ? r : r % period) - m,
                            s = args->d_turned ? r % period : r;
            if (tap >= 0 && tap < taps) {
                float *const at = to + (s * taps + tap) * V_LENGTH;
                v_store(at, v_add(v_load(at), v_set1(1.0f)));
            }
        }
        to += taps * args->d_mul * V_LENGTH;
        m += taps;
    }
}

/* A block of lanes: places of its rows, in floats from its first lane's. */
struct compose_block {
    const ptrdiff_t *channels;
    const float *w;
    float *weight;
    int nines_in, nines_out; /* whole rows of nine floats, one after another */
    ptrdiff_t w_lanes[V_LENGTH], weight_lanes[V_LENGTH];
};

static inline void place_block(const struct dc_compose_args *args, ptrdiff_t b,
                               struct compose_block *block)
{
    const ptrdiff_t *const rows = args->rows + b * V_LENGTH, *const results =
                                                                 args->results + b * V_LENGTH;
    int rows_follow = 1, results_follow = 1;
    block->channels = args->channels + b * V_LENGTH;
    for (int i = 0; i < V_LENGTH; i++) {
        const ptrdiff_t row = rows[i] - rows[0], result = results[i] - results[0];
        block->w_lanes[i] = row * args->d_mul;
        block->weight_lanes[i] = result * args->taps;
        rows_follow = rows_follow && row == i;
        results_follow = results_follow && result == i;
    }
    block->w = args->w + rows[0] * args->d_mul;
    block->weight = args->weight + results[0] * args->taps;
    block->nines_in = NINES && rows_follow && args->d_mul == 9;
    block->nines_out = NINES && results_follow && args->taps == 9 && args->panel == 9;
}

#if OUTPUT_LANES
/* Rows of some blocks, all of whose channels follow each other. Steps are in floats. */
struct nines {
    const float *w, *d;
    float *weight;
    ptrdiff_t channels, rows, w_step, weight_step; /* channels: a multiple of V_LENGTH */
    int d_turned, identity, in_memory;
};
static void compose_nines(const struct nines *of);

static inline int channels_follow(const ptrdiff_t *channels)
{
    int follow = 1;
    for (int i = 1; i < V_LENGTH; i++) {
        follow = follow && channels[i] == channels[0] + i;
    }
    return follow;
}

/*
 * Composes the blocks that compose_nines() takes, which hangs on nothing but the block itself.
 * Leaves the others, and returns their number.
 */
static inline ptrdiff_t compose_all_nines(const struct dc_compose_args *args,
                                          struct compose_block *blocks, ptrdiff_t count)
{
    ptrdiff_t others = 0;
    struct nines nines = {.w_step = args->row_step * 9,
                          .weight_step = args->result_step * 9,
                          .rows = args->steps,
                          .d_turned = args->d_turned,
                          .identity = args->repeated != 0,
                          .in_memory = args->in_memory};
    for (ptrdiff_t b = 0; b < count; b++) {
        const struct compose_block *block = &blocks[b];
        if (!block->nines_in || !block->nines_out || !channels_follow(block->channels)) {
            blocks[others++] = *block;
            continue;
        }
        const float *const d = args->d + block->channels[0] * 81;
        const int goes_on = nines.channels != 0 && block->w == nines.w + nines.channels * 9 &&
                            block->weight == nines.weight + nines.channels * 9 &&
                            d == nines.d + nines.channels * 81;
        if (!goes_on) {
            if (nines.channels != 0) {
                compose_nines(&nines);
            }
            nines.w = block->w;
            nines.d = d;
            nines.weight = block->weight;
            nines.channels = 0;
        }
        nines.channels += V_LENGTH;
    }
    if (nines.channels != 0) {
        compose_nines(&nines);
    }
    return others;
}
#endif

static inline void run_compose(const struct dc_compose_args *args,
                               compose_fn *const table[TILE_ROWS][TILE_TAPS])
{
    const ptrdiff_t d_mul = args->d_mul, block_floats = args->panel * d_mul * V_LENGTH;
    float *const taps = args->scratch, *const rows = taps + args->blocks * block_floats,
                 *const sums = rows + TILE_ROWS * d_mul * V_LENGTH;
    struct compose_block blocks[DC_COMPOSE_BLOCKS];
    ptrdiff_t count = args->blocks;
    for (ptrdiff_t b = 0; b < count; b++) {
        place_block(args, b, &blocks[b]);
    }
#if OUTPUT_LANES
    count = compose_all_nines(args, blocks, count);
    if (count == 0) {
        return;
    }
#endif
    const ptrdiff_t groups = (args->steps + TILE_ROWS - 1) / TILE_ROWS;
    for (ptrdiff_t m0 = 0; m0 < args->taps; m0 += args->panel) {
        const ptrdiff_t panel = args->taps - m0 < args->panel ? args->taps - m0 : args->panel;
        const ptrdiff_t tiles = (panel + TILE_TAPS - 1) / TILE_TAPS;
        for (ptrdiff_t b = 0; b < count; b++) {
            prepare_taps(args, blocks[b].channels, m0, panel, taps + b * block_floats);
        }
        for (ptrdiff_t g = 0, step = 0; g < groups; g++) {
            const ptrdiff_t group = args->steps / groups + (g < args->steps % groups);
            for (ptrdiff_t b = 0; b < count; b++) {
                const struct compose_block *block = &blocks[b];
                const float *w = block->w + step * args->row_step * d_mul;
                float *weight = block->weight + step * args->result_step * args->taps + m0;
                if (block->nines_in) {
                    nines_in(w, args->row_step * d_mul, group, rows);
                } else {
                    for (ptrdiff_t r = 0; r < group; r++) {
                        rows_in(w + r * args->row_step * d_mul, block->w_lanes, d_mul,
                                rows + r * V_LENGTH, group * V_LENGTH);
                    }
                }
                const float *tile = taps + b * block_floats;
                for (ptrdiff_t i = 0, m = 0; i < tiles; i++) {
                    const ptrdiff_t size = panel / tiles + (i < panel % tiles);
                    table[group - 1][size - 1](tile, rows, d_mul, sums + m * V_LENGTH,
                                               panel * V_LENGTH);
                    tile += size * d_mul * V_LENGTH;
                    m += size;
                }
                if (block->nines_out) {
                    nines_out(sums, weight, args->result_step * args->taps, group);
                } else {
                    for (ptrdiff_t r = 0; r < group; r++) {
                        rows_out(sums + r * panel * V_LENGTH, panel,
                                 weight + r * args->result_step * args->taps, block->weight_lanes);
                    }
                }
            }
            step += group;
        }
    }
}

#define COMPOSE_TILES_3(R) COMPOSE_TILE(1, R) COMPOSE_TILE(2, R) COMPOSE_TILE(3, R)
#define COMPOSE_TILES_9(R)                                                                         \
    COMPOSE_TILES_3(R)                                                                             \
    COMPOSE_TILE(4, R)                                                                             \
    COMPOSE_TILE(5, R) COMPOSE_TILE(6, R) COMPOSE_TILE(7, R) COMPOSE_TILE(8, R) COMPOSE_TILE(9, R)
#define COMPOSE_NAMES_3(R) compose_tile_1_##R, compose_tile_2_##R, compose_tile_3_##R
#define COMPOSE_NAMES_9(R)                                                                         \
    COMPOSE_NAMES_3(R), compose_tile_4_##R, compose_tile_5_##R, compose_tile_6_##R,                \
        compose_tile_7_##R, compose_tile_8_##R, compose_tile_9_##R

#endif

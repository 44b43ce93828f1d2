/* SPDX-License-Identifier: MIT */
/*
 * The gradient of D through folding: grad_d[channel][m][s] = sum over rows that meet the channel of
 * w[row][s] * g[row][m]. Lanes are channels as in body_compose.h, which the including file has
 * included, and its tiles do the work with rows as their reduction: columns of W for taps, columns
 * of g for rows.
 */
#ifndef DOCONV_BODY_COMPOSE_GRADIENT_H
#define DOCONV_BODY_COMPOSE_GRADIENT_H

#include "body_compose.h"

/*
 * Columns of a row of each lane, transposed, into tiles of `most` columns or fewer: tile i at to +
 * i * tile_floats, [row][column of the tile][lane].
 */
static inline void columns_in(const float *base, const ptrdiff_t *lanes, int nines,
                              ptrdiff_t columns, ptrdiff_t most, ptrdiff_t row, float *line,
                              float *to, ptrdiff_t tile_floats)
{
    if (nines) {
        nines_in(base, 0, 1, line);
    } else {
        rows_in(base, lanes, columns, line, V_LENGTH);
    }
    const ptrdiff_t tiles = (columns + most - 1) / most, least = columns / tiles,
                    larger = columns % tiles;
    for (ptrdiff_t i = 0, j = 0; i < tiles; i++, to += tile_floats) {
        const ptrdiff_t size = least + (i < larger);
        float *at = to + row * size * V_LENGTH;
        for (ptrdiff_t c = 0; c < size; c++, j++) {
            v_store(at + c * V_LENGTH, v_load(line + j * V_LENGTH));
        }
    }
}

/*
 * A row's floats of all lanes, which may lie outside of the tensor: rows are far apart, which is
 * too much for hardware to follow.
 */
static inline void fetch_row(const float *base, ptrdiff_t offset, ptrdiff_t floats)
{
    for (uintptr_t at = (uintptr_t)base + (uintptr_t)offset * sizeof(float),
                   end = at + (uintptr_t)floats * sizeof(float);
         at < end; at += 64) {
        __builtin_prefetch((const void *)at, 0, 2);
    }
}

/* Rows ahead of the one that is transposed. */
#define ROWS_AHEAD 4

static inline void add_vectors(float *to, const float *from, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count * V_LENGTH; i += V_LENGTH) {
        v_store(to + i, v_add(v_load(to + i), v_load(from + i)));
    }
}

struct gradient_block {
    ptrdiff_t row, g_row;      /* the first lane's */
    int rows_follow, g_follow; /* the rows of its lanes follow each other */
    int nines;                 /* nine columns of both, whose lanes are in NINES_ORDER */
    ptrdiff_t w_lanes[V_LENGTH], g_lanes[V_LENGTH], d_lanes[V_LENGTH];
};

static inline void place_gradient_block(const struct dc_compose_gradient_args *args, ptrdiff_t b,
                                        struct gradient_block *block)
{
    const ptrdiff_t *rows = args->rows + b * V_LENGTH, *g_rows = args->g_rows + b * V_LENGTH,
                    *channels = args->channels + b * V_LENGTH;
    block->row = rows[0];
    block->g_row = g_rows[0];
    block->rows_follow = block->g_follow = 1;
    for (int i = 0; i < V_LENGTH; i++) {
        block->w_lanes[i] = (rows[i] - rows[0]) * args->d_mul;
        block->g_lanes[i] = (g_rows[i] - g_rows[0]) * args->taps;
        block->rows_follow = block->rows_follow && rows[i] - rows[0] == i;
        block->g_follow = block->g_follow && g_rows[i] - g_rows[0] == i;
    }
#if OUTPUT_LANES
    block->nines = block->rows_follow && block->g_follow && args->taps == 9 && args->d_mul == 9;
#else
    block->nines = 0;
#endif
    for (int i = 0; i < V_LENGTH; i++) {
#if OUTPUT_LANES
        const int lane = block->nines ? NINES_ORDER(i) : i;
#else
        const int lane = i;
#endif
        block->d_lanes[i] = channels[lane] * args->taps * args->d_mul;
    }
}

static inline void run_compose_gradient(const struct dc_compose_gradient_args *args,
                                        compose_fn *const table[TILE_ROWS][TILE_TAPS])
{
    const ptrdiff_t taps = args->taps, d_mul = args->d_mul, longest = taps > d_mul ? taps : d_mul,
                    all = taps * d_mul * V_LENGTH;
    const ptrdiff_t s_tiles = (d_mul + TILE_TAPS - 1) / TILE_TAPS, s_least = d_mul / s_tiles,
                    s_larger = d_mul % s_tiles;
    const ptrdiff_t m_tiles = (taps + TILE_ROWS - 1) / TILE_ROWS, m_least = taps / m_tiles,
                    m_larger = taps % m_tiles;
    const ptrdiff_t w_floats = DC_COMPOSE_CHUNK * TILE_TAPS * V_LENGTH,
                    g_floats = DC_COMPOSE_CHUNK * TILE_ROWS * V_LENGTH;
    const ptrdiff_t tiles_floats = s_tiles * w_floats + m_tiles * g_floats;
    float *const totals = args->scratch, *const sums = totals + args->blocks * all,
                 *const line = sums + all;
    float *const tiles = line + longest * V_LENGTH;
    struct gradient_block blocks[DC_COMPOSE_GRADIENT_BLOCKS];
    for (ptrdiff_t b = 0; b < args->blocks; b++) {
        place_gradient_block(args, b, &blocks[b]);
    }
    for (ptrdiff_t first = 0; first < args->steps; first += DC_COMPOSE_CHUNK) {
        const ptrdiff_t count =
            args->steps - first < DC_COMPOSE_CHUNK ? args->steps - first : DC_COMPOSE_CHUNK;
        const int begins = first == 0 && args->resumes == 0;
        for (ptrdiff_t r = 0; r < count; r++) {
            for (ptrdiff_t b = 0; b < args->blocks; b++) {
                const struct gradient_block *block = &blocks[b];
                const ptrdiff_t row = block->row + (first + r) * args->row_step,
                                g_row = block->g_row + (first + r) * args->g_step;
                float *const w_tiles = tiles + b * tiles_floats, *const g_tiles =
                                                                     w_tiles + s_tiles * w_floats;
                if (block->rows_follow) {
                    fetch_row(args->w, (row + ROWS_AHEAD * args->row_step) * d_mul,
                              V_LENGTH * d_mul);
                }
                if (block->g_follow) {
                    fetch_row(args->g, (g_row + ROWS_AHEAD * args->g_step) * taps, V_LENGTH * taps);
                }
#if OUTPUT_LANES
                if (block->nines) {
                    nines_columns(args->w + row * 9, w_tiles + r * 9 * V_LENGTH, 3 * V_LENGTH);
                    nines_columns(args->g + g_row * 9, g_tiles + r * 3 * V_LENGTH, g_floats);
                    continue;
                }
#endif
                columns_in(args->w + row * d_mul, block->w_lanes,
                           NINES && block->rows_follow && d_mul == 9, d_mul, TILE_TAPS, r, line,
                           w_tiles, w_floats);
                columns_in(args->g + g_row * taps, block->g_lanes,
                           NINES && block->g_follow && taps == 9, taps, TILE_ROWS, r, line, g_tiles,
                           g_floats);
            }
        }
        for (ptrdiff_t b = 0; b < args->blocks; b++) {
            const float *const w_tiles = tiles + b * tiles_floats, *const g_tiles =
                                                                       w_tiles + s_tiles * w_floats;
            float *const to = begins ? totals + b * all : sums;
            for (ptrdiff_t i = 0, m = 0; i < m_tiles; i++) {
                const ptrdiff_t m_size = m_least + (i < m_larger);
                /*
                 * Transposing alone would wait for memory, and multiplying leaves it idle: half of
                 * the next rows come meanwhile.
                 */
                for (ptrdiff_t r = first + count + DC_COMPOSE_CHUNK / 2 * i / m_tiles,
                               end = first + count + DC_COMPOSE_CHUNK / 2 * (i + 1) / m_tiles;
                     r < end && args->blocks > 1; r++) {
                    fetch_row(args->w, (blocks[b].row + r * args->row_step) * d_mul,
                              V_LENGTH * d_mul);
                    fetch_row(args->g, (blocks[b].g_row + r * args->g_step) * taps,
                              V_LENGTH * taps);
                }
                for (ptrdiff_t j = 0, s = 0; j < s_tiles; j++) {
                    const ptrdiff_t s_size = s_least + (j < s_larger);
                    table[m_size - 1][s_size - 1](w_tiles + j * w_floats, g_tiles + i * g_floats,
                                                  count, to + (m * d_mul + s) * V_LENGTH,
                                                  d_mul * V_LENGTH);
                    s += s_size;
                }
                m += m_size;
            }
            if (!begins) {
                add_vectors(totals + b * all, sums, taps * d_mul);
            }
        }
    }
    for (ptrdiff_t b = 0; b < args->blocks && args->goes_on == 0; b++) {
        for (ptrdiff_t m = 0; m < taps; m++) {
            rows_out(totals + b * all + m * d_mul * V_LENGTH, d_mul, args->grad_d + m * d_mul,
                     blocks[b].d_lanes);
        }
    }
}

#endif

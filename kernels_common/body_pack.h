/* SPDX-License-Identifier: MIT */
/*
 * Packing weights (struct dc_pack_args): lanes that lie apart are brought side by side. The
 * including file has defined the vector operations.
 */
#ifndef DOCONV_BODY_PACK_H
#define DOCONV_BODY_PACK_H

#include "kernel.h"

/* Columns [j, j + V_TRANSPOSE) of all whole squares of lanes; those before `first` are left out. */
static inline void pack_columns(const struct dc_pack_args *a, ptrdiff_t j, ptrdiff_t first)
{
    /* Columns that aren't wanted go to the stack, so that no store has a branch. */
    float unwanted[DC_PACK_LANES], *to[V_TRANSPOSE];
    for (int i = 0; i < V_TRANSPOSE; i++) {
        to[i] = j + i >= first && a->place[j + i] >= 0 ? a->to + a->place[j + i] : unwanted;
    }
    const ptrdiff_t lanes = a->lanes - V_TRANSPOSE, step = a->lane_step;
    const float *src = a->src + j;
    for (ptrdiff_t lane = 0; lane <= lanes; lane += V_TRANSPOSE, src += V_TRANSPOSE * step) {
        side r[V_TRANSPOSE];
        transpose_load(src, step, r);
#define PUT(i) side_store(to[i] + lane, r[i]);
        SIDES(PUT)
#undef PUT
    }
}

/* Fetches lines of what will be packed next, row by row. */
struct pack_fetch {
    const float *at, *row;
    ptrdiff_t left, of_row; /* lines, in all and of a row */
    ptrdiff_t in_row, step;
};

static inline void pack_fetch_lines(struct pack_fetch *f, ptrdiff_t lines)
{
    for (; lines > 0 && f->left > 0; lines--, f->left--) {
        __builtin_prefetch(f->at);
        f->at += 16;
        if (--f->in_row == 0) {
            f->in_row = f->of_row;
            f->at = f->row += f->step;
        }
    }
}

static void pack_tile(const struct dc_pack_args *a)
{
    const ptrdiff_t row_lines = (a->soon_floats + 15) / 16,
                    squares = (a->columns + V_TRANSPOSE - 1) / V_TRANSPOSE;
    struct pack_fetch fetch = {a->soon,   a->soon,   row_lines * a->soon_rows,
                               row_lines, row_lines, a->soon_step};
    const ptrdiff_t share = (fetch.left + squares - 1) / squares;
    ptrdiff_t square_lanes = a->columns >= V_TRANSPOSE ? a->lanes / V_TRANSPOSE * V_TRANSPOSE : 0;
    for (ptrdiff_t j = 0; j < a->columns && square_lanes != 0; j += V_TRANSPOSE) {
        pack_fetch_lines(&fetch, share);
        /* The last square overlaps the one before. */
        pack_columns(a, j + V_TRANSPOSE <= a->columns ? j : a->columns - V_TRANSPOSE, j);
    }
    pack_fetch_lines(&fetch, fetch.left);
    if (a->lane_step == 1) {
        square_lanes = 0;
    }
    for (ptrdiff_t j = 0; j < a->columns && square_lanes < a->lanes; j++) {
        if (a->place[j] >= 0) {
            float *to = a->to + a->place[j];
            for (ptrdiff_t lane = square_lanes; lane < a->lanes; lane++) {
                to[lane] = a->src[lane * a->lane_step + j];
            }
        }
    }
}

#endif

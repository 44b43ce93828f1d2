/* SPDX-License-Identifier: MIT */
/*
 * A kernel with the parameters it would run with, and the list of them. For src/plan, solvers and
 * the tuner.
 */
#ifndef DOCONV_CANDIDATE_H
#define DOCONV_CANDIDATE_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

#include "base/context.h"
#include "kernel.h"

/* Where a direct run finds its input. */
enum dc_source {
    DC_SOURCE_INPLACE, /* src itself; padded taps are skipped by cutting rows into runs */
    DC_SOURCE_ROWS,    /* strip of zero-bordered rows */
    /* strip with a copy for each kernel column, so that pixels run on across rows */
    DC_SOURCE_FLAT
};

/* What a direct plan goes over first. */
enum dc_order {
    DC_ORDER_PIXELS,  /* all weights for some pixels, then the next pixels */
    DC_ORDER_WEIGHTS, /* all pixels for a block of weights, then the next block */
    DC_ORDER_PACK     /* the same, where dc_fresh_run() makes each block just before its use */
};

/* A kernel with its parameters; text and struct are one to one. */
struct dc_candidate {
    const struct dc_kernel *kernel;
    enum dc_source source;
    enum dc_order order;
    int rows;    /* output rows of a task */
    int k_block; /* input channels of a pass over the reduction; 0: all */
    int pixels;  /* planes: output pixels of a unit */
    double estimated_seconds;
    size_t workspace_size, packed_size;
    const char *refused; /* NULL: accepted; else the reason, a constant string */
    char text[DC_VARIANT_SIZE];
};

struct dc_candidate_list {
    struct dc_candidate *items;
    int count, capacity;
    bool out_of_memory;
};
bool dc_candidate_append(const doconv_context *ctx, struct dc_candidate_list *list,
                         const struct dc_candidate *candidate);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * How long the layers of a network take in each pair of layouts, and the copies between layouts:
 * known, measured, or estimated by what is known. For the tuner.
 */
#ifndef DOCONV_NETWORK_TIMES_H
#define DOCONV_NETWORK_TIMES_H

#include <stdbool.h>

#include <doconv/doconv_tune.h>

#include "network_edges.h"
#include "network_select.h"

/* A layer's problem in one pair of layouts. */
struct network_cell {
    bool possible;
    bool known;   /* seconds were measured, now or before */
    bool settled; /* measuring it is over: done, not allowed, or failed */
    bool wanted;  /* to be measured next */
    char variant[DC_VARIANT_SIZE];
    char origin[NETWORK_ORIGIN];
    double seconds;   /* if known */
    double estimated; /* by the solver; 0: it is not yet looked up */
};

/* A problem that one layer or several have. */
struct network_kind {
    const struct network_layer *layer; /* the first of these */
    int count;
    struct network_cell cells[SELECT_LAYOUTS][SELECT_LAYOUTS]; /* by src, dst */
};

/* A copy of tensors of one shape. */
struct network_copy {
    int64_t n, c, h, w;
    struct {
        bool known, settled, wanted;
        double seconds;
    } pairs[SELECT_LAYOUTS][SELECT_LAYOUTS]; /* from, to */
};

struct network_times {
    doconv_context *ctx;
    const struct network_edges *graph;
    doconv_network_options options; /* mode is none of DEFAULT */
    double start;                   /* of the call, on the context's clock */
    bool stopped;                   /* by the deadline or the caller */
    int measured, progressed;
    struct network_kind *kinds;
    int kind_count;
    int *kind_of; /* by layer */
    struct network_copy *copies;
    int copy_count;
    int *copy_of; /* by view */
};

/*
 * Finds equal problems and copies, and what is known of them. start: when the call began.
 * dc_network_times_destroy() is right after a failure, too.
 */
doconv_status dc_network_times_create(const struct network_edges *graph,
                                      const doconv_network_options *options, double start,
                                      struct network_times *times);
void dc_network_times_destroy(struct network_times *times);

/* The options of the plans of its layers. */
doconv_plan_options dc_network_plan_options(const struct network_times *times);

/* Seconds: known, or expected by what is. INFINITY: there is no such variant. */
double dc_network_layer_seconds(const struct network_times *times, int layer, int src, int dst);
double dc_network_copy_seconds(const struct network_times *times, int view, int from, int to);

/* Marks what is worth measuring, if it can be. */
void dc_network_want_layer(struct network_times *times, int layer, int src, int dst);
void dc_network_want_copy(struct network_times *times, int view, int from, int to);

/*
 * Measures what is marked, what is most of the network's time first, until the deadline. False if
 * nothing was marked, or it was stopped.
 */
bool dc_network_measure(struct network_times *times);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The choice of layouts in a network, over tables of seconds: nothing is measured or planned here.
 */
#ifndef DOCONV_NETWORK_SELECT_H
#define DOCONV_NETWORK_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include <doconv/doconv.h>

#define SELECT_LAYOUTS 4 /* of doconv_layout */

/* By the layout that there is, then the one that is wanted; INFINITY: not possible. */
typedef double select_seconds[SELECT_LAYOUTS][SELECT_LAYOUTS];

/*
 * A tensor as some of its readers see it: those that read it through the same operations share its
 * copies. Tensor 0 is what the network is given, tensor i + 1 what layer i writes.
 */
struct select_view {
    int tensor;
    select_seconds seconds; /* of a copy, from the tensor's layout */
};

struct select_layer {
    const int *inputs; /* views of tensors before it, which it reads in one layout */
    int input_count;
    int residual;           /* a view that it reads in dst's layout, or -1 */
    select_seconds seconds; /* of a call, by the layouts of src and dst */
};

struct select_graph {
    const struct select_layer *layers;
    int count;
    const struct select_view *views; /* each is read */
    int view_count;
    unsigned input_layouts; /* that tensor 0 may have: bits 1 << layout */
    /* Views that the caller of the network reads in one layout. */
    const int *outputs;
    int output_count;
    doconv_layout output_layout;
};

struct select_choice {
    double seconds;
    bool exact;      /* no state was left out */
    uint8_t *tensor; /* layout of each tensor; count + 1 */
    uint8_t *src;    /* in which each layer reads; count */
};

/*
 * Fills a choice, whose arrays are the caller's. From layer to layer it keeps the fastest way to
 * each combination of the layouts, and copies, of the tensors that are still to be read: at most
 * most_states of them, the fastest. OUT_OF_MEMORY; UNSUPPORTED without a detail: no way is finite.
 */
doconv_status dc_select(doconv_context *ctx, const struct select_graph *graph, int most_states,
                        struct select_choice *choice);

#endif

/* SPDX-License-Identifier: MIT */
/* A network as its caller gives it, checked, with the tensors between its layers. For the tuner. */
#ifndef DOCONV_NETWORK_EDGES_H
#define DOCONV_NETWORK_EDGES_H

#include <stdbool.h>
#include <stdint.h>

#include <doconv/doconv_tune.h>

#include "network_plan.h"
#include "network_select.h"

/* A tensor as a reader sees it: what stands between keeps the layout. */
struct network_view {
    int tensor; /* 0: what the network is given; i + 1: what layer i writes */
    int64_t n, c, h, w;
};

struct network_layer {
    char name[NETWORK_NAME];
    doconv_conv_desc desc;
    int64_t dst[4];                    /* N, Cout, Hout, Wout */
    int *inputs;                       /* views */
    int input_count;                   /* at least 1 */
    int residual;                      /* a view, or -1 */
    unsigned src_layouts, dst_layouts; /* that it may have: bits 1 << layout */
};

struct network_edges {
    doconv_context *ctx;
    int count, view_count;
    struct network_layer *layers;
    struct network_view *views; /* each is read; those of equal tensor and shape are one */
    unsigned layouts;           /* that outputs may have */
    unsigned input_layouts;     /* what the network is given */
    int *outputs;               /* views of what no layer reads, where their layout is fixed */
    int output_count;
    doconv_layout output_layout;
    int *edges; /* the memory of layers[].inputs */
};

/* options: checked, of this version. dc_network_edges_destroy() is right after a failure, too. */
doconv_status dc_network_edges_create(doconv_context *ctx, const doconv_network_layer *layers,
                                      int count, const doconv_network_options *options,
                                      struct network_edges *graph);
void dc_network_edges_destroy(struct network_edges *graph);

#endif

/* SPDX-License-Identifier: MIT */
/**
 * @file network_list.h @brief Networks as files: the convolution layers of a network, one a line.
 * README.md beside this file describes the columns.
 */
#ifndef DOCONV_NETWORK_LIST_H
#define DOCONV_NETWORK_LIST_H

#include <stddef.h>

#include <doconv/doconv.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NETWORK_NAME_SIZE 64

struct network_layer {
    int count;             /* how often the network has it */
    doconv_conv_desc desc; /* valid; batch 1, NCHW, no bias, no post-op */
};

/* The distinct layers of a network, in the order in which it first meets them. */
struct network {
    char name[NETWORK_NAME_SIZE]; /* the file's name without .tsv, cut to fit */
    int layers;
    struct network_layer *layer;
};

/* A layer in its place; layers are known by their index. */
struct network_node {
    char *name;            /* no other node has it */
    doconv_conv_desc desc; /* valid; batch 1, NCHW, with bias, residual and post-ops */
    int *inputs;           /* whose outputs it reads, their channels in this order; -1: the
                              network's input. All come before it */
    int input_count;       /* at least 1 */
    int residual;          /* whose output is added; -1: none. It comes before too */
};

/*
 * The layers of a network in the order in which they run, and what they read. Channels fit. Where
 * the image of a node is not that which its input or residual has written, an operation that isn't
 * listed stands between, such as a pooling.
 */
struct network_graph {
    char name[NETWORK_NAME_SIZE]; /* as in struct network */
    int nodes;
    struct network_node *node;
};

/**
 * Reads a network. name_or_path: a path if it contains '/' or ends in ".tsv"; else the name of a
 * network, looked up as NAME.tsv in the directory DOCONV_NETWORKS (if set), then among the
 * installed networks, then in the source tree of the build. Returns 0; the caller owns net:
 * network_free(). On failure returns -1 with net empty and a message that names the file, and the
 * line and column where there is one, in error (cut to error_size).
 */
int network_load(const char *name_or_path, struct network *net, char *error, size_t error_size);

/** Frees what network_load() allocated, and empties net. */
void network_free(struct network *net);

/**
 * Likewise, as a graph: network_graph_free(). A file without edges is a failure.
 */
int network_graph_load(const char *name_or_path, struct network_graph *graph, char *error,
                       size_t error_size);

/** Frees what network_graph_load() allocated, and empties graph. */
void network_graph_free(struct network_graph *graph);

/**
 * Writes the names of the networks that network_load() finds by name, sorted, each once; returns
 * how many (at most max).
 */
int network_names(char (*names)[NETWORK_NAME_SIZE], int max);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A network's file as rows, for network_list.c and network_graph.c alone: cells are read and
 * checked one by one; what names mean is network_graph.c's.
 */
#ifndef DOCONV_NETWORK_FILE_H
#define DOCONV_NETWORK_FILE_H

#include <stdbool.h>

#include "network_list.h"

/* Where a message goes; text may be NULL. */
struct network_message {
    char *text;
    size_t size;
};

/* Writes a message, cut to fit; returns -1. */
__attribute__((format(printf, 2, 3))) int network_fail(struct network_message error,
                                                       const char *format, ...);

struct network_row {
    int line;
    int count;
    doconv_conv_desc desc; /* valid; batch 1, NCHW, no bias, no post-op */
    /* With edges only, else NULL and 0. The texts lie in the file's. */
    char *name, *input;
    const char *residual;
    int has_bias, relu, relu6;
};

struct network_file {
    char *text;
    bool has_edges;
    int rows; /* at least 1 */
    struct network_row *row;
};

/*
 * Returns 0: network_file_free(). On failure returns -1 with the file empty and a message. path is
 * a path.
 */
int network_file_read(const char *path, struct network_file *file, struct network_message error);

void network_file_free(struct network_file *file);

/*
 * The graph of a file with edges, its name not set, or -1 with a message and the graph in a state
 * that network_graph_free() takes. Inputs' texts are cut at their commas. path: for messages.
 */
int network_connect(const char *path, const struct network_file *file, struct network_graph *graph,
                    struct network_message error);

#endif

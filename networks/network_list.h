/* SPDX-License-Identifier: MIT */
/**
 * @file network_list.h @brief Networks as files: the convolution layers of a network, one unique
 * layer a line.
 *
 * Tab-separated text; the first line names the columns (count ci h w co kh kw sh sw pt pl pb pr dh
 * dw groups, all of them, in any order), every further line holds a whole decimal number for each.
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

struct network {
    char name[NETWORK_NAME_SIZE]; /* the file's name without .tsv, cut to fit */
    int layers;
    struct network_layer *layer;
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
 * Writes the names of the networks that network_load() finds by name, sorted, each once; returns
 * how many (at most max).
 */
int network_names(char (*names)[NETWORK_NAME_SIZE], int max);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT */
#include "network_list.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "network_file.h"

#define MAX_PATH 4096
#define SUFFIX ".tsv"

static bool has_suffix(const char *name)
{
    const size_t length = strlen(name), suffix = strlen(SUFFIX);
    return length > suffix && strcmp(name + length - suffix, SUFFIX) == 0;
}

/* ---- where networks are ---- */

/* The i-th directory of networks; NULL past the last; "" for one that isn't set. */
static const char *directory(int i)
{
    switch (i) {
    case 0: {
        const char *own = getenv("DOCONV_NETWORKS");
        return own != NULL ? own : "";
    }
    case 1:
        return NETWORKS_INSTALLED;
    case 2:
        return NETWORKS_SOURCE;
    default:
        return NULL;
    }
}

static bool valid_name(const char *name)
{
    return *name != '\0' && *name != '.' && strlen(name) < NETWORK_NAME_SIZE &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
               strlen(name);
}

int network_names(char (*names)[NETWORK_NAME_SIZE], int max)
{
    int count = 0;
    const char *path;
    for (int i = 0; (path = directory(i)) != NULL; i++) {
        DIR *entries = *path != '\0' ? opendir(path) : NULL;
        if (entries == NULL) {
            continue;
        }
        for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
            char name[sizeof entry->d_name];
            if (!has_suffix(entry->d_name)) {
                continue;
            }
            const size_t length = strlen(entry->d_name) - strlen(SUFFIX);
            memcpy(name, entry->d_name, length);
            name[length] = '\0';
            int place = 0;
            while (place < count && strcmp(names[place], name) < 0) {
                place++;
            }
            if (!valid_name(name) || count == max ||
                (place < count && strcmp(names[place], name) == 0)) {
                continue;
            }
            memmove(&names[place + 1], &names[place], (size_t)(count - place) * sizeof names[0]);
            memcpy(names[place], name, length + 1);
            count++;
        }
        closedir(entries);
    }
    return count;
}

/* The path of a network that is given by name. */
static int find_path(const char *name, char *path, size_t size, struct network_message error)
{
    if (!valid_name(name)) {
        return network_fail(error, "\"%.80s\" is no network's name", name);
    }
    const char *folder;
    for (int i = 0; (folder = directory(i)) != NULL; i++) {
        const int length = snprintf(path, size, "%s/%s%s", folder, name, SUFFIX);
        struct stat status;
        if (*folder != '\0' && length > 0 && (size_t)length < size && stat(path, &status) == 0) {
            return 0;
        }
    }
    char names[64][NETWORK_NAME_SIZE];
    const int count = network_names(names, 64);
    char known[512] = "none found: DOCONV_NETWORKS names their directory";
    for (int i = 0, used = 0; i < count && used < (int)sizeof known; i++) {
        used += snprintf(known + used, sizeof known - (size_t)used, "%s%s", i > 0 ? ", " : "",
                         names[i]);
    }
    return network_fail(error, "no network is called \"%s\" (networks: %s)", name, known);
}

/* The path of a name_or_path of network_load(). */
static int path_of(const char *name_or_path, char *path, size_t size, struct network_message error)
{
    if (name_or_path == NULL || *name_or_path == '\0') {
        return network_fail(error, "a network's name is empty");
    }
    if (strchr(name_or_path, '/') == NULL && !has_suffix(name_or_path)) {
        return find_path(name_or_path, path, size, error);
    }
    if (strlen(name_or_path) >= size) {
        return network_fail(error, "the path of a network is longer than %zu bytes", size - 1);
    }
    memcpy(path, name_or_path, strlen(name_or_path) + 1);
    return 0;
}

/* The file's name without its folder and suffix, cut to fit. */
static void name_of(const char *path, char name[NETWORK_NAME_SIZE])
{
    const char *base = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    const size_t length = strlen(base) - (has_suffix(base) ? strlen(SUFFIX) : 0);
    snprintf(name, NETWORK_NAME_SIZE, "%.*s",
             (int)(length < NETWORK_NAME_SIZE ? length : NETWORK_NAME_SIZE - 1), base);
}

/* ---- what a file becomes ---- */

static bool same_layer(const doconv_conv_desc *a, const doconv_conv_desc *b)
{
    return a->cin == b->cin && a->h == b->h && a->w == b->w && a->cout == b->cout &&
           a->kh == b->kh && a->kw == b->kw && a->stride_h == b->stride_h &&
           a->stride_w == b->stride_w && a->pad_top == b->pad_top && a->pad_left == b->pad_left &&
           a->pad_bottom == b->pad_bottom && a->pad_right == b->pad_right &&
           a->dilation_h == b->dilation_h && a->dilation_w == b->dilation_w &&
           a->groups == b->groups;
}

/* A file without edges says which layers are one. */
static int collect_layers(const struct network_file *file, struct network *net)
{
    net->layer = calloc((size_t)file->rows, sizeof *net->layer);
    if (net->layer == NULL) {
        return -1;
    }
    for (int i = 0; i < file->rows; i++) {
        const struct network_row *row = &file->row[i];
        int known = file->has_edges ? 0 : net->layers;
        while (known < net->layers && !same_layer(&net->layer[known].desc, &row->desc)) {
            known++;
        }
        struct network_layer *layer = &net->layer[known];
        layer->count += row->count;
        if (known == net->layers) {
            layer->desc = row->desc;
            net->layers++;
        }
    }
    return 0;
}

int network_load(const char *name_or_path, struct network *net, char *error_text, size_t error_size)
{
    const struct network_message error = {error_text, error_size};
    memset(net, 0, sizeof *net);
    char path[MAX_PATH];
    struct network_file file;
    if (path_of(name_or_path, path, sizeof path, error) != 0 ||
        network_file_read(path, &file, error) != 0) {
        return -1;
    }
    struct network_graph graph = {0};
    int result = file.has_edges ? network_connect(path, &file, &graph, error) : 0;
    network_graph_free(&graph);
    if (result == 0 && collect_layers(&file, net) != 0) {
        result = network_fail(error, "%s: out of memory", path);
    }
    network_file_free(&file);
    if (result == 0) {
        name_of(path, net->name);
    }
    return result;
}

void network_free(struct network *net)
{
    if (net != NULL) {
        free(net->layer);
        memset(net, 0, sizeof *net);
    }
}

int network_graph_load(const char *name_or_path, struct network_graph *graph, char *error_text,
                       size_t error_size)
{
    const struct network_message error = {error_text, error_size};
    memset(graph, 0, sizeof *graph);
    char path[MAX_PATH];
    struct network_file file;
    if (path_of(name_or_path, path, sizeof path, error) != 0 ||
        network_file_read(path, &file, error) != 0) {
        return -1;
    }
    int result;
    if (file.has_edges) {
        result = network_connect(path, &file, graph, error);
    } else {
        result = network_fail(error,
                              "%s: lists layers without edges (columns \"name\" and \"input\"), "
                              "so they can't be run as a chain",
                              path);
    }
    network_file_free(&file);
    if (result == 0) {
        name_of(path, graph->name);
    } else {
        network_graph_free(graph);
    }
    return result;
}

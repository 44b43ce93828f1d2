/* SPDX-License-Identifier: MIT */
/* Names of layers to edges between them. */
#define _DEFAULT_SOURCE /* strsep */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "network_file.h"

/* What the steps of connecting share. */
struct connector {
    const char *path;
    const struct network_file *file;
    struct network_graph *graph;
    const struct network_row **sorted; /* rows by name */
    int64_t input_channels;            /* the network's input's; 0: not yet known */
    struct network_message error;
};

static int compare_names(const void *left, const void *right)
{
    const struct network_row *const *a = left, *const *b = right;
    const int order = strcmp((*a)->name, (*b)->name);
    return order != 0 ? order : ((*a)->line > (*b)->line) - ((*a)->line < (*b)->line);
}

static int compare_to_name(const void *key, const void *element)
{
    const struct network_row *const *row = element;
    return strcmp(key, (*row)->name);
}

static int sort_names(struct connector *c)
{
    const int rows = c->file->rows;
    c->sorted = malloc((size_t)rows * sizeof *c->sorted);
    if (c->sorted == NULL) {
        return network_fail(c->error, "%s: out of memory", c->path);
    }
    for (int i = 0; i < rows; i++) {
        c->sorted[i] = &c->file->row[i];
    }
    qsort(c->sorted, (size_t)rows, sizeof *c->sorted, compare_names);
    for (int i = 1; i < rows; i++) {
        if (strcmp(c->sorted[i - 1]->name, c->sorted[i]->name) == 0) {
            return network_fail(
                c->error, "%s: line %d, column \"name\": \"%.40s\" is line %d's already", c->path,
                c->sorted[i]->line, c->sorted[i]->name, c->sorted[i - 1]->line);
        }
    }
    return 0;
}

/* The node that a row's cell names, an earlier one; -1 with a message. */
static int find(const struct connector *c, const struct network_row *row, const char *column,
                const char *name)
{
    const struct network_row **found =
        bsearch(name, c->sorted, (size_t)c->file->rows, sizeof *c->sorted, compare_to_name);
    if (found == NULL) {
        return network_fail(c->error, "%s: line %d, column \"%s\": no layer is called \"%.40s\"",
                            c->path, row->line, column, name);
    }
    if (*found >= row) {
        return network_fail(c->error,
                            "%s: line %d, column \"%s\": \"%.40s\" does not come before it",
                            c->path, row->line, column, name);
    }
    return (int)(*found - c->file->row);
}

static int connect_inputs(struct connector *c, const struct network_row *row,
                          struct network_node *node)
{
    size_t count = 1;
    for (const char *at = row->input; (at = strchr(at, ',')) != NULL; at++) {
        count++;
    }
    node->inputs = malloc(count * sizeof *node->inputs);
    if (node->inputs == NULL) {
        return network_fail(c->error, "%s: out of memory", c->path);
    }
    if (strcmp(row->input, "-") == 0) {
        node->inputs[node->input_count++] = -1;
        c->input_channels = c->input_channels != 0 ? c->input_channels : node->desc.cin;
        if (c->input_channels != node->desc.cin) {
            return network_fail(c->error,
                                "%s: line %d, column \"ci\": %" PRId64
                                ", but the network's input has %" PRId64 " channels",
                                c->path, row->line, node->desc.cin, c->input_channels);
        }
        return 0;
    }
    char *rest = row->input;
    int64_t channels = 0;
    for (const char *name; (name = strsep(&rest, ",")) != NULL;) {
        const int input = find(c, row, "input", name);
        if (input < 0) {
            return -1;
        }
        node->inputs[node->input_count++] = input;
        channels += c->graph->node[input].desc.cout;
    }
    if (channels != node->desc.cin) {
        return network_fail(c->error,
                            "%s: line %d, column \"ci\": %" PRId64
                            ", but what it reads has %" PRId64 " channels",
                            c->path, row->line, node->desc.cin, channels);
    }
    return 0;
}

static int connect_residual(struct connector *c, const struct network_row *row,
                            struct network_node *node)
{
    node->residual = -1;
    if (strcmp(row->residual, "-") == 0) {
        return 0;
    }
    node->residual = find(c, row, "residual", row->residual);
    if (node->residual < 0) {
        return -1;
    }
    const int64_t channels = c->graph->node[node->residual].desc.cout;
    if (channels != node->desc.cout) {
        return network_fail(c->error,
                            "%s: line %d, column \"residual\": \"%.40s\" has %" PRId64
                            " channels, not %" PRId64,
                            c->path, row->line, row->residual, channels, node->desc.cout);
    }
    node->desc.residual = 1;
    return 0;
}

static int connect_row(struct connector *c, const struct network_row *row,
                       struct network_node *node)
{
    const size_t length = strlen(row->name) + 1;
    node->name = malloc(length);
    if (node->name == NULL) {
        return network_fail(c->error, "%s: out of memory", c->path);
    }
    memcpy(node->name, row->name, length);
    node->desc = row->desc;
    node->desc.has_bias = row->has_bias;
    node->desc.relu = row->relu;
    node->desc.clamp = row->relu6;
    node->desc.clamp_hi = row->relu6 ? 6.0f : 0.0f;
    return connect_inputs(c, row, node) == 0 ? connect_residual(c, row, node) : -1;
}

int network_connect(const char *path, const struct network_file *file, struct network_graph *graph,
                    struct network_message error)
{
    struct connector c = {.path = path, .file = file, .graph = graph, .error = error};
    graph->node = calloc((size_t)file->rows, sizeof *graph->node);
    int result =
        graph->node != NULL ? sort_names(&c) : network_fail(error, "%s: out of memory", path);
    for (int i = 0; i < file->rows && result == 0; i++) {
        graph->nodes++;
        result = connect_row(&c, &file->row[i], &graph->node[i]);
    }
    free(c.sorted);
    return result;
}

void network_graph_free(struct network_graph *graph)
{
    if (graph != NULL) {
        for (int i = 0; i < graph->nodes; i++) {
            free(graph->node[i].name);
            free(graph->node[i].inputs);
        }
        free(graph->node);
        memset(graph, 0, sizeof *graph);
    }
}

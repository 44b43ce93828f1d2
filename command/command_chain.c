/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <doconv/doconv_tune.h>

#include "command_chain.h"
#include "network_list.h"

#define LAYOUTS 4 /* of doconv_layout */

struct text {
    unsigned char *data;
    size_t size, capacity;
};

/* ---- the network ---- */

/* Layers as the library takes them; their texts and edges stay the graph's. NULL: no memory. */
static doconv_network_layer *make_layers(struct network_graph *graph,
                                         const struct command_chain *chain)
{
    doconv_network_layer *layers = calloc((size_t)graph->nodes, sizeof *layers);
    for (int i = 0; i < graph->nodes && layers != NULL; i++) {
        struct network_node *node = &graph->node[i];
        node->desc.n = chain->batch;
        node->desc.accuracy = chain->accuracy;
        layers[i] = (doconv_network_layer){
            .size = sizeof layers[i],
            .name = node->name,
            .desc = &node->desc,
            .inputs = node->inputs,
            .input_count = node->input_count,
            .residual = node->residual,
        };
    }
    return layers;
}

static unsigned layouts_of(const struct command_chain *chain, doconv_layout blocked)
{
    unsigned layouts = 0;
    for (int i = 0; i < chain->layouts.count; i++) {
        const int item = chain->layouts.item[i];
        layouts |= 1u << (item == COMMAND_LAYOUT_BLOCKED ? (int)blocked : item);
    }
    return layouts;
}

static void show_progress(void *user, int done, int total)
{
    char line[128];
    const struct network_graph *graph = user;
    snprintf(line, sizeof line, "%.60s: %d/%d problems and copies", graph->name, done, total);
    command_progress(line);
}

/* ---- the table ---- */

static const char *producer_of(const doconv_network_plan *plan, int producer)
{
    doconv_network_choice choice = {.size = sizeof choice};
    return producer >= 0 && doconv_network_plan_get(plan, producer, &choice) == DOCONV_OK
               ? choice.name
               : "the input";
}

static void add_layouts(struct command_table *table, doconv_layout from, doconv_layout to)
{
    command_table_add(table, "%s > %s", doconv_layout_string(from), doconv_layout_string(to));
}

/* A row for each copy that is made for a consumer; *next: the first that has none yet. */
static void add_copies(struct command_table *table, const doconv_network_plan *plan, int consumer,
                       int *next)
{
    const int count = doconv_network_plan_reorder_count(plan);
    for (; *next < count; (*next)++) {
        doconv_network_reorder r = {.size = sizeof r};
        if (doconv_network_plan_get_reorder(plan, *next, &r) != DOCONV_OK ||
            r.consumer != consumer) {
            return;
        }
        if (!r.reused) {
            command_table_add(table, "  copy of %s", producer_of(plan, r.producer));
            add_layouts(table, r.from, r.to);
            command_table_add(table, "-");
            command_table_add(table, "%.4f", 1e3 * r.seconds);
            command_table_add(table, "%s", r.estimated ? "estimate" : "measured");
        }
    }
}

static void print_layers(const doconv_network_plan *plan)
{
    struct command_table table = {.align = "lllrl"};
    static const char *const heads[] = {"layer", "layouts", "variant", "ms", "from"};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&table, "%s", heads[i]);
    }
    const int count = doconv_network_plan_count(plan);
    int next = 0;
    for (int i = 0; i < count; i++) {
        doconv_network_choice choice = {.size = sizeof choice};
        add_copies(&table, plan, i, &next);
        if (doconv_network_plan_get(plan, i, &choice) == DOCONV_OK) {
            command_table_add(&table, "%s", choice.name);
            add_layouts(&table, choice.desc->src_layout, choice.desc->dst_layout);
            command_table_add(&table, "%s", choice.variant);
            command_table_add(&table, "%.4f", 1e3 * choice.seconds);
            command_table_add(&table, "%s", choice.origin);
        }
    }
    add_copies(&table, plan, count, &next);
    command_table_print(&table, 0);
}

static void print_total(const doconv_network_plan *plan, double seconds)
{
    doconv_network_total total = {.size = sizeof total};
    if (doconv_network_plan_total(plan, &total) != DOCONV_OK) {
        return;
    }
    printf("\ntotal: %.4f ms, copies %.4f ms of it; workspace: %.1f MiB\n", 1e3 * total.seconds,
           1e3 * total.reorder_seconds, (double)total.workspace_size / 1048576.0);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        if (total.single_seconds[layout] > 0.0) {
            printf("%s alone: %.4f ms (%.3f)\n", doconv_layout_string((doconv_layout)layout),
                   1e3 * total.single_seconds[layout],
                   total.single_seconds[layout] / total.seconds);
        }
    }
    printf("%d problems measured, %d times estimated%s; %.1f s\n", total.measured, total.estimated,
           total.exact ? "" : "; not every mixture of layouts was looked at", seconds);
}

/* ---- the file ---- */

static int append(void *user, const char *data, size_t length)
{
    struct text *text = user;
    if (text->size + length > text->capacity) {
        const size_t capacity = 2 * (text->size + length);
        unsigned char *larger = realloc(text->data, capacity);
        if (larger == NULL) {
            return 1;
        }
        text->data = larger;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, data, length);
    text->size += length;
    return 0;
}

static int write_plan(doconv_context *context, const doconv_network_plan *plan, const char *path)
{
    struct text text = {0};
    const doconv_status status = doconv_network_plan_write(plan, append, &text);
    const int result = status == DOCONV_OK ? command_write_file("tune", path, text.data, text.size)
                                           : command_library_error(context, status, "%s", path);
    free(text.data);
    return result;
}

/* ---- all ---- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int tune_graph(doconv_context *context, struct network_graph *graph,
                      const struct command_chain *chain)
{
    doconv_context_info info = {.size = sizeof info};
    doconv_status status = doconv_context_get_info(context, &info);
    doconv_network_layer *layers = make_layers(graph, chain);
    const doconv_network_options options = {
        .size = sizeof options,
        .layouts = layouts_of(chain, command_blocked_layout(info.isa)),
        .mode = chain->force ? DOCONV_TUNE_FORCE : DOCONV_TUNE_TUNE,
        .budget_seconds = chain->deadline,
        .problem_seconds = chain->budget,
        .progress = show_progress,
        .progress_user = graph,
    };
    const double start = now();
    doconv_network_plan *plan = NULL;
    if (layers == NULL) {
        status = DOCONV_OUT_OF_MEMORY;
    } else if (status == DOCONV_OK) {
        status = doconv_tune_network(context, layers, graph->nodes, &options, &plan);
    }
    command_progress(NULL);
    int result = COMMAND_OK;
    if (status != DOCONV_OK) {
        result = command_library_error(context, status, "network %s", graph->name);
    } else {
        print_layers(plan);
        print_total(plan, now() - start);
        if (chain->output != NULL) {
            result = write_plan(context, plan, chain->output);
        }
    }
    doconv_network_plan_destroy(plan);
    free(layers);
    return result;
}

int command_chain(doconv_context *context, const struct command_chain *chain)
{
    struct network_graph graph;
    char error[1024];
    if (network_graph_load(chain->network, &graph, error, sizeof error) != 0) {
        return command_usage_error("tune", "%s", error);
    }
    const int result = tune_graph(context, &graph, chain);
    network_graph_free(&graph);
    return result;
}

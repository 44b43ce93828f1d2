/* SPDX-License-Identifier: MIT */
#include "network_edges.h"

#include <stdio.h>
#include <string.h>

#include "base/layout.h"
#include "base/log.h"
#include "base/versioned.h"
#include "plan/plan.h"
#include "plan/problem.h"

#define BIT(layout) (1u << (unsigned)(layout))
#define BLOCKED (BIT(DOCONV_NCHW8C) | BIT(DOCONV_NCHW16C))

/* As wide as the vectors of the context's kernels. */
static doconv_layout own_block(const doconv_context *ctx)
{
    return ctx->isa == DC_ISA_AVX512 ? DOCONV_NCHW16C : DOCONV_NCHW8C;
}

/* ---- a layer's description ---- */

static doconv_status refuse(const doconv_context *ctx, const char *name, const char *reason)
{
    return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "layer \"%s\": %s", dc_show(name).text, reason);
}

static doconv_status take_name(const struct network_edges *g, int index, const char *name)
{
    struct network_layer *layer = &g->layers[index];
    if (name != NULL && !dc_network_is_name(name)) {
        return refuse(g->ctx, name, "not a name that a layer can have");
    }
    snprintf(layer->name, sizeof layer->name, "%s", name != NULL ? name : "");
    if (name == NULL) {
        snprintf(layer->name, sizeof layer->name, "layer%d", index + 1);
    }
    for (int i = 0; i < index; i++) {
        if (strcmp(g->layers[i].name, layer->name) == 0) {
            return refuse(g->ctx, layer->name, "another layer has this name");
        }
    }
    return DOCONV_OK;
}

/* Its descriptor, and what plans will say of it. */
static doconv_status take_desc(const struct network_edges *g, struct network_layer *layer,
                               const doconv_network_layer *from)
{
    const doconv_plan_options options = {.size = sizeof options};
    struct dc_problem problem;
    doconv_status status = DC_READ_STRUCT(g->ctx, doconv_conv_desc, from->desc, &layer->desc);
    if (status == DOCONV_OK && from->desc == NULL) {
        return refuse(g->ctx, layer->name, "desc: NULL");
    }
    if (status == DOCONV_OK) {
        status = dc_plan_problem(g->ctx, &layer->desc, &options, &problem);
    }
    if (status == DOCONV_OK) {
        status = doconv_conv_dst_shape(g->ctx, &layer->desc, layer->dst);
    }
    if (status == DOCONV_OK || status == DOCONV_MISMATCH) {
        return status;
    }
    char detail[256];
    snprintf(detail, sizeof detail, "%s", dc_last_failure(g->ctx));
    return dc_fail(g->ctx, status, "layer \"%s\": %s", dc_show(layer->name).text, detail);
}

/* ---- edges ---- */

static int64_t channels_of(const struct network_edges *g, int tensor, int64_t given)
{
    return tensor == 0 ? given : g->layers[tensor - 1].dst[1];
}

static int add_view(struct network_edges *g, int tensor, int64_t n, int64_t c, int64_t h, int64_t w)
{
    const struct network_view view = {tensor, n, c, h, w};
    for (int i = 0; i < g->view_count; i++) {
        const struct network_view *v = &g->views[i];
        if (v->tensor == tensor && v->n == n && v->c == c && v->h == h && v->w == w) {
            return i;
        }
    }
    g->views[g->view_count] = view;
    return g->view_count++;
}

/* The inputs of a layer as tensors; one that names none reads the layer before. */
static doconv_status take_tensor(const struct network_edges *g, int index, int producer,
                                 int *tensor)
{
    *tensor = producer + 1;
    if (producer < DOCONV_NETWORK_INPUT || producer >= index) {
        char reason[64];
        snprintf(reason, sizeof reason, "it reads %d, which is no layer before it", producer);
        return refuse(g->ctx, g->layers[index].name, reason);
    }
    return DOCONV_OK;
}

static doconv_status take_inputs(struct network_edges *g, int index,
                                 const doconv_network_layer *from)
{
    struct network_layer *layer = &g->layers[index];
    const doconv_conv_desc *d = &layer->desc;
    int64_t channels = 0;
    for (int k = 0; k < layer->input_count; k++) {
        const int producer = from->input_count > 0 ? from->inputs[k] : index - 1;
        int tensor;
        const doconv_status status = take_tensor(g, index, producer, &tensor);
        if (status != DOCONV_OK) {
            return status;
        }
        if (tensor == 0 && layer->input_count > 1) {
            return refuse(g->ctx, layer->name,
                          "what the network is given can't be one of several inputs");
        }
        /* One input may become any shape on its way; of several, only images change. */
        const int64_t c = layer->input_count > 1 ? channels_of(g, tensor, d->cin) : d->cin;
        layer->inputs[k] = add_view(g, tensor, d->n, c, d->h, d->w);
        channels += c;
    }
    if (channels != d->cin) {
        char reason[96];
        snprintf(reason, sizeof reason, "its inputs have %lld channels together, not %lld",
                 (long long)channels, (long long)d->cin);
        return refuse(g->ctx, layer->name, reason);
    }
    layer->residual = -1;
    if (d->residual != 0) {
        int tensor;
        const doconv_status status = take_tensor(g, index, from->residual, &tensor);
        if (status != DOCONV_OK) {
            return status;
        }
        layer->residual =
            add_view(g, tensor, layer->dst[0], layer->dst[1], layer->dst[2], layer->dst[3]);
    }
    return DOCONV_OK;
}

/* ---- layouts ---- */

static unsigned source_layouts(const struct network_edges *g, const struct network_layer *layer)
{
    unsigned layouts = g->layouts;
    if (layer->desc.cin < dc_layout_block(own_block(g->ctx))) {
        layouts = (layouts & ~BLOCKED) | BIT(DOCONV_NCHW);
    }
    for (int k = 0; k < layer->input_count && layer->input_count > 1; k++) {
        const int64_t c = g->views[layer->inputs[k]].c;
        layouts &= c % 8 != 0 ? ~BLOCKED : c % 16 != 0 ? ~BIT(DOCONV_NCHW16C) : ~0u;
    }
    return layouts != 0 ? layouts : BIT(DOCONV_NHWC);
}

static void take_layouts(const struct network_edges *g, struct network_layer *layer,
                         const doconv_network_layer *from)
{
    layer->src_layouts =
        from->fixed_src != 0 ? BIT(layer->desc.src_layout) : source_layouts(g, layer);
    layer->dst_layouts = from->fixed_dst != 0 ? BIT(layer->desc.dst_layout) : g->layouts;
}

/* ---- all ---- */

/* A caller's layer of its own size, as one of this version. */
static doconv_status read_layer(const struct network_edges *g, const doconv_network_layer *layers,
                                int index, doconv_network_layer *layer)
{
    const void *from = (const char *)layers + (size_t)index * layers->size;
    const doconv_status status = DC_READ_STRUCT(g->ctx, doconv_network_layer, from, layer);
    if (status != DOCONV_OK) {
        return status;
    }
    if (((const doconv_network_layer *)from)->size != layers->size) {
        return dc_fail(g->ctx, DOCONV_MISMATCH,
                       "doconv_network_layer: layer %d has another size than the first", index);
    }
    if (layer->input_count < 0 || layer->input_count > NETWORK_LAYERS ||
        (layer->input_count > 0 && layer->inputs == NULL)) {
        return dc_fail(g->ctx, DOCONV_INVALID_ARGUMENT, "layer %d: inputs or input_count", index);
    }
    if ((layer->fixed_src != 0 && layer->fixed_src != 1) ||
        (layer->fixed_dst != 0 && layer->fixed_dst != 1)) {
        return dc_fail(g->ctx, DOCONV_INVALID_ARGUMENT,
                       "layer %d: fixed_src and fixed_dst must be in 0..1", index);
    }
    return DOCONV_OK;
}

/* Counts the edges and makes room for them. */
static doconv_status reserve(struct network_edges *g, const doconv_network_layer *layers, int count)
{
    size_t edges = 0;
    for (int i = 0; i < count; i++) {
        doconv_network_layer layer;
        const doconv_status status = read_layer(g, layers, i, &layer);
        if (status != DOCONV_OK) {
            return status;
        }
        edges += layer.input_count > 0 ? (size_t)layer.input_count : 1;
    }
    const size_t layer_count = (size_t)count;
    g->layers = dc_alloc(g->ctx, layer_count * sizeof *g->layers);
    g->edges = dc_alloc(g->ctx, edges * sizeof *g->edges);
    g->views = dc_alloc(g->ctx, (edges + 2 * layer_count) * sizeof *g->views);
    g->outputs = dc_alloc(g->ctx, layer_count * sizeof *g->outputs);
    if (g->layers == NULL || g->edges == NULL || g->views == NULL || g->outputs == NULL) {
        return dc_fail(g->ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    }
    memset(g->layers, 0, layer_count * sizeof *g->layers);
    return DOCONV_OK;
}

static bool is_read(const struct network_edges *g, int tensor)
{
    for (int i = 0; i < g->view_count; i++) {
        if (g->views[i].tensor == tensor) {
            return true;
        }
    }
    return false;
}

static void take_ends(struct network_edges *g, const doconv_network_options *options)
{
    for (int i = 0; i < g->count && options->output_layout != NULL; i++) {
        const int64_t *d = g->layers[i].dst;
        if (!is_read(g, i + 1)) {
            g->outputs[g->output_count++] = add_view(g, i + 1, d[0], d[1], d[2], d[3]);
            g->output_layout = *options->output_layout;
        }
    }
    g->input_layouts = options->input_layout != NULL ? BIT(*options->input_layout) : 0;
    for (int i = 0; i < g->count && options->input_layout == NULL; i++) {
        for (int k = 0; k < g->layers[i].input_count; k++) {
            if (g->views[g->layers[i].inputs[k]].tensor == 0) {
                g->input_layouts |= g->layers[i].src_layouts;
            }
        }
    }
    if (g->input_layouts == 0) {
        g->input_layouts = BIT(DOCONV_NCHW); /* nobody reads it, or as a residual alone */
    }
}

doconv_status dc_network_edges_create(doconv_context *ctx, const doconv_network_layer *layers,
                                      int count, const doconv_network_options *options,
                                      struct network_edges *graph)
{
    *graph = (struct network_edges){.ctx = ctx};
    graph->layouts =
        options->layouts != 0 ? options->layouts : BIT(DOCONV_NHWC) | BIT(own_block(ctx));
    doconv_status status = reserve(graph, layers, count);
    int *edge = graph->edges;
    for (int i = 0; i < count && status == DOCONV_OK; i++) {
        struct network_layer *layer = &graph->layers[i];
        doconv_network_layer from;
        status = read_layer(graph, layers, i, &from);
        layer->inputs = edge;
        layer->input_count = from.input_count > 0 ? from.input_count : 1;
        edge += layer->input_count;
        if (status == DOCONV_OK) {
            status = take_name(graph, i, from.name);
        }
        if (status == DOCONV_OK) {
            status = take_desc(graph, layer, &from);
        }
        if (status == DOCONV_OK) {
            status = take_inputs(graph, i, &from);
        }
        if (status == DOCONV_OK) {
            take_layouts(graph, layer, &from);
        }
    }
    if (status == DOCONV_OK) {
        graph->count = count;
        take_ends(graph, options);
    }
    if (status != DOCONV_OK) {
        dc_network_edges_destroy(graph);
    }
    return status;
}

void dc_network_edges_destroy(struct network_edges *graph)
{
    doconv_context *ctx = graph->ctx;
    if (ctx != NULL) {
        dc_free(ctx, graph->layers);
        dc_free(ctx, graph->edges);
        dc_free(ctx, graph->views);
        dc_free(ctx, graph->outputs);
    }
    *graph = (struct network_edges){0};
}

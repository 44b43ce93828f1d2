/* SPDX-License-Identifier: MIT */
/*
 * A network's plan: tables of times to the selection, and what it chooses to a plan. What is not
 * measured stands in the tables with the time that is expected; what the selection takes of it is
 * measured, until all that it takes was.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "network_edges.h"
#include "network_plan.h"
#include "network_select.h"
#include "network_times.h"
#include "plan/plan.h"

#define MOST_STATES 4096
#define ALL_LAYOUTS ((1u << SELECT_LAYOUTS) - 1)

/* The tables of a network and a choice by them. */
struct solution {
    struct network_times *times;
    struct select_graph graph;
    struct select_layer *layers;
    struct select_view *views;
    struct select_choice choice;
    bool *copied; /* by view and layout: on the way through a choice */
};

/* ---- options ---- */

static doconv_status check_options(doconv_context *ctx, const doconv_network_options *o)
{
    const struct dc_number numbers[] = {
        {"layouts", (double)o->layouts, ALL_LAYOUTS},
        {"input_layout", o->input_layout != NULL ? (double)*o->input_layout : 0.0,
         SELECT_LAYOUTS - 1},
        {"output_layout", o->output_layout != NULL ? (double)*o->output_layout : 0.0,
         SELECT_LAYOUTS - 1},
        {"mode", (double)o->mode, DOCONV_TUNE_ONLY},
        {"budget_seconds", o->budget_seconds, DC_MOST_SECONDS},
        {"problem_seconds", o->problem_seconds, DC_MOST_SECONDS},
        {"most_states", (double)o->most_states, 1 << 20},
    };
    return dc_check_numbers(ctx, numbers, sizeof numbers / sizeof numbers[0]);
}

static doconv_status read_options(doconv_context *ctx, const doconv_network_options *from,
                                  doconv_network_options *options)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_network_options, from, options);
    if (status != DOCONV_OK) {
        return status;
    }
    if (options->mode == DOCONV_TUNE_DEFAULT) {
        options->mode = ctx->tune;
    }
    if (options->most_states == 0) {
        options->most_states = MOST_STATES;
    }
    return check_options(ctx, options);
}

/* ---- tables ---- */

static doconv_status create_solution(struct network_times *times, struct solution *s)
{
    const struct network_edges *g = times->graph;
    doconv_context *ctx = times->ctx;
    const size_t layers = (size_t)g->count, views = (size_t)g->view_count;
    *s = (struct solution){
        .times = times,
        .layers = dc_alloc(ctx, layers * sizeof *s->layers),
        .views = dc_alloc(ctx, (views + 1) * sizeof *s->views),
        .choice = {.tensor = dc_alloc(ctx, layers + 1), .src = dc_alloc(ctx, layers)},
        .copied = dc_alloc(ctx, (views + 1) * SELECT_LAYOUTS * sizeof *s->copied),
    };
    s->graph = (struct select_graph){
        .layers = s->layers,
        .count = g->count,
        .views = s->views,
        .view_count = g->view_count,
        .input_layouts = g->input_layouts,
        .outputs = g->outputs,
        .output_count = g->output_count,
        .output_layout = g->output_layout,
    };
    const bool ok = s->layers != NULL && s->views != NULL && s->choice.tensor != NULL &&
                    s->choice.src != NULL && s->copied != NULL;
    return ok ? DOCONV_OK : dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
}

static void destroy_solution(struct solution *s)
{
    doconv_context *ctx = s->times->ctx;
    dc_free(ctx, s->layers);
    dc_free(ctx, s->views);
    dc_free(ctx, s->choice.tensor);
    dc_free(ctx, s->choice.src);
    dc_free(ctx, s->copied);
}

/* only: a layout that each dst has, and each src where the layer can; -1: any. */
static void fill_layer(struct solution *s, int layer, int only)
{
    const struct network_layer *from = &s->times->graph->layers[layer];
    const bool src_can = only >= 0 && (from->src_layouts >> only & 1) != 0;
    const bool dst_can = only >= 0 && (from->dst_layouts >> only & 1) != 0;
    struct select_layer *to = &s->layers[layer];
    to->inputs = from->inputs;
    to->input_count = from->input_count;
    to->residual = from->residual;
    for (int src = 0; src < SELECT_LAYOUTS; src++) {
        for (int dst = 0; dst < SELECT_LAYOUTS; dst++) {
            const bool allowed = (!src_can || src == only) && (!dst_can || dst == only);
            to->seconds[src][dst] =
                allowed ? dc_network_layer_seconds(s->times, layer, src, dst) : INFINITY;
        }
    }
}

static doconv_status select_layouts(struct solution *s, int only)
{
    for (int i = 0; i < s->graph.count; i++) {
        fill_layer(s, i, only);
    }
    for (int view = 0; view < s->graph.view_count; view++) {
        s->views[view].tensor = s->times->graph->views[view].tensor;
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            const int from = pair / SELECT_LAYOUTS, to = pair % SELECT_LAYOUTS;
            s->views[view].seconds[from][to] = dc_network_copy_seconds(s->times, view, from, to);
        }
    }
    return dc_select(s->times->ctx, &s->graph, s->times->options.most_states, &s->choice);
}

/* ---- walking through a choice ---- */

/* Called for each edge that needs another layout than its tensor has. */
typedef doconv_status (*edge_fn)(void *user, const struct network_reorder *edge, int view);

static doconv_status walk_edge(struct solution *s, int consumer, int input, int view, int wanted,
                               edge_fn fn, void *user)
{
    const struct network_view *v = &s->times->graph->views[view];
    const int from = s->choice.tensor[v->tensor];
    if (from == wanted) {
        return DOCONV_OK;
    }
    bool *copied = &s->copied[view * SELECT_LAYOUTS + wanted];
    const struct network_reorder edge = {
        .producer = v->tensor - 1,
        .consumer = consumer,
        .input = input,
        .from = (doconv_layout)from,
        .to = (doconv_layout)wanted,
        .n = v->n,
        .c = v->c,
        .h = v->h,
        .w = v->w,
        .reused = *copied,
    };
    *copied = true;
    return fn(user, &edge, view);
}

static doconv_status walk(struct solution *s, edge_fn fn, void *user)
{
    const struct network_edges *g = s->times->graph;
    memset(s->copied, 0, (size_t)g->view_count * SELECT_LAYOUTS * sizeof *s->copied);
    doconv_status status = DOCONV_OK;
    for (int i = 0; i < g->count && status == DOCONV_OK; i++) {
        const struct network_layer *layer = &g->layers[i];
        for (int k = 0; k < layer->input_count && status == DOCONV_OK; k++) {
            status = walk_edge(s, i, k, layer->inputs[k], s->choice.src[i], fn, user);
        }
        if (layer->residual >= 0 && status == DOCONV_OK) {
            status = walk_edge(s, i, -1, layer->residual, s->choice.tensor[i + 1], fn, user);
        }
    }
    for (int k = 0; k < g->output_count && status == DOCONV_OK; k++) {
        status = walk_edge(s, g->count, 0, g->outputs[k], (int)g->output_layout, fn, user);
    }
    return status;
}

/* ---- measuring what is chosen ---- */

static doconv_status want_copy(void *user, const struct network_reorder *edge, int view)
{
    dc_network_want_copy(user, view, (int)edge->from, (int)edge->to);
    return DOCONV_OK;
}

static doconv_status want(struct solution *s, int only)
{
    const doconv_status status = select_layouts(s, only);
    for (int i = 0; i < s->graph.count && status == DOCONV_OK; i++) {
        dc_network_want_layer(s->times, i, s->choice.src[i], s->choice.tensor[i + 1]);
    }
    return status == DOCONV_OK ? walk(s, want_copy, s->times) : status;
}

/* Single layouts, which may be impossible. */
static doconv_status want_singles(struct solution *s)
{
    doconv_status status = DOCONV_OK;
    for (int only = 0; only < SELECT_LAYOUTS && status == DOCONV_OK; only++) {
        if ((s->times->graph->layouts >> only & 1) != 0) {
            status = want(s, only);
            status = status == DOCONV_UNSUPPORTED ? DOCONV_OK : status;
        }
    }
    return status;
}

/* First what tells how far the estimates are off, then what may be faster. */
static doconv_status settle(struct solution *s)
{
    doconv_status status = want_singles(s);
    while (status == DOCONV_OK && dc_network_measure(s->times)) {
        status = want(s, -1);
        if (status == DOCONV_OK) {
            status = want_singles(s);
        }
    }
    return status;
}

/* ---- the plan ---- */

static int64_t picoseconds(double seconds)
{
    const double scaled = seconds * 1e12 + 0.5;
    return scaled < 9e18 ? (int64_t)scaled : INT64_MAX;
}

struct recording {
    struct doconv_network_plan *plan;
    const struct network_times *times;
};

static doconv_status record_reorder(void *user, const struct network_reorder *edge, int view)
{
    const struct recording *r = user;
    struct network_reorder *reorder = dc_network_plan_add_reorder(r->plan);
    if (reorder == NULL) {
        return dc_fail(r->plan->ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    }
    *reorder = *edge;
    if (!edge->reused) {
        const int copy = r->times->copy_of[view];
        reorder->estimated = !r->times->copies[copy].pairs[edge->from][edge->to].known;
        reorder->picoseconds =
            picoseconds(dc_network_copy_seconds(r->times, view, (int)edge->from, (int)edge->to));
    }
    return DOCONV_OK;
}

/* A layer as it was chosen, with what its plan needs. */
static doconv_status record_layer(struct doconv_network_plan *plan, const struct solution *s,
                                  int layer)
{
    const struct network_times *t = s->times;
    const struct network_layer *from = &t->graph->layers[layer];
    const int src = s->choice.src[layer], dst = s->choice.tensor[layer + 1];
    const struct network_cell *cell = &t->kinds[t->kind_of[layer]].cells[src][dst];
    struct network_choice *choice = dc_network_plan_add(plan);
    if (choice == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    }
    choice->desc = from->desc;
    choice->desc.src_layout = (doconv_layout)src;
    choice->desc.dst_layout = (doconv_layout)dst;
    memcpy(choice->name, from->name, sizeof choice->name);
    memcpy(choice->variant, cell->variant, sizeof choice->variant);
    memcpy(choice->origin, cell->origin, sizeof choice->origin);
    choice->picoseconds = picoseconds(dc_network_layer_seconds(t, layer, src, dst));
    doconv_status status =
        doconv_conv_desc_format(plan->ctx, &choice->desc, choice->problem, sizeof choice->problem);
    doconv_plan_options options = dc_network_plan_options(t);
    options.variant = choice->variant;
    doconv_plan *made = NULL;
    if (status == DOCONV_OK) {
        status = doconv_plan_create(plan->ctx, &choice->desc, &options, &made);
    }
    choice->workspace = (int64_t)doconv_plan_workspace_size(made);
    doconv_plan_destroy(made);
    return status;
}

static doconv_status record(struct solution *s, struct doconv_network_plan *plan)
{
    plan->caps = dc_network_caps(plan->ctx);
    plan->caps.workspace_limit = s->times->options.workspace_limit;
    plan->caps.packed_limit = s->times->options.packed_limit;
    plan->exact = s->choice.exact;
    plan->measured = s->times->measured;
    doconv_status status = DOCONV_OK;
    for (int i = 0; i < s->graph.count && status == DOCONV_OK; i++) {
        status = record_layer(plan, s, i);
    }
    struct recording recording = {plan, s->times};
    return status == DOCONV_OK ? walk(s, record_reorder, &recording) : status;
}

/* What the network would take in each layout alone. Changes the choice. */
static doconv_status record_singles(struct solution *s, struct doconv_network_plan *plan)
{
    for (int only = 0; only < SELECT_LAYOUTS; only++) {
        if ((s->times->graph->layouts >> only & 1) == 0) {
            continue;
        }
        const doconv_status status = select_layouts(s, only);
        if (status == DOCONV_OK) {
            plan->single[only] = picoseconds(s->choice.seconds);
        } else if (status != DOCONV_UNSUPPORTED) {
            return status;
        }
    }
    return DOCONV_OK;
}

/* Why no choice of layouts will do. */
static doconv_status refuse(const struct network_times *t)
{
    const bool only = t->options.mode == DOCONV_TUNE_ONLY;
    const char *name = "", *separator = "";
    for (int i = 0; i < t->graph->count && *name == '\0'; i++) {
        bool any = false;
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            any = any || dc_network_layer_seconds(t, i, pair / SELECT_LAYOUTS,
                                                  pair % SELECT_LAYOUTS) < INFINITY;
        }
        if (!any) {
            name = t->graph->layers[i].name;
            separator = ": layer ";
        }
    }
    return dc_fail(t->ctx, only ? DOCONV_NOT_FOUND : DOCONV_UNSUPPORTED, "%s%s%.150s",
                   only ? "tune mode only: the cache does not have what the network needs"
                        : "no choice of layouts has a variant for each layer",
                   separator, name);
}

static doconv_status solve(struct network_times *times, struct doconv_network_plan *plan)
{
    struct solution s;
    doconv_status status = create_solution(times, &s);
    if (status == DOCONV_OK) {
        status = settle(&s);
    }
    if (status == DOCONV_OK) {
        status = select_layouts(&s, -1);
    }
    if (status == DOCONV_OK) {
        status = record(&s, plan);
    } else if (status == DOCONV_UNSUPPORTED) {
        status = refuse(times);
    }
    if (status == DOCONV_OK) {
        status = record_singles(&s, plan);
    }
    if (status == DOCONV_OK && times->options.progress != NULL) {
        times->options.progress(times->options.progress_user, times->progressed, times->progressed);
    }
    destroy_solution(&s);
    return status;
}

static doconv_status plan_network(doconv_context *ctx, const struct network_edges *graph,
                                  const doconv_network_options *options, double start,
                                  doconv_network_plan **plan)
{
    struct network_times times;
    doconv_status status = dc_network_times_create(graph, options, start, &times);
    if (status != DOCONV_OK) {
        return status;
    }
    struct doconv_network_plan *result = dc_network_plan_create(ctx);
    status = result != NULL ? solve(&times, result)
                            : dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    dc_network_times_destroy(&times);
    if (status != DOCONV_OK) {
        doconv_network_plan_destroy(result);
        return status;
    }
    *plan = result;
    return DOCONV_OK;
}

doconv_status doconv_tune_network(doconv_context *context, const doconv_network_layer *layers,
                                  int count, const doconv_network_options *options,
                                  doconv_network_plan **plan)
{
    if (plan != NULL) {
        *plan = NULL;
    }
    if (context == NULL || layers == NULL || plan == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL  ? "context"
                       : layers == NULL ? "layers"
                                        : "plan");
    }
    if (count < 1 || count > NETWORK_LAYERS) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "count: %d is not in 1..%d", count,
                       NETWORK_LAYERS);
    }
    const double start = dc_now(context);
    doconv_network_options own;
    struct network_edges graph;
    doconv_status status = read_options(context, options, &own);
    if (status == DOCONV_OK) {
        status = dc_network_edges_create(context, layers, count, &own, &graph);
    }
    if (status == DOCONV_OK) {
        status = plan_network(context, &graph, &own, start, plan);
        dc_network_edges_destroy(&graph);
    }
    return status;
}

/* SPDX-License-Identifier: MIT */
/*
 * Dynamic programming over the layers in their order (the frontier of a graph, as in variable
 * elimination). What comes after a layer depends on the past only through the views that are still
 * to be read: the layout of each and those that it has been copied to. A state is these, a byte a
 * view; of the ways to one state the fastest is kept, with where it came from.
 */
#include "network_select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"

/* Choices of a layer: layouts of src and dst. */
#define CHOICES (SELECT_LAYOUTS * SELECT_LAYOUTS)

struct states {
    int count;
    int width; /* bytes of a state: views that are live */
    double *seconds;
    uint8_t *keys;
};

/* How the states after a layer were reached. */
struct step {
    int *parent; /* among the states before it */
    uint8_t *choice;
};

struct selection {
    doconv_context *ctx;
    const struct select_graph *graph;
    int most_states;
    bool exact;
    int *last;  /* by view: the last layer that reads it; count: the network's caller */
    int *live;  /* the views of a state, in order */
    int *place; /* by view: where it is in a state */
    int live_count;
    struct step *steps; /* count */
    struct states now;
    uint8_t *key; /* room for one */
};

/* ---- a state: the layout in the upper four bits of a byte, bits of those it is there in below */

static uint8_t fresh_view(int layout)
{
    return (uint8_t)(layout << 4 | 1 << layout);
}

/* Reads a view in a layout: seconds of the copy, if there is none. */
static double read_view(const struct select_view *view, uint8_t *state, int layout)
{
    if ((*state >> layout & 1) != 0) {
        return 0.0;
    }
    *state |= (uint8_t)(1 << layout);
    return view->seconds[*state >> 4][layout];
}

/* ---- memory ---- */

static bool create_states(doconv_context *ctx, int count, int width, struct states *states)
{
    states->count = 0;
    states->width = width;
    states->seconds = dc_alloc(ctx, (size_t)count * sizeof *states->seconds);
    states->keys = dc_alloc(ctx, (size_t)count * (size_t)width + 1);
    return states->seconds != NULL && states->keys != NULL;
}

static void destroy_states(doconv_context *ctx, struct states *states)
{
    dc_free(ctx, states->seconds);
    dc_free(ctx, states->keys);
    *states = (struct states){0};
}

static void destroy_selection(struct selection *s)
{
    for (int i = 0; s->steps != NULL && i < s->graph->count; i++) {
        dc_free(s->ctx, s->steps[i].parent);
        dc_free(s->ctx, s->steps[i].choice);
    }
    dc_free(s->ctx, s->steps);
    dc_free(s->ctx, s->last);
    dc_free(s->ctx, s->live);
    dc_free(s->ctx, s->place);
    dc_free(s->ctx, s->key);
    destroy_states(s->ctx, &s->now);
}

static bool create_selection(struct selection *s)
{
    const size_t views = (size_t)s->graph->view_count + 1, layers = (size_t)s->graph->count + 1;
    s->last = dc_alloc(s->ctx, views * sizeof *s->last);
    s->live = dc_alloc(s->ctx, views * sizeof *s->live);
    s->place = dc_alloc(s->ctx, views * sizeof *s->place);
    s->key = dc_alloc(s->ctx, views);
    s->steps = dc_alloc(s->ctx, layers * sizeof *s->steps);
    if (s->steps != NULL) {
        memset(s->steps, 0, layers * sizeof *s->steps);
    }
    return s->last != NULL && s->live != NULL && s->place != NULL && s->key != NULL &&
           s->steps != NULL;
}

/* ---- which views are live ---- */

static void find_last_readers(struct selection *s)
{
    const struct select_graph *g = s->graph;
    for (int i = 0; i < g->count; i++) {
        for (int k = 0; k < g->layers[i].input_count; k++) {
            s->last[g->layers[i].inputs[k]] = i;
        }
        if (g->layers[i].residual >= 0) {
            s->last[g->layers[i].residual] = i;
        }
    }
    for (int k = 0; k < g->output_count; k++) {
        s->last[g->outputs[k]] = g->count;
    }
}

/* After a layer: what it was the last to read goes, and the views of what it wrote come. */
static void advance(struct selection *s, int layer)
{
    int count = 0;
    for (int i = 0; i < s->live_count; i++) {
        if (s->last[s->live[i]] > layer) {
            s->live[count++] = s->live[i];
        }
    }
    for (int view = 0; view < s->graph->view_count; view++) {
        if (s->graph->views[view].tensor == layer + 1) {
            s->live[count++] = view;
        }
    }
    for (int i = 0; i < count; i++) {
        s->place[s->live[i]] = i;
    }
    s->live_count = count;
}

/* ---- a layer ---- */

/* The states after a layer as they are found, each once. */
struct next {
    struct states states;
    struct step step;
    int *slots; /* of a hash table: a state's index + 1; 0: free */
    size_t mask;
};

static bool create_next(doconv_context *ctx, int count, int width, struct next *next)
{
    size_t slots = 16;
    while (slots < 2 * (size_t)count) {
        slots *= 2;
    }
    *next = (struct next){.mask = slots - 1};
    const bool states = create_states(ctx, count, width, &next->states);
    next->step.parent = dc_alloc(ctx, (size_t)count * sizeof *next->step.parent);
    next->step.choice = dc_alloc(ctx, (size_t)count * sizeof *next->step.choice);
    next->slots = dc_alloc(ctx, slots * sizeof *next->slots);
    if (next->slots != NULL) {
        memset(next->slots, 0, slots * sizeof *next->slots);
    }
    return states && next->step.parent != NULL && next->step.choice != NULL && next->slots != NULL;
}

static void destroy_next(doconv_context *ctx, struct next *next)
{
    destroy_states(ctx, &next->states);
    dc_free(ctx, next->step.parent);
    dc_free(ctx, next->step.choice);
    dc_free(ctx, next->slots);
}

/* A way to the state of this key: the first one stays where two are equally fast. */
static void offer(struct next *next, const uint8_t *key, double seconds, int parent, int choice)
{
    struct states *states = &next->states;
    const size_t width = (size_t)states->width;
    size_t slot = (size_t)dc_hash(0, key, width) & next->mask;
    int index;
    while ((index = next->slots[slot] - 1) >= 0 &&
           memcmp(states->keys + (size_t)index * width, key, width) != 0) {
        slot = (slot + 1) & next->mask;
    }
    if (index < 0) {
        index = states->count++;
        next->slots[slot] = index + 1;
        memcpy(states->keys + (size_t)index * width, key, width);
    } else if (states->seconds[index] <= seconds) {
        return;
    }
    states->seconds[index] = seconds;
    next->step.parent[index] = parent;
    next->step.choice[index] = (uint8_t)choice;
}

/* Goes from one state through a layer with these layouts; key: the state's, which it changes. */
static double pass(const struct selection *s, const struct select_layer *layer, uint8_t *key,
                   const int *place, int src, int dst)
{
    double seconds = layer->seconds[src][dst];
    for (int k = 0; k < layer->input_count && seconds < INFINITY; k++) {
        const int view = layer->inputs[k];
        seconds += read_view(&s->graph->views[view], &key[place[view]], src);
    }
    if (layer->residual >= 0 && seconds < INFINITY) {
        seconds += read_view(&s->graph->views[layer->residual], &key[place[layer->residual]], dst);
    }
    return seconds;
}

/* From the bytes of the views before a layer to those after it, in place: old ones come first. */
static void keep_live(const struct selection *s, const int *place, int layer, int dst, uint8_t *key)
{
    for (int i = 0; i < s->live_count; i++) {
        const int view = s->live[i];
        key[i] = s->graph->views[view].tensor == layer + 1 ? fresh_view(dst) : key[place[view]];
    }
}

static void expand(const struct selection *s, int layer, const int *place, struct next *next)
{
    const size_t width = (size_t)s->now.width;
    for (int state = 0; state < s->now.count; state++) {
        for (int choice = 0; choice < CHOICES; choice++) {
            const int src = choice / SELECT_LAYOUTS, dst = choice % SELECT_LAYOUTS;
            memcpy(s->key, s->now.keys + (size_t)state * width, width);
            const double seconds =
                s->now.seconds[state] + pass(s, &s->graph->layers[layer], s->key, place, src, dst);
            if (seconds < INFINITY) {
                keep_live(s, place, layer, dst, s->key);
                offer(next, s->key, seconds, state, choice);
            }
        }
    }
}

struct ranked {
    double seconds;
    int index;
};

static int by_seconds(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->seconds != y->seconds) {
        return x->seconds < y->seconds ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

/* The fastest of the states that were found, or all; into memory of their size. */
static bool keep_fastest(struct selection *s, const struct next *next, struct step *step)
{
    const struct states *from = &next->states;
    const int count = from->count < s->most_states ? from->count : s->most_states;
    const size_t width = (size_t)from->width;
    struct ranked *ranked = dc_alloc(s->ctx, (size_t)from->count * sizeof *ranked + 1);
    step->parent = dc_alloc(s->ctx, (size_t)count * sizeof *step->parent + 1);
    step->choice = dc_alloc(s->ctx, (size_t)count + 1);
    const bool ok = create_states(s->ctx, count + 1, from->width, &s->now) && ranked != NULL &&
                    step->parent != NULL && step->choice != NULL;
    if (ok) {
        for (int i = 0; i < from->count; i++) {
            ranked[i] = (struct ranked){from->seconds[i], i};
        }
        if (count < from->count) {
            qsort(ranked, (size_t)from->count, sizeof *ranked, by_seconds);
            s->exact = false;
        }
        for (int i = 0; i < count; i++) {
            const int index = ranked[i].index;
            s->now.seconds[i] = from->seconds[index];
            memcpy(s->now.keys + (size_t)i * width, from->keys + (size_t)index * width, width);
            step->parent[i] = next->step.parent[index];
            step->choice[i] = next->step.choice[index];
        }
        s->now.count = count;
    }
    dc_free(s->ctx, ranked);
    return ok;
}

/* place: room for the places of views before the layer. */
static bool take_layer(struct selection *s, int layer, int *place)
{
    memcpy(place, s->place, (size_t)s->graph->view_count * sizeof *place);
    advance(s, layer);
    struct next next;
    bool ok = create_next(s->ctx, s->now.count * CHOICES + 1, s->live_count, &next);
    if (ok) {
        expand(s, layer, place, &next);
        destroy_states(s->ctx, &s->now);
        ok = keep_fastest(s, &next, &s->steps[layer]);
    }
    destroy_next(s->ctx, &next);
    return ok;
}

/* ---- from end to end ---- */

/* A state for each layout of what the network is given. */
static bool begin(struct selection *s)
{
    advance(s, -1);
    if (!create_states(s->ctx, SELECT_LAYOUTS, s->live_count, &s->now)) {
        return false;
    }
    for (int layout = 0; layout < SELECT_LAYOUTS; layout++) {
        if ((s->graph->input_layouts >> layout & 1) != 0) {
            memset(s->now.keys + (size_t)s->now.count * (size_t)s->now.width, fresh_view(layout),
                   (size_t)s->now.width);
            s->now.seconds[s->now.count++] = 0.0;
        }
    }
    return true;
}

/* The state from which the network's outputs come first, or -1. */
static int find_end(const struct selection *s, double *seconds)
{
    int best = -1;
    *seconds = INFINITY;
    for (int state = 0; state < s->now.count; state++) {
        double all = s->now.seconds[state];
        for (int k = 0; k < s->graph->output_count; k++) {
            const int view = s->graph->outputs[k];
            uint8_t *byte = s->now.keys + (size_t)state * (size_t)s->now.width + s->place[view];
            all += read_view(&s->graph->views[view], byte, (int)s->graph->output_layout);
        }
        if (all < *seconds) {
            *seconds = all;
            best = state;
        }
    }
    return best;
}

/* first: by the state at the start, the layout of what the network is given. */
static void trace_back(const struct selection *s, int state, struct select_choice *choice)
{
    for (int layer = s->graph->count - 1; layer >= 0; layer--) {
        const int taken = s->steps[layer].choice[state];
        choice->src[layer] = (uint8_t)(taken / SELECT_LAYOUTS);
        choice->tensor[layer + 1] = (uint8_t)(taken % SELECT_LAYOUTS);
        state = s->steps[layer].parent[state];
    }
    int layout = 0;
    for (; state >= 0; layout++) {
        state -= (int)(s->graph->input_layouts >> layout & 1);
    }
    choice->tensor[0] = (uint8_t)(layout - 1);
}

doconv_status dc_select(doconv_context *ctx, const struct select_graph *graph, int most_states,
                        struct select_choice *choice)
{
    struct selection s = {.ctx = ctx, .graph = graph, .most_states = most_states, .exact = true};
    int *place = dc_alloc(ctx, ((size_t)graph->view_count + 1) * sizeof *place);
    bool ok = create_selection(&s) && place != NULL;
    if (ok) {
        find_last_readers(&s);
        ok = begin(&s);
    }
    for (int layer = 0; layer < graph->count && ok; layer++) {
        ok = take_layer(&s, layer, place);
    }
    doconv_status status = DOCONV_OK;
    if (!ok) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    } else {
        const int end = find_end(&s, &choice->seconds);
        choice->exact = s.exact;
        status = end >= 0 ? DOCONV_OK : DOCONV_UNSUPPORTED;
        if (end >= 0) {
            trace_back(&s, end, choice);
        }
    }
    destroy_selection(&s);
    dc_free(ctx, place);
    return status;
}

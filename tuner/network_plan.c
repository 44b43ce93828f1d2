/* SPDX-License-Identifier: MIT */
#include "network_plan.h"

#include <limits.h>
#include <string.h>

#include "base/log.h"
#include "base/versioned.h"
#include "cache.h"

/* ---- making ---- */

struct network_caps dc_network_caps(const doconv_context *ctx)
{
    struct network_caps caps = {.threads = ctx->threads,
                                .own_threads = ctx->own_threads,
                                .deterministic = ctx->deterministic};
    const char *manifest = dc_cache_manifest(ctx->advisor.self);
    dc_entries_name(manifest, strlen(manifest), caps.environment);
    return caps;
}

struct doconv_network_plan *dc_network_plan_create(doconv_context *ctx)
{
    struct doconv_network_plan *plan = dc_alloc(ctx, sizeof *plan);
    if (plan != NULL) {
        *plan = (struct doconv_network_plan){.ctx = ctx};
    }
    return plan;
}

void doconv_network_plan_destroy(doconv_network_plan *plan)
{
    if (plan != NULL) {
        dc_free(plan->ctx, plan->choices);
        dc_free(plan->ctx, plan->reorders);
        dc_free(plan->ctx, plan);
    }
}

/* Room for an item of size bytes at the end of a block, which moves if it is full. */
static void *add(doconv_context *ctx, void **items, int *count, int *capacity, size_t size)
{
    if (*count == *capacity) {
        const int room = *capacity > 0 ? 2 * *capacity : 16;
        void *larger = dc_alloc(ctx, (size_t)room * size);
        if (larger == NULL) {
            return NULL;
        }
        if (*count > 0) {
            memcpy(larger, *items, (size_t)*count * size);
        }
        dc_free(ctx, *items);
        *items = larger;
        *capacity = room;
    }
    void *item = (char *)*items + (size_t)(*count)++ * size;
    memset(item, 0, size);
    return item;
}

struct network_choice *dc_network_plan_add(struct doconv_network_plan *plan)
{
    void *items = plan->choices;
    struct network_choice *choice =
        add(plan->ctx, &items, &plan->count, &plan->capacity, sizeof *choice);
    plan->choices = items;
    return choice;
}

struct network_reorder *dc_network_plan_add_reorder(struct doconv_network_plan *plan)
{
    void *items = plan->reorders;
    struct network_reorder *reorder =
        add(plan->ctx, &items, &plan->reorder_count, &plan->reorder_capacity, sizeof *reorder);
    plan->reorders = items;
    return reorder;
}

bool dc_network_is_name(const char *name)
{
    size_t length = 0;
    while (length < NETWORK_NAME && (unsigned char)name[length] > ' ' && name[length] != 0x7f) {
        length++;
    }
    return length > 0 && length < NETWORK_NAME && name[length] == '\0' &&
           strcmp(name, NETWORK_GIVEN) != 0;
}

/* ---- reading ---- */

int doconv_network_plan_count(const doconv_network_plan *plan)
{
    return plan != NULL ? plan->count : 0;
}

int doconv_network_plan_reorder_count(const doconv_network_plan *plan)
{
    return plan != NULL ? plan->reorder_count : 0;
}

/* Of a function that copies an item: to is what the caller wants filled. */
static doconv_status check(const doconv_network_plan *plan, const void *to, int index, int count)
{
    if (plan == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (to == NULL) {
        return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "the struct to be filled: NULL");
    }
    return index >= 0 && index < count ? DOCONV_OK
                                       : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT,
                                                 "index: %d is not in 0..%d", index, count - 1);
}

doconv_status doconv_network_plan_get(const doconv_network_plan *plan, int index,
                                      doconv_network_choice *choice)
{
    const doconv_status status = check(plan, choice, index, doconv_network_plan_count(plan));
    if (status != DOCONV_OK) {
        return status;
    }
    const struct network_choice *from = &plan->choices[index];
    const doconv_network_choice result = {
        .size = sizeof result,
        .name = from->name,
        .desc = &from->desc,
        .problem = from->problem,
        .variant = from->variant,
        .origin = from->origin,
        .seconds = 1e-12 * (double)from->picoseconds,
        .workspace_size = (size_t)from->workspace,
    };
    return DC_WRITE_STRUCT(plan->ctx, doconv_network_choice, &result, choice);
}

doconv_status doconv_network_plan_get_reorder(const doconv_network_plan *plan, int index,
                                              doconv_network_reorder *reorder)
{
    const doconv_status status =
        check(plan, reorder, index, doconv_network_plan_reorder_count(plan));
    if (status != DOCONV_OK) {
        return status;
    }
    const struct network_reorder *from = &plan->reorders[index];
    const doconv_network_reorder result = {
        .size = sizeof result,
        .producer = from->producer,
        .consumer = from->consumer,
        .input = from->input,
        .from = from->from,
        .to = from->to,
        .n = from->n,
        .c = from->c,
        .h = from->h,
        .w = from->w,
        .seconds = 1e-12 * (double)from->picoseconds,
        .reused = from->reused,
        .estimated = from->estimated,
    };
    return DC_WRITE_STRUCT(plan->ctx, doconv_network_reorder, &result, reorder);
}

/* Was a choice's time measured, now or before? */
static bool is_known(const char *origin)
{
    return strcmp(origin, "measured") == 0 || strcmp(origin, "cache") == 0;
}

doconv_status doconv_network_plan_total(const doconv_network_plan *plan,
                                        doconv_network_total *total)
{
    const doconv_status status = check(plan, total, 0, 1);
    if (status != DOCONV_OK) {
        return status;
    }
    doconv_network_total result = {
        .size = sizeof result, .exact = plan->exact, .measured = plan->measured};
    double layers = 0.0, copies = 0.0; /* in picoseconds, which may be any in a file */
    for (int i = 0; i < plan->count; i++) {
        const struct network_choice *choice = &plan->choices[i];
        layers += (double)choice->picoseconds;
        result.estimated += !is_known(choice->origin);
        if ((size_t)choice->workspace > result.workspace_size) {
            result.workspace_size = (size_t)choice->workspace;
        }
    }
    for (int i = 0; i < plan->reorder_count; i++) {
        copies += (double)plan->reorders[i].picoseconds;
        result.estimated += plan->reorders[i].estimated;
    }
    result.reorder_seconds = 1e-12 * copies;
    result.seconds = 1e-12 * (layers + copies);
    for (int layout = 0; layout < SELECT_LAYOUTS; layout++) {
        result.single_seconds[layout] = 1e-12 * (double)plan->single[layout];
    }
    return DC_WRITE_STRUCT(plan->ctx, doconv_network_total, &result, total);
}

/* SPDX-License-Identifier: MIT */
/* The list of candidates, and the public view of it. */
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

bool dc_candidate_append(const doconv_context *ctx, struct dc_candidate_list *list,
                         const struct dc_candidate *candidate)
{
    if (list->count == list->capacity) {
        const int capacity =
            list->capacity != 0 ? 2 * list->capacity : (int)most(list->expected, 4);
        struct dc_candidate *items =
            dc_alloc((doconv_context *)ctx, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            list->out_of_memory = true;
            return false;
        }
        if (list->count != 0) {
            memcpy(items, list->items, (size_t)list->count * sizeof *items);
        }
        dc_free((doconv_context *)ctx, list->items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *candidate;
    return true;
}

bool dc_candidate_is_plain(const struct dc_candidate *c)
{
    return c->kernel != NULL ? c->kernel->family == DC_FAMILY_REFERENCE : !c->solver->composes;
}

/* The name of a candidate's kernel; "" if it has none of its own. */
static const char *kernel_name(const struct dc_candidate *c)
{
    return c->kernel != NULL ? c->kernel->name : c->solver->composes ? "" : "portable";
}

void dc_candidate_describe(struct dc_candidate *c)
{
    if (c->text[0] != '\0') {
        return;
    }
    const char *kernel = kernel_name(c);
    const int used = snprintf(c->text, sizeof c->text, "%s%s%s%s%s", c->solver->name,
                              kernel[0] != '\0' ? ":" : "", kernel, c->second != NULL ? "+" : "",
                              c->second != NULL ? c->second->name : "");
    /* One that is refused as a whole has no parameters. */
    if (c->solver->describe != NULL && c->has_parameters) {
        c->solver->describe(c, c->text + used, sizeof c->text - (size_t)used);
    }
}

/* Steps over a word that text begins with; NULL if it doesn't, or text is NULL. */
static const char *after(const char *text, const char *word)
{
    const size_t length = strlen(word);
    return text != NULL && strncmp(text, word, length) == 0 ? text + length : NULL;
}

bool dc_candidate_is(struct dc_candidate *c, const char *text)
{
    /* Most differ in these names: their texts needn't be made. */
    const char *kernel = kernel_name(c);
    const char *rest = after(after(text, c->solver->name), kernel[0] != '\0' ? ":" : "");
    rest = after(rest, kernel);
    rest = c->second != NULL ? after(after(rest, "+"), c->second->name) : rest;
    if (rest == NULL) {
        return false;
    }
    dc_candidate_describe(c);
    return strcmp(c->text, text) == 0;
}

const struct dc_candidate *dc_candidate_find(struct dc_candidate_list *list, const char *text)
{
    for (int i = 0; i < list->count; i++) {
        if (list->items[i].refused == NULL && dc_candidate_is(&list->items[i], text)) {
            return &list->items[i];
        }
    }
    return NULL;
}

void dc_candidates_describe(struct dc_candidate_list *list)
{
    for (int i = 0; i < list->count; i++) {
        dc_candidate_describe(&list->items[i]);
    }
}

struct doconv_candidates {
    doconv_context *ctx;
    struct dc_candidate_list list;
};

doconv_status doconv_candidates_create(doconv_context *context, const doconv_conv_desc *desc,
                                       const doconv_plan_options *options, doconv_candidates **list)
{
    if (list != NULL) {
        *list = NULL;
    }
    if (context == NULL || list == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "list");
    }
    struct dc_problem problem;
    doconv_plan_options own;
    doconv_status status = dc_plan_options_read(context, options, &own);
    if (status == DOCONV_OK) {
        status = dc_plan_problem(context, desc, &own, &problem);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    doconv_candidates *result = dc_alloc(context, sizeof *result);
    if (result == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "candidates: out of memory");
    }
    result->ctx = context;
    status = dc_enumerate(context, &problem, &own, &result->list);
    if (status != DOCONV_OK) {
        dc_free(context, result);
        return status;
    }
    *list = result;
    return DOCONV_OK;
}

void doconv_candidates_destroy(doconv_candidates *list)
{
    if (list != NULL) {
        dc_free(list->ctx, list->list.items);
        dc_free(list->ctx, list);
    }
}

int doconv_candidates_count(const doconv_candidates *list)
{
    return list != NULL ? list->list.count : 0;
}

doconv_status doconv_candidates_get(const doconv_candidates *list, int index,
                                    doconv_candidate_info *info)
{
    if (list == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (info == NULL || index < 0 || index >= list->list.count) {
        return dc_fail(list->ctx, DOCONV_INVALID_ARGUMENT, "info: NULL, or index: %d is none",
                       index);
    }
    const struct dc_candidate *c = &list->list.items[index];
    const doconv_candidate_info result = {
        .size = sizeof result,
        .variant = c->text,
        .kernel = kernel_name(c),
        .refused = c->refused,
        .estimated_seconds = c->refused == NULL ? c->estimated_seconds : 0.0,
        .workspace_size = c->workspace_size,
        .packed_size = c->packed_size,
        .error_amplification = (double)c->error_amplification,
        .second = c->second != NULL ? c->second->name : "",
    };
    return DC_WRITE_STRUCT(list->ctx, doconv_candidate_info, &result, info);
}

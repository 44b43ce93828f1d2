/* SPDX-License-Identifier: MIT */
/* Candidates of a problem: every solver x every kernel, their order, and the public list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/versioned.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

const struct dc_solver *const dc_solvers[] = {&dc_solver_direct,    &dc_solver_depthwise,
                                              &dc_solver_grouped,   &dc_solver_planes,
                                              &dc_solver_reference, NULL};

const struct dc_solver *dc_solver_of(const struct dc_kernel *kernel)
{
    const struct dc_solver *const *solver = dc_solvers;
    while (*solver != NULL && (*solver)->op != kernel->op) {
        solver++;
    }
    return *solver;
}

struct dc_weight_view dc_weight_view(const struct dc_problem *p, const float *weight)
{
    const int64_t taps = p->desc.kh * p->desc.kw, filter = p->group_cin * taps;
    return (struct dc_weight_view){.data = weight,
                                   .group = p->group_cout * filter,
                                   .out = filter,
                                   .in = taps,
                                   .row = p->desc.kw,
                                   .column = 1};
}

bool dc_candidate_append(const doconv_context *ctx, struct dc_candidate_list *list,
                         const struct dc_candidate *candidate)
{
    if (list->count == list->capacity) {
        const int capacity = list->capacity != 0 ? 2 * list->capacity : 32;
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

int64_t dc_cut_outputs(const doconv_context *ctx, int64_t units, int64_t blocks)
{
    int64_t best = 1;
    double best_balance = 0.0;
    for (int64_t cuts = 1; cuts <= blocks && best_balance < 0.9; cuts++) {
        const int64_t cut = units * divide_up(blocks, divide_up(blocks, cuts));
        const double balance = (double)cut / (double)(divide_up(cut, ctx->threads) * ctx->threads);
        if (balance > best_balance) {
            best_balance = balance;
            best = cuts;
        }
    }
    return divide_up(blocks, best);
}

/* Does a caller's variant, a full text or a kernel's name, name this? */
static bool named(const char *variant, const struct dc_kernel *kernel, const char *text)
{
    return variant == NULL || strcmp(variant, kernel->name) == 0 ||
           (text != NULL && strcmp(variant, text) == 0);
}

static int by_estimate(const void *a, const void *b)
{
    const struct dc_candidate *x = a, *y = b;
    if ((x->refused != NULL) != (y->refused != NULL)) {
        return x->refused != NULL ? 1 : -1;
    }
    if (x->refused == NULL && x->estimated_seconds != y->estimated_seconds) {
        return x->estimated_seconds < y->estimated_seconds ? -1 : 1;
    }
    return strcmp(x->text, y->text); /* a total order: the same list on every C library */
}

static void sort(struct dc_candidate_list *list)
{
    if (list->count != 0) {
        qsort(list->items, (size_t)list->count, sizeof *list->items, by_estimate);
    }
}

static bool any_accepted(const struct dc_candidate_list *list)
{
    return list->count != 0 && list->items[0].refused == NULL;
}

static void fill(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, struct dc_candidate_list *list)
{
    const char *variant = options != NULL ? options->variant : NULL;
    const size_t limit =
        options != NULL && options->workspace_limit != 0 ? options->workspace_limit : SIZE_MAX;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *kernel = *row;
        const struct dc_solver *solver = dc_solver_of(kernel);
        if (solver == NULL) {
            continue; /* no convolution: a composing kernel */
        }
        const int first = list->count;
        const char *refused = "this CPU or the ISA cap does not allow it";
        if (dc_isa_usable(kernel->isa, ctx->isa)) {
            refused = solver->enumerate(ctx, problem, kernel, list);
        }
        if (refused != NULL) {
            struct dc_candidate none = {.kernel = kernel, .refused = refused};
            snprintf(none.text, sizeof none.text, "%s:%s", solver->name, kernel->name);
            dc_candidate_append(ctx, list, &none);
        }
        for (int i = first; i < list->count; i++) {
            struct dc_candidate *c = &list->items[i];
            if (c->refused == NULL && !named(variant, kernel, c->text)) {
                c->refused = "another variant is asked for";
            } else if (c->refused == NULL && c->workspace_size > limit) {
                c->refused = "it needs more workspace than the limit";
            }
        }
    }
    sort(list);
}

/* Refuses what adds in another order than the candidate that is the best on one thread. */
static void keep_order(const doconv_context *ctx, const struct dc_problem *problem,
                       const doconv_plan_options *options, struct dc_candidate_list *list)
{
    struct doconv_context alone = *ctx; /* enumerating uses no lock of it */
    alone.threads = 1;
    struct dc_candidate_list first = {0};
    fill(&alone, problem, options, &first);
    list->out_of_memory = list->out_of_memory || first.out_of_memory;
    const int order =
        any_accepted(&first) ? dc_solver_of(first.items[0].kernel)->order_of_sums : -1;
    bool some = false;
    for (int i = 0; i < list->count; i++) {
        some = some || (list->items[i].refused == NULL &&
                        dc_solver_of(list->items[i].kernel)->order_of_sums == order);
    }
    /* None of that order fits into the workspace's limit: any other is better than none. */
    for (int i = 0; i < list->count && some; i++) {
        struct dc_candidate *c = &list->items[i];
        if (c->refused == NULL && dc_solver_of(c->kernel)->order_of_sums != order) {
            c->refused = "its sums have another order than those of the family that suits the "
                         "layer in training";
        }
    }
    dc_free((doconv_context *)ctx, first.items);
    sort(list);
}

doconv_status dc_enumerate(doconv_context *ctx, const struct dc_problem *asked,
                           const doconv_plan_options *options, struct dc_candidate_list *list)
{
    *list = (struct dc_candidate_list){0};
    struct dc_problem problem = *asked;
    problem.fresh_weights = options != NULL && options->fresh_weights != 0;
    fill(ctx, &problem, options, list);
    if (problem.fresh_weights && !list->out_of_memory) {
        keep_order(ctx, &problem, options, list);
    }
    if (list->out_of_memory) {
        dc_free(ctx, list->items);
        *list = (struct dc_candidate_list){0};
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "candidates: out of memory");
    }
    return DOCONV_OK;
}

/* ---- the public list ---- */

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
    doconv_status status = dc_problem_create(context, desc, &problem);
    if (status == DOCONV_OK) {
        status = dc_plan_check_plain(context, &problem);
    }
    if (status == DOCONV_OK) {
        status = dc_plan_options_read(context, options, &own);
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
        .kernel = c->kernel->name,
        .refused = c->refused,
        .estimated_seconds = c->refused == NULL ? c->estimated_seconds : 0.0,
        .workspace_size = c->workspace_size,
        .packed_size = c->packed_size,
    };
    return DC_WRITE_STRUCT(list->ctx, doconv_candidate_info, &result, info);
}

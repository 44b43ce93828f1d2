/* SPDX-License-Identifier: MIT */
/*
 * Candidates of a problem: every solver of its operation x every kernel of the solver's family, in
 * the order of their estimates.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* Most error amplification that an accuracy class takes: direct kernels have 1. */
static float most_amplification(doconv_accuracy accuracy)
{
    switch (accuracy) {
    case DOCONV_ACCURACY_STRICT:
        return 1.0f;
    case DOCONV_ACCURACY_FAST:
        return INFINITY;
    default:
        return 4.0f;
    }
}

struct dc_weight_view dc_weight_view(const struct dc_problem *p, const float *weight)
{
    const int64_t taps = p->desc.kh * p->desc.kw, filter = p->group_cin * taps;
    return (struct dc_weight_view){
        .data = weight,
        .group = p->group_cout * filter,
        .out = filter,
        .in = taps,
        .row = p->desc.kw,
        .column = 1,
    };
}

int64_t dc_cut_outputs(int threads, int64_t units, int64_t blocks)
{
    int64_t best = 1;
    double best_balance = 0.0;
    for (int64_t cuts = 1; cuts <= blocks && best_balance < 0.9; cuts++) {
        const int64_t cut = units * divide_up(blocks, divide_up(blocks, cuts));
        const double balance = (double)cut / (double)(divide_up(cut, threads) * threads);
        if (balance > best_balance) {
            best_balance = balance;
            best = cuts;
        }
    }
    return divide_up(blocks, best);
}

/* ---- order ---- */

static int by_estimate(const void *a, const void *b)
{
    const struct dc_candidate *x = a, *y = b;
    if ((x->refused != NULL) != (y->refused != NULL)) {
        return x->refused != NULL ? 1 : -1;
    }
    if (x->refused != NULL && x->text[0] == '\0') {
        return 0; /* nobody asks for texts: their order doesn't matter */
    }
    if (x->refused == NULL && x->estimated_seconds != y->estimated_seconds) {
        return x->estimated_seconds < y->estimated_seconds ? -1 : 1;
    }
    /* A total order: the same list on every C library. */
    struct dc_candidate a_described = *x, b_described = *y;
    dc_candidate_describe(&a_described);
    dc_candidate_describe(&b_described);
    return strcmp(a_described.text, b_described.text);
}

static void sort(struct dc_candidate_list *list)
{
    if (list->count != 0) {
        qsort(list->items, (size_t)list->count, sizeof *list->items, by_estimate);
    }
}

/* The one that sort() would put first, there. A plan asks for no more, and sorting takes longer. */
static void put_best_first(struct dc_candidate_list *list)
{
    int best = 0;
    for (int i = 1; i < list->count; i++) {
        if (by_estimate(&list->items[i], &list->items[best]) < 0) {
            best = i;
        }
    }
    if (best != 0) {
        const struct dc_candidate first = list->items[best];
        list->items[best] = list->items[0];
        list->items[0] = first;
    }
}

static bool any_accepted(const struct dc_candidate_list *list)
{
    return list->count != 0 && list->items[0].refused == NULL;
}

/* ---- enumeration ---- */

/* Does a caller's variant, a full text or a kernel's name, name this? */
static bool named(const char *variant, struct dc_candidate *c)
{
    if (variant == NULL) {
        return true;
    }
    return dc_candidate_is(c, variant) ||
           (c->kernel != NULL && strcmp(variant, c->kernel->name) == 0);
}

static void refuse(const struct dc_problem *problem, const doconv_plan_options *options,
                   struct dc_candidate *c)
{
    const char *variant = options != NULL ? options->variant : NULL;
    const size_t workspace =
        options != NULL && options->workspace_limit != 0 ? options->workspace_limit : SIZE_MAX;
    const size_t packed =
        options != NULL && options->packed_limit != 0 ? options->packed_limit : SIZE_MAX;
    if (c->refused != NULL) {
        return;
    }
    if (c->error_amplification > most_amplification(problem->desc.accuracy)) {
        c->refused = "its rounding is more than the accuracy class allows";
    } else if (!named(variant, c)) {
        c->refused = "another variant is asked for";
    } else if (c->workspace_size > workspace) {
        c->refused = "it needs more workspace than the limit";
    } else if (c->packed_size > packed) {
        c->refused = "its packed weights take more than the limit";
    }
}

/* What a solver makes of a kernel, or (NULL) without one. */
static void ask(const doconv_context *ctx, const struct dc_problem *problem,
                const doconv_plan_options *options, const struct dc_solver *solver,
                const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const int first = list->count;
    const char *refused = "this CPU or the ISA cap does not allow it";
    if (kernel == NULL || dc_isa_usable(kernel->isa, ctx->isa)) {
        refused = solver->enumerate(ctx, problem, kernel, list);
    }
    if (refused != NULL) {
        struct dc_candidate none = {.solver = solver, .kernel = kernel, .refused = refused};
        dc_candidate_append(ctx, list, &none);
    }
    for (int i = first; i < list->count; i++) {
        list->items[i].solver = solver;
        refuse(problem, options, &list->items[i]);
    }
}

/*
 * Scalar loops stand behind every vector kernel: their estimate leaves out what calls cost, which
 * decides between small problems, and what tasks of a few sums gain from many threads is little.
 * They stay near enough to be measured.
 */
static void put_reference_behind(struct dc_candidate_list *list)
{
    double best = INFINITY;
    for (int i = 0; i < list->count; i++) {
        const struct dc_candidate *c = &list->items[i];
        if (c->refused == NULL && c->solver->family != DC_FAMILY_REFERENCE) {
            best = fmin(best, c->estimated_seconds);
        }
    }
    for (int i = 0; i < list->count && best != INFINITY; i++) {
        struct dc_candidate *c = &list->items[i];
        if (c->solver->family == DC_FAMILY_REFERENCE) {
            c->estimated_seconds = fmax(c->estimated_seconds, 2.0 * best);
        }
    }
}

static void fill(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, struct dc_candidate_list *list)
{
    list->expected = problem->operation == DC_CONVOLUTION ? 64 : 4;
    for (const struct dc_solver *const *next = ctx->solvers; *next != NULL; next++) {
        const struct dc_solver *solver = *next;
        if (solver->operation != problem->operation) {
            continue;
        }
        if (solver->family == DC_FAMILY_NONE) {
            ask(ctx, problem, options, solver, NULL, list);
            continue;
        }
        for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
            if ((*row)->family == solver->family) {
                ask(ctx, problem, options, solver, *row, list);
            }
        }
    }
    put_reference_behind(list);
    put_best_first(list);
}

/* The order of sums of the best candidate on one thread, whatever workspace it needs. */
static int order_of_one_thread(const doconv_context *ctx, const struct dc_problem *problem,
                               const doconv_plan_options *options, struct dc_candidate_list *list)
{
    struct dc_problem alone = *problem;
    doconv_plan_options unlimited = {.size = sizeof unlimited};
    if (options != NULL) {
        unlimited = *options;
    }
    if (problem->threads == 1 && unlimited.workspace_limit == 0) {
        return any_accepted(list) ? list->items[0].order_of_sums : -1;
    }
    struct dc_candidate_list first = {0};
    alone.threads = 1;
    unlimited.workspace_limit = SIZE_MAX;
    fill(ctx, &alone, &unlimited, &first);
    const int order = any_accepted(&first) ? first.items[0].order_of_sums : -1;
    list->out_of_memory = list->out_of_memory || first.out_of_memory;
    dc_free((doconv_context *)ctx, first.items);
    return order;
}

/*
 * Refuses what adds in another order than the candidate that is the best on one thread. strictly:
 * if all are refused then, too; else, where the workspace has a limit, another order is better than
 * none. Returns whether it refused any, and leaves them where they are in the list.
 */
static bool keep_order(const doconv_context *ctx, const struct dc_problem *problem,
                       const doconv_plan_options *options, bool strictly,
                       struct dc_candidate_list *list)
{
    const int order = order_of_one_thread(ctx, problem, options, list);
    bool some = strictly, refused = false;
    for (int i = 0; i < list->count; i++) {
        some = some || (list->items[i].refused == NULL && list->items[i].order_of_sums == order);
    }
    for (int i = 0; i < list->count && some; i++) {
        struct dc_candidate *c = &list->items[i];
        if (c->refused == NULL && c->order_of_sums != order) {
            c->refused = "its sums have another order than those of the family that suits the "
                         "problem on one thread";
            refused = true;
        }
    }
    return refused;
}

/*
 * The default limit of workspace, in bytes: a few times what caches hold, or what the most frugal
 * kernel needs. Estimates find whole images in a strip as fast as a few rows, which is not worth
 * gigabytes. It comes after the order of sums is known, which it must not change.
 */
static size_t default_limit(const struct dc_candidate_list *list)
{
    const size_t caches = 4 * (size_t)dc_cpu_probe()->l3_bytes;
    size_t frugal = SIZE_MAX;
    for (int i = 0; i < list->count; i++) {
        const struct dc_candidate *c = &list->items[i];
        if (c->refused == NULL && !dc_candidate_is_plain(c) && c->workspace_size < frugal) {
            frugal = c->workspace_size;
        }
    }
    const size_t limit = most_bytes((size_t)64 << 20, caches);
    return frugal == SIZE_MAX ? limit : most_bytes(limit, frugal);
}

/* Likewise. */
static bool keep_default_limit(struct dc_candidate_list *list)
{
    const size_t limit = default_limit(list);
    bool refused = false;
    for (int i = 0; i < list->count; i++) {
        struct dc_candidate *c = &list->items[i];
        if (c->refused == NULL && c->workspace_size > limit) {
            c->refused = "it needs more workspace than the default limit";
            refused = true;
        }
    }
    return refused;
}

doconv_status dc_enumerate_quickly(doconv_context *ctx, const struct dc_problem *problem,
                                   const doconv_plan_options *options,
                                   struct dc_candidate_list *list)
{
    *list = (struct dc_candidate_list){0};
    fill(ctx, problem, options, list);
    /* A layer's composition is chosen for speed, as the kernels of inference are. */
    const bool trains =
        (problem->operation != DC_CONVOLUTION && !dc_is_layer(problem->operation)) ||
        problem->fresh_weights;
    /* A variant that is asked for is the caller's choice. */
    const bool keeps = ctx->deterministic && (options == NULL || options->variant == NULL);
    bool refused = false;
    if ((trains || keeps) && !list->out_of_memory) {
        refused = keep_order(ctx, problem, options, keeps, list);
    }
    if (options == NULL || options->workspace_limit == 0) {
        refused = keep_default_limit(list) || refused;
    }
    if (refused) {
        put_best_first(list);
    }
    if (list->out_of_memory) {
        dc_free(ctx, list->items);
        *list = (struct dc_candidate_list){0};
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "candidates: out of memory");
    }
    return DOCONV_OK;
}

doconv_status dc_enumerate(doconv_context *ctx, const struct dc_problem *problem,
                           const doconv_plan_options *options, struct dc_candidate_list *list)
{
    const doconv_status status = dc_enumerate_quickly(ctx, problem, options, list);
    if (status == DOCONV_OK) {
        dc_candidates_describe(list);
        sort(list);
    }
    return status;
}

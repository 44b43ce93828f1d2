/* SPDX-License-Identifier: MIT */
/*
 * Choosing a candidate: forced > table > cache > measured > inferred from what the cache has for
 * others > estimate.
 */
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/table.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/memo.h"
#include "plan/plan.h"
#include "plan/problem.h"

/* Why the variant that is asked for can't be had. */
static doconv_status refuse_forced(doconv_context *ctx, const char *forced,
                                   struct dc_candidate_list *list)
{
    dc_candidates_describe(list);
    for (int i = 0; i < list->count; i++) {
        const struct dc_candidate *c = &list->items[i];
        const char *kernel = c->kernel != NULL ? c->kernel->name : "";
        if (strcmp(kernel, forced) == 0 || strcmp(c->text, forced) == 0) {
            return dc_fail(ctx, DOCONV_NOT_FOUND, "variant: \"%.100s\" can't take this problem: %s",
                           forced, c->refused);
        }
    }
    return dc_fail(ctx, DOCONV_NOT_FOUND, "variant: no candidate is called \"%.100s\"", forced);
}

/* The table's choice, if it has one for this key that is a candidate here; else NULL. */
static const struct dc_candidate *find_in_table(const doconv_context *ctx, const char *key,
                                                struct dc_candidate_list *list)
{
    size_t count;
    const doconv_table_row *rows = dc_table_find(&ctx->table, key, &count);
    for (size_t i = 0; i < count; i++) {
        if (rows[i].isa != DOCONV_ISA_DEFAULT &&
            !dc_isa_usable((enum dc_isa)rows[i].isa, ctx->isa)) {
            continue;
        }
        const struct dc_candidate *found = dc_candidate_find(list, rows[i].variant);
        if (found != NULL) {
            return found;
        }
        dc_log(ctx, DOCONV_LOG_WARNING, "table: \"%.120s\" is no candidate of %s", rows[i].variant,
               key);
    }
    return NULL;
}

/* What a choice may rest on. */
struct means {
    bool off;      /* neither the cache nor a measurement */
    bool recalls;  /* the cache's entry of the key */
    bool measures; /* the candidates, where there is none */
    bool infers;   /* entries of other keys, where neither gives a choice */
    bool only;     /* no estimate */
};

static struct means means_of(const doconv_context *ctx, const doconv_plan_options *options)
{
    const doconv_rigor rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    const bool by_mode = rigor == DOCONV_RIGOR_DEFAULT;
    const doconv_tune_mode mode = by_mode ? ctx->tune : DOCONV_TUNE_DEFAULT;
    const bool measures =
        rigor == DOCONV_RIGOR_MEASURE || mode == DOCONV_TUNE_TUNE || mode == DOCONV_TUNE_FORCE;
    const bool only = mode == DOCONV_TUNE_ONLY;
    return (struct means){
        .off = rigor == DOCONV_RIGOR_ESTIMATE || mode == DOCONV_TUNE_OFF,
        .recalls = mode != DOCONV_TUNE_FORCE,
        .measures = measures && ctx->advisor.measure != NULL,
        .infers = !measures && (!only || (options != NULL && options->fallback != 0)),
        .only = only,
    };
}

/* The cache's choice, if it has one for this key that is a candidate here; else NULL. */
static const struct dc_candidate *find_in_cache(const doconv_context *ctx, const char *key,
                                                bool measures, struct dc_candidate_list *list)
{
    const struct dc_advisor *advisor = &ctx->advisor;
    char variant[DC_VARIANT_SIZE];
    if (advisor->lookup == NULL ||
        !advisor->lookup(advisor->self, key, measures, variant, sizeof variant)) {
        return NULL;
    }
    const struct dc_candidate *found = dc_candidate_find(list, variant);
    if (found == NULL) {
        dc_log(ctx, DOCONV_LOG_WARNING, "cache: \"%s\" is no candidate of %s any more", variant,
               key);
    }
    return found;
}

static void take(struct dc_choice *choice, const struct dc_candidate *found, const char *origin)
{
    choice->candidate = *found;
    choice->origin = origin;
}

/*
 * Takes a measurement's choice, and where it fails, with a line in the log, what the cache has: a
 * result that was found wanting is better than none. UNSUPPORTED: the measurement did not fail, and
 * found every variant wrong.
 */
static doconv_status measure(const doconv_plan *plan, const doconv_plan_options *options,
                             const char *key, struct dc_candidate_list *list,
                             struct dc_choice *choice)
{
    doconv_context *ctx = plan->ctx;
    const struct dc_advisor *advisor = &ctx->advisor;
    char variant[DC_VARIANT_SIZE];
    const doconv_status status =
        advisor->measure(advisor->self, &plan->problem, options, variant, sizeof variant);
    if (status == DOCONV_UNSUPPORTED) {
        return status;
    }
    if (status != DOCONV_OK) {
        char detail[256];
        doconv_context_last_error(ctx, detail, sizeof detail);
        dc_log(ctx, DOCONV_LOG_WARNING, "tune: %s: %.200s; planned without: %s",
               doconv_status_string(status), detail, key);
    }
    const struct dc_candidate *found =
        status == DOCONV_OK ? dc_candidate_find(list, variant) : NULL;
    const char *origin = "measured";
    if (found == NULL) {
        found = find_in_cache(ctx, key, false, list);
        origin = "cache";
    }
    if (found != NULL) {
        take(choice, found, origin);
    }
    return DOCONV_OK;
}

/*
 * The choice of the cache, or, as far as the means go, of a measurement or of what the cache has
 * for others; it stays as it is where there is none. *lasting: it holds until the advisor makes
 * another. NOT_FOUND if nothing else is allowed.
 */
static doconv_status ask_advisor(const doconv_plan *plan, const doconv_plan_options *options,
                                 const struct means *means, const char *key,
                                 struct dc_candidate_list *list, struct dc_choice *choice,
                                 bool *lasting)
{
    doconv_context *ctx = plan->ctx;
    const struct dc_advisor *advisor = &ctx->advisor;
    const struct dc_candidate *found =
        means->recalls ? find_in_cache(ctx, key, means->measures, list) : NULL;
    if (found != NULL) {
        take(choice, found, "cache");
        return DOCONV_OK;
    }
    *lasting = !means->measures;
    if (means->measures) {
        return measure(plan, options, key, list, choice);
    }
    struct dc_hint hint;
    if (means->infers && advisor->infer != NULL &&
        advisor->infer(advisor->self, &plan->problem, options, list, &hint)) {
        take(choice, hint.candidate, hint.origin);
        memcpy(choice->source, hint.key, strlen(hint.key) + 1);
        return DOCONV_OK;
    }
    return means->only ? dc_fail(ctx, DOCONV_NOT_FOUND,
                                 "tune mode only: the cache has no choice for %.180s", key)
                       : DOCONV_OK;
}

/* Nothing takes the problem, within the limits that the caller sets. */
static doconv_status refuse_all(doconv_context *ctx, const doconv_plan_options *options)
{
    const size_t workspace = options != NULL ? options->workspace_limit : 0,
                 packed = options != NULL ? options->packed_limit : 0;
    char limits[128] = "";
    if (workspace != 0) {
        snprintf(limits, sizeof limits, " within a workspace of %zu bytes", workspace);
    }
    if (packed != 0) {
        const size_t used = strlen(limits);
        snprintf(limits + used, sizeof limits - used, "%s packed weights of %zu bytes",
                 used != 0 ? " and" : " within", packed);
    }
    return dc_fail(ctx, DOCONV_UNSUPPORTED, "no kernel takes this problem%s%s", limits,
                   limits[0] != '\0' && ctx->deterministic ? ", with its order of sums kept" : "");
}

static doconv_status choose(const doconv_plan *plan, const doconv_plan_options *options,
                            struct dc_candidate_list *list, struct dc_choice *choice, bool *lasting)
{
    doconv_context *ctx = plan->ctx;
    const char *forced = options != NULL ? options->variant : NULL;
    const struct means means = means_of(ctx, options);
    if (list->count == 0 || list->items[0].refused != NULL) {
        if (forced != NULL) {
            return refuse_forced(ctx, forced, list);
        }
        return refuse_all(ctx, options);
    }
    *lasting = forced == NULL;
    take(choice, &list->items[0], forced != NULL ? "forced" : "estimate");
    const bool estimates = options != NULL && options->rigor == DOCONV_RIGOR_ESTIMATE;
    if (forced != NULL || estimates || (means.off && ctx->table.count == 0)) {
        return DOCONV_OK;
    }
    char key[DC_KEY_SIZE];
    dc_plan_key(ctx, &plan->problem, options, key, sizeof key);
    const struct dc_candidate *found = find_in_table(ctx, key, list);
    if (found != NULL) {
        take(choice, found, "table");
        return DOCONV_OK;
    }
    return means.off ? DOCONV_OK : ask_advisor(plan, options, &means, key, list, choice, lasting);
}

/* Chooses among all candidates, and notes a choice that lasts. */
static doconv_status choose_anew(const doconv_plan *plan, const doconv_plan_options *options,
                                 const struct dc_memo_key *key, struct dc_choice *choice)
{
    struct dc_candidate_list list;
    bool lasting = false;
    doconv_status status = dc_enumerate_quickly(plan->ctx, &plan->problem, options, &list);
    if (status != DOCONV_OK) {
        return status;
    }
    status = choose(plan, options, &list, choice, &lasting);
    if (status == DOCONV_OK) {
        dc_candidate_describe(&choice->candidate);
        if (lasting) {
            dc_memo_keep(plan->ctx, key, choice);
        }
    }
    dc_free(plan->ctx, list.items);
    return status;
}

doconv_status dc_plan_choose(doconv_plan *plan, const doconv_plan_options *options)
{
    struct dc_memo_key key;
    struct dc_choice choice;
    choice.source[0] = '\0';
    dc_memo_key(plan->ctx, &plan->problem, options, &key);
    const bool forced = options != NULL && options->variant != NULL;
    if (forced || !dc_memo_find(plan->ctx, &key, &choice)) {
        const doconv_status status = choose_anew(plan, options, &key, &choice);
        if (status != DOCONV_OK) {
            return status;
        }
    }
    plan->candidate = choice.candidate;
    plan->origin = choice.origin;
    const size_t length = strlen(choice.source);
    if (length != 0) {
        plan->source = dc_alloc(plan->ctx, length + 1);
        if (plan->source == NULL) {
            return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
        }
        memcpy(plan->source, choice.source, length + 1);
    }
    return DOCONV_OK;
}

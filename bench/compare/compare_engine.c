/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <stdio.h>
#include <string.h>

/* ---- layers ---- */

/* The tuner's choice, from the cache where it is known. */
static int tune(struct library *library, const union descriptor *desc,
                char variant[DOCONV_VARIANT_TEXT_SIZE], char *why)
{
    union sized options = {{0}}, summary = {{0}};
    doconv_tune_report *report = NULL;
    options.size = size_to_try(library, TUNE_OPTIONS);
    doconv_status status;
    do {
        status = library->tune(library->context, desc, NULL, &options, &report);
    } while (try_smaller(library, TUNE_OPTIONS, status, &options.size));
    if (status != DOCONV_OK) {
        return explain_failure(library, "tuning", status, why);
    }
    summary.size = size_to_try(library, TUNE_SUMMARY);
    do {
        status = library->tune_report_summary(report, &summary);
    } while (try_smaller(library, TUNE_SUMMARY, status, &summary.size));
    if (status == DOCONV_OK) {
        snprintf(variant, DOCONV_VARIANT_TEXT_SIZE, "%s", summary.tune_summary.variant);
    }
    library->tune_report_destroy(report);
    return status == DOCONV_OK ? 0 : explain_failure(library, "tuning", status, why);
}

static int create_plan(struct library *library, const union descriptor *desc, bool tuned,
                       const char *variant, struct engine *e, char *why)
{
    char tuned_variant[DOCONV_VARIANT_TEXT_SIZE];
    const bool forced = variant != NULL;
    if (!forced && tuned) {
        if (tune(library, desc, tuned_variant, why) != 0) {
            return -1;
        }
        variant = tuned_variant;
    }
    union sized options = {{0}};
    options.plan_options.rigor = DOCONV_RIGOR_ESTIMATE;
    options.plan_options.variant = variant;
    options.size = size_to_try(library, PLAN_OPTIONS);
    doconv_status status;
    do {
        status = library->plan_create(library->context, desc, &options, &e->plan);
    } while (try_smaller(library, PLAN_OPTIONS, status, &options.size));
    if (status != DOCONV_OK) {
        explain_failure(library, "the plan", status, why);
        return forced ? 1 : -1;
    }
    snprintf(e->variant, sizeof e->variant, "%s", library->plan_variant(e->plan));
    e->workspace_size = library->plan_workspace_size(e->plan);
    return 0;
}

/* ---- steps ---- */

bool can_train(const struct library *library)
{
    return library->training_create != NULL && library->training_destroy != NULL &&
           library->training_workspace_size != NULL && library->training_saved_size != NULL &&
           library->training_forward != NULL && library->training_backward != NULL;
}

static int create_training(struct library *library, const union descriptor *desc, bool tuned,
                           struct engine *e, char *why)
{
    union sized options = {{0}};
    options.training_options.rigor = tuned ? DOCONV_RIGOR_MEASURE : DOCONV_RIGOR_ESTIMATE;
    options.size = size_to_try(library, TRAINING_OPTIONS);
    doconv_status status;
    do {
        status = library->training_create(library->context, desc, &options, &e->training);
    } while (try_smaller(library, TRAINING_OPTIONS, status, &options.size));
    if (status != DOCONV_OK) {
        return explain_failure(library, "training", status, why);
    }
    e->workspace_size = library->training_workspace_size(e->training);
    e->saved_size = library->training_saved_size(e->training);
    return 0;
}

static void *saved_memory(const struct engine *e, const struct buffers *b)
{
    return e->saved_size > 0 ? b->saved : NULL;
}

static doconv_status run_forward(const struct engine *e, const struct buffers *b)
{
    return e->library->training_forward(e->training, &e->parameters, b->tensor[SRC], b->tensor[DST],
                                        saved_memory(e, b), b->workspace, e->workspace_size);
}

static doconv_status run_backward(const struct engine *e, const struct buffers *b)
{
    return e->library->training_backward(e->training, &e->parameters, b->tensor[SRC],
                                         b->tensor[GRAD_DST], saved_memory(e, b), &e->gradients,
                                         b->workspace, e->workspace_size);
}

/* Finds the sizes of the structs of a step, by running one. */
static int ready_step(struct engine *e, const struct buffers *b, char *why)
{
    struct library *library = e->library;
    e->parameters.parameters.weight = b->tensor[WEIGHT];
    e->parameters.parameters.d = b->tensor[D];
    e->gradients.gradients.src = b->tensor[GRAD_SRC];
    e->gradients.gradients.weight = b->tensor[GRAD_WEIGHT];
    e->gradients.gradients.d = b->tensor[GRAD_D];
    e->parameters.size = size_to_try(library, PARAMETERS);
    e->gradients.size = size_to_try(library, GRADIENTS);
    doconv_status status;
    do {
        status = run_forward(e, b);
    } while (try_smaller(library, PARAMETERS, status, &e->parameters.size));
    if (status != DOCONV_OK) {
        return explain_failure(library, "forward", status, why);
    }
    do {
        status = run_backward(e, b);
    } while (try_smaller(library, GRADIENTS, status, &e->gradients.size));
    return status == DOCONV_OK ? 0 : explain_failure(library, "backward", status, why);
}

/* ---- both ---- */

int create_engine(struct library *library, const struct problem *p, bool tuned, const char *variant,
                  struct engine *e, char *why)
{
    memset(e, 0, sizeof *e);
    e->library = library;
    union descriptor desc;
    if (describe_problem(library, p, &desc, why) != 0) {
        return -1;
    }
    return p->kind == LAYER ? create_plan(library, &desc, tuned, variant, e, why)
                            : create_training(library, &desc, tuned, e, why);
}

int ready_engine(struct engine *e, const struct problem *p, const struct buffers *b, char *why)
{
    if (p->kind != LAYER) {
        return ready_step(e, b, why);
    }
    const doconv_status status =
        e->library->weights_create(e->plan, b->tensor[WEIGHT], NULL, &e->weights);
    return status == DOCONV_OK ? 0 : explain_failure(e->library, "the weights", status, why);
}

void destroy_engine(struct engine *e)
{
    if (e->weights != NULL) {
        e->library->weights_destroy(e->weights);
    }
    if (e->plan != NULL) {
        e->library->plan_destroy(e->plan);
    }
    if (e->training != NULL) {
        e->library->training_destroy(e->training);
    }
    memset(e, 0, sizeof *e);
}

doconv_status run_engine(const struct engine *e, const struct buffers *b)
{
    if (e->plan != NULL) {
        return e->library->execute(e->plan, e->weights, b->tensor[SRC], NULL, b->tensor[DST],
                                   b->workspace, e->workspace_size);
    }
    const doconv_status status = run_forward(e, b);
    return status == DOCONV_OK ? run_backward(e, b) : status;
}

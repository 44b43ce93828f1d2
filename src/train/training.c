/* SPDX-License-Identifier: MIT */
/*
 * A training step of a layer. Plain and by kernel composition it is three convolutions (forward;
 * the input's gradient; the weight's) around the weight as it is now, which a DO-Conv layer folds
 * from W and D first and hands its gradient back through; by feature composition it is
 * src/feature.c's.
 */
#include <inttypes.h>
#include <string.h>

#include <doconv/doconv_train.h>

#include "base/context.h"
#include "base/log.h"
#include "base/overlap.h"
#include "compose/feature.h"
#include "compose/fold.h"
#include "plan/fresh.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/input_gradient.h"
#include "train/weight_gradient.h"

struct doconv_training {
    doconv_context *ctx;
    struct dc_problem problem;  /* the plain convolution */
    doconv_fold_desc fold;      /* d_mul 0: the layer is a plain one */
    struct dc_feature *feature; /* feature composition; then forward and input are NULL */
    doconv_plan *forward;
    struct dc_input_gradient *input;
    struct dc_weight_gradient *weight;
    size_t weight_size; /* of the folded weight in the workspace: 0 for a plain layer */
    /* parts_size 0: the gradient of the folded weight isn't handed back in parts */
    size_t fold_size, parts_size;
    size_t workspace_size; /* without the bytes that align it */
};

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Does every filter meet the channels of D that it reads? Feature composition knows no others. */
static bool is_paper(const doconv_fold_desc *f)
{
    const int64_t group_cin = f->cin / f->groups, group_cout = f->cout / f->groups;
    for (int64_t o = 0; o < f->cout && f->mapping != DOCONV_MAPPING_PAPER && f->groups != 1; o++) {
        for (int64_t i = 0; i < group_cin; i++) {
            const int64_t channel = f->mapping == DOCONV_MAPPING_PYTORCH
                                        ? (o * group_cin + i) % f->cin
                                        : (i * f->cout + o) / group_cout;
            if (channel != o / group_cout * group_cin + i) {
                return false;
            }
        }
    }
    return true;
}

static doconv_status check(doconv_context *ctx, const doconv_conv_desc *desc,
                           const doconv_training_options *options)
{
    if (options != NULL && options->size != sizeof *options) {
        return dc_fail(
            ctx, DOCONV_MISMATCH,
            "options.size: %zu is not %zu, the size of doconv_training_options in this version",
            options->size, sizeof *options);
    }
    if (desc == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "desc: NULL");
    }
    if (desc->size != sizeof *desc) {
        return dc_fail(ctx, DOCONV_MISMATCH,
                       "desc.size: %zu is not %zu, the size of doconv_conv_desc in this version",
                       desc->size, sizeof *desc);
    }
    const int composition = (int)desc->composition;
    if (desc->d_mul < 0 || composition < 0 || composition > DOCONV_COMPOSITION_FEATURE ||
        (desc->d_mul > 0) != (composition != DOCONV_COMPOSITION_NONE)) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "composition: %d does not go with d_mul = %" PRId64, composition,
                       desc->d_mul);
    }
    const struct {
        const char *name;
        int value;
    } post_operations[] = {
        {"residual", desc->residual}, {"relu", desc->relu}, {"clamp", desc->clamp}};
    for (size_t i = 0; i < sizeof post_operations / sizeof post_operations[0]; i++) {
        if (post_operations[i].value != 0) {
            return dc_fail(ctx, DOCONV_UNSUPPORTED,
                           "%s: post-operations are not part of a layer in training",
                           post_operations[i].name);
        }
    }
    return DOCONV_OK;
}

/* The convolutions of a plain layer, and of kernel composition. */
static doconv_status create_convolutions(doconv_training *t, const doconv_plan_options *options)
{
    doconv_context *ctx = t->ctx;
    doconv_status status = dc_plan_create(ctx, &t->problem.desc, options, &t->forward);
    if (status == DOCONV_OK) {
        status = dc_input_gradient_create(ctx, &t->problem, options, &t->input);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const bool composed = t->fold.d_mul != 0;
    if (composed) {
        t->weight_size = aligned(t->problem.weight_bytes);
        t->fold_size = aligned(dc_fold_workspace_size(ctx, &t->fold));
    }
    const size_t forward = dc_fresh_workspace_size(t->forward, composed ? &t->fold : NULL);
    if (composed) {
        t->parts_size = aligned(dc_weight_gradient_fold_workspace_size(t->weight, &t->fold));
    }
    const size_t weight =
        larger(aligned(dc_weight_gradient_workspace_size(t->weight)), t->parts_size);
    const size_t backward = larger(dc_input_gradient_workspace_size(t->input), weight);
    /*
     * Folding, and handing its gradient back, are over before (or begin after) the others need
     * room; only the weight or its gradient stays.
     */
    t->workspace_size = t->weight_size + larger(larger(forward, backward), t->fold_size);
    return DOCONV_OK;
}

static doconv_status create(doconv_training *t, const doconv_conv_desc *desc,
                            const doconv_training_options *options)
{
    doconv_context *ctx = t->ctx;
    doconv_conv_desc plain = *desc;
    plain.d_mul = 0;
    plain.composition = DOCONV_COMPOSITION_NONE;
    doconv_status status = dc_problem_create(ctx, &plain, &t->problem);
    if (status != DOCONV_OK) {
        return status;
    }
    const doconv_plan_options plans = {
        .size = sizeof plans,
        .rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT,
        .fresh_weights = 1,
    };
    status = dc_plan_options_check(ctx, &plans);
    if (status == DOCONV_OK && desc->d_mul > 0) {
        t->fold = (doconv_fold_desc){
            .size = sizeof t->fold,
            .cout = desc->cout,
            .cin = desc->cin,
            .kh = desc->kh,
            .kw = desc->kw,
            .groups = desc->groups,
            .d_mul = desc->d_mul,
            .mapping = options != NULL ? options->mapping : DOCONV_MAPPING_PAPER,
            .add_identity = options != NULL ? options->add_identity : 0,
        };
        status = dc_fold_check(ctx, &t->fold);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    status = dc_weight_gradient_create(ctx, &t->problem, &t->weight);
    if (status != DOCONV_OK) {
        return status;
    }
    if (desc->composition != DOCONV_COMPOSITION_FEATURE) {
        return create_convolutions(t, &plans);
    }
    if (!is_paper(&t->fold)) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "mapping: feature composition is defined for the paper's only, and %s "
                       "differs from it for this layer",
                       t->fold.mapping == DOCONV_MAPPING_PYTORCH ? "pytorch" : "tensorflow");
    }
    status = dc_feature_create(ctx, &t->problem, t->fold.d_mul, t->fold.add_identity, &t->feature);
    t->workspace_size = status == DOCONV_OK ? dc_feature_workspace_size(t->feature) : 0;
    return status;
}

doconv_status doconv_training_create(doconv_context *context, const doconv_conv_desc *desc,
                                     const doconv_training_options *options,
                                     doconv_training **training)
{
    if (training != NULL) {
        *training = NULL;
    }
    if (context == NULL || training == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "training");
    }
    doconv_status status = check(context, desc, options);
    if (status != DOCONV_OK) {
        return status;
    }
    doconv_training *result = dc_alloc(context, sizeof *result);
    if (result == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *result = (doconv_training){.ctx = context};
    status = create(result, desc, options);
    if (status != DOCONV_OK) {
        doconv_training_destroy(result);
        return status;
    }
    *training = result;
    return DOCONV_OK;
}

void doconv_training_destroy(doconv_training *training)
{
    if (training != NULL) {
        dc_feature_destroy(training->feature);
        doconv_plan_destroy(training->forward);
        dc_input_gradient_destroy(training->input);
        dc_weight_gradient_destroy(training->weight);
        dc_free(training->ctx, training);
    }
}

size_t doconv_training_workspace_size(const doconv_training *training)
{
    return training == NULL || training->workspace_size == 0 || training->problem.empty
               ? 0
               : training->workspace_size + 64;
}

size_t doconv_training_saved_size(const doconv_training *training)
{
    return training != NULL && training->weight_size != 0 && !training->problem.empty
               ? training->problem.weight_bytes
               : 0;
}

/* What both passes check; *aligned_workspace: the workspace from its first 64-byte boundary on. */
static doconv_status check_call(const doconv_training *t, const doconv_parameters *parameters,
                                void *workspace, size_t workspace_size, char **aligned_workspace)
{
    doconv_context *ctx = t->ctx;
    if (parameters == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "parameters: NULL");
    }
    if (parameters->size != sizeof *parameters) {
        return dc_fail(
            ctx, DOCONV_MISMATCH,
            "parameters.size: %zu is not %zu, the size of doconv_parameters in this version",
            parameters->size, sizeof *parameters);
    }
    const bool has_d = t->fold.d_mul != 0, has_bias = t->problem.desc.has_bias != 0;
    if (parameters->weight == NULL || (parameters->d != NULL) != has_d ||
        (parameters->bias != NULL) != has_bias) {
        return dc_fail(
            ctx, DOCONV_INVALID_ARGUMENT, "parameters.%s",
            parameters->weight == NULL ? "weight: NULL"
            : (parameters->d != NULL) != has_d
                ? (has_d ? "d: NULL, but the layer has a D" : "d: given, but the layer has none")
            : has_bias ? "bias: NULL, but the descriptor has one"
                       : "bias: given, but the descriptor has none");
    }
    const size_t needed = doconv_training_workspace_size(t);
    if (needed != 0 && (workspace == NULL || workspace_size < needed)) {
        return dc_fail(ctx, DOCONV_WORKSPACE_TOO_SMALL, "workspace: %zu bytes of %zu",
                       workspace == NULL ? 0 : workspace_size, needed);
    }
    *aligned_workspace =
        needed != 0 ? (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64 : NULL;
    return DOCONV_OK;
}

/* Bytes of the parameters and of their gradients. */
static size_t weight_bytes(const doconv_training *t)
{
    const size_t taps = (size_t)(t->problem.desc.kh * t->problem.desc.kw);
    return t->fold.d_mul != 0 ? t->problem.weight_bytes / taps * (size_t)t->fold.d_mul
                              : t->problem.weight_bytes;
}

static size_t d_bytes(const doconv_training *t)
{
    const doconv_conv_desc *d = &t->problem.desc;
    return (size_t)(d->cin * d->kh * d->kw * t->fold.d_mul) * sizeof(float);
}

static size_t bias_bytes(const doconv_training *t)
{
    return (size_t)t->problem.desc.cout * sizeof(float);
}

/* The sums over an empty batch. */
static void clear_gradients(const doconv_training *t, const doconv_gradients *gradients)
{
    if (gradients->weight != NULL) {
        memset(gradients->weight, 0, weight_bytes(t));
    }
    if (gradients->d != NULL) {
        memset(gradients->d, 0, d_bytes(t));
    }
    if (gradients->bias != NULL) {
        memset(gradients->bias, 0, bias_bytes(t));
    }
}

/* dst or the gradients, what is saved, and the workspace are written; all else is read. */
static doconv_status check_memory(const doconv_training *t, const doconv_parameters *parameters,
                                  const float *src, const float *grad_dst, float *dst,
                                  const doconv_gradients *gradients, const void *saved,
                                  void *workspace)
{
    const doconv_gradients none = {.size = sizeof none}, *g = gradients != NULL ? gradients : &none;
    const size_t src_bytes = t->problem.empty ? 0 : t->problem.src_bytes,
                 dst_bytes = t->problem.empty ? 0 : t->problem.dst_bytes;
    const struct dc_range ranges[] = {
        {"src", src, src_bytes, false},
        {"grad_dst", grad_dst, dst_bytes, false},
        {"parameters.weight", parameters->weight, weight_bytes(t), false},
        {"parameters.d", parameters->d, d_bytes(t), false},
        {"parameters.bias", parameters->bias, bias_bytes(t), false},
        {"dst", dst, dst_bytes, true},
        {"gradients.src", g->src, src_bytes, true},
        {"gradients.weight", g->weight, weight_bytes(t), true},
        {"gradients.d", g->d, d_bytes(t), true},
        {"gradients.bias", g->bias, bias_bytes(t), true},
        {"saved", saved, doconv_training_saved_size(t), dst != NULL},
        {"workspace", workspace, doconv_training_workspace_size(t), true},
    };
    return dc_check_overlaps(t->ctx, ranges, sizeof ranges / sizeof ranges[0]);
}

doconv_status doconv_training_forward(const doconv_training *t, const doconv_parameters *parameters,
                                      const float *src, float *dst, void *saved, void *workspace,
                                      size_t workspace_size)
{
    if (t == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    char *space = NULL;
    doconv_status status = check_call(t, parameters, workspace, workspace_size, &space);
    if (status != DOCONV_OK) {
        return status;
    }
    if (t->problem.empty) {
        return DOCONV_OK;
    }
    if (src == NULL || dst == NULL) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT, "%s: NULL", src == NULL ? "src" : "dst");
    }
    status = check_memory(t, parameters, src, NULL, dst, NULL, saved, workspace);
    if (status != DOCONV_OK) {
        return status;
    }
    if (t->feature != NULL) {
        dc_feature_forward(t->feature, parameters->weight, parameters->d, parameters->bias, src,
                           dst, space);
        return DOCONV_OK;
    }
    struct dc_weight_source source = {.bias = parameters->bias};
    if (t->fold.d_mul != 0) {
        source.fold = &t->fold;
        source.w = parameters->weight;
        source.d = parameters->d;
        source.folded = saved != NULL ? saved : (float *)space;
    }
    source.view =
        dc_weight_view(&t->problem, source.fold != NULL ? source.folded : parameters->weight);
    dc_fresh_run(t->forward, &source, src, NULL, dst, space + t->weight_size);
    return DOCONV_OK;
}

doconv_status doconv_training_backward(const doconv_training *t,
                                       const doconv_parameters *parameters, const float *src,
                                       const float *grad_dst, const void *saved,
                                       const doconv_gradients *gradients, void *workspace,
                                       size_t workspace_size)
{
    if (t == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    char *space = NULL;
    doconv_status status = check_call(t, parameters, workspace, workspace_size, &space);
    if (status != DOCONV_OK) {
        return status;
    }
    const bool no_tensors = (src == NULL || grad_dst == NULL) && !t->problem.empty;
    if (no_tensors || gradients == NULL) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       !no_tensors   ? "gradients"
                       : src == NULL ? "src"
                                     : "grad_dst");
    }
    if (gradients->size != sizeof *gradients) {
        return dc_fail(
            t->ctx, DOCONV_MISMATCH,
            "gradients.size: %zu is not %zu, the size of doconv_gradients in this version",
            gradients->size, sizeof *gradients);
    }
    const bool composed = t->fold.d_mul != 0;
    if ((gradients->d != NULL && !composed) ||
        (gradients->bias != NULL && !t->problem.desc.has_bias)) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT,
                       "gradients.%s: given, but the layer has none",
                       gradients->d != NULL && !composed ? "d" : "bias");
    }
    status = check_memory(t, parameters, src, grad_dst, NULL, gradients, saved, workspace);
    if (status != DOCONV_OK) {
        return status;
    }
    if (t->problem.empty) {
        clear_gradients(t, gradients);
        return DOCONV_OK;
    }
    if (t->feature != NULL) {
        if (gradients->bias != NULL) {
            dc_weight_gradient_run(t->weight, src, grad_dst, NULL, gradients->bias, NULL);
        }
        dc_feature_backward(t->feature, parameters->weight, parameters->d, src, grad_dst,
                            gradients->src, gradients->weight, gradients->d, space);
        return DOCONV_OK;
    }
    char *const rest = space + t->weight_size;
    if (gradients->src != NULL) {
        const float *weight = parameters->weight;
        if (composed && saved != NULL) {
            weight = saved;
        } else if (composed) {
            dc_fold_run(t->ctx, &t->fold, weight, parameters->d, (float *)space, rest);
            weight = (const float *)space;
        }
        dc_input_gradient_run(t->input, weight, grad_dst, gradients->src, rest);
    }
    const bool wants_weight = gradients->weight != NULL || gradients->d != NULL;
    if (!wants_weight && gradients->bias == NULL) {
        return DOCONV_OK;
    }
    if (t->parts_size != 0 && wants_weight) {
        dc_weight_gradient_run(t->weight, src, grad_dst, NULL, gradients->bias, rest);
        dc_weight_gradient_fold(t->weight, &t->fold, parameters->weight, parameters->d, src,
                                grad_dst, gradients->weight, gradients->d, rest);
        return DOCONV_OK;
    }
    /* the gradient of the weight that convolves */
    float *const folded = composed ? (float *)space : gradients->weight;
    dc_weight_gradient_run(t->weight, src, grad_dst, wants_weight ? folded : NULL, gradients->bias,
                           rest);
    if (composed && wants_weight) {
        dc_fold_gradient_run(t->ctx, &t->fold, parameters->weight, parameters->d, folded,
                             gradients->weight, gradients->d, rest);
    }
    return DOCONV_OK;
}

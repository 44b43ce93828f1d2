/* SPDX-License-Identifier: MIT */
#include "study_bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

int explain(char *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, WHY_SIZE, format, args);
    va_end(args);
    return -1;
}

double gib(double bytes)
{
    return bytes / 1073741824.0;
}

struct bench *bench_create(doconv_context *context, const struct options *o,
                           struct pytorch *pytorch)
{
    struct bench *b = calloc(1, sizeof *b);
    if (b != NULL) {
        b->context = context;
        b->options = o;
        b->pytorch = pytorch;
        b->memory = o->memory > 0 ? o->memory : 0.6 * available_memory();
        b->memory = b->memory > 0 ? b->memory : INFINITY;
    }
    return b;
}

static void free_tensors(struct tensors *t)
{
    free(t->src);
    free(t->grad_dst);
    free(t->dst);
    free(t->grad_src);
    free(t->ref_dst);
    free(t->ref_grad_src);
    *t = (struct tensors){0};
}

void free_case(struct bench *b)
{
    struct parameters *p = &b->parameters;
    free(p->w);
    free(p->d);
    free(p->weight);
    free(p->grad_w);
    free(p->grad_d);
    free(p->ref_grad_weight);
    free(p->ref_grad_w);
    free(p->ref_grad_d);
    *p = (struct parameters){0};
    for (int i = 0; i < COMPOSITIONS * PASSES; i++) {
        struct layer_engine *e = &b->ours[i / PASSES][i % PASSES];
        doconv_training_destroy(e->training);
        free(e->workspace);
        free(e->saved);
        *e = (struct layer_engine){0};
    }
}

void bench_destroy(struct bench *b)
{
    if (b != NULL) {
        free_case(b);
        free_tensors(&b->tensors);
        pytorch_stop(b->pytorch);
        free(b);
    }
}

const char *bench_lost(const struct bench *b)
{
    return b->lost[0] != '\0' ? b->lost : NULL;
}

/* ---- data ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

double own_bytes(const struct study_case *c)
{
    const struct shape in = src_shape(c), out = dst_shape(c);
    return sizeof(float) * (3.0 * (double)shape_floats(&in) + 3.0 * (double)shape_floats(&out) +
                            3.0 * (double)composed_floats(c) + 3.0 * (double)d_floats(c) +
                            2.0 * (double)weight_floats(c));
}

int make_tensors(struct bench *b, const struct study_case *c, char *why)
{
    struct tensors *t = &b->tensors;
    if (t->layer == c->layer && t->n == c->desc.n) {
        return 0;
    }
    free_tensors(t);
    const struct shape in = src_shape(c), out = dst_shape(c);
    const size_t ins = shape_floats(&in), outs = shape_floats(&out);
    t->src = allocate_floats(ins);
    t->grad_src = allocate_floats(ins);
    t->ref_grad_src = allocate_floats(ins);
    t->dst = allocate_floats(outs);
    t->grad_dst = allocate_floats(outs);
    t->ref_dst = allocate_floats(outs);
    if (t->src == NULL || t->grad_src == NULL || t->ref_grad_src == NULL || t->dst == NULL ||
        t->grad_dst == NULL || t->ref_dst == NULL) {
        free_tensors(t);
        return explain(why, "out of memory");
    }
    fill(SRC, &in, t->src);
    fill(GRAD_DST, &out, t->grad_dst);
    t->layer = c->layer;
    t->n = c->desc.n;
    return 0;
}

int make_parameters(struct bench *b, const struct study_case *c, char *why)
{
    struct parameters *p = &b->parameters;
    const size_t w = composed_floats(c), d = d_floats(c), weight = weight_floats(c);
    p->w = allocate_floats(w);
    p->d = allocate_floats(d);
    p->weight = allocate_floats(weight);
    p->grad_w = allocate_floats(larger(w, weight));
    p->grad_d = allocate_floats(d);
    p->ref_grad_weight = allocate_floats(weight);
    p->ref_grad_w = allocate_floats(w);
    p->ref_grad_d = allocate_floats(d);
    if (p->w == NULL || p->d == NULL || p->weight == NULL || p->grad_w == NULL ||
        p->grad_d == NULL || p->ref_grad_weight == NULL || p->ref_grad_w == NULL ||
        p->ref_grad_d == NULL) {
        return explain(why, "out of memory");
    }
    fill_flat(WEIGHT, w, p->w);
    fill_flat(D, d, p->d);
    fold_reference(c, p->w, p->d, p->weight);
    return 0;
}

/* ---- doconv ---- */

/* The layer that runs a pass: AUTO has one for each purpose. */
static struct layer_engine *engine_of(struct bench *b, enum composition composition, enum pass pass)
{
    return &b->ours[composition][composition == AUTO ? pass : STEP];
}

const char *choice_of(struct bench *b, enum pass pass)
{
    doconv_training_operation operation = {.size = sizeof operation};
    const doconv_training *training = engine_of(b, AUTO, pass)->training;
    return doconv_training_operation_get(training, 0, &operation) == DOCONV_OK ? operation.variant
                                                                               : "";
}

int make_ours(struct bench *b, const struct study_case *c, enum composition composition,
              enum pass pass, char *why)
{
    static const doconv_composition compositions[] = {[PLAIN] = DOCONV_COMPOSITION_NONE,
                                                      [KERNEL] = DOCONV_COMPOSITION_KERNEL,
                                                      [FEATURE] = DOCONV_COMPOSITION_FEATURE,
                                                      [AUTO] = DOCONV_COMPOSITION_AUTO};
    struct layer_engine *e = engine_of(b, composition, pass);
    if (e->training != NULL) {
        return 0; /* it runs another pass too */
    }
    const doconv_training_options options = {.size = sizeof options,
                                             .purpose = pass == FORWARD ? DOCONV_PURPOSE_FORWARD
                                                                        : DOCONV_PURPOSE_STEP};
    doconv_conv_desc desc = c->desc;
    desc.d_mul = composition == PLAIN ? 0 : c->d_mul;
    desc.composition = compositions[composition];
    desc.add_identity = composition != PLAIN;
    const doconv_status status = doconv_training_create(b->context, &desc, &options, &e->training);
    if (status != DOCONV_OK) {
        char detail[200];
        doconv_context_last_error(b->context, detail, sizeof detail);
        return explain(why, "%s: %s", doconv_status_string(status), detail);
    }
    e->workspace_size = doconv_training_workspace_size(e->training);
    const double bytes =
        own_bytes(c) + (double)e->workspace_size + (double)doconv_training_saved_size(e->training);
    if (bytes > b->memory) {
        return explain(why, "it would hold %.1f GiB; the limit is %.1f (--memory)", gib(bytes),
                       gib(b->memory));
    }
    e->workspace = allocate_floats(e->workspace_size / sizeof(float) + 1);
    e->saved = allocate_floats(doconv_training_saved_size(e->training) / sizeof(float) + 1);
    return e->workspace != NULL && e->saved != NULL ? 0 : explain(why, "out of memory");
}

doconv_status run_ours(struct bench *b, enum composition composition, enum pass pass)
{
    const struct tensors *t = &b->tensors;
    const struct parameters *p = &b->parameters;
    const struct layer_engine *e = engine_of(b, composition, pass);
    const doconv_parameters parameters = {.size = sizeof parameters,
                                          .weight = composition == PLAIN ? p->weight : p->w,
                                          .d = composition == PLAIN ? NULL : p->d};
    void *const saved =
        pass == STEP && doconv_training_saved_size(e->training) > 0 ? e->saved : NULL;
    const doconv_status status = doconv_training_forward(e->training, &parameters, t->src, t->dst,
                                                         saved, e->workspace, e->workspace_size);
    if (status != DOCONV_OK || pass == FORWARD) {
        return status;
    }
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = t->grad_src,
                                        .weight = p->grad_w,
                                        .d = composition == PLAIN ? NULL : p->grad_d};
    return doconv_training_backward(e->training, &parameters, t->src, t->grad_dst, saved,
                                    &gradients, e->workspace, e->workspace_size);
}

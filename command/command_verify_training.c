/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <doconv/doconv_train.h>

#include "command_shared.h"
#include "command_verify.h"

static const doconv_layout layouts[] = {DOCONV_NCHW, DOCONV_NHWC, DOCONV_NCHW8C, DOCONV_NCHW16C};
#define LAYOUTS (sizeof layouts / sizeof layouts[0])

enum result { DST, GRAD_SRC, GRAD_WEIGHT, GRAD_D, GRAD_BIAS, RESULTS };

struct training_case {
    struct verification *v;
    const struct golden_case *golden;
    doconv_conv_desc desc;
    const char *composition;
    int64_t cig, cog, taps;
    size_t count[RESULTS];
    const float *expected[RESULTS]; /* NULL: the layer has none */
    /*
     * An absolute error for each element by the rounding of direct kernels; filled by
     * fill_bounds().
     */
    double *rounding[RESULTS];
    double terms;         /* of the longest sum that goes into an element */
    double amplification; /* the largest of the kernels that train it now */
    /* sum |D * W| of the weight that convolves; sum |dy * x| of its gradient */
    double *weight, *grad_weight;
};

/* ---- bounds: sums of absolute products, times the roundings that go into them ---- */

/* Written anew, as verify's other parts: it checks the library's. */
static int64_t mapped_channel(const doconv_fold_desc *f, int64_t o, int64_t i)
{
    const int64_t cig = f->cin / f->groups, cog = f->cout / f->groups;
    return f->mapping == DOCONV_MAPPING_PYTORCH      ? (o * cig + i) % f->cin
           : f->mapping == DOCONV_MAPPING_TENSORFLOW ? (i * f->cout + o) / cog
                                                     : o / cog * cig + i;
}

static double composed_d(const struct golden_case *g, int64_t channel, int64_t m, int64_t s)
{
    const int64_t taps = g->fold.kh * g->fold.kw, d_mul = g->fold.d_mul;
    const bool identity = g->fold.add_identity && s < d_mul / taps * taps && s % taps == m;
    return fabs((double)g->d[(channel * taps + m) * d_mul + s]) + (identity ? 1.0 : 0.0);
}

/* Adds what every product of the convolution is to each of its three sums. */
static void add_products(struct training_case *t)
{
    const struct golden_case *g = t->golden;
    const doconv_conv_desc *d = &t->desc;
    for (int64_t at = 0; at < (int64_t)t->count[DST]; at++) {
        const int64_t q = at % g->wout, p = at / g->wout % g->hout,
                      o = at / g->wout / g->hout % d->cout, n = at / g->wout / g->hout / d->cout;
        const double dy = fabs((double)g->dy[at]);
        t->rounding[DST][at] += d->has_bias ? fabs((double)g->bias[o]) : 0.0;
        if (d->has_bias) {
            t->rounding[GRAD_BIAS][o] += dy;
        }
        for (int64_t k = 0; k < t->cig * t->taps; k++) {
            const int64_t y = p * d->stride_h + k % t->taps / d->kw * d->dilation_h - d->pad_top;
            const int64_t x = q * d->stride_w + k % d->kw * d->dilation_w - d->pad_left;
            if (y < 0 || y >= d->h || x < 0 || x >= d->w) {
                continue;
            }
            const int64_t src =
                              ((n * d->cin + o / t->cog * t->cig + k / t->taps) * d->h + y) * d->w +
                              x,
                          weight = o * t->cig * t->taps + k;
            t->rounding[DST][at] += fabs((double)g->x[src]) * t->weight[weight];
            t->rounding[GRAD_SRC][src] += dy * t->weight[weight];
            t->grad_weight[weight] += dy * fabs((double)g->x[src]);
        }
    }
}

static void fill_bounds(struct training_case *t)
{
    const struct golden_case *g = t->golden;
    const int64_t weights = t->desc.cout * t->cig * t->taps, d_mul = g->fold.d_mul;
    for (int64_t at = 0; at < weights; at++) {
        const int64_t m = at % t->taps, i = at / t->taps % t->cig, o = at / t->taps / t->cig;
        t->weight[at] = g->d == NULL ? fabs((double)(g->w != NULL ? g->w : g->weight)[at]) : 0.0;
        for (int64_t s = 0; g->d != NULL && s < d_mul; s++) {
            t->weight[at] += composed_d(g, mapped_channel(&g->fold, o, i), m, s) *
                             fabs((double)g->w[(o * t->cig + i) * d_mul + s]);
        }
    }
    add_products(t);
    for (int64_t at = 0; at < weights; at++) {
        const int64_t m = at % t->taps, i = at / t->taps % t->cig, o = at / t->taps / t->cig;
        if (g->d == NULL) {
            t->rounding[GRAD_WEIGHT][at] = t->grad_weight[at];
            continue;
        }
        const int64_t channel = mapped_channel(&g->fold, o, i);
        for (int64_t s = 0; s < d_mul; s++) {
            t->rounding[GRAD_WEIGHT][(o * t->cig + i) * d_mul + s] +=
                composed_d(g, channel, m, s) * t->grad_weight[at];
            t->rounding[GRAD_D][(channel * t->taps + m) * d_mul + s] +=
                fabs((double)g->w[(o * t->cig + i) * d_mul + s]) * t->grad_weight[at];
        }
    }
    /*
     * Sums of at most these many terms, two of them one in the other by composition, and a few
     * single roundings: gamma(K) = K*u / (1 - K*u).
     */
    const double pixels = (double)t->desc.n * (double)(g->hout * g->wout);
    const double inner = (double)(t->taps * (t->cig > t->cog ? t->cig : t->cog)),
                 outer = (double)(t->taps + d_mul + t->cog);
    t->terms = fmax(pixels, inner) + outer + 8.0;
    const double gamma = verify_gamma(t->terms);
    for (int r = 0; r < RESULTS; r++) {
        for (size_t i = 0; i < t->count[r]; i++) {
            t->rounding[r][i] *= gamma;
        }
    }
}

/* How far off an element may be; the expected one was rounded once. */
static double bound_of(const struct training_case *t, int result, size_t at)
{
    return t->amplification * t->rounding[result][at] +
           VERIFY_UNIT_ROUNDOFF * fabs((double)t->expected[result][at]) + t->terms * 0x1p-149;
}

/* Finds the error amplification of an operation's choice among its candidates. */
static doconv_status find_amplification(doconv_context *context,
                                        const doconv_training_operation *operation,
                                        double *amplification)
{
    const doconv_plan_options options = {.size = sizeof options,
                                         .operation = operation->operation,
                                         .fresh_weights = operation->fresh_weights};
    doconv_candidates *list = NULL;
    doconv_status status = doconv_candidates_create(context, operation->desc, &options, &list);
    const int count = doconv_candidates_count(list);
    for (int i = 0; i < count && status == DOCONV_OK; i++) {
        doconv_candidate_info candidate = {.size = sizeof candidate};
        status = doconv_candidates_get(list, i, &candidate);
        if (status == DOCONV_OK && strcmp(candidate.variant, operation->variant) == 0) {
            *amplification = candidate.error_amplification;
            break;
        }
    }
    doconv_candidates_destroy(list);
    return status;
}

/* Sets the amplification: one algorithm's error goes into the results of others. */
static doconv_status amplify_bounds(struct training_case *t, doconv_context *context,
                                    const doconv_training *training)
{
    const int count = doconv_training_operation_count(training);
    doconv_status status = DOCONV_OK;
    t->amplification = 1.0;
    for (int i = 0; i < count && status == DOCONV_OK; i++) {
        doconv_training_operation operation = {.size = sizeof operation};
        double amplification = 1.0;
        status = doconv_training_operation_get(training, i, &operation);
        if (status == DOCONV_OK) {
            status = find_amplification(context, &operation, &amplification);
        }
        t->amplification = fmax(t->amplification, amplification);
    }
    return status;
}

/* ---- one step ---- */

struct step {
    float *src, *grad_dst, *tensor[RESULTS]; /* src and dst in their layouts, the results too */
    void *saved, *workspace;
};

static float *tensor(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w,
                     const float *from)
{
    size_t bytes = 0;
    if (doconv_tensor_bytes(layout, n, c, h, w, &bytes) != DOCONV_OK) {
        return NULL;
    }
    float *to = malloc(bytes);
    for (size_t i = 0; to != NULL && i < bytes / sizeof(float); i++) {
        to[i] = NAN;
    }
    if (to != NULL && from != NULL) {
        doconv_reorder(DOCONV_NCHW, layout, n, c, h, w, from, to);
    }
    return to;
}

static void free_step(struct step *s)
{
    free(s->src);
    free(s->grad_dst);
    for (int r = 0; r < RESULTS; r++) {
        free(s->tensor[r]);
    }
    free(s->saved);
    free(s->workspace);
}

static bool make_step(const struct training_case *t, const doconv_training *training,
                      struct step *s)
{
    const struct golden_case *g = t->golden;
    const doconv_conv_desc *d = &t->desc;
    *s = (struct step){
        .src = tensor(d->src_layout, d->n, d->cin, d->h, d->w, g->x),
        .grad_dst = tensor(d->dst_layout, d->n, d->cout, g->hout, g->wout, g->dy),
        .saved = malloc(doconv_training_saved_size(training) + 1),
        .workspace = malloc(doconv_training_workspace_size(training) + 1),
        .tensor = {[DST] = tensor(d->dst_layout, d->n, d->cout, g->hout, g->wout, NULL),
                   [GRAD_SRC] = tensor(d->src_layout, d->n, d->cin, d->h, d->w, NULL)},
    };
    bool complete = s->src != NULL && s->grad_dst != NULL && s->saved != NULL &&
                    s->workspace != NULL && s->tensor[DST] != NULL && s->tensor[GRAD_SRC] != NULL;
    for (int r = GRAD_WEIGHT; r < RESULTS; r++) {
        s->tensor[r] = malloc((t->count[r] + 1) * sizeof(float));
        for (size_t i = 0; s->tensor[r] != NULL && i < t->count[r]; i++) {
            s->tensor[r][i] = NAN;
        }
        complete = complete && s->tensor[r] != NULL;
    }
    return complete;
}

static doconv_status run_step(const struct training_case *t, const doconv_training *training,
                              struct step *s)
{
    const struct golden_case *g = t->golden;
    const bool has_d = t->desc.d_mul > 0;
    const size_t room = doconv_training_workspace_size(training);
    const doconv_parameters parameters = {.size = sizeof parameters,
                                          .weight = g->w != NULL ? g->w : g->weight,
                                          .d = has_d ? g->d : NULL,
                                          .bias = g->bias};
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = s->tensor[GRAD_SRC],
                                        .weight = s->tensor[GRAD_WEIGHT],
                                        .d = has_d ? s->tensor[GRAD_D] : NULL,
                                        .bias = g->bias != NULL ? s->tensor[GRAD_BIAS] : NULL};
    const doconv_status status = doconv_training_forward(
        training, &parameters, s->src, s->tensor[DST], s->saved, s->workspace, room);
    return status != DOCONV_OK
               ? status
               : doconv_training_backward(training, &parameters, s->src, s->grad_dst, s->saved,
                                          &gradients, s->workspace, room);
}

static void describe(const struct training_case *t, const char *isa, char *text, size_t size)
{
    snprintf(text, size, "%s, %s to %s, %s, %s", t->golden->name,
             doconv_layout_string(t->desc.src_layout), doconv_layout_string(t->desc.dst_layout),
             t->composition, isa);
}

/*
 * Compares the results, those in layouts reordered first. Counts a failure for each tensor that is
 * wrong.
 */
static int compare(const struct training_case *t, const struct step *s, const char *where)
{
    static const char *const names[] = {"y", "dx", "dweight", "dD", "dbias"};
    struct verification *v = t->v;
    const struct golden_case *g = t->golden;
    const doconv_conv_desc *d = &t->desc;
    for (int r = 0; r < RESULTS; r++) {
        if (t->expected[r] == NULL) {
            continue;
        }
        float *seen = malloc(t->count[r] * sizeof *seen);
        if (seen == NULL) {
            return command_error("case %s: out of memory", g->name);
        }
        if (r == DST) {
            doconv_reorder(d->dst_layout, DOCONV_NCHW, d->n, d->cout, g->hout, g->wout,
                           s->tensor[r], seen);
        } else if (r == GRAD_SRC) {
            doconv_reorder(d->src_layout, DOCONV_NCHW, d->n, d->cin, d->h, d->w, s->tensor[r],
                           seen);
        } else {
            memcpy(seen, s->tensor[r], t->count[r] * sizeof *seen);
        }
        double error = 0.0, largest = 0.0;
        size_t worst = t->count[r];
        for (size_t i = 0; i < t->count[r]; i++) {
            const double off = fabs((double)seen[i] - (double)t->expected[r][i]);
            if (!(off <= bound_of(t, r, i)) && worst == t->count[r]) {
                worst = i;
            }
            error = off > error || isnan(off) ? (isnan(off) ? INFINITY : off) : error;
            largest = fmax(largest, fabs((double)t->expected[r][i]));
        }
        error = largest > 0.0 ? error / largest : error;
        if (error > v->largest_gradient || v->largest_gradient_where[0] == '\0') {
            v->largest_gradient = error;
            snprintf(v->largest_gradient_where, sizeof v->largest_gradient_where, "%s of %s",
                     names[r], where);
        }
        if (worst != t->count[r]) {
            v->failures++;
            v->training_failures++;
            command_error(
                "FAIL: %s, training: %s[%zu] is %.9g, expected %.9g, off by more than %.3g", where,
                names[r], worst, (double)seen[worst], (double)t->expected[r][worst],
                bound_of(t, r, worst));
        }
        free(seen);
    }
    return COMMAND_OK;
}

static int train(struct training_case *t, doconv_context *context, const char *isa)
{
    char where[128];
    describe(t, isa, where, sizeof where);
    doconv_training *training = NULL;
    struct step s = {.src = NULL};
    doconv_status status = doconv_training_create(context, &t->desc, NULL, &training);
    int result = COMMAND_OK;
    if (status == DOCONV_OK && !make_step(t, training, &s)) {
        result = command_error("case %s: out of memory", t->golden->name);
    } else if (status == DOCONV_OK) {
        status = run_step(t, training, &s);
    }
    if (status == DOCONV_OK) {
        status = amplify_bounds(t, context, training);
    }
    t->v->training_runs++;
    if (status != DOCONV_OK) {
        result = command_library_error(context, status, "%s, training", where);
    } else if (result == COMMAND_OK) {
        const int failures = t->v->failures;
        result = compare(t, &s, where);
        if (t->v->verbose) {
            printf("%s %s, training\n", t->v->failures == failures ? "ok  " : "FAIL", where);
        }
    }
    free_step(&s);
    doconv_training_destroy(training);
    return result;
}

static int train_layouts(struct training_case *t, doconv_context *context, const char *isa)
{
    int result = COMMAND_OK;
    for (size_t pair = 0; pair < LAYOUTS * LAYOUTS && result == COMMAND_OK; pair++) {
        t->desc.src_layout = layouts[pair / LAYOUTS];
        t->desc.dst_layout = layouts[pair % LAYOUTS];
        result = train(t, context, isa);
    }
    return result;
}

/* As a plain layer, or by each composition; feature composition where it is defined. */
static int train_compositions(struct training_case *t, doconv_context *context, const char *isa)
{
    if (t->golden->d == NULL) {
        t->composition = "plain";
        return train_layouts(t, context, isa);
    }
    t->desc.d_mul = t->golden->fold.d_mul;
    t->desc.mapping = t->golden->fold.mapping;
    t->desc.add_identity = t->golden->fold.add_identity;
    t->desc.composition = DOCONV_COMPOSITION_KERNEL;
    t->composition = "kernel composition";
    int result = train_layouts(t, context, isa);
    if (result == COMMAND_OK) {
        t->desc.composition = DOCONV_COMPOSITION_AUTO;
        t->composition = "auto composition";
        result = train_layouts(t, context, isa);
    }
    if (result != COMMAND_OK) {
        return result;
    }
    t->desc.composition = DOCONV_COMPOSITION_FEATURE;
    t->composition = "feature composition";
    doconv_training *training = NULL;
    const doconv_status status = doconv_training_create(context, &t->desc, NULL, &training);
    doconv_training_destroy(training);
    return status == DOCONV_UNSUPPORTED ? COMMAND_OK : train_layouts(t, context, isa);
}

static int prepare(struct training_case *t)
{
    const struct golden_case *g = t->golden;
    const doconv_conv_desc *d = &t->desc;
    const size_t weights = (size_t)(d->cout * t->cig * t->taps);
    const size_t counts[RESULTS] = {
        [DST] = (size_t)(d->n * d->cout * g->hout * g->wout),
        [GRAD_SRC] = (size_t)(d->n * d->cin * d->h * d->w),
        [GRAD_WEIGHT] = g->d != NULL ? (size_t)(d->cout * t->cig * g->fold.d_mul) : weights,
        [GRAD_D] = g->d != NULL ? (size_t)(d->cin * t->taps * g->fold.d_mul) : 0,
        [GRAD_BIAS] = g->bias != NULL ? (size_t)d->cout : 0,
    };
    const float *const expected[RESULTS] = {[DST] = g->y,
                                            [GRAD_SRC] = g->dx,
                                            [GRAD_WEIGHT] = g->dw,
                                            [GRAD_D] = g->dd,
                                            [GRAD_BIAS] = g->dbias};
    memcpy(t->count, counts, sizeof counts);
    memcpy(t->expected, expected, sizeof expected);
    t->weight = calloc(weights, sizeof *t->weight);
    t->grad_weight = calloc(weights, sizeof *t->grad_weight);
    bool complete = t->weight != NULL && t->grad_weight != NULL;
    for (int r = 0; r < RESULTS; r++) {
        t->rounding[r] = calloc(t->count[r] + 1, sizeof *t->rounding[r]);
        complete = complete && t->rounding[r] != NULL;
    }
    if (!complete) {
        return command_error("case %s: out of memory", g->name);
    }
    fill_bounds(t);
    return COMMAND_OK;
}

int verify_training(struct verification *v, const struct golden_case *golden)
{
    if (golden->desc.relu) {
        return command_error("case %s: gradients through a ReLU are another layer's", golden->name);
    }
    const doconv_conv_desc *d = &golden->desc;
    struct training_case t = {
        .v = v,
        .golden = golden,
        .desc = *d,
        .cig = d->cin / d->groups,
        .cog = d->cout / d->groups,
        .taps = d->kh * d->kw,
    };
    int result = prepare(&t);
    doconv_context_info info = {.size = sizeof info};
    doconv_context_get_info(v->context, &info);
    /* Bundles of this architecture only: NEON stands alone. */
    for (int isa = DOCONV_ISA_NONE; isa <= (int)info.isa && result == COMMAND_OK; isa++) {
        if (info.isa == DOCONV_ISA_NEON && isa != DOCONV_ISA_NONE && isa != DOCONV_ISA_NEON) {
            continue;
        }
        doconv_context *context = NULL;
        result = command_context_create("verify", (doconv_isa)isa, info.threads, DOCONV_TUNE_OFF,
                                        &context);
        if (result == COMMAND_OK) {
            result = train_compositions(&t, context, doconv_isa_string((doconv_isa)isa));
        }
        doconv_context_destroy(context);
    }
    v->training_cases++;
    free(t.weight);
    free(t.grad_weight);
    for (int r = 0; r < RESULTS; r++) {
        free(t.rounding[r]);
    }
    return result;
}

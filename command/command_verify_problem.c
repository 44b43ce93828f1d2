/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command_shared.h"
#include "command_verify.h"

/* Outputs that are compared: corners first, then borders, then any. */
#define SAMPLES 320
#define CORNERS 16
#define BORDERS 144

struct problem_run {
    struct verify_problem *p;
    doconv_context *context;
    const doconv_conv_desc *desc;
    int64_t shape[4]; /* of dst */
    doconv_plan *plan;
    doconv_weights *weights;
    double amplification; /* of the plan's candidate */
    uint64_t random;
    float *src, *weight, *bias, *residual, *dst; /* src and dst in their layouts */
    size_t src_floats, dst_floats, weight_floats;
    void *workspace;
};

__attribute__((format(printf, 2, 3))) static bool fail(const struct problem_run *run,
                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(run->p->failure, sizeof run->p->failure, format, args);
    va_end(args);
    return false;
}

static bool fail_call(const struct problem_run *run, const char *step, doconv_status status)
{
    char detail[256] = "";
    doconv_context_last_error(run->context, detail, sizeof detail);
    return fail(run, "%s: %s: %s", step, doconv_status_string(status), detail);
}

/* ---- data ---- */

static uint64_t next_random(uint64_t *state)
{
    /* xorshift64* */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717) >> 32;
}

static int64_t random_below(uint64_t *state, int64_t count)
{
    return (int64_t)(next_random(state) % (uint64_t)count);
}

/* A problem's data are its own, wherever it stands in a list. */
static uint64_t seed_of(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
    }
    return hash | 1;
}

/* count floats in [-1, 1), and as many bytes more as the guard has; NULL without memory. */
static float *make_tensor(uint64_t *random, size_t count)
{
    float *values = verify_allocate((count + VERIFY_GUARD_FLOATS) * sizeof(float));
    for (size_t i = 0; values != NULL && i < count; i++) {
        values[i] = (float)((int)(next_random(random) & 0xffffff) - 0x800000) * 0x1p-23f;
    }
    return values;
}

static bool make_tensors(struct problem_run *run)
{
    const doconv_conv_desc *d = run->desc;
    const int64_t area = run->shape[2] * run->shape[3];
    run->src = make_tensor(&run->random, run->src_floats);
    run->weight = make_tensor(&run->random, run->weight_floats);
    run->bias = d->has_bias ? make_tensor(&run->random, (size_t)d->cout) : NULL;
    run->residual = d->residual ? make_tensor(&run->random, run->dst_floats) : NULL;
    run->dst = verify_allocate((run->dst_floats + VERIFY_GUARD_FLOATS) * sizeof(float));
    if (run->src == NULL || run->weight == NULL || (d->has_bias && run->bias == NULL) ||
        (d->residual && run->residual == NULL) || run->dst == NULL) {
        return fail(run, "out of memory");
    }
    verify_visit_padding(run->src, d->src_layout, d->n, d->cin, d->h * d->w, true);
    if (d->residual) {
        verify_visit_padding(run->residual, d->dst_layout, d->n, d->cout, area, true);
    }
    for (size_t i = 0; i < run->dst_floats + VERIFY_GUARD_FLOATS; i++) {
        run->dst[i] = NAN;
    }
    return true;
}

static int64_t place(doconv_layout layout, int64_t channels, int64_t height, int64_t width,
                     const int64_t at[4])
{
    if (layout == DOCONV_NHWC) {
        return ((at[0] * height + at[2]) * width + at[3]) * channels + at[1];
    }
    const int64_t block = verify_layout_block(layout), blocks = (channels + block - 1) / block;
    return (((at[0] * blocks + at[1] / block) * height + at[2]) * width + at[3]) * block +
           at[1] % block;
}

/* ---- the plan ---- */

/* The bytes of the tensors, in double, which cannot overflow; false if a size does. */
static bool count_bytes(struct problem_run *run)
{
    const doconv_conv_desc *d = run->desc;
    size_t src, dst;
    doconv_status status = doconv_tensor_bytes(d->src_layout, d->n, d->cin, d->h, d->w, &src);
    if (status == DOCONV_OK) {
        status =
            doconv_tensor_bytes(d->dst_layout, d->n, d->cout, run->shape[2], run->shape[3], &dst);
    }
    if (status != DOCONV_OK) {
        run->p->needs = INFINITY;
        return false;
    }
    const double weights =
        (double)d->cout * (double)(d->cin / d->groups) * (double)d->kh * (double)d->kw;
    run->p->needs = (double)src + (d->residual ? 2.0 : 1.0) * (double)dst +
                    sizeof(float) * (weights + (double)d->cout);
    if (run->p->needs > run->p->memory) {
        return false;
    }
    run->src_floats = src / sizeof(float);
    run->dst_floats = dst / sizeof(float);
    run->weight_floats = (size_t)weights;
    return true;
}

/* Finds the plan's kernel and its error among the candidates. */
static bool find_candidate(struct problem_run *run)
{
    doconv_candidates *list = NULL;
    const doconv_status status = doconv_candidates_create(run->context, run->desc, NULL, &list);
    if (status != DOCONV_OK) {
        return fail_call(run, "candidates", status);
    }
    const int count = doconv_candidates_count(list);
    bool found = false;
    for (int i = 0; i < count && !found; i++) {
        doconv_candidate_info info = {.size = sizeof info};
        found = doconv_candidates_get(list, i, &info) == DOCONV_OK && info.refused == NULL &&
                strcmp(info.variant, run->p->variant) == 0;
        if (found) {
            run->amplification = info.error_amplification;
            snprintf(run->p->kernel, sizeof run->p->kernel, "%s", info.kernel);
        }
    }
    doconv_candidates_destroy(list);
    return found || fail(run, "the plan's variant is none of the candidates");
}

static bool make_plan(struct problem_run *run)
{
    const doconv_plan_options options = {.size = sizeof options,
                                         .rigor = run->p->tuned ? DOCONV_RIGOR_DEFAULT
                                                                : DOCONV_RIGOR_ESTIMATE};
    const doconv_status status = doconv_plan_create(run->context, run->desc, &options, &run->plan);
    if (status != DOCONV_OK) {
        return fail_call(run, "plan", status);
    }
    snprintf(run->p->variant, sizeof run->p->variant, "%s", doconv_plan_variant(run->plan));
    run->p->needs +=
        (double)doconv_plan_workspace_size(run->plan) + (double)doconv_plan_packed_size(run->plan);
    return find_candidate(run);
}

static bool execute(struct problem_run *run)
{
    const size_t size = doconv_plan_workspace_size(run->plan);
    doconv_status status = doconv_weights_create(run->plan, run->weight, run->bias, &run->weights);
    if (status != DOCONV_OK) {
        return fail_call(run, "weights", status);
    }
    if (size > 0) {
        run->workspace = malloc(size);
        if (run->workspace == NULL) {
            return fail(run, "out of memory");
        }
    }
    status = doconv_execute(run->plan, run->weights, run->src, run->residual, run->dst,
                            run->workspace, size);
    return status == DOCONV_OK || fail_call(run, "execute", status);
}

/* ---- comparing ---- */

/* The outputs that are compared: all of them if they are few. */
static void choose_output(struct problem_run *run, int sample, int64_t outputs, int64_t at[4])
{
    const int64_t *shape = run->shape;
    if (outputs <= SAMPLES) {
        at[0] = sample / (shape[1] * shape[2] * shape[3]);
        at[1] = sample / (shape[2] * shape[3]) % shape[1];
        at[2] = sample / shape[3] % shape[2];
        at[3] = sample % shape[3];
        return;
    }
    for (int i = 0; i < 4; i++) {
        at[i] = sample < CORNERS ? (sample >> i & 1) * (shape[i] - 1)
                                 : random_below(&run->random, shape[i]);
    }
    if (sample >= CORNERS && sample < CORNERS + BORDERS) {
        /* One of the outermost two rows or columns, or the one there is. */
        const int axis = 2 + sample % 2;
        const int64_t last = shape[axis] - 1, inner = sample / 2 % 2 < last ? sample / 2 % 2 : last;
        at[axis] = sample / 4 % 2 == 0 ? inner : last - inner;
    }
}

/* The sum of an output's products, without bias; adds their magnitudes to *magnitude. */
static double sum_products(const struct problem_run *run, const int64_t at[4], double *magnitude)
{
    const doconv_conv_desc *d = run->desc;
    const int64_t group_cin = d->cin / d->groups, group = at[1] / (d->cout / d->groups);
    double sum = 0;
    for (int64_t i = 0; i < group_cin; i++) {
        for (int64_t y = 0; y < d->kh; y++) {
            const int64_t row = at[2] * d->stride_h + y * d->dilation_h - d->pad_top;
            if (row < 0 || row >= d->h) {
                continue;
            }
            const float *weight = run->weight + ((at[1] * group_cin + i) * d->kh + y) * d->kw;
            for (int64_t x = 0; x < d->kw; x++) {
                const int64_t column = at[3] * d->stride_w + x * d->dilation_w - d->pad_left;
                if (column >= 0 && column < d->w) {
                    const int64_t from[4] = {at[0], group * group_cin + i, row, column};
                    const double product =
                        (double)run->src[place(d->src_layout, d->cin, d->h, d->w, from)] *
                        (double)weight[x];
                    sum += product;
                    *magnitude += fabs(product);
                }
            }
        }
    }
    return sum;
}

/*
 * What an algorithm that computes tiles rounds by: the weights' magnitudes by the largest input of
 * the tile, which may be 1. It may be another than the output meets, in place of padding too.
 */
static double tile_magnitude(const struct problem_run *run, int64_t channel)
{
    const doconv_conv_desc *d = run->desc;
    const int64_t filter = d->cin / d->groups * d->kh * d->kw;
    double sum = 0;
    for (int64_t i = 0; i < filter; i++) {
        sum += fabs((double)run->weight[channel * filter + i]);
    }
    return sum;
}

static double apply_post(const doconv_conv_desc *d, double value)
{
    value = d->relu && value < 0 ? 0 : value;
    if (d->clamp) {
        value = fmin(fmax(value, (double)d->clamp_lo), (double)d->clamp_hi);
    }
    return value;
}

/*
 * Compares one output: within the a-priori bound of its sum, gamma(K) times the magnitudes times
 * the candidate's error, where bias and residual are products too. What follows, ReLU and clamp,
 * makes no error larger. What is denormal has an absolute error.
 */
static bool compare_output(struct problem_run *run, const int64_t at[4])
{
    const doconv_conv_desc *d = run->desc;
    const int64_t index = place(d->dst_layout, d->cout, run->shape[2], run->shape[3], at);
    const double terms = (double)(d->cin / d->groups) * (double)d->kh * (double)d->kw + 3;
    double magnitude = 0, sum = sum_products(run, at, &magnitude);
    magnitude = run->amplification > 1 ? tile_magnitude(run, at[1]) : magnitude;
    if (d->has_bias) {
        sum += (double)run->bias[at[1]];
        magnitude += fabs((double)run->bias[at[1]]);
    }
    if (d->residual) {
        sum += (double)run->residual[index];
        magnitude += fabs((double)run->residual[index]);
    }
    const double expected = apply_post(d, sum), error = fabs((double)run->dst[index] - expected),
                 bound = run->amplification * verify_gamma(terms) * magnitude +
                         VERIFY_UNIT_ROUNDOFF * fabs(expected) + terms * 0x1p-149;
    const double relative = isnan(error) ? INFINITY : magnitude > 0 ? error / magnitude : error;
    run->p->error = fmax(run->p->error, relative);
    if (error <= bound) {
        return true;
    }
    return fail(run,
                "y[%" PRId64 "][%" PRId64 "][%" PRId64 "][%" PRId64
                "] is %.9g, expected %.9g, off by more than %.3g",
                at[0], at[1], at[2], at[3], (double)run->dst[index], expected, bound);
}

static bool compare(struct problem_run *run)
{
    const doconv_conv_desc *d = run->desc;
    const int64_t *shape = run->shape, outputs = shape[0] * shape[1] * shape[2] * shape[3];
    const int samples = outputs < SAMPLES ? (int)outputs : SAMPLES;
    for (int sample = 0; sample < samples; sample++) {
        int64_t at[4];
        choose_output(run, sample, outputs, at);
        if (!compare_output(run, at)) {
            return false;
        }
    }
    for (size_t i = 0; i < run->dst_floats; i++) {
        if (!isfinite(run->dst[i])) {
            return fail(run, "float %zu of the result is not written, or not finite", i);
        }
    }
    for (size_t i = 0; i < VERIFY_GUARD_FLOATS; i++) {
        if (!isnan(run->dst[run->dst_floats + i])) {
            return fail(run, "written past the end of the result");
        }
    }
    return verify_visit_padding(run->dst, d->dst_layout, d->n, d->cout, shape[2] * shape[3],
                                false) ||
           fail(run, "channels past Cout of the result are not zero");
}

enum verify_outcome verify_problem(doconv_context *context, struct verify_problem *p)
{
    struct problem_run run = {
        .p = p, .context = context, .desc = p->desc, .random = seed_of(p->text)};
    const doconv_status status = doconv_conv_dst_shape(context, p->desc, run.shape);
    bool right = false, small = true;
    if (status != DOCONV_OK) {
        fail_call(&run, "shape", status);
    } else {
        small = count_bytes(&run);
    }
    if (status == DOCONV_OK && small && make_plan(&run)) {
        small = p->needs <= p->memory;
        right = small && make_tensors(&run) && execute(&run) && compare(&run);
    }
    doconv_weights_destroy(run.weights);
    doconv_plan_destroy(run.plan);
    free(run.src);
    free(run.weight);
    free(run.bias);
    free(run.residual);
    free(run.dst);
    free(run.workspace);
    return !small ? VERIFY_TOO_LARGE : right ? VERIFY_RIGHT : VERIFY_WRONG;
}

/* SPDX-License-Identifier: MIT */
#include "command_verify.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command_shared.h"

/* Failures beyond these are counted, not printed. */
#define MAX_PRINTED_FAILURES 20

static const doconv_layout layouts[] = {DOCONV_NCHW, DOCONV_NHWC, DOCONV_NCHW8C, DOCONV_NCHW16C};
#define LAYOUTS ((int)(sizeof layouts / sizeof layouts[0]))

struct case_run {
    struct verification *v;
    const struct golden_case *golden;
    doconv_conv_desc desc;
    size_t outputs;
    double largest_y;
    const float *weight;
    float *folded;        /* the weight of a DO-Conv layer; NULL: the case's */
    double *weight_bound; /* how far off each of its elements may be; NULL: not at all */
    /*
     * An absolute error for each output, NCHW: of a direct kernel's rounding, which a candidate's
     * error amplification multiplies, and of what the kernel is given.
     */
    double *rounding, *given;
    double amplification; /* of the candidate that runs */
    float *src;           /* in src_layout */
    float *dst;           /* in dst_layout, guard floats after it */
    size_t dst_floats;
    float *result; /* dst in NCHW */
    char *workspace;
    size_t workspace_size;
};

/* ---- the bound ---- */

/* sum|a*b| of one output; adds to *given what errors of the weight make of it. */
static double sum_products(const struct case_run *run, int64_t n, int64_t o, int64_t p, int64_t q,
                           double *given)
{
    const struct golden_case *g = run->golden;
    const doconv_conv_desc *d = &g->desc;
    const int64_t group_cin = d->cin / d->groups, group = o / (d->cout / d->groups);
    double sum = g->bias != NULL ? fabs((double)g->bias[o]) : 0;
    for (int64_t i = 0; i < group_cin; i++) {
        const float *plane = g->x + (n * d->cin + group * group_cin + i) * d->h * d->w;
        const int64_t filter = (o * group_cin + i) * d->kh * d->kw;
        for (int64_t y = 0; y < d->kh; y++) {
            const int64_t row = p * d->stride_h + y * d->dilation_h - d->pad_top;
            if (row < 0 || row >= d->h) {
                continue;
            }
            for (int64_t x = 0; x < d->kw; x++) {
                const int64_t column = q * d->stride_w + x * d->dilation_w - d->pad_left,
                              at = filter + y * d->kw + x;
                if (column >= 0 && column < d->w) {
                    const double a = fabs((double)plane[row * d->w + column]);
                    sum += a * fabs((double)run->weight[at]);
                    *given += run->weight_bound != NULL ? a * run->weight_bound[at] : 0;
                }
            }
        }
    }
    return sum;
}

/*
 * The a-priori bound of a sum of K products in any order, with or without FMA: gamma(K + 2) *
 * sum|a*b|, times the error amplification of an algorithm that is not direct; the bias is one more
 * term. The expected value was rounded once, and what is denormal has an absolute error.
 */
static void fill_bounds(const struct case_run *run)
{
    const struct golden_case *g = run->golden;
    const doconv_conv_desc *d = &g->desc;
    const double terms = (double)(d->cin / d->groups) * (double)d->kh * (double)d->kw + 2;
    const double gamma = verify_gamma(terms);
    size_t at = 0;
    for (int64_t n = 0; n < d->n; n++) {
        for (int64_t o = 0; o < d->cout; o++) {
            for (int64_t p = 0; p < g->hout; p++) {
                for (int64_t q = 0; q < g->wout; q++, at++) {
                    run->given[at] =
                        VERIFY_UNIT_ROUNDOFF * fabs((double)g->y[at]) + terms * 0x1p-149;
                    run->rounding[at] = gamma * sum_products(run, n, o, p, q, &run->given[at]);
                }
            }
        }
    }
}

static double bound_of(const struct case_run *run, size_t output)
{
    return run->amplification * run->rounding[output] + run->given[output];
}

/*
 * The channel of D that the input i, of its group, of output o meets. Written anew: it checks the
 * library's.
 */
static int64_t mapped_channel(const doconv_fold_desc *f, int64_t o, int64_t i)
{
    const int64_t group_cin = f->cin / f->groups, group_cout = f->cout / f->groups;
    return f->mapping == DOCONV_MAPPING_PYTORCH      ? (o * group_cin + i) % f->cin
           : f->mapping == DOCONV_MAPPING_TENSORFLOW ? (i * f->cout + o) / group_cout
                                                     : o / group_cout * group_cin + i;
}

/*
 * The same bound for the folded weight, a sum of d_mul products. The identity is added to D, one
 * more rounding, or is d_mul / (KH*KW) more products of its own: both are allowed.
 */
static void fill_weight_bounds(const struct case_run *run)
{
    const doconv_fold_desc *f = &run->golden->fold;
    const int64_t taps = f->kh * f->kw, group_cin = f->cin / f->groups,
                  repeated = f->add_identity ? f->d_mul / taps * taps : 0;
    const double terms = (double)(f->d_mul + repeated / taps) + 2, gamma = verify_gamma(terms);
    for (int64_t filter = 0; filter < f->cout * group_cin; filter++) {
        const float *w = run->golden->w + filter * f->d_mul;
        const int64_t channel = mapped_channel(f, filter / group_cin, filter % group_cin);
        for (int64_t m = 0; m < taps; m++) {
            const float *d = run->golden->d + (channel * taps + m) * f->d_mul;
            double sum = 0;
            for (int64_t s = 0; s < f->d_mul; s++) {
                sum += (fabs((double)d[s]) + (s < repeated && s % taps == m ? 1 : 0)) *
                       fabs((double)w[s]);
            }
            const int64_t at = filter * taps + m;
            run->weight_bound[at] = gamma * sum +
                                    VERIFY_UNIT_ROUNDOFF * fabs((double)run->golden->weight[at]) +
                                    terms * 0x1p-149;
        }
    }
}

/* ---- tensors ---- */

static int out_of_memory(const struct golden_case *g)
{
    return command_error("case %s: out of memory", g->name);
}

/* Replaces run->src by the case's x in a layout. */
static int make_src(struct case_run *run, doconv_layout layout)
{
    const doconv_conv_desc *d = &run->golden->desc;
    size_t bytes;
    free(run->src);
    run->src = NULL;
    doconv_status status = doconv_tensor_bytes(layout, d->n, d->cin, d->h, d->w, &bytes);
    if (status == DOCONV_OK) {
        run->src = verify_allocate(bytes);
        if (run->src == NULL) {
            return out_of_memory(run->golden);
        }
        status =
            doconv_reorder(DOCONV_NCHW, layout, d->n, d->cin, d->h, d->w, run->golden->x, run->src);
    }
    if (status != DOCONV_OK) {
        return command_library_error(NULL, status, "case %s: x in %s", run->golden->name,
                                     doconv_layout_string(layout));
    }
    verify_visit_padding(run->src, layout, d->n, d->cin, d->h * d->w, true);
    return COMMAND_OK;
}

/* Replaces run->dst by room for y in a layout. */
static int make_dst(struct case_run *run, doconv_layout layout)
{
    const struct golden_case *g = run->golden;
    size_t bytes;
    free(run->dst);
    run->dst = NULL;
    const doconv_status status =
        doconv_tensor_bytes(layout, g->desc.n, g->desc.cout, g->hout, g->wout, &bytes);
    if (status != DOCONV_OK) {
        return command_library_error(NULL, status, "case %s: y in %s", g->name,
                                     doconv_layout_string(layout));
    }
    run->dst_floats = bytes / sizeof(float);
    run->dst = verify_allocate(bytes + VERIFY_GUARD_FLOATS * sizeof(float));
    return run->dst != NULL ? COMMAND_OK : out_of_memory(g);
}

/* ---- one variant ---- */

static void describe(const struct case_run *run, const char *variant, char *text, size_t size)
{
    snprintf(text, size, "%s, %s to %s, %s", run->golden->name,
             doconv_layout_string(run->desc.src_layout), doconv_layout_string(run->desc.dst_layout),
             variant);
}

__attribute__((format(printf, 4, 5))) static void add_failure(const struct case_run *run,
                                                              struct verify_tally *tally,
                                                              const char *variant,
                                                              const char *format, ...)
{
    struct verification *v = run->v;
    if (tally != NULL) {
        tally->failures++;
    }
    if (v->failures++ >= MAX_PRINTED_FAILURES) {
        return;
    }
    char where[256], what[256];
    describe(run, variant, where, sizeof where);
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    command_error("FAIL: %s: %s", where, what);
    if (v->failures == MAX_PRINTED_FAILURES) {
        command_error("further failures are counted only");
    }
}

/*
 * The case on one variant, up to the result in run->dst. False if a call failed: the failure is
 * counted then.
 */
static bool execute_variant(struct case_run *run, struct verify_tally *tally, const char *variant)
{
    const struct golden_case *g = run->golden;
    doconv_context *context = run->v->context;
    const doconv_plan_options options = {
        .size = sizeof options, .rigor = DOCONV_RIGOR_ESTIMATE, .variant = variant};
    doconv_plan *plan = NULL;
    doconv_weights *weights = NULL;
    const char *step = "plan";
    doconv_status status = doconv_plan_create(context, &run->desc, &options, &plan);
    bool same = true;
    if (status == DOCONV_OK) {
        same = strcmp(doconv_plan_variant(plan), variant) == 0;
        step = "weights";
        status = doconv_weights_create(plan, run->weight, g->bias, &weights);
    }
    if (status == DOCONV_OK) {
        const size_t size = doconv_plan_workspace_size(plan);
        if (size > run->workspace_size) {
            free(run->workspace);
            run->workspace = malloc(size);
            run->workspace_size = run->workspace != NULL ? size : 0;
        }
        for (size_t i = 0; i < run->dst_floats + VERIFY_GUARD_FLOATS; i++) {
            run->dst[i] = NAN;
        }
        step = "execute";
        status = size > run->workspace_size
                     ? DOCONV_OUT_OF_MEMORY
                     : doconv_execute(plan, weights, run->src, NULL, run->dst,
                                      size > 0 ? run->workspace : NULL, size);
    }
    char chosen[DOCONV_VARIANT_TEXT_SIZE];
    snprintf(chosen, sizeof chosen, "%s", doconv_plan_variant(plan));
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    if (status != DOCONV_OK) {
        char detail[256] = "";
        doconv_context_last_error(context, detail, sizeof detail);
        add_failure(run, tally, variant, "%s: %s: %s", step, doconv_status_string(status), detail);
        return false;
    }
    if (!same) {
        add_failure(run, tally, variant, "the plan has another variant: %s", chosen);
        return false;
    }
    return true;
}

/*
 * Compares run->dst with y; returns the largest error relative to max|y|, and counts a failure
 * where it is out of bounds.
 */
static double compare(const struct case_run *run, struct verify_tally *tally, const char *variant)
{
    const struct golden_case *g = run->golden;
    const doconv_conv_desc *d = &g->desc;
    const doconv_status status = doconv_reorder(run->desc.dst_layout, DOCONV_NCHW, d->n, d->cout,
                                                g->hout, g->wout, run->dst, run->result);
    if (status != DOCONV_OK) {
        add_failure(run, tally, variant, "reorder: %s", doconv_status_string(status));
        return INFINITY;
    }
    double largest = 0;
    size_t worst = run->outputs;
    for (size_t i = 0; i < run->outputs; i++) {
        double error = fabs((double)run->result[i] - (double)g->y[i]);
        if (isnan(error)) {
            error = INFINITY;
        }
        if (error > bound_of(run, i) &&
            (worst == run->outputs ||
             error > fabs((double)run->result[worst] - (double)g->y[worst]))) {
            worst = i;
        }
        largest = error > largest ? error : largest;
    }
    if (worst != run->outputs) {
        const int64_t at = (int64_t)worst, q = at % g->wout, p = at / g->wout % g->hout,
                      o = at / g->wout / g->hout % d->cout, n = at / g->wout / g->hout / d->cout;
        add_failure(run, tally, variant,
                    "y[%" PRId64 "][%" PRId64 "][%" PRId64 "][%" PRId64
                    "] is %.9g, expected %.9g, off by more than %.3g",
                    n, o, p, q, (double)run->result[worst], (double)g->y[worst],
                    bound_of(run, worst));
    } else if (!verify_visit_padding(run->dst, run->desc.dst_layout, d->n, d->cout,
                                     g->hout * g->wout, false)) {
        add_failure(run, tally, variant, "channels past Cout of the result are not zero");
    } else {
        for (int i = 0; i < VERIFY_GUARD_FLOATS; i++) {
            if (!isnan(run->dst[run->dst_floats + (size_t)i])) {
                add_failure(run, tally, variant, "written past the end of the result");
                break;
            }
        }
    }
    return largest / run->largest_y;
}

static void run_variant(struct case_run *run, const doconv_candidate_info *candidate)
{
    struct verification *v = run->v;
    struct verify_tally *tally = verify_find_tally(v, candidate->kernel);
    const int failures = v->failures;
    double error = INFINITY;
    run->amplification = candidate->error_amplification;
    if (execute_variant(run, tally, candidate->variant)) {
        error = compare(run, tally, candidate->variant);
    }
    v->runs++;
    if (tally != NULL) {
        tally->runs++;
        tally->cases += tally->counted != run->golden;
        tally->counted = run->golden;
        tally->largest = error > tally->largest ? error : tally->largest;
    }
    if (error > v->largest || v->largest_where[0] == '\0') {
        v->largest = error;
        describe(run, candidate->variant, v->largest_where, sizeof v->largest_where);
    }
    if (v->verbose) {
        char where[256];
        describe(run, candidate->variant, where, sizeof where);
        printf("%s %s: %.2e\n", v->failures == failures ? "ok  " : "FAIL", where, error);
    }
}

/* ---- folding ---- */

/*
 * Folds W and D into run->folded and compares it with what is expected. Returns an exit status; a
 * wrong weight is counted, and no reason not to run it: the runs show what it does.
 */
static int fold_case(struct case_run *run)
{
    const struct golden_case *g = run->golden;
    struct verification *v = run->v;
    const int64_t taps = g->fold.kh * g->fold.kw, group_cin = g->fold.cin / g->fold.groups;
    const size_t weights = (size_t)g->fold.cout * (size_t)group_cin * (size_t)taps;
    run->folded = verify_allocate((weights + VERIFY_GUARD_FLOATS) * sizeof(float));
    run->weight_bound = calloc(weights, sizeof *run->weight_bound);
    if (run->folded == NULL || run->weight_bound == NULL) {
        return out_of_memory(g);
    }
    for (size_t i = 0; i < weights + VERIFY_GUARD_FLOATS; i++) {
        run->folded[i] = NAN;
    }
    const doconv_status status = doconv_fold(v->context, &g->fold, g->w, g->d, run->folded);
    if (status != DOCONV_OK) {
        return command_library_error(v->context, status, "case %s", g->name);
    }
    run->weight = run->folded;
    if (g->d != NULL) {
        fill_weight_bounds(run);
    } /* else a copy, exact */
    double largest = 0, largest_weight = 0;
    size_t worst = weights;
    for (size_t i = 0; i < weights; i++) {
        const double difference = fabs((double)run->folded[i] - (double)g->weight[i]),
                     error = isnan(difference) ? INFINITY : difference;
        if (error > run->weight_bound[i] && (worst == weights || error > largest)) {
            worst = i;
        }
        largest = error > largest ? error : largest;
        largest_weight = fmax(largest_weight, fabs((double)g->weight[i]));
    }
    largest = largest_weight > 0 ? largest / largest_weight : largest;
    v->folds++;
    if (largest > v->largest_fold || v->largest_fold_where[0] == '\0') {
        v->largest_fold = largest;
        snprintf(v->largest_fold_where, sizeof v->largest_fold_where, "%s", g->name);
    }
    const int failures = v->fold_failures;
    if (worst != weights) {
        const int64_t at = (int64_t)worst, m = at % taps;
        v->fold_failures++;
        command_error("FAIL: %s, folding: weight[%" PRId64 "][%" PRId64 "][%" PRId64 "][%" PRId64
                      "] is %.9g, expected %.9g, off by more than %.3g",
                      g->name, at / taps / group_cin, at / taps % group_cin, m / g->fold.kw,
                      m % g->fold.kw, (double)run->folded[worst], (double)g->weight[worst],
                      run->weight_bound[worst]);
    } else {
        for (size_t i = weights; i < weights + VERIFY_GUARD_FLOATS; i++) {
            if (!isnan(run->folded[i])) {
                v->fold_failures++;
                command_error("FAIL: %s, folding: written past the end of the weight", g->name);
                break;
            }
        }
    }
    v->failures += v->fold_failures - failures;
    if (v->verbose) {
        printf("%s %s, folding: %.2e\n", v->fold_failures == failures ? "ok  " : "FAIL", g->name,
               largest);
    }
    return COMMAND_OK;
}

/* ---- a case ---- */

static int run_candidates(struct case_run *run)
{
    struct verification *v = run->v;
    doconv_candidates *list = NULL;
    const doconv_status status = doconv_candidates_create(v->context, &run->desc, NULL, &list);
    if (status != DOCONV_OK) {
        return command_library_error(v->context, status, "case %s, %s to %s: candidates",
                                     run->golden->name, doconv_layout_string(run->desc.src_layout),
                                     doconv_layout_string(run->desc.dst_layout));
    }
    const int count = doconv_candidates_count(list);
    for (int i = 0; i < count; i++) {
        doconv_candidate_info candidate = {.size = sizeof candidate};
        if (doconv_candidates_get(list, i, &candidate) != DOCONV_OK) {
            add_failure(run, NULL, "-", "candidate %d of %d cannot be read", i, count);
        } else if (candidate.refused == NULL) {
            run_variant(run, &candidate);
        } else {
            struct verify_tally *tally = verify_find_tally(v, candidate.kernel);
            if (tally != NULL) {
                snprintf(tally->refused, sizeof tally->refused, "%s", candidate.refused);
            }
        }
    }
    doconv_candidates_destroy(list);
    return COMMAND_OK;
}

static int run_layouts(struct case_run *run)
{
    for (int s = 0; s < LAYOUTS; s++) {
        run->desc.src_layout = layouts[s];
        int result = make_src(run, layouts[s]);
        for (int d = 0; d < LAYOUTS && result == COMMAND_OK; d++) {
            run->desc.dst_layout = layouts[d];
            result = make_dst(run, layouts[d]);
            if (result == COMMAND_OK) {
                result = run_candidates(run);
            }
        }
        if (result != COMMAND_OK) {
            return result;
        }
    }
    return COMMAND_OK;
}

int verify_case(struct verification *v, const struct golden_case *golden)
{
    struct case_run run = {
        .v = v, .golden = golden, .desc = golden->desc, .weight = golden->weight};
    /*
     * Every algorithm may run: what a class of accuracy allows is for callers to choose, a wrong
     * result is wrong in each.
     */
    run.desc.accuracy = DOCONV_ACCURACY_FAST;
    run.outputs = (size_t)golden->desc.n * (size_t)golden->desc.cout * (size_t)golden->hout *
                  (size_t)golden->wout;
    for (size_t i = 0; i < run.outputs; i++) {
        run.largest_y = fmax(run.largest_y, fabs((double)golden->y[i]));
    }
    if (run.largest_y == 0) {
        run.largest_y = 1; /* all zero: the error as it is */
    }
    run.rounding = malloc(run.outputs * sizeof *run.rounding);
    run.given = malloc(run.outputs * sizeof *run.given);
    run.result = malloc(run.outputs * sizeof *run.result);
    int result = COMMAND_OK;
    if (run.rounding == NULL || run.given == NULL || run.result == NULL) {
        result = out_of_memory(golden);
    } else if (golden->w != NULL) {
        result = fold_case(&run);
    }
    if (result == COMMAND_OK) {
        fill_bounds(&run);
        result = run_layouts(&run);
    }
    free(run.folded);
    free(run.weight_bound);
    free(run.rounding);
    free(run.given);
    free(run.result);
    free(run.src);
    free(run.dst);
    free(run.workspace);
    return result;
}

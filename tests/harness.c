/* SPDX-License-Identifier: MIT */
/* The properties, and the loops over shapes and variants that check them. */
#include "base/context.h"
#include "harness.h"
#include "plan/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* For doconv_context's list of kernels, and the packed weights: nothing else. */
#include "base/context.h"
#include "harness_parallel.h"
#include "harness_rig.h"

#define MOST_THREADS 8
#define TEXT_SIZE 1024

const char *property_name(enum property property)
{
    static const char *const names[] = {"exact",      "real",  "bounds",  "nan",    "complete",
                                        "unpolluted", "const", "threads", "splits", "state"};
    return (unsigned)property < PROPERTY_COUNT ? names[property] : "unknown";
}

/* The contexts of a kernel's check, made when first needed. */
struct lab {
    const struct harness *h;
    struct harness_report *report;
    doconv_context *plain, *guarded[2];
    enum buffer_place sides[2];
    doconv_context *threaded[MOST_THREADS + 1][TASK_KINDS];
    struct task_order orders[MOST_THREADS + 1][TASK_KINDS];
    const struct experiment *e;
    const char *variant;
    float *first;    /* dst of the shape's first variant, for PROPERTY_SPLITS */
    int first_order; /* of its sums */
    char first_variant[DOCONV_VARIANT_TEXT_SIZE];
};

static doconv_context *open_context(const struct harness *h, const doconv_context_options *extra)
{
    doconv_context_options options = *extra;
    options.size = sizeof options;
    options.max_isa = h->cap;
    options.tune = DOCONV_TUNE_OFF;
    doconv_context *ctx;
    const doconv_status status = doconv_context_create(&options, &ctx);
    if (status != DOCONV_OK) {
        fprintf(stderr, "tests: doconv_context_create: %s\n", doconv_status_string(status));
        exit(1);
    }
    if (h->kernels != NULL) {
        ctx->kernels = h->kernels;
    }
    return ctx;
}

static doconv_context *plain_context(struct lab *lab)
{
    if (lab->plain == NULL) {
        lab->plain = open_context(lab->h, &(doconv_context_options){.threads = 1});
    }
    return lab->plain;
}

static doconv_context *guarded_context(struct lab *lab, int side)
{
    if (lab->guarded[side] == NULL) {
        lab->sides[side] = side == 0 ? BUFFER_GUARD_AFTER : BUFFER_GUARD_BEFORE;
        lab->guarded[side] =
            open_context(lab->h, &(doconv_context_options){.threads = 1,
                                                           .allocate = guard_allocate,
                                                           .release = guard_release,
                                                           .allocate_user = &lab->sides[side]});
    }
    return lab->guarded[side];
}

static doconv_context *threaded_context(struct lab *lab, int threads, enum task_kind kind)
{
    doconv_context **ctx = &lab->threaded[threads][kind];
    if (*ctx == NULL) {
        lab->orders[threads][kind] = (struct task_order){kind, lab->h->seed + (uint64_t)threads};
        /* In order: the library's own threads, whatever they are. */
        doconv_context_options options = {.threads = threads};
        if (kind != TASKS_FORWARD) {
            options.parallel_for = task_run;
            options.parallel_for_user = &lab->orders[threads][kind];
        }
        *ctx = open_context(lab->h, &options);
    }
    return *ctx;
}

static void close_contexts(struct lab *lab)
{
    doconv_context_destroy(lab->plain);
    for (int side = 0; side < 2; side++) {
        doconv_context_destroy(lab->guarded[side]);
    }
    for (int threads = 0; threads <= MOST_THREADS; threads++) {
        for (int kind = 0; kind < TASK_KINDS; kind++) {
            doconv_context_destroy(lab->threaded[threads][kind]);
        }
    }
}

/* ---- properties: each runs the lab's variant of its experiment and tells what is wrong ---- */

static const struct rig_options plain_options = {.place = BUFFER_CANARIES, .dirt = 0xff};

static bool run_rig(struct rig *rig, doconv_context *ctx, const struct lab *lab,
                    const struct data *data, struct rig_options options, char *text)
{
    return rig_prepare(rig, ctx, lab->e, data, lab->variant, options, text, TEXT_SIZE) &&
           rig_execute(rig, text, TEXT_SIZE);
}

static bool check_exact(struct lab *lab, char *text)
{
    for (int alias = 0; alias <= lab->e->desc.residual; alias++) {
        struct rig rig;
        struct rig_options options = plain_options;
        options.alias = alias != 0;
        const bool ok = run_rig(&rig, plain_context(lab), lab, &lab->e->integers, options, text) &&
                        rig_check_value(&rig, text, TEXT_SIZE);
        rig_destroy(&rig);
        if (!ok) {
            if (alias) {
                const size_t used = strlen(text);
                snprintf(text + used, TEXT_SIZE - used, " (residual is dst)");
            }
            return false;
        }
    }
    return true;
}

static bool check_real(struct lab *lab, char *text)
{
    struct rig rig;
    const bool ok =
        run_rig(&rig, plain_context(lab), lab, &lab->e->reals, plain_options, text) &&
        rig_check_close(&rig, (double)lab->h->kernel->error_amplification, text, TEXT_SIZE);
    rig_destroy(&rig);
    return ok;
}

static bool check_bounds(struct lab *lab, char *text)
{
    for (int side = 0; side < 2; side++) {
        struct rig rig;
        doconv_context *ctx = guarded_context(lab, side);
        const struct rig_options options = {.place = lab->sides[side], .dirt = 0xff};
        const bool ok = run_rig(&rig, ctx, lab, &lab->e->integers, options, text);
        rig_destroy(&rig);
        if (!ok) {
            return false;
        }
    }
    return true;
}

static bool check_nan(struct lab *lab, char *text)
{
    struct rig rig;
    const bool ok =
        run_rig(&rig, plain_context(lab), lab, &lab->e->poisoned, plain_options, text) &&
        rig_check_value(&rig, text, TEXT_SIZE);
    rig_destroy(&rig);
    return ok;
}

static bool check_complete(struct lab *lab, char *text)
{
    struct rig rig;
    const bool ok = run_rig(&rig, plain_context(lab), lab, &lab->e->reals, plain_options, text) &&
                    rig_check_complete(&rig, text, TEXT_SIZE);
    rig_destroy(&rig);
    return ok;
}

static bool check_unpolluted(struct lab *lab, char *text)
{
    struct rig rig;
    struct rig_options options = plain_options;
    options.nan_gaps = true;
    const bool ok = run_rig(&rig, plain_context(lab), lab, &lab->e->integers, options, text) &&
                    rig_check_value(&rig, text, TEXT_SIZE) && rig_check_gaps(&rig, text, TEXT_SIZE);
    rig_destroy(&rig);
    return ok;
}

static float *copy_of(const void *data, size_t bytes)
{
    void *copy = malloc(bytes != 0 ? bytes : 1);
    if (copy == NULL) {
        fprintf(stderr, "tests: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    if (bytes != 0) {
        memcpy(copy, data, bytes);
    }
    return copy;
}

static bool check_const(struct lab *lab, char *text)
{
    struct rig rig;
    bool ok = rig_prepare(&rig, plain_context(lab), lab->e, &lab->e->reals, lab->variant,
                          plain_options, text, TEXT_SIZE);
    if (!ok) {
        rig_destroy(&rig);
        return false;
    }
    const struct {
        const char *name;
        const void *data;
        size_t bytes;
    } inputs[] = {
        {"src", rig.src.data, rig.src.bytes},
        {"weight", rig.weight.data, rig.weight.bytes},
        {"bias", rig.bias.data, rig.bias.bytes},
        {"residual", rig.residual.data, rig.residual.bytes},
        {"the packed weights", rig.weights->data, doconv_plan_packed_size(rig.plan)},
    };
    float *copies[5], *result = NULL;
    for (int i = 0; i < 5; i++) {
        copies[i] = copy_of(inputs[i].data, inputs[i].bytes);
    }
    ok = rig_execute(&rig, text, TEXT_SIZE);
    for (int i = 0; i < 5; i++) {
        if (ok && inputs[i].bytes != 0 && memcmp(copies[i], inputs[i].data, inputs[i].bytes) != 0) {
            snprintf(text, TEXT_SIZE, "%s changed", inputs[i].name);
            ok = false;
        }
        free(copies[i]);
    }
    if (ok) {
        result = copy_of(rig.dst.data, rig.dst.bytes);
        rig.options.dirt = 0x42; /* what is left in the workspace must not matter */
        ok = rig_execute(&rig, text, TEXT_SIZE) &&
             rig_check_same(&rig, result, "the first run", text, TEXT_SIZE);
    }
    free(result);
    rig_destroy(&rig);
    return ok;
}

static bool check_threads(struct lab *lab, char *text)
{
    struct rig rig;
    bool ok = run_rig(&rig, plain_context(lab), lab, &lab->e->reals, plain_options, text);
    float *result = ok ? copy_of(rig.dst.data, rig.dst.bytes) : NULL;
    rig_destroy(&rig);
    struct rng rng = rng_from(lab->e->seed, lab->variant);
    for (int i = 0; ok && i < 4; i++) {
        const int threads = (int)rng_range(&rng, 2, MOST_THREADS);
        const enum task_kind kind = (enum task_kind)i;
        ok = run_rig(&rig, threaded_context(lab, threads, kind), lab, &lab->e->reals, plain_options,
                     text) &&
             rig_check_same(&rig, result, "the run with 1 thread", text, TEXT_SIZE);
        rig_destroy(&rig);
        if (!ok) {
            const size_t used = strlen(text);
            snprintf(text + used, TEXT_SIZE - used, " (%d threads, tasks %s)", threads,
                     task_kind_name(kind));
        }
    }
    free(result);
    return ok;
}

static bool check_splits(struct lab *lab, char *text)
{
    if (lab->h->kernel->family == DC_FAMILY_REFERENCE) {
        return true;
    }
    struct rig rig;
    bool ok = run_rig(&rig, plain_context(lab), lab, &lab->e->reals, plain_options, text);
    if (ok && lab->first == NULL) {
        lab->first = copy_of(rig.dst.data, rig.dst.bytes);
        lab->first_order = rig.plan->candidate.order_of_sums;
        snprintf(lab->first_variant, sizeof lab->first_variant, "%s", lab->variant);
    } else if (ok && rig.plan->candidate.order_of_sums == lab->first_order) {
        ok = rig_check_same(&rig, lab->first, lab->first_variant, text, TEXT_SIZE);
    }
    rig_destroy(&rig);
    return ok;
}

/* The modes of the floating-point unit, without the flags that any inexact result raises. */
static uint64_t read_modes(void)
{
#if defined(__x86_64__)
    return _mm_getcsr() & 0xffc0u;
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
#else
    return 0;
#endif
}

static void write_modes(uint64_t modes)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)modes);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(modes));
#else
    (void)modes;
#endif
}

/* Denormals to zero, as many programs set it: must survive too. */
#if defined(__x86_64__)
#define FLUSH_MODE 0x8040u
#elif defined(__aarch64__)
#define FLUSH_MODE (UINT64_C(1) << 24)
#else
#define FLUSH_MODE 0u
#endif

static bool check_state(struct lab *lab, char *text)
{
    struct rig rig;
    bool ok = rig_prepare(&rig, plain_context(lab), lab->e, &lab->e->reals, lab->variant,
                          plain_options, text, TEXT_SIZE);
    const uint64_t usual = read_modes();
    for (int flush = 0; ok && flush < 2; flush++) {
        const uint64_t before = flush ? usual | FLUSH_MODE : usual;
        write_modes(before);
        ok = rig_execute(&rig, text, TEXT_SIZE);
        const uint64_t after = read_modes();
        write_modes(usual);
        if (ok && after != before) {
            snprintf(text, TEXT_SIZE,
                     "the modes of the floating-point unit went from 0x%" PRIx64 " to 0x%" PRIx64,
                     before, after);
            ok = false;
        }
    }
    rig_destroy(&rig);
    return ok;
}

typedef bool check_fn(struct lab *lab, char *text);
static check_fn *const checks[PROPERTY_COUNT] = {
    [PROPERTY_EXACT] = check_exact,       [PROPERTY_REAL] = check_real,
    [PROPERTY_BOUNDS] = check_bounds,     [PROPERTY_NAN] = check_nan,
    [PROPERTY_COMPLETE] = check_complete, [PROPERTY_UNPOLLUTED] = check_unpolluted,
    [PROPERTY_CONST] = check_const,       [PROPERTY_THREADS] = check_threads,
    [PROPERTY_SPLITS] = check_splits,     [PROPERTY_STATE] = check_state,
};

/* ---- loops ---- */

static bool check_variant(struct lab *lab, const char *variant)
{
    lab->variant = variant;
    for (int property = 0; property < PROPERTY_COUNT; property++) {
        char text[TEXT_SIZE];
        if (!(lab->h->properties & PROPERTY_BIT(property))) {
            continue;
        }
        lab->report->runs[property]++;
        if (!checks[property](lab, text)) {
            snprintf(lab->report->failure, sizeof lab->report->failure,
                     "%s: %s: problem=%s variant=%s seed=%" PRIu64 ": %s", lab->h->kernel->name,
                     property_name((enum property)property), lab->e->text, variant, lab->h->seed,
                     text);
            return false;
        }
    }
    return true;
}

/* The accepted variants of the kernel, thinned out to the first and a random choice of the rest. */
static bool check_shape(struct lab *lab, const doconv_conv_desc *desc)
{
    struct experiment e;
    lab->report->sampled++;
    if (!experiment_create(&e, desc, lab->h->seed, lab->report->failure,
                           sizeof lab->report->failure)) {
        experiment_destroy(&e);
        return false;
    }
    lab->e = &e;
    doconv_candidates *list;
    const doconv_plan_options options = {.size = sizeof options, .variant = lab->h->kernel->name};
    const doconv_status status =
        doconv_candidates_create(plain_context(lab), desc, &options, &list);
    if (status != DOCONV_OK) {
        snprintf(lab->report->failure, sizeof lab->report->failure,
                 "%s: problem=%s: doconv_candidates_create: %s", lab->h->kernel->name, e.text,
                 doconv_status_string(status));
        experiment_destroy(&e);
        return false;
    }
    int left = 0, wanted = lab->h->most_variants;
    doconv_candidate_info info = {.size = sizeof info};
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        left += doconv_candidates_get(list, i, &info) == DOCONV_OK && info.refused == NULL;
    }
    lab->report->accepted += left > 0;
    struct rng rng = rng_from(lab->h->seed, e.text);
    bool ok = true, first = true;
    for (int i = 0; ok && wanted > 0 && i < doconv_candidates_count(list); i++) {
        if (doconv_candidates_get(list, i, &info) != DOCONV_OK || info.refused != NULL) {
            continue;
        }
        if (first || rng_range(&rng, 1, left) <= wanted) {
            lab->report->variants++;
            ok = check_variant(lab, info.variant);
            wanted--;
            first = false;
        }
        left--;
    }
    doconv_candidates_destroy(list);
    free(lab->first);
    lab->first = NULL;
    experiment_destroy(&e);
    return ok;
}

bool harness_run(const struct harness *h, struct harness_report *report)
{
    *report = (struct harness_report){0};
    struct lab lab = {.h = h, .report = report};
    struct rng rng = rng_from(h->seed, h->kernel->name);
    bool ok = true;
    for (int i = 0; ok && i < h->shapes; i++) {
        doconv_conv_desc desc;
        harness_sample(h->kernel, &rng, i, &desc);
        ok = check_shape(&lab, &desc);
    }
    close_contexts(&lab);
    if (ok && report->accepted < h->least_accepted) {
        snprintf(report->failure, sizeof report->failure,
                 "%s: only %d of %d shapes are accepted, %d must be (seed=%" PRIu64 ")",
                 h->kernel->name, report->accepted, report->sampled, h->least_accepted, h->seed);
        ok = false;
    }
    return ok;
}

bool harness_run_problem(const struct harness *h, const doconv_conv_desc *desc,
                         struct harness_report *report)
{
    *report = (struct harness_report){0};
    struct lab lab = {.h = h, .report = report};
    const bool ok = check_shape(&lab, desc);
    close_contexts(&lab);
    return ok;
}

struct harness harness_for(const struct dc_kernel *kernel)
{
    enum { LEAST = 40 };
    return (struct harness){
        .kernel = kernel,
        .cap = (doconv_isa)kernel->isa,
        .seed = harness_seed(),
        .properties = PROPERTY_ALL,
        .shapes = harness_scaled(240, LEAST + 8),
        .least_accepted = LEAST,
        .most_variants = 6,
    };
}

bool harness_check_default(doconv_context *context, const doconv_conv_desc *desc, uint64_t seed,
                           char *failure, size_t size)
{
    struct experiment e;
    struct rig rig = {0};
    const bool ok =
        experiment_create(&e, desc, seed, failure, size) &&
        rig_prepare(&rig, context, &e, &e.integers, NULL, plain_options, failure, size) &&
        rig_execute(&rig, failure, size) && rig_check_value(&rig, failure, size) &&
        rig_check_complete(&rig, failure, size);
    rig_destroy(&rig);
    experiment_destroy(&e);
    return ok;
}

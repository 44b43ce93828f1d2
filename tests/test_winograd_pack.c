/* SPDX-License-Identifier: MIT */
/*
 * Packed weights of Winograd's kernels: filters transformed in double and rounded once, to the same
 * bits whichever kernel of a form does it and however it writes them; from weights that lie in any
 * order; and folded on the way, in no more memory than a part of the weight.
 */
#include <math.h>

#include "capped.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/registry.h"
#include "harness.h"
#include "harness_buffer.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

enum { MOST_TAPS = 9, MOST_FLOATS = 208 };
#define ROOT_HALF 0.70710678118654752440
#define ROOT_TWO 1.41421356237309504880

/*
 * A form's pairs of points a, -a and what their rows of G, (1, +-a, a^2, ...), are scaled by: both
 * alike where there is a point 0 before them, else the second one with the other sign.
 */
static const struct form {
    int points, pairs;
    double a[4], scale[4];
} forms[] = {
    {4, 1, {1.0}, {0.5}},
    {6, 2, {ROOT_HALF, ROOT_TWO}, {-ROOT_HALF / 1.5, 1.0 / 3.0}},
    {8, 3, {1.0, 2.0, 0.5}, {-1.0 / 4.5, 1.0 / 90.0, 32.0 / 45.0}},
    {9, 4, {0.25, 0.6875, 1.125, 2.0}, {0}},
};

static const struct form *form_of(const struct dc_winograd_kernel *w)
{
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (forms[i].points == w->points) {
            return &forms[i];
        }
    }
    fail_msg("no form has %d points", w->points);
    return NULL;
}

/* Without a point 0: half of 1 / a over the product of a^2 - b^2 for the other pairs b. */
static double scale_of(const struct form *form, int pair)
{
    double scale = 0.5 / form->a[pair];
    for (int i = 0; i < form->pairs; i++) {
        scale /= i == pair ? 1.0 : form->a[pair] * form->a[pair] - form->a[i] * form->a[i];
    }
    return scale;
}

/* G[point][tap] of `taps` taps */
static double factor(const struct form *form, int taps, int point, int tap)
{
    const int zero = form->points % 2 == 0 ? 1 : 0, pair = (point - zero) / 2;
    if (point == form->points - 1) {
        return tap == taps - 1 ? 1.0 : 0.0;
    }
    if (point < zero) {
        return tap == 0 ? 1.0 : 0.0;
    }
    const double sign = (point - zero) % 2 == 0 ? 1.0 : -1.0,
                 scale = zero != 0 ? form->scale[pair] : sign * scale_of(form, pair);
    return scale * pow(sign * form->a[pair], tap);
}

static bool usable(const struct dc_kernel *kernel)
{
    return dc_isa_usable(kernel->isa, dc_cpu_probe()->isa);
}

/* ---- the kernels ---- */

/* Filters, side by side, and the points that a kernel makes of them. */
struct filters {
    struct buffer src, points;
    struct dc_winograd_filter_args args;
    int count; /* points */
};

static void transform(const struct dc_kernel *kernel, const float *src, ptrdiff_t floats,
                      int stream, struct filters *f)
{
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const int taps = w->axes == 2 ? w->taps * w->taps : w->taps;
    f->count = w->axes == 2 ? w->points * w->points : w->points;
    const ptrdiff_t point = floats + (stream ? 16 : 8);
    const size_t bytes = (size_t)((f->count - 1) * point + floats) * sizeof(float);
    buffer_create(&f->src, (size_t)(taps * floats) * sizeof(float), BUFFER_GUARD_AFTER, 0);
    buffer_create(&f->points, bytes, stream ? BUFFER_GUARD_BEFORE : BUFFER_GUARD_AFTER, 0);
    memcpy(f->src.data, src, f->src.bytes);
    f->args = (struct dc_winograd_filter_args){.src = f->src.data,
                                               .src_tap = floats,
                                               .floats = floats,
                                               .points = f->points.data,
                                               .point = point,
                                               .stream = stream};
    w->pack_filters(&f->args);
}

static void forget(struct filters *f)
{
    buffer_destroy(&f->src);
    buffer_destroy(&f->points);
}

/* Each point within half a unit of its last place, and what double itself rounds. */
static void check_rounding(const struct dc_kernel *kernel, const struct filters *f)
{
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const struct form *form = form_of(w);
    const int taps = w->taps, rows = w->axes == 2 ? taps : 1;
    for (int p = 0; p < f->count; p++) {
        for (ptrdiff_t i = 0; i < f->args.floats; i++) {
            double sum = 0.0, magnitude = 0.0;
            for (int tap = 0; tap < rows * taps; tap++) {
                const double down =
                                 w->axes == 2 ? factor(form, taps, p / w->points, tap / taps) : 1.0,
                             g = down * factor(form, taps, p % w->points, tap % taps),
                             product = g * (double)f->args.src[tap * f->args.src_tap + i];
                sum += product;
                magnitude += fabs(product);
            }
            const float seen = f->args.points[p * f->args.point + i];
            const double bound = 0x1p-24 * fabs(sum) + 0x1p-48 * magnitude;
            if (!(fabs((double)seen - sum) <= bound)) {
                fail_msg("%s: point %d of filter %td is %a, not %a", kernel->name, p, i,
                         (double)seen, sum);
            }
        }
    }
}

static void expect_same(const struct dc_kernel *kernel, const struct filters *a,
                        const struct filters *b)
{
    for (int p = 0; p < a->count; p++) {
        if (memcmp(a->args.points + p * a->args.point, b->args.points + p * b->args.point,
                   (size_t)a->args.floats * sizeof(float)) != 0) {
            fail_msg("%s: point %d has other bits%s", kernel->name, p,
                     b->args.stream ? " past the caches" : "");
        }
    }
}

static void test_kernels(void **state)
{
    (void)state;
    static const ptrdiff_t floats[] = {16, 48, 64, 80, 128, MOST_FLOATS};
    float src[MOST_TAPS * MOST_FLOATS];
    struct rng rng = rng_from(harness_seed(), "winograd pack");
    for (size_t s = 0; s < sizeof floats / sizeof floats[0]; s++) {
        for (size_t i = 0; i < sizeof src / sizeof src[0]; i++) {
            src[i] = (float)((2.0 * rng_unit(&rng) - 1.0) * exp2((double)rng_range(&rng, -9, 9)));
        }
        for (int i = 0; dc_builtin_kernels[i] != NULL; i++) {
            const struct dc_kernel *kernel = dc_builtin_kernels[i];
            if (kernel->family != DC_FAMILY_WINOGRAD || !usable(kernel)) {
                continue;
            }
            struct filters f, streamed;
            transform(kernel, src, floats[s], 0, &f);
            check_rounding(kernel, &f);
            transform(kernel, src, floats[s], 1, &streamed);
            expect_same(kernel, &f, &streamed);
            forget(&streamed);
            for (int j = 0; j < i; j++) {
                const struct dc_kernel *other = dc_builtin_kernels[j];
                if (other->family == DC_FAMILY_WINOGRAD && usable(other) &&
                    other->winograd.axes == kernel->winograd.axes &&
                    other->winograd.taps == kernel->winograd.taps &&
                    other->winograd.outputs == kernel->winograd.outputs) {
                    struct filters others;
                    transform(other, src, floats[s], 0, &others);
                    expect_same(kernel, &f, &others);
                    forget(&others);
                }
            }
            forget(&f);
        }
    }
}

/* ---- views ---- */

/* The first accepted variant of a kernel that has the text in it; false if there is none. */
static bool find_variant(doconv_context *context, const doconv_conv_desc *desc, const char *kernel,
                         const char *text, char variant[DC_VARIANT_SIZE])
{
    doconv_candidates *list;
    expect_ok(doconv_candidates_create(context, desc, NULL, &list));
    variant[0] = '\0';
    for (int i = 0; i < doconv_candidates_count(list) && variant[0] == '\0'; i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        if (info.refused == NULL && strcmp(info.kernel, kernel) == 0 &&
            strstr(info.variant, text) != NULL) {
            snprintf(variant, DC_VARIANT_SIZE, "%s", info.variant);
        }
    }
    doconv_candidates_destroy(list);
    return variant[0] != '\0';
}

static void fill(struct rng *rng, float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(2.0 * rng_unit(rng) - 1.0);
    }
}

/*
 * As a plan packs the weight itself, so it packs one whose channels are exchanged and whose taps
 * are flipped, as the gradient of src has it.
 */
static void check_view(doconv_context *context, const doconv_conv_desc *desc, const char *variant,
                       struct rng *rng)
{
    const doconv_plan_options options = {.size = sizeof options, .variant = variant};
    doconv_plan *plan;
    expect_ok(doconv_plan_create(context, desc, &options, &plan));
    const int64_t taps = desc->kh * desc->kw, cin = desc->cin, cout = desc->cout;
    const size_t floats = (size_t)(cin * cout * taps), size = doconv_plan_packed_size(plan);
    float *plain = malloc(floats * sizeof *plain), *turned = malloc(floats * sizeof *turned),
          *packed[2] = {aligned_alloc(64, size), aligned_alloc(64, size)};
    assert_true(plain != NULL && turned != NULL && packed[0] != NULL && packed[1] != NULL);
    fill(rng, plain, floats);
    for (int64_t o = 0; o < cout; o++) {
        for (int64_t c = 0; c < cin; c++) {
            for (int64_t t = 0; t < taps; t++) {
                turned[(c * cout + o) * taps + taps - 1 - t] = plain[(o * cin + c) * taps + t];
            }
        }
    }
    const struct dc_weight_view own = dc_weight_view(&plan->problem, plain),
                                other = {.data = turned + taps - 1,
                                         .out = taps,
                                         .in = cout * taps,
                                         .row = -desc->kw,
                                         .column = -1};
    plan->candidate.solver->pack(plan, &own, NULL, packed[0]);
    plan->candidate.solver->pack(plan, &other, NULL, packed[1]);
    assert_memory_equal(packed[0], packed[1], size);
    free(plain);
    free(turned);
    free(packed[0]);
    free(packed[1]);
    doconv_plan_destroy(plan);
}

/* Every kernel's variants, under its cap, on each of the layers, with as many taps as it has. */
static void each_variant(const char *const *layers,
                         void (*check)(doconv_context *context, const doconv_conv_desc *desc,
                                       const char *variant, struct rng *rng),
                         doconv_context *(*open)(doconv_isa cap), struct rng *rng)
{
    static const char *const kinds[] = {",outputs=", ",raw="};
    for (int i = 0; dc_builtin_kernels[i] != NULL; i++) {
        const struct dc_kernel *kernel = dc_builtin_kernels[i];
        if (kernel->family != DC_FAMILY_WINOGRAD || !usable(kernel)) {
            continue;
        }
        doconv_context *context = open((doconv_isa)kernel->isa);
        for (const char *const *layer = layers; *layer != NULL; layer++) {
            char text[64];
            snprintf(text, sizeof text, "%skh%dph1:accuracy=fast", *layer, kernel->winograd.taps);
            const doconv_conv_desc desc = problem(text);
            for (int k = 0; k < 2; k++) {
                char variant[DC_VARIANT_SIZE];
                assert_true(find_variant(context, &desc, kernel->name, kinds[k], variant));
                check(context, &desc, variant, rng);
            }
        }
        doconv_context_destroy(context);
    }
}

static doconv_context *open_two(doconv_isa cap)
{
    static struct task_order order = {.kind = TASKS_SHUFFLED, .seed = 1};
    return open_with(cap, 2, &order);
}

static void test_views(void **state)
{
    (void)state;
    static const char *const layers[] = {"ic33ih6oc50", "ic16ih6oc64", NULL};
    struct rng rng = rng_from(harness_seed(), "views");
    each_variant(layers, check_view, open_two, &rng);
}

/* ---- memory of a fold ---- */

enum { HEADER = 64 };

static struct {
    size_t live, most;
} bytes;

static void *measure_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    assert_true(alignment <= HEADER);
    char *const block = aligned_alloc(HEADER, (size + 2 * HEADER - 1) / HEADER * HEADER);
    if (block == NULL) {
        return NULL;
    }
    memcpy(block, &size, sizeof size);
    bytes.live += size;
    bytes.most = bytes.live > bytes.most ? bytes.live : bytes.most;
    return block + HEADER;
}

static void measure_release(void *user, void *memory)
{
    (void)user;
    size_t size;
    char *const block = (char *)memory - HEADER;
    memcpy(&size, block, sizeof size);
    bytes.live -= size;
    free(block);
}

static doconv_context *open_measured(doconv_isa cap)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .max_isa = cap,
                                            .allocate = measure_allocate,
                                            .release = measure_release};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

/* The bits of the folded weight's packing, with room for a block of it beside what is packed. */
static void check_fold(doconv_context *context, const doconv_conv_desc *desc, const char *variant,
                       struct rng *rng)
{
    const doconv_plan_options options = {.size = sizeof options, .variant = variant};
    doconv_plan *plan;
    expect_ok(doconv_plan_create(context, desc, &options, &plan));
    const doconv_fold_desc fold = {.size = sizeof fold,
                                   .cout = desc->cout,
                                   .cin = desc->cin,
                                   .kh = desc->kh,
                                   .kw = desc->kw,
                                   .groups = 1,
                                   .d_mul = desc->kh * desc->kw};
    const size_t taps = (size_t)fold.d_mul, rows = (size_t)(desc->cout * desc->cin),
                 weight = rows * taps * sizeof(float), square = (size_t)desc->cin * taps * taps;
    float *w = malloc(weight), *folded = malloc(weight), *d = malloc(square * sizeof *d);
    assert_true(w != NULL && folded != NULL && d != NULL);
    fill(rng, w, rows * taps);
    fill(rng, d, square);
    expect_ok(doconv_fold(context, &fold, w, d, folded));
    doconv_weights *weights[2];
    expect_ok(doconv_weights_create(plan, folded, NULL, &weights[0]));
    bytes.most = bytes.live;
    const size_t before = bytes.live;
    expect_ok(doconv_weights_fold(plan, &fold, w, d, NULL, &weights[1]));
    const size_t needed = bytes.most - before - doconv_plan_packed_size(plan);
    if (2 * needed > weight) {
        fail_msg("%s: folding takes %zu bytes beside what is packed; the weight has %zu", variant,
                 needed, weight);
    }
    assert_memory_equal(weights[0]->data, weights[1]->data, doconv_plan_packed_size(plan));
    for (int i = 0; i < 2; i++) {
        doconv_weights_destroy(weights[i]);
    }
    doconv_plan_destroy(plan);
    free(w);
    free(folded);
    free(d);
}

static void test_fold_memory(void **state)
{
    (void)state;
    static const char *const layers[] = {"ic160ih6oc300", NULL};
    struct rng rng = rng_from(harness_seed(), "fold memory");
    each_variant(layers, check_fold, open_measured, &rng);
    assert_int_equal(bytes.live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_fold_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

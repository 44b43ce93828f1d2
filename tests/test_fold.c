/* SPDX-License-Identifier: MIT */
/*
 * doconv_fold() against a double-precision oracle: shapes, mappings, ISA caps, threads, memory,
 * values that spread, arguments that it must refuse.
 */
#include <math.h>

#include "capped.h"
#include "harness.h"
#include "harness_buffer.h"

/* ---- the oracle ---- */

struct sizes {
    size_t w, d, weight; /* floats */
    int64_t cig, taps;
};

static struct sizes sizes_of(const doconv_fold_desc *desc)
{
    const int64_t cig = desc->cin / desc->groups, taps = desc->kh * desc->kw;
    return (struct sizes){.w = (size_t)(desc->cout * cig * desc->d_mul),
                          .d = (size_t)(desc->cin * taps * desc->d_mul),
                          .weight = (size_t)(desc->cout * cig * taps),
                          .cig = cig,
                          .taps = taps};
}

static int64_t oracle_channel(const doconv_fold_desc *desc, int64_t o, int64_t i)
{
    const int64_t cig = desc->cin / desc->groups, cog = desc->cout / desc->groups;
    return desc->mapping == DOCONV_MAPPING_PAPER     ? o / cog * cig + i
           : desc->mapping == DOCONV_MAPPING_PYTORCH ? (o * cig + i) % desc->cin
                                                     : (i * desc->cout + o) / cog;
}

/* D's share of the identity: I[m][s]. */
static double identity_at(const doconv_fold_desc *desc, int64_t m, int64_t s)
{
    const int64_t taps = desc->kh * desc->kw;
    return desc->add_identity && s < desc->d_mul / taps * taps && s % taps == m ? 1.0 : 0.0;
}

/* value and sum |D * W| of weight[o][i][m]; a NULL D is a one. */
static double oracle_fold(const doconv_fold_desc *desc, const float *w, const float *d, int64_t o,
                          int64_t i, int64_t m, double *magnitude)
{
    const struct sizes n = sizes_of(desc);
    double sum = 0.0;
    *magnitude = 0.0;
    for (int64_t s = 0; s < desc->d_mul; s++) {
        const double factor =
            d != NULL ? (double)d[(oracle_channel(desc, o, i) * n.taps + m) * desc->d_mul + s] +
                            identity_at(desc, m, s)
                      : 1.0;
        const double product = factor * (double)w[(o * n.cig + i) * desc->d_mul + s];
        sum += product;
        *magnitude += fabs(product);
    }
    return sum;
}

/* ---- cases ---- */

static void describe(const doconv_fold_desc *desc, char *text, size_t size)
{
    snprintf(text, size,
             "%" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64 " groups %" PRId64 " d_mul %" PRId64
             " mapping %d identity %d",
             desc->cout, desc->cin, desc->kh, desc->kw, desc->groups, desc->d_mul,
             (int)desc->mapping, desc->add_identity);
}

static void fill(struct rng *rng, float *values, size_t count, bool integers)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = integers ? (float)rng_range(rng, -4, 4) : (float)(2.0 * rng_unit(rng) - 1.0);
    }
}

/* How a case lies in memory: each tensor at a boundary or at any address. */
struct memory {
    enum buffer_place place;
    size_t shift;
};

struct tensors_of_fold {
    struct buffer w, d, weight;
};

static struct tensors_of_fold allocate(const doconv_fold_desc *desc, struct memory memory)
{
    const struct sizes n = sizes_of(desc);
    struct tensors_of_fold t;
    buffer_create(&t.w, n.w * sizeof(float), memory.place, memory.shift);
    buffer_create(&t.d, n.d * sizeof(float), memory.place, (memory.shift + 20) % 64);
    buffer_create(&t.weight, n.weight * sizeof(float), memory.place, (memory.shift + 44) % 64);
    return t;
}

static void release(struct tensors_of_fold *t)
{
    buffer_destroy(&t->w);
    buffer_destroy(&t->d);
    buffer_destroy(&t->weight);
}

struct call {
    doconv_context *context;
    const doconv_fold_desc *desc;
    const float *w, *d;
    float *weight;
    doconv_status status;
};

static void run_call(void *arg)
{
    struct call *call = arg;
    call->status = doconv_fold(call->context, call->desc, call->w, call->d, call->weight);
}

/* Folds and checks every element: exactly for integers, else to the bound of a dot product. */
static void check_fold(doconv_context *context, const doconv_fold_desc *desc, struct rng *rng,
                       struct memory memory, bool integers)
{
    char text[160];
    describe(desc, text, sizeof text);
    const struct sizes n = sizes_of(desc);
    struct tensors_of_fold t = allocate(desc, memory);
    fill(rng, t.w.data, n.w, integers);
    fill(rng, t.d.data, n.d, integers);
    float *w = malloc(t.w.bytes), *d = malloc(t.d.bytes);
    assert_true(w != NULL && d != NULL);
    memcpy(w, t.w.data, t.w.bytes);
    memcpy(d, t.d.data, t.d.bytes);
    struct call call = {
        .context = context, .desc = desc, .w = t.w.data, .d = t.d.data, .weight = t.weight.data};
    const void *address = NULL;
    if (!fault_catch(run_call, &call, &address)) {
        fail_msg("%s: touches %p; w ends at %p, d at %p, weight at %p", text, address,
                 (void *)((char *)t.w.data + t.w.bytes), (void *)((char *)t.d.data + t.d.bytes),
                 (void *)((char *)t.weight.data + t.weight.bytes));
    }
    expect_ok(call.status);
    if (!buffer_intact(&t.w) || !buffer_intact(&t.d) || !buffer_intact(&t.weight)) {
        fail_msg("%s: writes outside of weight", text);
    }
    if (memcmp(w, t.w.data, t.w.bytes) != 0 || memcmp(d, t.d.data, t.d.bytes) != 0) {
        fail_msg("%s: changes an input", text);
    }
    const float *weight = t.weight.data;
    const double unit = ldexp(1.0, -24), terms = (double)desc->d_mul + 2.0,
                 bound = terms * unit / (1.0 - terms * unit);
    for (int64_t at = 0; at < (int64_t)n.weight; at++) {
        const int64_t o = at / (n.cig * n.taps), i = at / n.taps % n.cig, m = at % n.taps;
        double magnitude;
        const double value = oracle_fold(desc, w, d, o, i, m, &magnitude);
        if (!(integers ? (double)weight[at] == value
                       : fabs((double)weight[at] - value) <= bound * magnitude)) {
            fail_msg("%s: [%" PRId64 "][%" PRId64 "][%" PRId64 "] is %.9g, must be %.9g", text, o,
                     i, m, (double)weight[at], value);
        }
    }
    free(w);
    free(d);
    release(&t);
}

static const struct {
    int64_t kh, kw;
} kernels[] = {{1, 1}, {3, 3}, {1, 7}, {5, 5}, {7, 7}, {3, 1}, {2, 1}, {2, 2}, {3, 5}};
static const int64_t multiples[] = {1, 2, 3, 4, 5, 9, 12, 17, 18, 25, 27};

static doconv_fold_desc sample(struct rng *rng, int index)
{
    static const int64_t groups[] = {2, 3, 4, 6, 16, 17};
    doconv_fold_desc desc = {.size = sizeof desc, .groups = 1};
    const size_t k = (size_t)rng_range(rng, 0, sizeof kernels / sizeof kernels[0] - 1);
    desc.kh = kernels[k].kh;
    desc.kw = kernels[k].kw;
    desc.d_mul = rng_range(rng, 0, 2) == 0
                     ? desc.kh * desc.kw
                     : rng_pick(rng, multiples, sizeof multiples / sizeof multiples[0]);
    desc.mapping = (doconv_mapping)(index % 3);
    desc.add_identity = (int)rng_range(rng, 0, 1);
    switch (index % 4) {
    case 0: /* dense */
        desc.cin = rng_range(rng, 1, 70);
        desc.cout = rng_range(rng, 1, 40);
        break;
    case 1: /* groups of any width */
        desc.groups = rng_pick(rng, groups, sizeof groups / sizeof groups[0]);
        desc.cin = desc.groups * rng_range(rng, 1, 20);
        desc.cout = desc.groups * rng_range(rng, 1, 9);
        break;
    case 2: /* depthwise, with and without a multiplier */
        desc.groups = desc.cin = rng_range(rng, 1, 70);
        desc.cout = desc.groups * rng_range(rng, 1, 5);
        break;
    default: /* channels around a vector, enough for full blocks of every kernel */
        desc.cin = rng_range(rng, 1, 5) * 16 + rng_range(rng, -1, 1);
        desc.cout = rng_range(rng, 1, 30);
        break;
    }
    return desc;
}

static void test_shapes(void **state)
{
    doconv_context *context = open_with((doconv_isa)(intptr_t)*state, 1, NULL);
    struct rng rng = rng_from(harness_seed(), "fold shapes");
    const int count = harness_scaled(400, 40);
    for (int index = 0; index < count; index++) {
        const doconv_fold_desc desc = sample(&rng, index);
        const struct memory memory = {.place = (enum buffer_place)(index % 3),
                                      .shift = index % 2 != 0 ? (size_t)(4 * rng_range(&rng, 1, 15))
                                                              : 0};
        check_fold(context, &desc, &rng, memory, index % 5 < 2);
    }
    doconv_context_destroy(context);
}

/*
 * Every kernel size x D_mul x mapping x identity on a few channel counts: nothing is left to chance
 * here.
 */
static void test_grid(void **state)
{
    static const struct {
        int64_t cout, cin, groups;
    } channels[] = {{5, 19, 1}, {7, 16, 1}, {12, 8, 4}, {34, 34, 34}, {6, 3, 3}, {3, 3, 1}};
    doconv_context *context = open_with((doconv_isa)(intptr_t)*state, 1, NULL);
    struct rng rng = rng_from(harness_seed(), "fold grid");
    int index = 0;
    for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; k++) {
        for (size_t s = 0; s < sizeof multiples / sizeof multiples[0]; s++) {
            for (size_t c = 0; c < sizeof channels / sizeof channels[0]; c++, index++) {
                const doconv_fold_desc desc = {.size = sizeof desc,
                                               .cout = channels[c].cout,
                                               .cin = channels[c].cin,
                                               .groups = channels[c].groups,
                                               .kh = kernels[k].kh,
                                               .kw = kernels[k].kw,
                                               .d_mul = multiples[s],
                                               .mapping = (doconv_mapping)(index % 3),
                                               .add_identity = index / 3 % 2};
                check_fold(context, &desc, &rng,
                           (struct memory){.place = (enum buffer_place)(index / 6 % 3), .shift = 4},
                           true);
            }
        }
    }
    doconv_context_destroy(context);
}

/* Tensors too large for a pass over them in a cache. */
static void test_large(void **state)
{
    static const doconv_fold_desc descs[] = {
        {.size = sizeof descs[0], .cout = 9, .cin = 150, .kh = 3, .kw = 3, .groups = 1, .d_mul = 9},
        {.size = sizeof descs[0],
         .cout = 3,
         .cin = 20,
         .kh = 11,
         .kw = 11,
         .groups = 1,
         .d_mul = 121,
         .add_identity = 1},
        {.size = sizeof descs[0],
         .cout = 2,
         .cin = 2,
         .kh = 31,
         .kw = 31,
         .groups = 1,
         .d_mul = 961,
         .add_identity = 1},
        {.size = sizeof descs[0],
         .cout = 4,
         .cin = 17,
         .kh = 3,
         .kw = 3,
         .groups = 1,
         .d_mul = 3000,
         .add_identity = 1},
        {.size = sizeof descs[0],
         .cout = 64,
         .cin = 3,
         .kh = 7,
         .kw = 7,
         .groups = 1,
         .d_mul = 49,
         .add_identity = 1},
    };
    doconv_context *context = open_with((doconv_isa)(intptr_t)*state, 1, NULL);
    struct rng rng = rng_from(harness_seed(), "fold large");
    for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
        check_fold(context, &descs[i], &rng, (struct memory){.place = BUFFER_GUARD_AFTER},
                   i % 2 == 0);
    }
    doconv_context_destroy(context);
}

/* ---- threads ---- */

static void test_threads(void **state)
{
    const doconv_isa cap = (doconv_isa)(intptr_t)*state;
    struct rng rng = rng_from(harness_seed(), "fold threads");
    struct task_order order = {.kind = TASKS_FORWARD};
    doconv_context *one = open_with(cap, 1, NULL);
    const int count = harness_scaled(60, 12);
    for (int index = 0; index < count; index++) {
        doconv_fold_desc desc = sample(&rng, index);
        if (index < 4) { /* blocks for many threads; or fewer than there are threads */
            desc = (doconv_fold_desc){.size = sizeof desc,
                                      .cout = index == 3 ? 1 : 40,
                                      .cin = index == 0 ? 200 : index,
                                      .kh = 3,
                                      .kw = 3,
                                      .groups = 1,
                                      .d_mul = 9};
            desc.cin = desc.cin == 0 ? 1 : desc.cin;
        }
        const struct sizes n = sizes_of(&desc);
        struct tensors_of_fold t = allocate(&desc, (struct memory){.place = BUFFER_CANARIES});
        float *expected = malloc(t.weight.bytes);
        assert_non_null(expected);
        fill(&rng, t.w.data, n.w, false);
        fill(&rng, t.d.data, n.d, false);
        expect_ok(doconv_fold(one, &desc, t.w.data, t.d.data, expected));
        for (int threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
            order = (struct task_order){.kind = (enum task_kind)((index + threads) % TASK_KINDS),
                                        .seed = (uint64_t)index};
            doconv_context *many = open_with(cap, threads, threads == 2 ? NULL : &order);
            memset(t.weight.data, 0xff, t.weight.bytes);
            expect_ok(doconv_fold(many, &desc, t.w.data, t.d.data, t.weight.data));
            if (memcmp(expected, t.weight.data, t.weight.bytes) != 0 || !buffer_intact(&t.weight)) {
                char text[160];
                describe(&desc, text, sizeof text);
                fail_msg("%s: %d threads give other bits than one", text, threads);
            }
            doconv_context_destroy(many);
        }
        free(expected);
        release(&t);
    }
    doconv_context_destroy(one);
}

/* ---- NaN and infinity ---- */

/* A special value in W or D makes just the sums that contain it special. */
static void test_special(void **state)
{
    doconv_context *context = open_with((doconv_isa)(intptr_t)*state, 1, NULL);
    struct rng rng = rng_from(harness_seed(), "fold special");
    const int count = harness_scaled(120, 24);
    for (int index = 0; index < count; index++) {
        const doconv_fold_desc desc = sample(&rng, index);
        const struct sizes n = sizes_of(&desc);
        struct tensors_of_fold t =
            allocate(&desc, (struct memory){.place = BUFFER_CANARIES, .shift = 8});
        float *w = t.w.data, *d = t.d.data, *weight = t.weight.data;
        for (size_t i = 0; i < n.w; i++) {
            w[i] = (float)rng_range(&rng, 1, 3);
        }
        for (size_t i = 0; i < n.d; i++) {
            d[i] = (float)rng_range(&rng, 1, 3);
        }
        const bool in_w = index % 2 != 0, infinite = index / 2 % 2 != 0;
        const size_t place = (size_t)rng_range(&rng, 0, (int64_t)(in_w ? n.w : n.d) - 1);
        (in_w ? w : d)[place] = infinite ? -INFINITY : NAN;
        expect_ok(doconv_fold(context, &desc, w, d, weight));
        for (int64_t at = 0; at < (int64_t)n.weight; at++) {
            const int64_t o = at / (n.cig * n.taps), i = at / n.taps % n.cig, m = at % n.taps;
            double magnitude;
            const double value = oracle_fold(&desc, w, d, o, i, m, &magnitude);
            if (isnan(value) ? !isnan(weight[at]) : (double)weight[at] != value) {
                char text[160];
                describe(&desc, text, sizeof text);
                fail_msg("%s, %s in %s[%zu]: [%" PRId64 "][%" PRId64 "][%" PRId64
                         "] is %g, must be %g",
                         text, infinite ? "-inf" : "NaN", in_w ? "w" : "d", place, o, i, m,
                         (double)weight[at], value);
            }
        }
        release(&t);
    }
    doconv_context_destroy(context);
}

/* ---- memory of the context ---- */

static void test_context_memory(void **state)
{
    const doconv_isa cap = (doconv_isa)(intptr_t)*state;
    struct rng rng = rng_from(harness_seed(), "fold memory");
    for (int side = BUFFER_GUARD_AFTER; side <= BUFFER_GUARD_BEFORE; side++) {
        enum buffer_place place = (enum buffer_place)side;
        const doconv_context_options options = {.size = sizeof options,
                                                .threads = 2,
                                                .tune = DOCONV_TUNE_OFF,
                                                .max_isa = cap,
                                                .allocate = guard_allocate,
                                                .release = guard_release,
                                                .allocate_user = &place};
        doconv_context *context = NULL;
        expect_ok(doconv_context_create(&options, &context));
        for (int index = 0; index < harness_scaled(60, 12); index++) {
            const doconv_fold_desc desc = sample(&rng, index);
            check_fold(context, &desc, &rng, (struct memory){.place = BUFFER_CANARIES, .shift = 0},
                       true);
        }
        doconv_context_destroy(context);
    }
}

struct stingy {
    int left; /* blocks that may still be allocated */
    int live;
};

static void *stingy_allocate(void *user, size_t size, size_t alignment)
{
    struct stingy *stingy = user;
    if (stingy->left == 0) {
        return NULL;
    }
    stingy->left--;
    stingy->live++;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void stingy_release(void *user, void *memory)
{
    ((struct stingy *)user)->live -= memory != NULL;
    free(memory);
}

/* Without memory fold says so (or needs none), and nothing leaks. */
static void test_no_memory(void **state)
{
    struct stingy stingy = {.left = 100};
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .max_isa = (doconv_isa)(intptr_t)*state,
                                            .allocate = stingy_allocate,
                                            .release = stingy_release,
                                            .allocate_user = &stingy};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    const doconv_fold_desc desc = {
        .size = sizeof desc, .cout = 4, .cin = 20, .kh = 3, .kw = 3, .groups = 1, .d_mul = 9};
    struct tensors_of_fold t = allocate(&desc, (struct memory){.place = BUFFER_CANARIES});
    struct rng rng = rng_from(1, NULL);
    fill(&rng, t.w.data, sizes_of(&desc).w, true);
    fill(&rng, t.d.data, sizes_of(&desc).d, true);
    stingy.left = 0;
    const doconv_status status = doconv_fold(context, &desc, t.w.data, t.d.data, t.weight.data);
    assert_true(status == DOCONV_OK || status == DOCONV_OUT_OF_MEMORY);
    if (status != DOCONV_OK) {
        expect_error(context, "fold", "memory");
    }
    stingy.left = 100;
    expect_ok(doconv_fold(context, &desc, t.w.data, t.d.data, t.weight.data));
    /* It leaves a plan to the next call: that needs a workspace at most, and leaves no more. */
    const int live = stingy.live;
    for (int i = 0; i < 3; i++) {
        stingy.left = 1;
        expect_ok(doconv_fold(context, &desc, t.w.data, t.d.data, t.weight.data));
        assert_int_equal(stingy.live, live);
    }
    doconv_fold_desc other = desc;
    other.cin = 10;
    stingy.left = 100;
    expect_ok(doconv_fold(context, &other, t.w.data, t.d.data, t.weight.data));
    assert_int_equal(stingy.live, live + 1); /* the context remembers what was chosen */
    release(&t);
    doconv_context_destroy(context);
    assert_int_equal(stingy.live, 0);
}

/* ---- no D ---- */

static void test_no_d(void **state)
{
    doconv_context *context = open_with((doconv_isa)(intptr_t)*state, 1, NULL);
    float w[21], weight[22];
    for (int i = 0; i < 21; i++) {
        w[i] = (float)i - 7.5f;
    }
    for (int identity = 0; identity <= 1; identity++) {
        const doconv_fold_desc desc = {.size = sizeof desc,
                                       .cout = 3,
                                       .cin = 7,
                                       .kh = 1,
                                       .kw = 1,
                                       .groups = 1,
                                       .d_mul = 1,
                                       .add_identity = identity};
        memset(weight, 0x55, sizeof weight);
        const float guard = weight[21];
        expect_ok(doconv_fold(context, &desc, w, NULL, weight));
        assert_memory_equal(w, weight, sizeof w);
        assert_memory_equal(&guard, &weight[21], sizeof guard);
    }
    doconv_context_destroy(context);
}

/* ---- arguments ---- */

static void test_arguments(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    float w[4 * 3 * 9], d[3 * 9 * 9], weight[4 * 3 * 9], untouched[4 * 3 * 9];
    memset(w, 0, sizeof w);
    memset(d, 0, sizeof d);
    memset(weight, 0x55, sizeof weight);
    memcpy(untouched, weight, sizeof weight);
    const doconv_fold_desc good = {
        .size = sizeof good, .cout = 4, .cin = 3, .kh = 3, .kw = 3, .groups = 1, .d_mul = 9};
    expect_status(doconv_fold(NULL, &good, w, d, weight), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_fold(context, NULL, w, d, weight), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "fold", "desc");
    expect_status(doconv_fold(context, &good, NULL, d, weight), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "fold", "w: NULL");
    expect_status(doconv_fold(context, &good, w, d, NULL), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "fold", "weight: NULL");
    expect_status(doconv_fold(context, &good, w, NULL, weight), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "fold", "d: NULL");
    const int64_t huge = INT64_MAX / 2;
    doconv_fold_desc desc;
#define REFUSED(expected, detail, field, value)                                                    \
    desc = good;                                                                                   \
    desc.field = value;                                                                            \
    expect_status(doconv_fold(context, &desc, w, d, weight), expected);                            \
    expect_error(context, "fold", detail)
    REFUSED(DOCONV_MISMATCH, "size", size, sizeof good - 8);
    REFUSED(DOCONV_MISMATCH, "size", size, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "cout", cout, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "cout", cout, -4);
    REFUSED(DOCONV_INVALID_PROBLEM, "cin", cin, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "kh", kh, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "kw", kw, -1);
    REFUSED(DOCONV_INVALID_PROBLEM, "groups", groups, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "groups", groups, 2);
    REFUSED(DOCONV_INVALID_PROBLEM, "groups", groups, 3);
    REFUSED(DOCONV_INVALID_PROBLEM, "d_mul", d_mul, 0);
    REFUSED(DOCONV_INVALID_PROBLEM, "mapping", mapping, (doconv_mapping)3);
    REFUSED(DOCONV_INVALID_PROBLEM, "mapping", mapping, (doconv_mapping)-1);
    REFUSED(DOCONV_INVALID_PROBLEM, "add_identity", add_identity, 2);
    REFUSED(DOCONV_INVALID_PROBLEM, "add_identity", add_identity, -1);
    REFUSED(DOCONV_OVERFLOW, "large", cout, huge);
    REFUSED(DOCONV_OVERFLOW, "large", cin, huge);
    REFUSED(DOCONV_OVERFLOW, "large", kh, huge);
    REFUSED(DOCONV_OVERFLOW, "large", kw, INT64_MAX);
    REFUSED(DOCONV_OVERFLOW, "large", d_mul, huge);
    REFUSED(DOCONV_OVERFLOW, "large", d_mul, INT64_C(1) << 40);
#undef REFUSED
    /* No D is for 1 x 1 with D_mul 1 alone. */
    desc = good;
    desc.kh = desc.kw = 1;
    desc.d_mul = 2;
    expect_status(doconv_fold(context, &desc, w, NULL, weight), DOCONV_INVALID_ARGUMENT);
    desc = good;
    desc.d_mul = 1;
    expect_status(doconv_fold(context, &desc, w, NULL, weight), DOCONV_INVALID_ARGUMENT);
    assert_memory_equal(weight, untouched, sizeof weight);
    expect_ok(doconv_fold(context, &good, w, d, weight));
    doconv_context_destroy(context);
}

/*
 * The same convolution, bit for bit, as by a weight that is folded first; and shapes that are not
 * the plan's.
 */
static void test_weights(void **state)
{
    static const struct {
        const char *problem;
        int64_t d_mul;
        doconv_mapping mapping;
    } layers[] = {{"mb1_ic40ih9oc70kh3ph1:src=nhwc,dst=nhwc,bias", 9, DOCONV_MAPPING_PAPER},
                  {"mb1_ic3ih11oc20kh5ph2sh2:src=nchw,dst=nChw16c", 27, DOCONV_MAPPING_PYTORCH},
                  {"g4_mb1_ic32ih7oc64kh3ph1:src=nhwc,dst=nhwc", 12, DOCONV_MAPPING_TENSORFLOW},
                  {"g24_mb1_ic24ih8oc24kh3ph1:src=nchw,dst=nchw,bias", 9, DOCONV_MAPPING_PYTORCH},
                  {"mb1_ic16ih6oc24kh1:src=nchw,dst=nchw", 3, DOCONV_MAPPING_PAPER}};
    const doconv_isa cap = (doconv_isa)(intptr_t)*state;
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        for (int threads = 1; threads <= 5; threads += 4) {
            struct task_order order = {.kind = TASKS_SHUFFLED, .seed = i};
            doconv_context *context = open_with(cap, threads, &order);
            const doconv_conv_desc conv = problem(layers[i].problem);
            doconv_fold_desc desc = {.size = sizeof desc,
                                     .cout = conv.cout,
                                     .cin = conv.cin,
                                     .kh = conv.kh,
                                     .kw = conv.kw,
                                     .groups = conv.groups,
                                     .d_mul = layers[i].d_mul,
                                     .mapping = layers[i].mapping,
                                     .add_identity = 1};
            struct rng rng = rng_from(harness_seed(), layers[i].problem);
            struct tensors_of_fold t = allocate(&desc, (struct memory){BUFFER_GUARD_AFTER, 4});
            fill(&rng, t.w.data, t.w.bytes / sizeof(float), false);
            fill(&rng, t.d.data, t.d.bytes / sizeof(float), false);
            expect_ok(doconv_fold(context, &desc, t.w.data, t.d.data, t.weight.data));
            struct tensors tensors = tensors_for(&conv);
            doconv_plan *plan = NULL;
            expect_ok(doconv_plan_create(context, &conv, NULL, &plan));
            void *workspace = malloc(doconv_plan_workspace_size(plan) + 1),
                 *expected = malloc(tensors.dst_bytes);
            doconv_weights *weights = NULL;
            expect_ok(doconv_weights_create(plan, t.weight.data, tensors.bias, &weights));
            expect_ok(doconv_execute(plan, weights, tensors.src, NULL, tensors.dst, workspace,
                                     doconv_plan_workspace_size(plan)));
            memcpy(expected, tensors.dst, tensors.dst_bytes);
            doconv_weights_destroy(weights);
            memset(tensors.dst, 0xff, tensors.dst_bytes);
            expect_ok(doconv_weights_fold(plan, &desc, t.w.data, t.d.data, tensors.bias, &weights));
            expect_ok(doconv_execute(plan, weights, tensors.src, NULL, tensors.dst, workspace,
                                     doconv_plan_workspace_size(plan)));
            assert_memory_equal(tensors.dst, expected, tensors.dst_bytes);
            doconv_weights_destroy(weights);
            desc.cout *= 2;
            expect_status(
                doconv_weights_fold(plan, &desc, t.w.data, t.d.data, tensors.bias, &weights),
                DOCONV_MISMATCH);
            expect_error(context, "cout", NULL);
            assert_null(weights);
            desc.cout /= 2;
            expect_status(doconv_weights_fold(plan, &desc, NULL, t.d.data, tensors.bias, &weights),
                          DOCONV_INVALID_ARGUMENT);
            expect_status(doconv_weights_fold(plan, &desc, t.w.data, NULL, tensors.bias, &weights),
                          DOCONV_INVALID_ARGUMENT);
            expect_status(
                doconv_weights_fold(NULL, &desc, t.w.data, t.d.data, tensors.bias, &weights),
                DOCONV_INVALID_ARGUMENT);
            free(workspace);
            free(expected);
            free_tensors(&tensors);
            doconv_plan_destroy(plan);
            release(&t);
            doconv_context_destroy(context);
        }
    }
}

/* The gradient: against sums in double, and the same bits for any number of threads. */
static void check_gradient(doconv_isa cap, const doconv_fold_desc *desc, struct rng *rng)
{
    const struct sizes n = sizes_of(desc);
    struct tensors_of_fold t = allocate(desc, (struct memory){BUFFER_GUARD_AFTER, 4});
    fill(rng, t.w.data, n.w, true);
    fill(rng, t.d.data, n.d, true);
    fill(rng, t.weight.data, n.weight, true);
    const float *w = t.w.data, *d = t.d.data, *g = t.weight.data;
    double *grad_w = calloc(n.w, sizeof *grad_w), *grad_d = calloc(n.d, sizeof *grad_d);
    assert_true(grad_w != NULL && grad_d != NULL);
    for (int64_t row = 0; row < desc->cout * n.cig; row++) {
        const int64_t channel = oracle_channel(desc, row / n.cig, row % n.cig);
        for (int64_t m = 0; m < n.taps; m++) {
            for (int64_t s = 0; s < desc->d_mul; s++) {
                const int64_t at = (channel * n.taps + m) * desc->d_mul + s;
                grad_w[row * desc->d_mul + s] +=
                    ((double)d[at] + identity_at(desc, m, s)) * (double)g[row * n.taps + m];
                grad_d[at] += (double)w[row * desc->d_mul + s] * (double)g[row * n.taps + m];
            }
        }
    }
    for (int threads = 1; threads <= 5; threads += 2) {
        struct task_order order = {.kind = TASKS_SHUFFLED, .seed = (uint64_t)threads};
        doconv_context *context = open_with(cap, threads, &order);
        struct buffer out_w, out_d;
        buffer_create(&out_w, n.w * sizeof(float),
                      threads == 1 ? BUFFER_GUARD_BEFORE : BUFFER_GUARD_AFTER, 4);
        buffer_create(&out_d, n.d * sizeof(float),
                      threads == 1 ? BUFFER_GUARD_BEFORE : BUFFER_GUARD_AFTER, 4);
        expect_ok(doconv_fold_gradient(context, desc, w, d, g, threads == 3 ? NULL : out_w.data,
                                       threads == 5 ? NULL : out_d.data));
        char text[160];
        describe(desc, text, sizeof text);
        for (size_t i = 0; i < n.w && threads != 3; i++) {
            if ((double)((float *)out_w.data)[i] != grad_w[i]) {
                fail_msg("%s, %d threads: grad_w[%zu] is %g, expected %g", text, threads, i,
                         (double)((float *)out_w.data)[i], grad_w[i]);
            }
        }
        for (size_t i = 0; i < n.d && threads != 5; i++) {
            if ((double)((float *)out_d.data)[i] != grad_d[i]) {
                fail_msg("%s, %d threads: grad_d[%zu] is %g, expected %g", text, threads, i,
                         (double)((float *)out_d.data)[i], grad_d[i]);
            }
        }
        buffer_destroy(&out_w);
        buffer_destroy(&out_d);
        doconv_context_destroy(context);
    }
    free(grad_w);
    free(grad_d);
    release(&t);
}

static void test_gradient(void **state)
{
    static const int64_t shapes[][6] = {
        {32, 48, 3, 3, 1, 9}, {70, 33, 3, 3, 1, 9}, {5, 3, 7, 7, 1, 49},   {40, 20, 3, 3, 1, 12},
        {24, 16, 5, 1, 1, 3}, {64, 64, 3, 3, 4, 9}, {48, 24, 3, 3, 24, 9}, {36, 12, 3, 3, 3, 18},
        {1, 1, 2, 2, 1, 1},   {33, 17, 1, 1, 1, 5}};
    const doconv_isa cap = (doconv_isa)(intptr_t)*state;
    struct rng rng = rng_from(harness_seed(), "gradient");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t *s = shapes[i];
        for (int mapping = 0; mapping <= (s[4] > 1 ? DOCONV_MAPPING_TENSORFLOW : 0); mapping++) {
            const doconv_fold_desc desc = {.size = sizeof desc,
                                           .cout = s[0],
                                           .cin = s[1],
                                           .kh = s[2],
                                           .kw = s[3],
                                           .groups = s[4],
                                           .d_mul = s[5],
                                           .mapping = (doconv_mapping)mapping,
                                           .add_identity = (int)(i % 2)};
            check_gradient(cap, &desc, &rng);
        }
    }
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } each_cap[] = {{"shapes", test_shapes},       {"grid", test_grid},
                    {"large", test_large},         {"threads", test_threads},
                    {"special", test_special},     {"memory", test_context_memory},
                    {"no_memory", test_no_memory}, {"no_d", test_no_d},
                    {"gradient", test_gradient},   {"weights", test_weights}};
    enum { EACH = sizeof each_cap / sizeof each_cap[0] };
    static struct CMUnitTest tests[CAPS * EACH + 1];
    static char names[CAPS * EACH][32];
    int count = 0;
    for (int c = 0; c < CAPS; c++) {
        for (int i = 0; i < EACH; i++, count++) {
            snprintf(names[count], sizeof names[count], "%s_%s", each_cap[i].name,
                     doconv_isa_string(caps[c]));
            tests[count] = (struct CMUnitTest){.name = names[count],
                                               .test_func = each_cap[i].function,
                                               .initial_state = (void *)(intptr_t)caps[c]};
        }
    }
    tests[count++] = (struct CMUnitTest){.name = "arguments", .test_func = test_arguments};
    printf("test_fold: DOCONV_TEST_SEED=%llu\n", (unsigned long long)harness_seed());
    fflush(stdout);
    return _cmocka_run_group_tests("fold", tests, (size_t)count, NULL, NULL) != 0;
}

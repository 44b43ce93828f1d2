/* SPDX-License-Identifier: MIT */
/* Choices for keys that the cache lacks, from the entries of others; and choices made before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nearest.h"
#include "network_list.h"
#include "plan/memo.h"
#include "tuner_fixture.h"

#define LAYER "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc"
#define MOST_CANDIDATES 512

/* Fills an entry for a problem whose winner is the accepted candidate of this rank. */
static void make_entry(doconv_context *ctx, const char *text, const doconv_plan_options *options,
                       int rank, struct cache_entry *entry)
{
    const doconv_conv_desc desc = fixture_problem(text);
    doconv_plan_options own = {.size = sizeof own};
    struct dc_problem p;
    struct dc_candidate_list list;
    own = options != NULL ? *options : own;
    assert_int_equal(dc_plan_problem(ctx, &desc, &own, &p), DOCONV_OK);
    assert_int_equal(dc_enumerate(ctx, &p, &own, &list), DOCONV_OK);
    assert_true(rank < list.count && list.items[rank].refused == NULL);
    const struct dc_candidate *c = &list.items[rank];
    *entry = (struct cache_entry){.revision = c->kernel->revision,
                                  .second_revision = c->second != NULL ? c->second->revision : 0,
                                  .picoseconds = 5000000,
                                  .when = FIXTURE_WHEN,
                                  .against_picoseconds = 6000000};
    dc_plan_key(ctx, &p, &own, entry->key, sizeof entry->key);
    memcpy(entry->variant, c->text, sizeof entry->variant);
    memcpy(entry->against, list.items[0].text, sizeof entry->against);
    dc_free(ctx, list.items);
}

static void plant(doconv_context *ctx, const char *text, const doconv_plan_options *options,
                  int rank, struct cache_entry *entry)
{
    make_entry(ctx, text, options, rank, entry);
    assert_int_equal(dc_cache_store(ctx->advisor.self, entry), CACHE_STORED);
}

/* A plan must have this origin, and, unless NULL, this variant and source. */
static void assert_choice(doconv_context *ctx, const char *text, const doconv_plan_options *options,
                          const char *origin, const char *variant, const char *source)
{
    const doconv_conv_desc desc = fixture_problem(text);
    for (int again = 0; again < 2; again++) { /* the second time it is remembered */
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, options, &plan), DOCONV_OK);
        assert_string_equal(doconv_plan_origin(plan), origin);
        if (variant != NULL) {
            assert_string_equal(doconv_plan_variant(plan), variant);
        }
        assert_string_equal(doconv_plan_source(plan), source);
        doconv_plan_destroy(plan);
    }
}

static void run_in_turn(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    (void)user;
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
}

/* A context that knows nothing but what is in the directory that all share. */
static doconv_context *reader(struct fixture *f, bool own_runner, int threads,
                              doconv_tune_mode mode)
{
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    options.tune = mode;
    options.threads = threads;
    options.parallel_for = own_runner ? run_in_turn : NULL;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    return ctx;
}

/* ---- keys ---- */

static void test_parse(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {
        LAYER, LAYER ",bias,residual,relu,clamp=-1/6.5,accuracy=fast",
        "g4mb3_ic8ih9iw11oc16kh3kw1sh2sw1dh1:dst=nChw16c,accuracy=strict",
        "mb2_ic4ih5oc4kh3ph1:dmul=9,composition=kernel,identity"};
    doconv_context *ctx = reader(f, true, 3, DOCONV_TUNE_READ);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (int bits = 0; bits < 32; bits++) {
            const doconv_conv_desc desc = fixture_problem(texts[i]);
            const bool folds = desc.d_mul > 0;
            doconv_plan_options options = {.size = sizeof options,
                                           .workspace_limit = bits & 1 ? SIZE_MAX : 0,
                                           .packed_limit = bits & 2 ? 12345 : 0,
                                           .cold_weights = (bits & 4) != 0,
                                           .fresh_weights = folds || (bits & 8) != 0};
            if (folds && (bits & 16) != 0) {
                options.operation = DOCONV_OPERATION_WEIGHT_GRADIENT;
            }
            struct dc_problem p;
            char key[DC_KEY_SIZE], again[DC_KEY_SIZE];
            assert_int_equal(dc_plan_problem(ctx, &desc, &options, &p), DOCONV_OK);
            dc_plan_key(ctx, &p, &options, key, sizeof key);
            struct nearest_key parsed;
            assert_true(dc_nearest_parse(key, &parsed));
            assert_true(parsed.caller && !parsed.kept);
            assert_int_equal(parsed.problem.threads, 3);
            dc_plan_key(ctx, &parsed.problem, &parsed.options, again, sizeof again);
            assert_string_equal(key, again);
            /* Nothing that is cut off is a key, but before the last limit. */
            const size_t length = strlen(key);
            for (size_t cut = 0; cut < length; cut++) {
                memcpy(again, key, cut);
                again[cut] = '\0';
                if (dc_nearest_parse(again, &parsed)) {
                    char back[DC_KEY_SIZE];
                    dc_plan_key(ctx, &parsed.problem, &parsed.options, back, sizeof back);
                    assert_string_equal(back, again);
                }
            }
        }
    }
    struct nearest_key parsed;
    assert_false(dc_nearest_parse("", &parsed));
    assert_false(dc_nearest_parse(LAYER, &parsed));
    assert_false(
        dc_nearest_parse(LAYER " threads=0 runner=default workspace=0 weights=warm", &parsed));
    assert_false(
        dc_nearest_parse(LAYER " threads=1 runner=other workspace=0 weights=warm", &parsed));
    assert_false(
        dc_nearest_parse(LAYER " threads=1 runner=default workspace=0 weights=warm x", &parsed));
    doconv_context_destroy(ctx);
}

/* ---- the nearest ---- */

/* Each differs from LAYER in more than those before it: the first that is there is taken. */
static void test_order(void **state)
{
    struct fixture *f = *state;
    enum { KEYS = 6 };
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ),
                   *other = reader(f, true, 1, DOCONV_TUNE_READ);
    const doconv_plan_options limited = {.size = sizeof limited,
                                         .workspace_limit = (size_t)1 << 24},
                              cold = {.size = sizeof cold, .cold_weights = 1};
    const struct {
        doconv_context *ctx;
        const char *text;
        const doconv_plan_options *options;
    } rows[KEYS] = {
        {ctx, LAYER ",bias", NULL},
        {ctx, LAYER ",bias,relu", NULL},
        {ctx, LAYER ",bias,residual,clamp=0/6", NULL},
        {other, LAYER, NULL},
        {ctx, LAYER, &limited},
        {ctx, LAYER, &cold},
    };
    struct cache_entry entries[KEYS];
    for (int i = KEYS - 1; i >= 0; i--) {
        plant(rows[i].ctx, rows[i].text, rows[i].options, i + 1, &entries[i]);
        /* By the directory alone, and by what a context has stored itself. */
        doconv_context *fresh = reader(f, false, 1, DOCONV_TUNE_READ);
        assert_choice(fresh, LAYER, NULL, "nearest", entries[i].variant, entries[i].key);
        doconv_context_destroy(fresh);
        if (rows[i].ctx == ctx) {
            assert_choice(ctx, LAYER, NULL, "nearest", entries[i].variant, entries[i].key);
        }
    }
    struct cache_entry own;
    plant(ctx, LAYER, NULL, 0, &own);
    assert_choice(ctx, LAYER, NULL, "cache", own.variant, "");
    doconv_context_destroy(other);
    doconv_context_destroy(ctx);
}

/* What decides is never put up with. */
static void test_refusals(void **state)
{
    struct fixture *f = *state;
    static const char *const others[] = {
        "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nchw",
        "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc,accuracy=strict",
        "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc,accuracy=fast",
        "mb1_ic32ih14oc32kh5ph2:src=nhwc,dst=nhwc",
        "mb1_ic32ih14oc32kh3ph1sh2:src=nhwc,dst=nhwc",
        "mb1_ic32ih14oc32kh3ph2dh1:src=nhwc,dst=nhwc",
        "mb1_ic32ih14oc48kh3ph1:src=nhwc,dst=nhwc",
        "g2mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc",
    };
    struct cache_entry entry;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    plant(ctx, LAYER, NULL, 1, &entry);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_choice(ctx, others[i], NULL, "estimate", NULL, "");
    }
    const doconv_plan_options fresh = {.size = sizeof fresh, .fresh_weights = 1};
    assert_choice(ctx, LAYER, &fresh, "estimate", NULL, "");
    const doconv_plan_options estimate = {.size = sizeof estimate, .rigor = DOCONV_RIGOR_ESTIMATE};
    assert_choice(ctx, LAYER ",bias", &estimate, "estimate", NULL, "");
    doconv_context_destroy(ctx);
    ctx = reader(f, false, 2, DOCONV_TUNE_READ);
    assert_choice(ctx, LAYER ",bias", NULL, "estimate", NULL, "");
    doconv_context_destroy(ctx);
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    options.tune = DOCONV_TUNE_READ;
    options.deterministic = 1;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    assert_choice(ctx, LAYER ",bias", NULL, "estimate", NULL, "");
    doconv_context_destroy(ctx);
    ctx = reader(f, false, 1, DOCONV_TUNE_OFF);
    assert_choice(ctx, LAYER ",bias", NULL, "estimate", NULL, "");
    doconv_context_destroy(ctx);
}

/* A variant that needs more than this plan may have is passed over for a farther one. */
static void test_limits(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(LAYER);
    struct dc_problem p;
    struct dc_candidate_list list;
    assert_int_equal(dc_problem_create(ctx, &desc, &p), DOCONV_OK);
    assert_int_equal(dc_enumerate(ctx, &p, NULL, &list), DOCONV_OK);
    int large = 0, small = 0;
    for (int i = 0; i < list.count && list.items[i].refused == NULL; i++) {
        large = list.items[i].workspace_size > list.items[large].workspace_size ? i : large;
        small = list.items[i].workspace_size < list.items[small].workspace_size ? i : small;
    }
    const size_t needed = list.items[large].workspace_size;
    assert_true(needed > list.items[small].workspace_size);
    dc_free(ctx, list.items);
    struct cache_entry near, far;
    plant(ctx, LAYER ",bias", NULL, large, &near);
    plant(ctx, LAYER ",bias,relu", NULL, small, &far);
    const doconv_plan_options enough = {.size = sizeof enough, .workspace_limit = needed},
                              tight = {.size = sizeof tight, .workspace_limit = needed - 1};
    assert_choice(ctx, LAYER, &enough, "nearest", near.variant, near.key);
    assert_choice(ctx, LAYER, &tight, "nearest", far.variant, far.key);
    doconv_context_destroy(ctx);
}

static void test_modes(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem("mb1_ic5ih9oc7kh3ph1"),
                           biased = fixture_problem(FIXTURE_PROBLEM);
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    char variant[DC_VARIANT_SIZE];
    fixture_plant(ctx, &desc, NULL, variant);
    fixture_assert_origin(ctx, &biased, NULL, "nearest");
    doconv_context_destroy(ctx);
    const doconv_plan_options fallback = {.size = sizeof fallback, .fallback = 1};
    ctx = reader(f, false, 1, DOCONV_TUNE_ONLY);
    fixture_assert_origin(ctx, &biased, NULL, "");
    fixture_assert_origin(ctx, &biased, &fallback, "nearest");
    fixture_assert_origin(ctx, &biased, NULL, "");
    const doconv_conv_desc unknown = fixture_problem("mb1_ic5ih9oc8kh3ph1");
    fixture_assert_origin(ctx, &unknown, &fallback, "");
    doconv_context_destroy(ctx);
    ctx = reader(f, false, 1, DOCONV_TUNE_TUNE);
    fixture_assert_origin(ctx, &biased, &fallback, "measured");
    fixture_assert_origin(ctx, &biased, NULL, "cache");
    doconv_context_destroy(ctx);
    const doconv_plan_options wrong = {.size = sizeof wrong, .fallback = 2};
    ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    doconv_plan *plan;
    assert_int_equal(doconv_plan_create(ctx, &biased, &wrong, &plan), DOCONV_INVALID_ARGUMENT);
    doconv_context_destroy(ctx);
}

/* An entry that is gone, or was never one, is passed over. */
static void test_stale(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct cache_entry near, far;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    plant(ctx, LAYER ",bias", NULL, 1, &near);
    assert_int_equal(fixture_count(f, "c", ".txt", path), 1);
    char text[16384];
    const size_t length = fixture_read(path, text, sizeof text);
    plant(ctx, LAYER ",bias,relu", NULL, 2, &far);
    doconv_context_destroy(ctx);
    for (int kind = 0; kind < 4; kind++) {
        switch (kind) {
        case 0: /* its checksum is wrong, its head isn't */
            fixture_write(path, text, length - 1);
            break;
        case 1: /* cut off within the key */
            fixture_write(path, text, 40);
            break;
        case 2:
            fixture_write(path, "", 0);
            break;
        default:
            assert_int_equal(remove(path), 0);
        }
        ctx = reader(f, false, 1, DOCONV_TUNE_READ);
        assert_choice(ctx, LAYER, NULL, "nearest", far.variant, far.key);
        doconv_context_destroy(ctx);
    }
}

/* An engine's layers after its network was tuned as it is. */
static void test_engine(void **state)
{
    struct fixture *f = *state;
    struct network net;
    char error[256];
    assert_int_equal(network_load("resnet18", &net, error, sizeof error), 0);
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    for (int i = 0; i < net.layers; i++) {
        doconv_conv_desc desc = net.layer[i].desc;
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        struct cache_entry entry;
        desc.src_layout = desc.dst_layout = DOCONV_NHWC;
        assert_int_equal(doconv_conv_desc_format(ctx, &desc, text, sizeof text), DOCONV_OK);
        plant(ctx, text, NULL, 0, &entry);
    }
    doconv_context_destroy(ctx);
    ctx = reader(f, true, 1, DOCONV_TUNE_READ);
    const doconv_plan_options options = {
        .size = sizeof options, .workspace_limit = (size_t)32 << 20, .cold_weights = 1};
    int hits = 0;
    for (int i = 0; i < net.layers; i++) {
        doconv_conv_desc desc = net.layer[i].desc;
        desc.src_layout = desc.dst_layout = DOCONV_NHWC;
        desc.has_bias = desc.relu = 1;
        desc.residual = i % 2;
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, &options, &plan), DOCONV_OK);
        hits += strcmp(doconv_plan_origin(plan), "nearest") == 0;
        doconv_plan_destroy(plan);
    }
    assert_int_equal(hits, net.layers);
    doconv_context_destroy(ctx);
    network_free(&net);
}

/* ---- neighbours ---- */

/* Times that are the estimates', but for one candidate, which is much faster than it should be. */
static void plant_measured(doconv_context *ctx, const char *text, int fast,
                           struct cache_entry *entry)
{
    const doconv_conv_desc desc = fixture_problem(text);
    struct dc_problem p;
    struct dc_candidate_list list;
    make_entry(ctx, text, NULL, fast, entry);
    assert_int_equal(dc_problem_create(ctx, &desc, &p), DOCONV_OK);
    assert_int_equal(dc_enumerate(ctx, &p, NULL, &list), DOCONV_OK);
    for (int i = 0; i < 16 && i < list.count && list.items[i].refused == NULL; i++) {
        const double seconds = list.items[i].estimated_seconds * (i == fast ? 0.1 : 1.0);
        struct cache_measured *m = &entry->measured[entry->count++];
        memcpy(m->variant, list.items[i].text, sizeof m->variant);
        m->picoseconds = (int64_t)(1e12 * seconds);
        m->rounds = 5;
        m->clean = 5;
    }
    dc_free(ctx, list.items);
    assert_int_equal(dc_cache_store(ctx->advisor.self, entry), CACHE_STORED);
}

static void test_neighbours(void **state)
{
    struct fixture *f = *state;
    static const char *const others[] = {"mb2_ic64ih14oc64kh1:src=nhwc,dst=nhwc",
                                         "mb1_ic64ih16oc64kh1:src=nhwc,dst=nhwc",
                                         "mb1_ic64ih14oc64kh1:src=nhwc,dst=nhwc,bias"};
    struct cache_entry entry, nearer;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    for (int fast = 0; fast < 3; fast++) {
        plant_measured(ctx, "mb1_ic64ih14oc64kh1:src=nhwc,dst=nhwc", fast, &entry);
        size_t length = 0;
        const char *kernel = dc_cachefile_kernel(entry.variant, &length);
        for (int i = 0; i < 3; i++) {
            const doconv_conv_desc desc = fixture_problem(others[i]);
            doconv_plan *plan;
            assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
            assert_string_equal(doconv_plan_origin(plan), i == 2 ? "nearest" : "neighbour");
            assert_string_equal(doconv_plan_source(plan), entry.key);
            /* Its own variant, or at least its kernel, is what was found fast. */
            size_t other_length = 0;
            const char *other = dc_cachefile_kernel(doconv_plan_variant(plan), &other_length);
            assert_int_equal(length, other_length);
            assert_memory_equal(kernel, other, length);
            doconv_plan_destroy(plan);
        }
    }
    /* The nearer size is asked, and the nearer layer before any size. */
    plant_measured(ctx, "mb16_ic64ih14oc64kh1:src=nhwc,dst=nhwc", 1, &nearer);
    assert_choice(ctx, "mb12_ic64ih14oc64kh1:src=nhwc,dst=nhwc", NULL, "neighbour", NULL,
                  nearer.key);
    assert_choice(ctx, "mb2_ic64ih14oc64kh1:src=nhwc,dst=nhwc", NULL, "neighbour", NULL, entry.key);
    assert_choice(ctx, "mb16_ic64ih14oc64kh1:src=nhwc,dst=nhwc,relu", NULL, "nearest",
                  nearer.variant, nearer.key);
    /* One that has no times but the winner's. */
    struct cache_entry bare;
    plant(ctx, "mb1_ic96ih7oc96kh1:src=nhwc,dst=nhwc", NULL, 2, &bare);
    assert_choice(ctx, "mb2_ic96ih7oc96kh1:src=nhwc,dst=nhwc", NULL, "neighbour", NULL, bare.key);
    doconv_context_destroy(ctx);
}

/* A deterministic context's plans keep their order of sums whoever chose them. */
static void test_deterministic(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    options.tune = DOCONV_TUNE_READ;
    options.deterministic = 1;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    for (int fast = 0; fast < 3; fast++) {
        struct cache_entry entry;
        plant_measured(ctx, "mb1_ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc", fast, &entry);
        for (int n = 2; n < 5; n++) {
            char text[128];
            snprintf(text, sizeof text, "mb%d_ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc", n);
            const doconv_conv_desc desc = fixture_problem(text);
            const doconv_plan_options estimate = {.size = sizeof estimate,
                                                  .rigor = DOCONV_RIGOR_ESTIMATE};
            doconv_plan *plan, *usual;
            assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
            assert_int_equal(doconv_plan_create(ctx, &desc, &estimate, &usual), DOCONV_OK);
            assert_string_equal(doconv_plan_origin(plan), "neighbour");
            assert_int_equal(plan->candidate.order_of_sums, usual->candidate.order_of_sums);
            doconv_plan_destroy(usual);
            doconv_plan_destroy(plan);
        }
    }
    doconv_context_destroy(ctx);
}

/* ---- choices made before ---- */

static void assert_same_plans(const doconv_plan *a, const doconv_plan *b)
{
    assert_string_equal(doconv_plan_variant(a), doconv_plan_variant(b));
    assert_string_equal(doconv_plan_origin(a), doconv_plan_origin(b));
    assert_int_equal(doconv_plan_workspace_size(a), doconv_plan_workspace_size(b));
    assert_int_equal(doconv_plan_packed_size(a), doconv_plan_packed_size(b));
    assert_int_equal(a->workspace_size, b->workspace_size);
    assert_true(a->packed_layout == b->packed_layout);
}

/* A plan from memory is the one that enumeration gives, which another context makes. */
static void test_memory(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"resnet50", "mobilenet_v2"};
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    for (int round = 0; round < 2; round++) { /* by the estimate, then by the cache */
        for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
            struct network net;
            char error[256];
            assert_int_equal(network_load(names[n], &net, error, sizeof error), 0);
            for (int i = 0; i < net.layers; i++) {
                doconv_conv_desc desc = net.layer[i].desc;
                char text[DOCONV_PROBLEM_TEXT_SIZE];
                struct cache_entry entry;
                desc.dst_layout = DOCONV_NHWC;
                assert_int_equal(doconv_conv_desc_format(ctx, &desc, text, sizeof text), DOCONV_OK);
                if (round == 1) {
                    plant(ctx, text, NULL, i % 2, &entry);
                }
                doconv_context *anew = reader(f, false, 1, DOCONV_TUNE_READ);
                doconv_plan *first, *second, *other;
                assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &first), DOCONV_OK);
                assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &second), DOCONV_OK);
                assert_int_equal(doconv_plan_create(anew, &desc, NULL, &other), DOCONV_OK);
                assert_string_equal(doconv_plan_origin(first), round == 1 ? "cache" : "estimate");
                assert_same_plans(first, second);
                assert_same_plans(first, other);
                doconv_plan_destroy(first);
                doconv_plan_destroy(second);
                doconv_plan_destroy(other);
                doconv_context_destroy(anew);
            }
            network_free(&net);
        }
    }
    doconv_context_destroy(ctx);
}

/* Every problem is another key, and what is forgotten is chosen anew. */
static void test_many(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    const doconv_plan_options estimate = {.size = sizeof estimate, .rigor = DOCONV_RIGOR_ESTIMATE};
    for (int round = 0; round < 2; round++) {
        for (int h = 3; h < 1503; h++) {
            char text[64];
            snprintf(text, sizeof text, "mb1_ic3ih%diw3oc4kh1kw1", h);
            const doconv_conv_desc desc = fixture_problem(text);
            doconv_plan *plan;
            assert_int_equal(doconv_plan_create(ctx, &desc, &estimate, &plan), DOCONV_OK);
            assert_int_equal(plan->problem.desc.h, h);
            doconv_plan_destroy(plan);
        }
    }
    doconv_context_destroy(ctx);
}

/* An older choice is no choice once something was stored, or taken away. */
static void test_changes(void **state)
{
    struct fixture *f = *state;
    struct cache_entry a, b;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    assert_choice(ctx, LAYER, NULL, "estimate", NULL, "");
    plant(ctx, LAYER ",bias", NULL, 1, &a);
    assert_choice(ctx, LAYER, NULL, "nearest", a.variant, a.key);
    plant(ctx, LAYER, NULL, 2, &b);
    assert_choice(ctx, LAYER, NULL, "cache", b.variant, "");
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_forget(entries, NULL), DOCONV_OK);
    assert_choice(ctx, LAYER, NULL, "estimate", NULL, "");
    /* And once it was imported. */
    assert_int_equal(doconv_entries_store(entries, NULL), DOCONV_OK);
    assert_choice(ctx, LAYER, NULL, "cache", b.variant, "");
    assert_choice(ctx, LAYER ",relu", NULL, "nearest", b.variant, b.key);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* Without memory for what is kept, plans are as they were. */
static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    struct cache_entry entry;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    plant(ctx, LAYER ",bias", NULL, 1, &entry);
    doconv_context_destroy(ctx);
    const doconv_conv_desc desc = fixture_problem(LAYER);
    bool done = false;
    for (int n = 0; !done; n++) {
        char path[FIXTURE_PATH];
        struct fixture_failing failing;
        doconv_context_options options = fixture_options(f, "c", path);
        options.tune = DOCONV_TUNE_READ;
        fixture_fail(&options, &failing);
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        const int live = failing.live;
        failing.calls = 0;
        failing.fail_at = n;
        doconv_plan *plan;
        const doconv_status status = doconv_plan_create(ctx, &desc, NULL, &plan);
        assert_true(status == DOCONV_OK || status == DOCONV_OUT_OF_MEMORY);
        done = failing.calls <= n;
        doconv_plan_destroy(plan);
        failing.fail_at = -1;
        assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
        doconv_plan_destroy(plan);
        assert_true(failing.live >= live);
        doconv_context_destroy(ctx);
        assert_int_equal(failing.live, 0);
    }
}

/* Threads that plan on one context while one stores: each plan's choice has a source that fits. */
enum { PLANNERS = 3, ROUNDS = 60 };

struct planner {
    doconv_context *ctx;
    pthread_t thread;
    int number, wrong;
};

static void *plan_often(void *arg)
{
    struct planner *planner = arg;
    for (int i = 0; i < ROUNDS; i++) {
        char text[128];
        doconv_conv_desc desc;
        doconv_plan *plan;
        snprintf(text, sizeof text, "mb%d_ic32ih14oc32kh1:src=nhwc,dst=nhwc%s",
                 1 + (i + planner->number) % 5, i % 2 != 0 ? ",bias" : "");
        if (doconv_conv_desc_parse(planner->ctx, text, &desc) != DOCONV_OK ||
            doconv_plan_create(planner->ctx, &desc, NULL, &plan) != DOCONV_OK) {
            planner->wrong++;
            continue;
        }
        const char *origin = doconv_plan_origin(plan);
        const bool inferred = strcmp(origin, "nearest") == 0 || strcmp(origin, "neighbour") == 0;
        planner->wrong += inferred != (doconv_plan_source(plan)[0] != '\0');
        doconv_plan_destroy(plan);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct planner planners[PLANNERS];
    struct cache_entry entry;
    doconv_context *ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    plant(ctx, "mb3_ic32ih14oc32kh1:src=nhwc,dst=nhwc", NULL, 1, &entry);
    doconv_context_destroy(ctx);
    ctx = reader(f, false, 1, DOCONV_TUNE_READ);
    for (int i = 0; i < PLANNERS; i++) {
        planners[i] = (struct planner){.ctx = ctx, .number = i};
        assert_int_equal(pthread_create(&planners[i].thread, NULL, plan_often, &planners[i]), 0);
    }
    for (int n = 1; n < 5; n++) {
        char text[128];
        snprintf(text, sizeof text, "mb%d_ic32ih14oc32kh1:src=nhwc,dst=nhwc,relu", n);
        plant(ctx, text, NULL, 1, &entry);
    }
    for (int i = 0; i < PLANNERS; i++) {
        assert_int_equal(pthread_join(planners[i].thread, NULL), 0);
        assert_int_equal(planners[i].wrong, 0);
    }
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_parse),         WITH_FIXTURE(test_order),
        WITH_FIXTURE(test_refusals),      WITH_FIXTURE(test_limits),
        WITH_FIXTURE(test_modes),         WITH_FIXTURE(test_stale),
        WITH_FIXTURE(test_engine),        WITH_FIXTURE(test_neighbours),
        WITH_FIXTURE(test_deterministic), WITH_FIXTURE(test_memory),
        WITH_FIXTURE(test_many),          WITH_FIXTURE(test_changes),
        WITH_FIXTURE(test_out_of_memory), WITH_FIXTURE(test_threads),
    };
    return cmocka_run_group_tests_name("nearest", tests, NULL, NULL);
}

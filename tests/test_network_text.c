/* SPDX-License-Identifier: MIT */
/* Plans of networks as texts: there and back, and all that may have happened to them between. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "tuner_fixture.h"

#define TEXT_SIZE 16384
#define CHECKSUM_LINE 26 /* bytes of the last line */

struct text {
    char data[TEXT_SIZE];
    size_t size;
    size_t most; /* after which writing fails */
};

static int add_text(void *user, const char *data, size_t length)
{
    struct text *text = user;
    if (text->size + length > text->most) {
        return 1;
    }
    memcpy(text->data + text->size, data, length);
    text->size += length;
    text->data[text->size] = '\0';
    return 0;
}

static void write_plan(const doconv_network_plan *plan, struct text *text)
{
    text->size = 0;
    text->most = TEXT_SIZE - 1;
    assert_int_equal(doconv_network_plan_write(plan, add_text, text), DOCONV_OK);
}

/* A plan with copies of inputs, of a residual, one that is used again, and of an output. */
static doconv_network_plan *make_plan(doconv_context *ctx)
{
    static const int inputs[] = {0, 1}, given[] = {-1};
    const doconv_layout nchw = DOCONV_NCHW;
    const doconv_conv_desc descs[] = {
        fixture_problem("mb1_ic16ih5oc16kh3ph1:src=nhwc,dst=nhwc,bias,relu"),
        fixture_problem("mb1_ic16ih5oc16kh3ph1:src=nChw8c,dst=nChw8c,clamp=0/6"),
        fixture_problem("mb1_ic32ih5oc16kh1:src=nChw8c,dst=nChw8c,residual"),
        fixture_problem("mb1_ic16ih5oc16kh1:src=nChw8c,dst=nChw8c"),
    };
    const doconv_network_layer layers[] = {
        {.size = sizeof layers[0],
         .name = "stem",
         .desc = &descs[0],
         .fixed_src = 1,
         .fixed_dst = 1},
        {.size = sizeof layers[0],
         .name = "a/b,c",
         .desc = &descs[1],
         .fixed_src = 1,
         .fixed_dst = 1},
        {.size = sizeof layers[0],
         .name = "join",
         .desc = &descs[2],
         .inputs = inputs,
         .input_count = 2,
         .residual = 0,
         .fixed_src = 1,
         .fixed_dst = 1},
        {.size = sizeof layers[0],
         .name = "side",
         .desc = &descs[3],
         .inputs = given,
         .input_count = 1,
         .fixed_src = 1,
         .fixed_dst = 1},
    };
    const doconv_network_options options = {
        .size = sizeof options, .input_layout = &nchw, .output_layout = &nchw};
    doconv_network_plan *plan;
    assert_int_equal(doconv_tune_network(ctx, layers, 4, &options, &plan), DOCONV_OK);
    assert_int_equal(doconv_network_plan_reorder_count(plan), 7);
    return plan;
}

static doconv_status parse(doconv_context *ctx, const char *text, size_t size,
                           const doconv_network_parse_options *options, doconv_network_plan **plan)
{
    /* In memory of its size, whose end sanitizers watch. */
    char *copy = malloc(size + 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    const doconv_status status = doconv_network_plan_parse(ctx, copy, size, options, plan);
    free(copy);
    return status;
}

static void expect_refused(doconv_context *ctx, const char *text, size_t size,
                           doconv_status expected, const char *detail)
{
    doconv_network_plan *plan = (doconv_network_plan *)ctx;
    char last[256];
    const doconv_status status = parse(ctx, text, size, NULL, &plan);
    assert_int_equal(status, expected);
    assert_null(plan);
    assert_int_equal(doconv_context_last_error(ctx, last, sizeof last), DOCONV_OK);
    if (strstr(last, detail) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", detail, last);
    }
}

static void test_round_trip(void **state)
{
    static struct text first, second;
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    doconv_network_plan *plan = make_plan(ctx), *back;
    write_plan(plan, &first);
    assert_int_equal(parse(ctx, first.data, first.size, NULL, &back), DOCONV_OK);
    write_plan(back, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    for (int i = 0; i < 4; i++) {
        doconv_network_choice a = {.size = sizeof a}, b = {.size = sizeof b};
        assert_int_equal(doconv_network_plan_get(plan, i, &a), DOCONV_OK);
        assert_int_equal(doconv_network_plan_get(back, i, &b), DOCONV_OK);
        assert_string_equal(a.name, b.name);
        assert_string_equal(a.problem, b.problem);
        assert_string_equal(a.variant, b.variant);
        assert_string_equal(a.origin, b.origin);
        assert_true(a.seconds == b.seconds && a.workspace_size == b.workspace_size);
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        assert_int_equal(doconv_conv_desc_format(ctx, b.desc, text, sizeof text), DOCONV_OK);
        assert_string_equal(text, a.problem);
    }
    int reused = 0;
    for (int i = 0; i < 7; i++) {
        doconv_network_reorder a = {.size = sizeof a}, b = {.size = sizeof b};
        assert_int_equal(doconv_network_plan_get_reorder(plan, i, &a), DOCONV_OK);
        assert_int_equal(doconv_network_plan_get_reorder(back, i, &b), DOCONV_OK);
        assert_memory_equal(&a, &b, sizeof a);
        reused += a.reused;
    }
    assert_int_equal(reused, 2);
    doconv_network_total a = {.size = sizeof a}, b = {.size = sizeof b};
    assert_int_equal(doconv_network_plan_total(plan, &a), DOCONV_OK);
    assert_int_equal(doconv_network_plan_total(back, &b), DOCONV_OK);
    assert_memory_equal(&a, &b, sizeof a);
    doconv_network_plan_destroy(back);

    /* Whoever takes the text may fail at any of its lines. */
    for (size_t most = 0; most < first.size; most += 97) {
        second.size = 0;
        second.most = most;
        assert_int_equal(doconv_network_plan_write(plan, add_text, &second), DOCONV_IO_ERROR);
    }
    assert_int_equal(doconv_network_plan_write(plan, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_write(NULL, add_text, &second), DOCONV_INVALID_ARGUMENT);
    doconv_network_plan_destroy(plan);
    doconv_context_destroy(ctx);
}

static void test_damage(void **state)
{
    static struct text text;
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    doconv_network_plan *plan = make_plan(ctx);
    write_plan(plan, &text);
    doconv_network_plan_destroy(plan);
    for (size_t size = 0; size < text.size; size++) {
        expect_refused(ctx, text.data, size, DOCONV_INVALID_FILE, "line ");
    }
    for (size_t i = 0; i < text.size; i++) {
        for (int bit = 0; bit < 8; bit += i % 7 == 0 ? 1 : 5) {
            text.data[i] = (char)(text.data[i] ^ 1 << bit);
            expect_refused(ctx, text.data, text.size, DOCONV_INVALID_FILE, "line ");
            text.data[i] = (char)(text.data[i] ^ 1 << bit);
        }
    }
    text.data[text.size] = '\n';
    expect_refused(ctx, text.data, text.size + 1, DOCONV_INVALID_FILE, "follows the checksum");
    doconv_context_destroy(ctx);
}

/* The checksum of a text whose other bytes were changed. */
static void seal(struct text *text)
{
    const size_t length = text->size - CHECKSUM_LINE;
    snprintf(text->data + length, CHECKSUM_LINE + 1, "checksum %016" PRIx64 "\n",
             dc_hash(0, text->data, length));
}

/* Replaces the first place of a text by another, with a right checksum. */
static struct text replaced(const struct text *from, const char *old, const char *new)
{
    struct text to = *from;
    const char *place = strstr(from->data, old);
    if (place == NULL) {
        fail_msg("\"%s\" is not in the text", old);
    }
    const size_t before = (size_t)(place - from->data);
    to.size = before + (size_t)snprintf(to.data + before, TEXT_SIZE - before, "%s%s", new,
                                        place + strlen(old));
    seal(&to);
    return to;
}

static void test_refused_texts(void **state)
{
    static const struct {
        const char *old, *new, *detail;
    } changes[] = {
        {"doconv-network-plan 1", "doconv-export 1", "line 1: it is no plan"},
        {"doconv-network-plan 1", "doconv-network-plan 2", "line 1: it is of another version"},
        {"threads 1", "threads one", "line 3: it must be \"threads\""},
        {"threads 1", "threads 01", "line 3: not as it is written"},
        {"threads 1", "threads 99999999999", "line 3"},
        {"runner default", "runner mine", "line 4"},
        {"exact 1", "exact 2", "line 8"},
        {"single nhwc", "single nhw", "it must be \"single\""},
        {"layer join", "layer stem", "name"},
        {"layer join", "layer -", "name"},
        {"layer join", "layer", "no layer begins here"},
        {"problem mb1", "problem mb1_mb1", "the problem: "},
        {"bias,relu", "relu,bias", "not as it is written"},
        {"copy residual", "copy residue", "neither a copy"},
        {"copy residual nhwc nChw8c", "copy residual nhwc nhwc", "neither a copy"},
        {"copy residual nhwc nChw8c", "copy residual nchw nChw8c", "layouts"},
        {"copy residual nhwc nChw8c", "copy residual nhwc nChw16c", "layouts"},
        {"1x16x5x5", "1x16x5", "neither a copy"},
        {"reused 0", "reused 1", "neither a copy"},
        {"stem\n\nlayer join", "later\n\nlayer join", "not of a layer before it"},
        {"outputs\n", "outputs 1\n", "no layer begins here"},
        {"picoseconds ", "picoseconds -", "whole number"},
        {"workspace ", "workspace +", "whole number"},
    };
    static struct text text;
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    doconv_network_plan *plan = make_plan(ctx);
    write_plan(plan, &text);
    doconv_network_plan_destroy(plan);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const struct text changed = replaced(&text, changes[i].old, changes[i].new);
        expect_refused(ctx, changed.data, changed.size, DOCONV_INVALID_FILE, changes[i].detail);
    }
    assert_int_equal(doconv_network_plan_parse(NULL, text.data, text.size, NULL, &plan),
                     DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_parse(ctx, NULL, 0, NULL, &plan), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_parse(ctx, text.data, text.size, NULL, NULL),
                     DOCONV_INVALID_ARGUMENT);
    doconv_context_destroy(ctx);
}

/* Any bytes, sealed: refused, or a plan that is written as it was read. */
static void test_fuzz(void **state)
{
    static struct text text, back;
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    doconv_network_plan *plan = make_plan(ctx);
    write_plan(plan, &text);
    doconv_network_plan_destroy(plan);
    uint64_t seed = 7;
    int taken = 0;
    for (int number = 0; number < 20000; number++) {
        static struct text fuzzed;
        fuzzed = text;
        for (int change = 0; change <= number % 3; change++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            const size_t at = (size_t)(seed >> 33) % (fuzzed.size - CHECKSUM_LINE);
            static const char digits[] = "0123456789 \n-anx\377";
            fuzzed.data[at] = digits[(seed >> 20) % (sizeof digits - 1)];
        }
        seal(&fuzzed);
        if (parse(ctx, fuzzed.data, fuzzed.size, NULL, &plan) == DOCONV_OK) {
            taken++;
            write_plan(plan, &back);
            assert_int_equal(back.size, fuzzed.size);
            assert_memory_equal(back.data, fuzzed.data, back.size);
            doconv_network_plan_destroy(plan);
        } else {
            assert_null(plan);
        }
    }
    assert_in_range(taken, 100, 19000);
    doconv_context_destroy(ctx);
}

/* For another machine, build or number of threads only where that is asked for. */
static void test_caps(void **state)
{
    static struct text text;
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    doconv_network_plan *plan = make_plan(ctx);
    write_plan(plan, &text);
    doconv_network_plan_destroy(plan);
    char environment[17];
    memcpy(environment, strstr(text.data, "environment ") + strlen("environment "), 16);
    environment[16] = '\0';
    const struct text foreign = replaced(&text, environment, "0123456789abcdef");
    expect_refused(ctx, foreign.data, foreign.size, DOCONV_MISMATCH, "0123456789abcdef");
    doconv_network_parse_options options = {.size = sizeof options, .any_environment = 1};
    assert_int_equal(parse(ctx, foreign.data, foreign.size, &options, &plan), DOCONV_OK);
    doconv_network_plan_destroy(plan);
    options.any_environment = 2;
    assert_int_equal(parse(ctx, text.data, text.size, &options, &plan), DOCONV_INVALID_ARGUMENT);
    options.size = 8;
    assert_int_equal(parse(ctx, text.data, text.size, &options, &plan), DOCONV_MISMATCH);
    doconv_context_destroy(ctx);

    doconv_context_options own = fixture_options(f, "c", path);
    own.threads = 2;
    assert_int_equal(doconv_context_create(&own, &ctx), DOCONV_OK);
    expect_refused(ctx, text.data, text.size, DOCONV_MISMATCH, "1 threads");
    options = (doconv_network_parse_options){.size = sizeof options, .any_threads = 1};
    assert_int_equal(parse(ctx, text.data, text.size, &options, &plan), DOCONV_OK);
    doconv_network_plan_destroy(plan);
    doconv_context_destroy(ctx);

    own.threads = 1;
    own.deterministic = 1;
    assert_int_equal(doconv_context_create(&own, &ctx), DOCONV_OK);
    expect_refused(ctx, text.data, text.size, DOCONV_MISMATCH, "deterministic");
    doconv_context_destroy(ctx);
}

static void test_out_of_memory(void **state)
{
    static struct text text;
    char path[FIXTURE_PATH];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(*state, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    doconv_network_plan *plan = make_plan(ctx);
    write_plan(plan, &text);
    doconv_network_plan_destroy(plan);
    const int live = failing.live;
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    for (int call = 0; status != DOCONV_OK; call++) {
        failing.calls = 0;
        failing.fail_at = call;
        status = parse(ctx, text.data, text.size, NULL, &plan);
        failing.fail_at = -1;
        assert_true(status == DOCONV_OUT_OF_MEMORY || status == DOCONV_OK);
        assert_true(status == DOCONV_OK || failing.live == live);
        assert_true(call < 100);
    }
    doconv_network_plan_destroy(plan);
    assert_int_equal(failing.live, live);
    doconv_context_destroy(ctx);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip), TEST(test_damage), TEST(test_refused_texts),
        TEST(test_fuzz),       TEST(test_caps),   TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("network_text", tests, NULL, NULL) != 0;
}

/* SPDX-License-Identifier: MIT */
/* Many processes in one directory: all tune the same; some import and clean, others store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache.h"
#include "entries.h"
#include "harness.h"
#include "tuner_fixture.h"

#define TUNERS 32
#define KEYS 6

static const char *const problems[] = {
    "mb1_ic5ih9oc7kh3ph1:bias",
    "mb1_ic8ih6oc8kh3ph1:src=nhwc,dst=nhwc",
    "mb1_ic16ih7oc16kh1",
    "g8mb1_ic8ih8oc8kh3ph1",
};
enum { PROBLEMS = sizeof problems / sizeof problems[0] };

/* Processes: what run() finds wrong is the number of its line, 0 if nothing. */
static pid_t begin(struct fixture *f, int (*run)(struct fixture *f, doconv_context *ctx, int n),
                   int number, doconv_tune_mode tune)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        doconv_context *ctx;
        options.tune = tune;
        if (doconv_context_create(&options, &ctx) != DOCONV_OK) {
            _exit(1);
        }
        fixture_log_clear(f);
        const int wrong = run(f, ctx, number);
        if (wrong != 0) {
            fprintf(stderr, "process %d: line %d; the log's last: %s\n", number, wrong,
                    f->log.last);
        }
        doconv_context_destroy(ctx);
        _exit(wrong != 0);
    }
    return child;
}

static void end(const pid_t *children, int count)
{
    bool ok = true;
    for (int i = 0; i < count; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    assert_true(ok);
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            return __LINE__;                                                                       \
        }                                                                                          \
    } while (0)

/* ---- all tune the same ---- */

/* Each in its own order. */
static int tune_all(struct fixture *f, doconv_context *ctx, int number)
{
    for (int i = 0; i < PROBLEMS; i++) {
        doconv_conv_desc desc;
        doconv_tune_report *report;
        doconv_tune_options options = fixture_quick;
        doconv_plan *plan;
        options.force = number % 2; /* half of them take what others found meanwhile */
        CHECK(doconv_conv_desc_parse(NULL, problems[(i + number) % PROBLEMS], &desc) == DOCONV_OK);
        CHECK(doconv_tune(ctx, &desc, NULL, &options, &report) == DOCONV_OK);
        doconv_tune_report_destroy(report);
        CHECK(doconv_plan_create(ctx, &desc, NULL, &plan) == DOCONV_OK);
        const bool cached = strcmp(doconv_plan_origin(plan), "cache") == 0;
        doconv_plan_destroy(plan);
        CHECK(cached);
    }
    /* The tuner may tell of doubt; the cache has nothing to complain of. */
    CHECK(f->log.errors == 0 && strncmp(f->log.last, "cache:", 6) != 0);
    return 0;
}

static void test_tuning_at_once(void **state)
{
    struct fixture *f = *state;
    pid_t children[TUNERS];
    for (int i = 0; i < TUNERS; i++) {
        children[i] = begin(f, tune_all, i, DOCONV_TUNE_TUNE);
    }
    end(children, TUNERS);
    assert_int_equal(fixture_count(f, "c", ".txt", NULL), PROBLEMS);
    assert_int_equal(fixture_count(f, "c", "", NULL), PROBLEMS + 1); /* and the manifest */
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    for (int i = 0; i < PROBLEMS; i++) {
        const doconv_conv_desc desc = fixture_problem(problems[i]);
        fixture_assert_origin(ctx, &desc, NULL, "cache");
    }
    assert_int_equal(f->log.lines, 0);
    doconv_context_destroy(ctx);
}

/* ---- some import and clean while others store ---- */

static void set_key(char key[32], int i)
{
    snprintf(key, 32, "key %d", i % KEYS);
}

static int store_and_look(struct fixture *f, doconv_context *ctx, int number)
{
    for (int i = 0; i < harness_scaled(200, 20); i++) {
        char key[32];
        struct cache_entry e, back;
        set_key(key, i + number);
        e = fixture_entry(ctx, key);
        e.picoseconds = 1 + i;
        CHECK(dc_cache_store(ctx->advisor.self, &e) != CACHE_MISS);
        CHECK(dc_cache_lookup(ctx->advisor.self, key, &back) != CACHE_MISS);
        CHECK(back.picoseconds == e.picoseconds && strcmp(back.key, key) == 0);
        dc_cache_drop(ctx->advisor.self, key); /* as another process: what is on disk now */
        const enum cache_state found = dc_cache_lookup(ctx->advisor.self, key, &back);
        CHECK(found == CACHE_MISS || (found == CACHE_STORED && strcmp(back.key, key) == 0));
    }
    CHECK(f->log.lines == 0);
    return 0;
}

/* A set of this environment's entries and of another's. */
static doconv_entries *make_set(doconv_context *ctx, int rounds)
{
    char manifest[128];
    doconv_entries *entries;
    snprintf(manifest, sizeof manifest, "doconv-cache %d\nlibrary 0.0\ncpu other\n",
             CACHEFILE_VERSION);
    const char *const manifests[] = {dc_cache_manifest(ctx->advisor.self), manifest};
    if (doconv_entries_create(ctx, &entries) != DOCONV_OK) {
        return NULL;
    }
    for (int i = 0; i < 2 * KEYS; i++) {
        char key[32];
        set_key(key, i);
        struct cache_entry e = fixture_entry(ctx, key);
        e.measured[0].rounds += rounds; /* more than any that was stored */
        if (dc_entries_add(entries, manifests[i / KEYS], strlen(manifests[i / KEYS]), &e) !=
            DOCONV_OK) {
            doconv_entries_destroy(entries);
            return NULL;
        }
    }
    return entries;
}

static int import_and_export(struct fixture *f, doconv_context *ctx, int number)
{
    (void)f;
    for (int i = 0; i < harness_scaled(100, 10); i++) {
        doconv_entries *entries = make_set(ctx, 100 * i + number);
        CHECK(entries != NULL);
        CHECK(doconv_entries_store(entries, NULL) == DOCONV_OK);
        CHECK(doconv_entries_read(entries) == DOCONV_OK);
        CHECK(doconv_entries_count(entries) <= 2 * KEYS);
        CHECK(i % 8 != 7 || doconv_entries_forget(entries, NULL) == DOCONV_OK);
        doconv_entries_destroy(entries);
    }
    return 0;
}

static int clean_up(struct fixture *f, doconv_context *ctx, int number)
{
    (void)number;
    for (int i = 0; i < harness_scaled(400, 40); i++) {
        const doconv_cache_clean_options options = {.size = sizeof options, .all = i % 4 != 0};
        CHECK(doconv_cache_clean(ctx, &options) == DOCONV_OK);
    }
    CHECK(f->log.lines == 0);
    return 0;
}

static void test_importing_and_cleaning(void **state)
{
    struct fixture *f = *state;
    int (*const runs[])(struct fixture *, doconv_context *, int) = {
        store_and_look, store_and_look,    store_and_look,    clean_up,
        clean_up,       import_and_export, import_and_export, store_and_look};
    enum { COUNT = sizeof runs / sizeof runs[0] };
    pid_t children[COUNT];
    for (int i = 0; i < COUNT; i++) {
        children[i] = begin(f, runs[i], i, DOCONV_TUNE_READ);
    }
    end(children, COUNT);
    /* Nothing of it confuses those who come after. */
    assert_int_equal(fixture_count(f, "c", ".tmp", NULL), 0);
    assert_int_equal(fixture_count(f, "", "", NULL), fixture_count(f, "c", "", NULL));
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct cache_entry e = fixture_entry(ctx, "key 0");
    struct cache_entry back;
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
    doconv_entries *entries = make_set(ctx, 1000000);
    assert_non_null(entries);
    int stored;
    assert_int_equal(doconv_entries_store(entries, &stored), DOCONV_OK);
    assert_int_equal(stored, 2 * KEYS);
    doconv_entries_destroy(entries);
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), fixture_count(f, "c", ".txt", NULL));
    assert_int_equal(dc_cache_lookup(ctx->advisor.self, "key 0", &back), CACHE_STORED);
    assert_int_equal(f->log.lines, 0);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_tuning_at_once),
        WITH_FIXTURE(test_importing_and_cleaning),
    };
    return cmocka_run_group_tests_name("cache_many", tests, NULL, NULL);
}

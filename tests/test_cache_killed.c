/* SPDX-License-Identifier: MIT */
/*
 * Writers, readers and cleaners of the cache's directory that end, or find that something fails, at
 * each call of the system that they make: what is left is the old state or the new one.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "cache.h"
#include "entries.h"
#include "faulty_calls.h"
#include "tuner_fixture.h"

#define OLD 1000 /* picoseconds, by which entries are told apart */
#define NEW 2000
#define NEWER 3000
#define WEEK ((time_t)7 * 24 * 3600)
#define MOST_CALLS 500

static const char *const keys[] = {"key", "second key"};
enum { KEYS = 2 };

static struct cache_entry make_entry(const doconv_context *ctx, const char *key, int picoseconds)
{
    struct cache_entry e = fixture_entry(ctx, key);
    e.picoseconds = picoseconds;
    return e;
}

/* A set with an entry of each key. NULL: a failure. */
static doconv_entries *make_set(doconv_context *ctx, int picoseconds)
{
    doconv_entries *entries;
    const char *manifest = dc_cache_manifest(ctx->advisor.self);
    if (doconv_entries_create(ctx, &entries) != DOCONV_OK) {
        return NULL;
    }
    for (int i = 0; i < KEYS; i++) {
        struct cache_entry e = make_entry(ctx, keys[i], picoseconds);
        e.measured[0].rounds += picoseconds; /* more samples: it goes before the older */
        if (dc_entries_add(entries, manifest, strlen(manifest), &e) != DOCONV_OK) {
            doconv_entries_destroy(entries);
            return NULL;
        }
    }
    return entries;
}

/* ---- what is done to the directory ---- */

static bool store(doconv_context *ctx)
{
    const struct cache_entry e = make_entry(ctx, keys[0], NEW);
    return dc_cache_store(ctx->advisor.self, &e) == CACHE_STORED;
}

static bool import(doconv_context *ctx)
{
    doconv_entries *entries = make_set(ctx, NEW);
    int stored;
    const bool ok = doconv_entries_store(entries, &stored) == DOCONV_OK;
    doconv_entries_destroy(entries);
    return ok && stored == KEYS;
}

static bool forget(doconv_context *ctx)
{
    doconv_entries *entries = make_set(ctx, NEW);
    int removed;
    const bool ok = doconv_entries_forget(entries, &removed) == DOCONV_OK;
    doconv_entries_destroy(entries);
    return ok;
}

static bool clean(doconv_context *ctx)
{
    const doconv_cache_clean_options options = {.size = sizeof options, .all = 1};
    return doconv_cache_clean(ctx, &options) == DOCONV_OK;
}

struct work {
    bool (*run)(doconv_context *ctx);
    bool removes; /* an entry may be gone afterwards */
};

static const struct work works[] = {{store, false}, {import, false}, {forget, true}, {clean, true}};
enum { WORKS = sizeof works / sizeof works[0] };

/* ---- what is there ---- */

/* The directory anew: empty, or with old entries. */
static void start(struct fixture *f, bool filled)
{
    char path[FIXTURE_PATH];
    fixture_path(f, "c", path);
    fixture_remove(path);
    if (filled) {
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        for (int i = 0; i < KEYS; i++) {
            const struct cache_entry e = make_entry(ctx, keys[i], OLD);
            assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
        }
        doconv_context_destroy(ctx);
    }
    fixture_log_clear(f);
}

/* As another process finds it: each entry old, or new, or not there; never a word of damage. */
static void assert_whole(struct fixture *f, bool filled, bool removes)
{
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fixture_log_clear(f);
    for (int i = 0; i < KEYS; i++) {
        struct cache_entry e;
        const enum cache_state state = dc_cache_lookup(ctx->advisor.self, keys[i], &e);
        if (state == CACHE_MISS) {
            assert_true(!filled || removes);
        } else {
            assert_int_equal(state, CACHE_STORED);
            assert_true(e.picoseconds == NEW || (filled && e.picoseconds == OLD));
        }
    }
    assert_int_equal(f->log.lines, 0);
    doconv_context_destroy(ctx);
    /* Nothing beside the directory. */
    assert_int_equal(fixture_count(f, "", "", NULL), fixture_count(f, "c", "", NULL));
}

static void age_temporary_files(struct fixture *f)
{
    char path[FIXTURE_PATH];
    const struct timespec then = {.tv_sec = time(NULL) - WEEK - 60}, times[2] = {then, then};
    for (int count = fixture_count(f, "c", ".tmp", path); count > 0; count--) {
        char aged[FIXTURE_PATH + 8];
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        snprintf(aged, sizeof aged, "%s.aged", path);
        assert_int_equal(rename(path, aged), 0);
        fixture_count(f, "c", ".tmp", path);
    }
    for (int count = fixture_count(f, "c", ".aged", path); count > 0; count--) {
        char name[FIXTURE_PATH];
        snprintf(name, sizeof name, "%.*s", (int)(strlen(path) - 5), path);
        assert_int_equal(rename(path, name), 0);
        fixture_count(f, "c", ".aged", path);
    }
}

/* The next that stores finds nothing in its way, and what is left goes when it is old. */
static void assert_usable(struct fixture *f)
{
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct cache_entry e = make_entry(ctx, keys[0], NEWER);
    struct cache_entry back;
    age_temporary_files(f);
    fixture_log_clear(f);
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
    doconv_context_destroy(ctx);
    assert_int_equal(fixture_count(f, "c", ".tmp", NULL), 0);
    ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    assert_int_equal(dc_cache_lookup(ctx->advisor.self, keys[0], &back), CACHE_STORED);
    assert_int_equal(back.picoseconds, NEWER);
    /* Its manifest is whole: an export has all entries. */
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), fixture_count(f, "c", ".txt", NULL));
    doconv_entries_destroy(entries);
    assert_int_equal(f->log.lines, 0);
    doconv_context_destroy(ctx);
}

/* ---- processes that end ---- */

/* Runs the work in a process that ends at a call; false if there was no such call. */
static bool run_until(struct fixture *f, const struct work *work, enum fault_kind kind, int at)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        doconv_context *ctx;
        bool ok = doconv_context_create(&options, &ctx) == DOCONV_OK;
        faults_set(kind, at, 0, NULL);
        ok = ok && work->run(ctx);
        _exit(ok && faults.calls <= at ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == FAULT_ENDED || WEXITSTATUS(status) == 0);
    return WEXITSTATUS(status) == FAULT_ENDED;
}

static void test_ended_at_every_call(void **state)
{
    struct fixture *f = *state;
    static const int least[] = {12, 24, 4, 6}; /* calls of the works */
    for (int i = 0; i < 4 * WORKS; i++) {
        const struct work *work = &works[i / 4];
        const enum fault_kind kind = i % 2 == 0 ? FAULT_END_BEFORE : FAULT_END_AFTER;
        const bool filled = i / 2 % 2 == 1;
        int at = 0;
        for (bool ended = true; ended; at++) {
            assert_true(at < MOST_CALLS);
            start(f, filled);
            ended = run_until(f, work, kind, at);
            assert_whole(f, filled, work->removes);
            assert_usable(f);
        }
        assert_true(!filled || at > least[i / 4]);
    }
}

/* Many that end one after the other, wherever they are, and never one that cleans up. */
static void test_ended_again_and_again(void **state)
{
    struct fixture *f = *state;
    start(f, true);
    for (int at = 0; at < 60; at++) {
        (void)run_until(f, &works[at % 2], FAULT_END_BEFORE, at / 2);
        assert_whole(f, true, false);
    }
    assert_true(fixture_count(f, "c", ".tmp", NULL) > 5);
    assert_usable(f);
}

/* ---- calls that fail ---- */

static const int errors[] = {ENOSPC, EDQUOT, EROFS, EACCES, EIO, EMFILE, ENOMEM, ENOENT};
enum { ERRORS = sizeof errors / sizeof errors[0] };

static void fail_at(struct fixture *f, const struct work *work, bool filled, enum fault_kind kind,
                    int at, int error, bool *reached)
{
    start(f, filled);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fixture_log_clear(f);
    faults_set(kind, at, error, NULL);
    const bool ok = work->run(ctx);
    *reached = faults.calls > at;
    const bool removal_failed = kind == FAULT_FROM_NOW;
    faults_set(FAULT_NONE, 0, 0, NULL);
    assert_true(ok || *reached);
    if (work->run == store) {
        /* A choice is kept all the same, and a failure told. */
        struct cache_entry e;
        assert_int_equal(dc_cache_lookup(ctx->advisor.self, keys[0], &e),
                         ok ? CACHE_STORED : CACHE_MEMORY);
        assert_int_equal(e.picoseconds, NEW);
        assert_int_equal(f->log.warnings, !ok);
    }
    assert_true(removal_failed || fixture_count(f, "c", ".tmp", NULL) == 0);
    doconv_context_destroy(ctx);
    assert_whole(f, filled, work->removes);
    assert_usable(f);
}

static void test_failed_at_every_call(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 4 * WORKS; i++) {
        bool reached = true;
        for (int at = 0; reached; at++) {
            assert_true(at < MOST_CALLS);
            fail_at(f, &works[i / 4], i % 2 == 0, i / 2 % 2 == 0 ? FAULT_ONCE : FAULT_FROM_NOW, at,
                    errors[at % ERRORS], &reached);
        }
    }
}

/* Every reason that a store's step can fail for. */
static void test_every_error(void **state)
{
    struct fixture *f = *state;
    for (int e = 0; e < ERRORS; e++) {
        bool reached = true;
        for (int at = 0; reached; at++) {
            fail_at(f, &works[0], true, FAULT_ONCE, at, errors[e], &reached);
        }
    }
}

/* A signal that interrupts, and a name that a dead writer left, are nothing to fail for. */
static void test_again(void **state)
{
    static const struct {
        const char *call;
        int error, calls;
    } cases[] = {{"write", EINTR, 2}, {"read", EINTR, 1}};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int at = 0; at < cases[i].calls; at++) {
            start(f, true);
            doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
            struct cache_entry e;
            faults_set(FAULT_ONCE, at, cases[i].error, cases[i].call);
            assert_int_equal(dc_cache_lookup(ctx->advisor.self, keys[1], &e), CACHE_STORED);
            assert_true(store(ctx));
            assert_true(faults.calls > at);
            faults_set(FAULT_NONE, 0, 0, NULL);
            assert_int_equal(f->log.lines, 0);
            doconv_context_destroy(ctx);
        }
    }
}

static void test_left_names(void **state)
{
    struct fixture *f = *state;
    start(f, true);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    assert_true(store(ctx)); /* the first one cleans up, too */
    /* Calls of a store with the manifest there: that is read, then the temporary file made. */
    faults_set(FAULT_ONCE, 1, EEXIST, "openat");
    assert_true(store(ctx));
    assert_int_equal(faults.calls, 3);
    /* Where every name is taken there is an end of trying. */
    faults_set(FAULT_FROM_NOW, 0, EEXIST, "openat");
    assert_false(store(ctx));
    faults_set(FAULT_NONE, 0, 0, NULL);
    doconv_context_destroy(ctx);
    assert_whole(f, true, false);
    assert_usable(f);
}

/* ---- readers ---- */

static void test_readers(void **state)
{
    struct fixture *f = *state;
    start(f, true);
    for (int e = 0; e < ERRORS; e++) {
        bool reached = true;
        for (int at = 0; reached; at++) {
            doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
            struct cache_entry entry;
            fixture_log_clear(f);
            faults_set(FAULT_ONCE, at, errors[e], NULL);
            const enum cache_state found = dc_cache_lookup(ctx->advisor.self, keys[0], &entry);
            reached = faults.calls > at;
            faults_set(FAULT_NONE, 0, 0, NULL);
            assert_true(found == CACHE_STORED || (found == CACHE_MISS && reached));
            assert_int_equal(f->log.lines,
                             found == CACHE_MISS && errors[e] != ENOENT ? 1 : f->log.lines);
            assert_true(f->log.lines <= 1);
            doconv_context_destroy(ctx);
            assert_whole(f, true, false);
        }
    }
}

/* ---- the order of what is done ---- */

/* A file is whole on disk before it has its name, and the name before a store is done. */
static void test_order(void **state)
{
    struct fixture *f = *state;
    start(f, true);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    assert_true(store(ctx)); /* the first one cleans up, too */
    faults_set(FAULT_NONE, 0, 0, NULL);
    assert_true(store(ctx));
    doconv_context_destroy(ctx);
    const char *written = strstr(faults.trace, "write fsync close renameat fsync close ");
    assert_non_null(written);
    assert_string_equal(written, "write fsync close renameat fsync close ");
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_ended_at_every_call),
        WITH_FIXTURE(test_ended_again_and_again),
        WITH_FIXTURE(test_failed_at_every_call),
        WITH_FIXTURE(test_every_error),
        WITH_FIXTURE(test_again),
        WITH_FIXTURE(test_left_names),
        WITH_FIXTURE(test_readers),
        WITH_FIXTURE(test_order),
    };
    return cmocka_run_group_tests_name("cache_killed", tests, NULL, NULL);
}

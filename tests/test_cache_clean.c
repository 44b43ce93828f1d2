/* SPDX-License-Identifier: MIT */
/* What nothing uses any more is collected from the cache's directory, and nothing else is. */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache.h"
#include "tuner_fixture.h"

#define WEEK ((time_t)7 * 24 * 3600)

/* Lets a file, directory or link look this old. */
static void age(const char *path, time_t seconds)
{
    const struct timespec then = {.tv_sec = time(NULL) - seconds}, times[2] = {then, then};
    assert_int_equal(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static bool exists(const char *directory, const char *name)
{
    char path[2 * FIXTURE_PATH];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return lstat(path, &info) == 0;
}

/* A file with this text, seconds old. */
static void plant(const char *directory, const char *name, const char *text, time_t seconds)
{
    char path[3 * FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    fixture_write(path, text, strlen(text));
    age(path, seconds);
}

/* An environment with an entry, and with a manifest unless that is NULL. */
static void plant_environment(const char *root, const char *name, const char *manifest,
                              time_t seconds)
{
    char path[2 * FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0777), 0);
    plant(path, "0123456789abcdef.txt", "an entry", seconds);
    plant(path, "0123456789abcdef.txt.99.0.7fff0000.tmp", "cut", seconds);
    if (manifest != NULL) {
        plant(path, "MANIFEST", manifest, seconds);
    }
    age(path, seconds);
}

/* The context's own environment has an entry: its directory; root: the one above. */
static void own_environment(struct fixture *f, doconv_context *ctx, char root[FIXTURE_PATH],
                            char own[FIXTURE_PATH])
{
    const struct cache_entry e = fixture_entry(ctx, "key");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
    fixture_path(f, "c", root);
    assert_int_equal(fixture_count(f, "c", ".txt", own), 1);
    *strrchr(own, '/') = '\0';
}

/* Another line of the own manifest. */
static void other_manifest(const char *own, const char *line, char *text, size_t size)
{
    char path[2 * FIXTURE_PATH], before[2048];
    snprintf(path, sizeof path, "%s/MANIFEST", own);
    fixture_read(path, before, sizeof before);
    char *start = strstr(before, line);
    assert_non_null(start);
    snprintf(text, size, "%.*s%sother%s", (int)(start - before), before, line, strchr(start, '\n'));
}

struct removals {
    int count;
    uint64_t bytes;
};

static void count_removal(void *user, const char *path, uint64_t bytes)
{
    struct removals *r = user;
    /* An environment, or a file in one. */
    assert_int_equal(strspn(path, "0123456789abcdef"), 16);
    assert_true(path[16] == '\0' || (path[16] == '/' && strchr(path + 17, '/') == NULL));
    assert_true(path[16] == '\0' || path[17] != '\0');
    r->count++;
    r->bytes += bytes;
}

static const char *const temporaries[] = {
    "MANIFEST.1.0.7f001122aabb.tmp",
    "0123456789abcdef.txt.4711.12.55d0.tmp",
};
/* Near to the cache's names, but not: nobody's business. */
static const char *const foreign[] = {
    "notes.tmp",
    "MANIFEST.tmp",
    "MANIFEST.1.0.tmp",
    "MANIFEST.1.x.7f00.tmp",
    "0123456789abcde.txt.1.0.7f00.tmp",
    "0123456789ABCDEF.txt.1.0.7f00.tmp",
    "0123456789abcdef.txt.1.0.7f00.tmp.bak",
    "0123456789abcdef.text",
};
#define FOREIGN (sizeof foreign / sizeof foreign[0])

static void test_old_temporary_files(void **state)
{
    struct fixture *f = *state;
    char root[FIXTURE_PATH], own[FIXTURE_PATH], link[2 * FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    own_environment(f, ctx, root, own);
    doconv_context_destroy(ctx);
    for (int old = 0; old < 2; old++) {
        plant(own, temporaries[0], "cut", old ? WEEK + 60 : WEEK - 60);
        plant(own, temporaries[1], "cut", old ? WEEK + 60 : WEEK - 60);
        for (size_t i = 0; i < FOREIGN; i++) {
            plant(own, foreign[i], "mine", 2 * WEEK);
        }
        snprintf(link, sizeof link, "%s/MANIFEST.2.0.7f00.tmp", own);
        assert_true(old || symlink("MANIFEST", link) == 0);
        age(link, 2 * WEEK);
        /* A store cleans up, once in a context's life. */
        ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        const struct cache_entry e = fixture_entry(ctx, "second");
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
        doconv_context_destroy(ctx);
        assert_int_equal(exists(own, temporaries[0]), !old);
        assert_int_equal(exists(own, temporaries[1]), !old);
        for (size_t i = 0; i < FOREIGN; i++) {
            assert_true(exists(own, foreign[i]));
        }
        assert_true(exists(own, "MANIFEST.2.0.7f00.tmp") && exists(own, "MANIFEST"));
        assert_int_equal(fixture_count(f, "c", ".txt", NULL), 2);
    }
    assert_int_equal(f->log.lines, 0);
}

/* name: 16 hex digits of which the last tells what the environment is. */
static void plant_environments(const char *root, const char *own, const char *elsewhere)
{
    static const char *const lines[] = {"kernels ", "library ", "doconv-cache ", "cpu ", "isa "};
    char text[2048], path[2 * FIXTURE_PATH];
    for (int i = 0; i < 5; i++) {
        char name[32];
        other_manifest(own, lines[i], text, sizeof text);
        snprintf(name, sizeof name, "00000000000000a%d", i);
        plant_environment(root, name, text, WEEK + 60);
        snprintf(name, sizeof name, "00000000000000b%d", i);
        plant_environment(root, name, text, WEEK - 60);
    }
    plant_environment(root, "00000000000000c0", NULL, WEEK + 60);
    plant_environment(root, "00000000000000d", text, WEEK + 60);
    plant_environment(root, "00000000000000D0", text, WEEK + 60);
    plant_environment(root, "00000000000000d00", text, WEEK + 60);
    /* A link to an environment elsewhere, and one in an environment to a file elsewhere. */
    other_manifest(own, "kernels ", text, sizeof text);
    plant_environment(elsewhere, "00000000000000e0", text, WEEK + 60);
    snprintf(path, sizeof path, "%s/00000000000000e0", root);
    assert_int_equal(symlink("../elsewhere/00000000000000e0", path), 0);
    age(path, 2 * WEEK);
    plant_environment(root, "00000000000000f0", text, WEEK + 60);
    snprintf(path, sizeof path, "%s/00000000000000f0/00000000000000ff.txt", root);
    assert_int_equal(symlink("../../elsewhere/00000000000000e0/MANIFEST", path), 0);
    snprintf(path, sizeof path, "%s/00000000000000f0", root);
    age(path, WEEK + 60);
}

static void test_old_environments(void **state)
{
    struct fixture *f = *state;
    char root[FIXTURE_PATH], own[FIXTURE_PATH], elsewhere[FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    own_environment(f, ctx, root, own);
    fixture_path(f, "elsewhere", elsewhere);
    assert_int_equal(mkdir(elsewhere, 0777), 0);
    plant_environments(root, own, elsewhere);
    age(own, 2 * WEEK);
    const int apart = fixture_count(f, "elsewhere", "", NULL);
    doconv_context_destroy(ctx);

    /* A store removes those of other builds. */
    ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct cache_entry e = fixture_entry(ctx, "second");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "00000000000000a%d", i);
        assert_int_equal(exists(root, name), i >= 3);
        snprintf(name, sizeof name, "00000000000000b%d", i);
        assert_true(exists(root, name));
    }
    static const char *const stay[] = {"00000000000000d", "00000000000000D0", "00000000000000d00",
                                       "00000000000000e0", "00000000000000f0/00000000000000ff.txt"};
    assert_true(exists(root, "00000000000000c0") && !exists(root, "00000000000000f0/MANIFEST"));

    /* Asked for, all that nothing used for a week; then all. */
    for (int all = 0; all < 2; all++) {
        struct removals r = {0};
        const doconv_cache_clean_options options = {
            .size = sizeof options, .all = all, .report = count_removal, .report_user = &r};
        age(own, 2 * WEEK); /* its own stays all the same, unless all go */
        assert_int_equal(doconv_cache_clean(ctx, &options), DOCONV_OK);
        /*
         * Of each an entry, a manifest, the directory, and where it is young a temporary file; one
         * had no manifest, and the own has two entries.
         */
        assert_int_equal(r.count, all ? 5 * 4 + 4 : 2 * 3 + 2);
        assert_true(r.bytes > 0);
        for (int i = 0; i < 5; i++) {
            char name[32];
            snprintf(name, sizeof name, "00000000000000a%d", i);
            assert_false(exists(root, name));
            snprintf(name, sizeof name, "00000000000000b%d", i);
            assert_int_equal(exists(root, name), !all);
        }
        assert_false(exists(root, "00000000000000c0"));
        for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++) {
            assert_true(exists(root, stay[i]));
        }
        assert_int_equal(exists(own, "MANIFEST"), !all);
        assert_int_equal(fixture_count(f, "elsewhere", "", NULL), apart);
    }
    /* What was cleaned under a context's feet is made anew. */
    const struct cache_entry third = fixture_entry(ctx, "third");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &third), CACHE_STORED);
    assert_true(exists(own, "MANIFEST"));
    assert_int_equal(f->log.lines, 0);
    doconv_context_destroy(ctx);
}

/* Reading is use, too. */
static void test_use_keeps(void **state)
{
    struct fixture *f = *state;
    char root[FIXTURE_PATH], own[FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const fewer[] = {fixture_kernel(ctx), NULL};
    own_environment(f, ctx, root, own);
    doconv_context_destroy(ctx);
    for (int used = 1; used >= 0; used--) {
        age(own, 2 * WEEK);
        ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        struct cache_entry e;
        if (used) {
            assert_int_equal(dc_cache_lookup(ctx->advisor.self, "key", &e), CACHE_STORED);
        }
        fixture_reattach(ctx, fewer);
        e = fixture_entry(ctx, used ? "one" : "other");
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
        assert_int_equal(exists(own, "MANIFEST"), used);
        doconv_context_destroy(ctx);
    }
}

static void test_clean_arguments(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    doconv_cache_clean_options options = {.size = sizeof options};
    assert_int_equal(doconv_cache_clean(NULL, &options), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_cache_clean(ctx, NULL), DOCONV_OK); /* there is no directory yet */
    options.all = 2;
    assert_int_equal(doconv_cache_clean(ctx, &options), DOCONV_INVALID_ARGUMENT);
    options.size--;
    assert_int_equal(doconv_cache_clean(ctx, &options), DOCONV_MISMATCH);
    char path[FIXTURE_PATH];
    fixture_path(f, "c", path);
    fixture_write(path, "no directory", 12);
    assert_int_equal(doconv_cache_clean(ctx, NULL), DOCONV_IO_ERROR);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_old_temporary_files),
        WITH_FIXTURE(test_old_environments),
        WITH_FIXTURE(test_use_keeps),
        WITH_FIXTURE(test_clean_arguments),
    };
    return cmocka_run_group_tests_name("cache_clean", tests, NULL, NULL);
}

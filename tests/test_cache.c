/* SPDX-License-Identifier: MIT */
/* The tuner's cache: the table in memory, the files, and everything that may be wrong with them. */
#include <pthread.h>
#include <setjmp.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache.h"
#include "tuner_fixture.h"

/* A kernel that each build has: the reference, the last of the list. */
static const struct dc_kernel *some_kernel(const doconv_context *ctx)
{
    return ctx->kernels[doconv_kernel_count(ctx) - 1];
}

static struct cache_entry make_entry(const doconv_context *ctx, const char *key)
{
    struct cache_entry e = {
        .workspace = 4096, .picoseconds = 123456789, .max_rel_error_e12 = 98765, .count = 3};
    snprintf(e.key, sizeof e.key, "%s", key);
    snprintf(e.variant, sizeof e.variant, "reference:%s", some_kernel(ctx)->name);
    e.revision = some_kernel(ctx)->revision;
    for (int i = 0; i < e.count; i++) {
        snprintf(e.measured[i].variant, sizeof e.measured[i].variant,
                 "direct:kernel_%d@none:rows=%d", i, 7 * i);
        e.measured[i].picoseconds = 123456789 * (i + 1);
        e.measured[i].rounds = 5 + i;
        e.measured[i].spread_ppm = 1000 * i;
        e.measured[i].dropped = i == 2;
    }
    return e;
}

static void assert_same(const struct cache_entry *a, const struct cache_entry *b)
{
    char x[8192], y[8192];
    const size_t length = dc_cachefile_print(a, x, sizeof x);
    assert_true(length > 0);
    assert_int_equal(dc_cachefile_print(b, y, sizeof y), length);
    assert_memory_equal(x, y, length);
}

/* ---- memory and files ---- */

static struct cache *make_cache(doconv_context *ctx)
{
    struct cache *cache = dc_cache_create(ctx);
    assert_non_null(cache);
    return cache;
}

static void test_store_and_find(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "a/deep/directory", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    const struct cache_entry e = make_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_same(&e, &back);
    dc_cache_destroy(cache);
    cache = make_cache(ctx); /* as another process */
    assert_int_equal(dc_cache_lookup(cache, "other key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_same(&e, &back);
    assert_int_equal(fixture_count(f, "a", ".txt", NULL), 1);
    /* and the manifest: no temporary file is left */
    assert_int_equal(fixture_count(f, "a", "", NULL), 2);
    assert_int_equal(f->log.lines, 0);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static void test_manifest(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    const struct cache_entry e = make_entry(ctx, "key");
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    char path[FIXTURE_PATH], text[2048], line[128];
    assert_int_equal(fixture_count(f, "c", "MANIFEST", path), 1);
    const size_t length = fixture_read(path, text, sizeof text);
    snprintf(line, sizeof line, "%016" PRIx64 "/MANIFEST", dc_hash(0, text, length));
    /* the directory's name is the hash of what the manifest says */
    assert_non_null(strstr(path, line));
    snprintf(line, sizeof line, "\nkernels %s\n", ctx->fingerprint);
    assert_non_null(strstr(text, line));
    snprintf(line, sizeof line, "\ncpu %s\n", dc_cpu_probe()->name);
    assert_non_null(strstr(text, line));
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

/*
 * Looks a key up in a new cache: must be a miss with this many warnings, now and (without another)
 * the second time.
 */
static void assert_miss(struct fixture *f, doconv_context *ctx, const char *key, int warnings)
{
    struct cache *cache = make_cache(ctx);
    struct cache_entry back;
    fixture_log_clear(f);
    assert_int_equal(dc_cache_lookup(cache, key, &back), CACHE_MISS);
    assert_int_equal(dc_cache_lookup(cache, key, &back), CACHE_MISS);
    assert_int_equal(f->log.warnings, warnings);
    assert_int_equal(f->log.lines, warnings);
    dc_cache_destroy(cache);
}

/* Stores an entry for "key" and gives its file. */
static size_t store_file(struct fixture *f, doconv_context *ctx, char path[FIXTURE_PATH],
                         char *text, size_t size)
{
    struct cache *cache = make_cache(ctx);
    const struct cache_entry e = make_entry(ctx, "key");
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    dc_cache_destroy(cache);
    assert_int_equal(fixture_count(f, "c", ".txt", path), 1);
    return fixture_read(path, text, size);
}

static void test_truncated_files(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    char path[FIXTURE_PATH], text[8192];
    const size_t length = store_file(f, ctx, path, text, sizeof text);
    for (size_t cut = 0; cut < length; cut++) {
        fixture_write(path, text, cut);
        assert_miss(f, ctx, "key", 1);
    }
    fixture_write(path, text, length);
    struct cache *cache = make_cache(ctx);
    struct cache_entry back;
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static void test_hostile_files(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    char path[FIXTURE_PATH], elsewhere[FIXTURE_PATH], text[8192], changed[8192];
    static char large[3 * CACHEFILE_SIZE];
    const size_t length = store_file(f, ctx, path, text, sizeof text);

    memcpy(changed, text, length);
    changed[length / 2] ^= 1;
    fixture_write(path, changed, length);
    assert_miss(f, ctx, "key", 1);
    memcpy(changed, text, length);
    changed[length] = '\n'; /* something after the end */
    fixture_write(path, changed, length + 1);
    assert_miss(f, ctx, "key", 1);
    memset(large, '\0', sizeof large);
    fixture_write(path, large, 5000);
    assert_miss(f, ctx, "key", 1);
    fixture_write(path, large, sizeof large);
    assert_miss(f, ctx, "key", 1);
    fixture_write(path, large, CACHEFILE_SIZE);
    assert_miss(f, ctx, "key", 1);
    memcpy(large, text, length); /* a valid entry, then a hole */
    fixture_write(path, large, sizeof large);
    assert_miss(f, ctx, "key", 1);

    fixture_path(f, "elsewhere", elsewhere);
    fixture_write(elsewhere, text, length);
    assert_int_equal(remove(path), 0);
    assert_int_equal(symlink(elsewhere, path), 0);
    assert_miss(f, ctx, "key", 1);
    assert_int_equal(remove(path), 0);
    assert_int_equal(symlink(path, path), 0); /* a loop */
    assert_miss(f, ctx, "key", 1);
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_miss(f, ctx, "key", 1);
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: a read would wait for ever */
    assert_miss(f, ctx, "key", 1);
    assert_int_equal(remove(path), 0);
    assert_miss(f, ctx, "key", 0); /* nothing there: no line */
    doconv_context_destroy(ctx);
}

/*
 * A valid text that does not belong: another key under this hash, a kernel or a revision that this
 * build does not have.
 */
static void test_foreign_entries(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    char path[FIXTURE_PATH], text[8192];
    store_file(f, ctx, path, text, sizeof text);
    struct cache_entry e = make_entry(ctx, "keY");
    fixture_write(path, text, dc_cachefile_print(&e, text, sizeof text));
    assert_miss(f, ctx, "key", 1);
    assert_non_null(strstr(f->log.last, "another problem"));
    static const char *const variants[] = {"reference:nonesuch@none",
                                           "reference",
                                           "reference:",
                                           ":",
                                           "reference_f32@none",
                                           "reference:reference_f32@nonE",
                                           "reference:reference_f32@none2:x"};
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        e = make_entry(ctx, "key");
        snprintf(e.variant, sizeof e.variant, "%s", variants[i]);
        fixture_write(path, text, dc_cachefile_print(&e, text, sizeof text));
        assert_miss(f, ctx, "key", 1);
        assert_non_null(strstr(f->log.last, "not in this build"));
    }
    e = make_entry(ctx, "key");
    e.revision++;
    fixture_write(path, text, dc_cachefile_print(&e, text, sizeof text));
    assert_miss(f, ctx, "key", 1);
    assert_non_null(strstr(f->log.last, "revision"));
    doconv_context_destroy(ctx);
}

/* One probe of the file: what another writes later is found by the next cache. */
static void test_misses_are_remembered(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct cache *early = make_cache(ctx), *writer = make_cache(ctx);
    const struct cache_entry e = make_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_lookup(early, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_store(writer, &e, false), CACHE_STORED);
    assert_int_equal(dc_cache_lookup(early, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_memory_count(early), 1);
    dc_cache_destroy(early);
    dc_cache_destroy(writer);
    early = make_cache(ctx);
    assert_int_equal(dc_cache_lookup(early, "key", &back), CACHE_STORED);
    dc_cache_destroy(early);
    doconv_context_destroy(ctx);
}

static void test_memory_is_bounded(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    fixture_path(f, "file", path);
    fixture_write(path, "x", 1);
    /* can't be written: memory alone */
    doconv_context *ctx = fixture_context(f, "file/no", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    struct cache_entry back;
    char key[64];
    for (int i = 0; i < CACHE_MEMORY_ENTRIES + 200; i++) {
        snprintf(key, sizeof key, "key %d", i);
        const struct cache_entry e = make_entry(ctx, key);
        assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
        /* always the most recently used but one */
        assert_int_equal(dc_cache_lookup(cache, "key 0", &back), CACHE_MEMORY);
        assert_string_equal(back.key, "key 0");
        assert_int_equal(dc_cache_memory_count(cache),
                         i < CACHE_MEMORY_ENTRIES ? i + 1 : CACHE_MEMORY_ENTRIES);
    }
    assert_int_equal(dc_cache_lookup(cache, "key 1", &back), CACHE_MISS);
    assert_int_equal(dc_cache_lookup(cache, "key 500", &back), CACHE_MEMORY);
    for (int i = 0; i < CACHE_MEMORY_ENTRIES + 200; i++) { /* misses count too */
        snprintf(key, sizeof key, "miss %d", i);
        assert_int_equal(dc_cache_lookup(cache, key, &back), CACHE_MISS);
    }
    assert_int_equal(dc_cache_memory_count(cache), CACHE_MEMORY_ENTRIES);
    assert_int_equal(dc_cache_lookup(cache, "key 0", &back), CACHE_MISS);
    assert_int_equal(f->log.warnings, 1); /* about the directory, once */
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static void test_no_directory(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH], long_path[6000];
    doconv_context_options options = fixture_options(f, "c", path);
    memset(long_path, 'd', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    for (int i = 0; i < 2; i++) {
        options.cache_directory = i == 0 ? NULL : long_path;
        unsetenv("HOME");
        unsetenv("XDG_CACHE_HOME");
        fixture_log_clear(f);
        doconv_context *ctx;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        fixture_log_clear(f);
        const struct cache_entry e = make_entry(ctx, "key");
        struct cache *cache = make_cache(ctx);
        struct cache_entry back;
        assert_int_equal(f->log.warnings, i); /* the name is too long */
        assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
        assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
        assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
        assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MEMORY);
        assert_int_equal(f->log.warnings, i + 1);
        dc_cache_destroy(cache);
        doconv_context_destroy(ctx);
    }
}

/* The environment's directory is a file, or its entry can't be replaced. */
static void test_unwritable(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    char path[FIXTURE_PATH], text[8192], inside[FIXTURE_PATH + 8];
    store_file(f, ctx, path, text, sizeof text);
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(inside, sizeof inside, "%s/x", path);
    fixture_write(inside, "x", 1);
    struct cache *cache = make_cache(ctx);
    const struct cache_entry e = make_entry(ctx, "key");
    fixture_log_clear(f);
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
    assert_int_equal(f->log.warnings, 1);
    assert_int_equal(fixture_count(f, "c", ".tmp", NULL), 0);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

/* The caller wants no directory: memory is enough, and no reason to complain. */
static void test_memory_only(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    setenv("DOCONV_CACHE", f->root, 1);
    doconv_context_options options = fixture_options(f, "c", path);
    options.cache_directory = "";
    options.tune = DOCONV_TUNE_TUNE;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    struct cache *cache = ctx->advisor.self;
    const struct cache_entry e = make_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_MEMORY);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MEMORY);
    assert_same(&e, &back);
    fixture_assert_origin(ctx, &desc, NULL, "measured");
    assert_int_equal(f->log.lines, 0);
    assert_int_equal(fixture_count(f, "", "", NULL), 0);
    doconv_context_destroy(ctx);
}

static void test_noisy_entries(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    struct cache_entry e = make_entry(ctx, "key"), back;
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_store(cache, &e, true), CACHE_NOISY);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_NOISY);
    assert_int_equal(fixture_count(f, "c", "", NULL), 0); /* never on disk */
    e.picoseconds = 5;
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    e.picoseconds = 7;
    assert_int_equal(dc_cache_store(cache, &e, true), CACHE_NOISY);
    /* never over something better */
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(back.picoseconds, 5);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static void test_system_cache(void **state)
{
    struct fixture *f = *state;
    char system[FIXTURE_PATH];
    fixture_path(f, "system", system);
    doconv_context *admin = fixture_context(f, "system", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(admin);
    struct cache_entry e = make_entry(admin, "key"), back;
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    e = make_entry(admin, "second");
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    dc_cache_destroy(cache);
    doconv_context_destroy(admin);
    const int files = fixture_count(f, "system", "", NULL);

    setenv("DOCONV_SYSTEM_CACHE", system, 1);
    doconv_context *ctx = fixture_context(f, "user", DOCONV_TUNE_READ);
    cache = make_cache(ctx);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(fixture_count(f, "user", "", NULL), 0);
    e = make_entry(ctx, "key");
    e.picoseconds = 42;
    assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
    dc_cache_destroy(cache);
    cache = make_cache(ctx);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(back.picoseconds, 42); /* the user's goes first */
    char path[FIXTURE_PATH];
    dc_cache_destroy(cache);
    assert_int_equal(fixture_count(f, "user", ".txt", path), 1);
    fixture_write(path, "broken", 6);
    cache = make_cache(ctx);
    /* a broken one is no obstacle */
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(back.picoseconds, 123456789);
    assert_int_equal(fixture_count(f, "system", "", NULL), files);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode & 07777;
}

/* The umask says who may read what is written: every directory made, and the files. */
static void test_permissions(void **state)
{
    static const mode_t masks[] = {0, 002, 022, 027, 077};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        char name[32], file[FIXTURE_PATH], path[FIXTURE_PATH];
        snprintf(name, sizeof name, "mask%zu/deep/er", i);
        doconv_context *ctx = fixture_context(f, name, DOCONV_TUNE_READ);
        struct cache *cache = make_cache(ctx);
        const struct cache_entry e = make_entry(ctx, "key");
        const mode_t before = umask(masks[i]);
        const enum cache_state stored = dc_cache_store(cache, &e, false);
        umask(before);
        assert_int_equal(stored, CACHE_STORED);
        assert_int_equal(fixture_count(f, name, ".txt", file), 1);
        assert_int_equal(mode_of(file), 0666 & ~masks[i]);
        assert_int_equal(fixture_count(f, name, "MANIFEST", path), 1);
        assert_int_equal(mode_of(path), 0666 & ~masks[i]);
        for (char *slash = strrchr(file, '/'); slash - file > (ptrdiff_t)strlen(f->root);
             slash = strrchr(file, '/')) {
            *slash = '\0';
            assert_int_equal(mode_of(file), 0777 & ~masks[i]);
        }
        dc_cache_destroy(cache);
        doconv_context_destroy(ctx);
    }
}

/*
 * Another set of kernels, another revision, another ISA cap: another directory, and the old one
 * again afterwards.
 */
static void test_environments(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels;
    struct dc_kernel newer = *some_kernel(ctx);
    newer.revision++;
    const struct dc_kernel *const fewer[] = {some_kernel(ctx), NULL}, *const revised[] = {&newer,
                                                                                          NULL};
    const struct dc_kernel *const *const sets[] = {all, fewer, revised, all, fewer};
    struct cache_entry back;
    for (int i = 0; i < 5; i++) {
        ctx->kernels = sets[i];
        struct cache *cache = make_cache(ctx);
        const struct cache_entry e = make_entry(ctx, "key");
        assert_int_equal(dc_cache_lookup(cache, "key", &back), i < 3 ? CACHE_MISS : CACHE_STORED);
        assert_int_equal(dc_cache_store(cache, &e, false), CACHE_STORED);
        assert_int_equal(fixture_count(f, "c", "MANIFEST", NULL), i < 3 ? i + 1 : 3);
        dc_cache_destroy(cache);
    }
    ctx->kernels = all;
    doconv_context_destroy(ctx);
    if (dc_cpu_probe()->isa != DC_ISA_NONE) {
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        options.max_isa = DOCONV_ISA_NONE;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        struct cache *cache = make_cache(ctx);
        assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
        dc_cache_destroy(cache);
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.warnings, 0);
}

/* ---- what nothing uses any more ---- */

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
    const struct cache_entry e = make_entry(ctx, "key");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e, false), CACHE_STORED);
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
    assert_true(path[0] != '/' && strstr(path, "..") == NULL);
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
        const struct cache_entry e = make_entry(ctx, "second");
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e, false), CACHE_STORED);
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
    const struct cache_entry e = make_entry(ctx, "second");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e, false), CACHE_STORED);
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
    const struct cache_entry third = make_entry(ctx, "third");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &third, false), CACHE_STORED);
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
    const struct dc_kernel *const fewer[] = {some_kernel(ctx), NULL};
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
        e = make_entry(ctx, used ? "one" : "other");
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e, false), CACHE_STORED);
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

/* ---- many at once ---- */

#define WRITERS 8
#define KEYS 4
#define STORES 12

/*
 * Stores and reads the same few keys over and over; false if something it read was no valid entry.
 */
static bool write_and_read(struct cache *shared, doconv_context *ctx)
{
    bool ok = true;
    for (int i = 0; i < STORES; i++) {
        char key[32];
        struct cache_entry back;
        snprintf(key, sizeof key, "key %d", i % KEYS);
        const struct cache_entry e = make_entry(ctx, key);
        ok = ok && dc_cache_store(shared, &e, false) == CACHE_STORED;
        /* nothing in memory: reads the file while others replace it */
        struct cache *reader = dc_cache_create(ctx);
        ok = ok && reader != NULL && dc_cache_lookup(reader, key, &back) == CACHE_STORED &&
             strcmp(back.key, key) == 0 && dc_cache_lookup(shared, key, &back) == CACHE_STORED;
        dc_cache_destroy(reader);
    }
    return ok;
}

struct writer {
    pthread_t thread;
    struct cache *cache;
    bool ok;
};

static void *run_writer(void *arg)
{
    struct writer *w = arg;
    w->ok = write_and_read(w->cache, dc_cache_context(w->cache));
    return NULL;
}

static void test_concurrent_threads(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    struct writer writers[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        writers[i].cache = cache;
        assert_int_equal(pthread_create(&writers[i].thread, NULL, run_writer, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        assert_true(writers[i].ok);
    }
    assert_int_equal(fixture_count(f, "c", "", NULL), KEYS + 1);
    assert_int_equal(dc_cache_memory_count(cache), KEYS);
    assert_int_equal(f->log.lines, 0);
    dc_cache_destroy(cache);
    doconv_context_destroy(ctx);
}

static void test_concurrent_processes(void **state)
{
    struct fixture *f = *state;
    pid_t children[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            char path[FIXTURE_PATH];
            doconv_context_options options = fixture_options(f, "c", path);
            doconv_context *ctx;
            bool ok = doconv_context_create(&options, &ctx) == DOCONV_OK;
            ok = ok && write_and_read(ctx->advisor.self, ctx) && f->log.lines == 0;
            _exit(ok ? 0 : 1);
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    assert_int_equal(fixture_count(f, "c", "", NULL), KEYS + 1);
}

/* ---- memory that runs out ---- */

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const int live = failing.live;
    int failed = 0;
    for (int n = 0;; n++) {
        failing.calls = 0;
        failing.fail_at = n;
        struct cache *cache = dc_cache_create(ctx);
        if (cache != NULL) {
            struct cache_entry back;
            const struct cache_entry e = make_entry(ctx, "key");
            dc_cache_lookup(cache, "nothing", &back);
            dc_cache_store(cache, &e, false);
            if (dc_cache_lookup(cache, "key", &back) != CACHE_MISS) {
                assert_same(&e, &back);
            }
            dc_cache_destroy(cache);
        }
        assert_int_equal(failing.live, live);
        failed += failing.calls > n;
        if (failing.calls <= n) {
            break;
        }
    }
    assert_true(failed >= 5);
    failing.fail_at = -1;
    doconv_context_destroy(ctx);
    assert_int_equal(failing.live, 0);
}

/* ---- callbacks that use the context ---- */

/*
 * An allocator and a log that make a plan in each call, which asks the cache for a key of its own.
 * Under a lock of the cache that never returns; the alarm ends the program then.
 */
struct reentrant {
    doconv_context *ctx; /* NULL: not yet, or not now */
    bool inside;
    int plans, width;
};

static void make_plan(struct reentrant *r)
{
    if (r->ctx == NULL || r->inside) {
        return;
    }
    r->inside = true;
    doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    desc.w += r->width++ % 50;
    doconv_plan *plan;
    assert_int_equal(doconv_plan_create(r->ctx, &desc, NULL, &plan), DOCONV_OK);
    doconv_plan_destroy(plan);
    r->plans++;
    r->inside = false;
}

static void *reentrant_allocate(void *user, size_t size, size_t alignment)
{
    make_plan(user);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void reentrant_release(void *user, void *memory)
{
    make_plan(user);
    free(memory);
}

static void reentrant_log(void *user, doconv_log_level level, const char *line)
{
    (void)level;
    (void)line;
    make_plan(user);
}

static void test_reentrant_callbacks(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct reentrant r = {0};
    doconv_context_options options = fixture_options(f, "c", path);
    options.allocate = reentrant_allocate;
    options.release = reentrant_release;
    options.log = reentrant_log;
    options.allocate_user = options.log_user = &r;
    options.verbose = 1;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    alarm(60);
    struct cache *cache = ctx->advisor.self;
    struct cache_entry back;
    /* Misses, then stores over them, then older entries make room for newer ones. */
    for (int i = 0; i < CACHE_MEMORY_ENTRIES + 20; i++) {
        char key[32];
        snprintf(key, sizeof key, "key %d", i);
        r.ctx = i < 20 || i > CACHE_MEMORY_ENTRIES ? ctx : NULL;
        const int plans = r.plans;
        assert_int_equal(dc_cache_lookup(cache, key, &back), CACHE_MISS);
        assert_true(r.ctx == NULL || r.plans > plans);
        if (r.ctx != NULL) {
            const struct cache_entry e = make_entry(ctx, key);
            assert_int_equal(dc_cache_store(cache, &e, i % 2), i % 2 ? CACHE_NOISY : CACHE_STORED);
            assert_int_equal(dc_cache_lookup(cache, key, &back),
                             i % 2 ? CACHE_NOISY : CACHE_STORED);
            assert_same(&e, &back);
        }
    }
    assert_int_equal(dc_cache_memory_count(cache), CACHE_MEMORY_ENTRIES);
    r.ctx = ctx;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_tune_report_destroy(fixture_tune(ctx, &desc, NULL, true));
    alarm(0);
    r.ctx = NULL;
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_store_and_find),      WITH_FIXTURE(test_manifest),
        WITH_FIXTURE(test_truncated_files),     WITH_FIXTURE(test_hostile_files),
        WITH_FIXTURE(test_foreign_entries),     WITH_FIXTURE(test_misses_are_remembered),
        WITH_FIXTURE(test_memory_is_bounded),   WITH_FIXTURE(test_no_directory),
        WITH_FIXTURE(test_unwritable),          WITH_FIXTURE(test_noisy_entries),
        WITH_FIXTURE(test_memory_only),         WITH_FIXTURE(test_system_cache),
        WITH_FIXTURE(test_permissions),         WITH_FIXTURE(test_environments),
        WITH_FIXTURE(test_old_temporary_files), WITH_FIXTURE(test_old_environments),
        WITH_FIXTURE(test_use_keeps),           WITH_FIXTURE(test_clean_arguments),
        WITH_FIXTURE(test_concurrent_threads),  WITH_FIXTURE(test_concurrent_processes),
        WITH_FIXTURE(test_out_of_memory),       WITH_FIXTURE(test_reentrant_callbacks),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}

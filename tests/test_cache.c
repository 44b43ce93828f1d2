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
#include <unistd.h>

#include <cmocka.h>

#include "cache.h"
#include "tuner_fixture.h"

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
    const struct cache_entry e = fixture_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
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
    const struct cache_entry e = fixture_entry(ctx, "key");
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
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
    const struct cache_entry e = fixture_entry(ctx, "key");
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
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
    struct cache_entry e = fixture_entry(ctx, "keY");
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
        e = fixture_entry(ctx, "key");
        snprintf(e.variant, sizeof e.variant, "%s", variants[i]);
        fixture_write(path, text, dc_cachefile_print(&e, text, sizeof text));
        assert_miss(f, ctx, "key", 1);
        assert_non_null(strstr(f->log.last, "not in this build"));
    }
    e = fixture_entry(ctx, "key");
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
    const struct cache_entry e = fixture_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_lookup(early, "key", &back), CACHE_MISS);
    assert_int_equal(dc_cache_store(writer, &e), CACHE_STORED);
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
        const struct cache_entry e = fixture_entry(ctx, key);
        assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
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
        const struct cache_entry e = fixture_entry(ctx, "key");
        struct cache *cache = make_cache(ctx);
        struct cache_entry back;
        assert_int_equal(f->log.warnings, i); /* the name is too long */
        assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MISS);
        assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
        assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
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
    const struct cache_entry e = fixture_entry(ctx, "key");
    fixture_log_clear(f);
    assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
    assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
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
    const struct cache_entry e = fixture_entry(ctx, "key");
    struct cache_entry back;
    assert_int_equal(dc_cache_store(cache, &e), CACHE_MEMORY);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_MEMORY);
    assert_same(&e, &back);
    fixture_assert_origin(ctx, &desc, NULL, "measured");
    assert_int_equal(f->log.lines, 0);
    assert_int_equal(fixture_count(f, "", "", NULL), 0);
    doconv_context_destroy(ctx);
}

/* A doubtful entry is the context's own that measured it, and wanting in the next. */
static void test_doubtful_entries(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct cache *cache = make_cache(ctx);
    struct cache_entry e = fixture_entry(ctx, "key"), back;
    e.doubtful = 1;
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(fixture_count(f, "c", ".txt", NULL), 1);
    dc_cache_destroy(cache);
    cache = make_cache(ctx);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_DOUBTFUL);
        assert_same(&e, &back);
    }
    dc_cache_settle(cache, &e);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_same(&e, &back);
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
    struct cache_entry e = fixture_entry(admin, "key"), back;
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
    e = fixture_entry(admin, "second");
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
    dc_cache_destroy(cache);
    doconv_context_destroy(admin);
    const int files = fixture_count(f, "system", "", NULL);

    setenv("DOCONV_SYSTEM_CACHE", system, 1);
    doconv_context *ctx = fixture_context(f, "user", DOCONV_TUNE_READ);
    cache = make_cache(ctx);
    assert_int_equal(dc_cache_lookup(cache, "key", &back), CACHE_STORED);
    assert_int_equal(fixture_count(f, "user", "", NULL), 0);
    e = fixture_entry(ctx, "key");
    e.picoseconds = 42;
    assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
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
        const struct cache_entry e = fixture_entry(ctx, "key");
        const mode_t before = umask(masks[i]);
        const enum cache_state stored = dc_cache_store(cache, &e);
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
    struct dc_kernel newer = *fixture_kernel(ctx);
    newer.revision++;
    const struct dc_kernel *const fewer[] = {fixture_kernel(ctx), NULL}, *const revised[] = {&newer,
                                                                                             NULL};
    const struct dc_kernel *const *const sets[] = {all, fewer, revised, all, fewer};
    struct cache_entry back;
    for (int i = 0; i < 5; i++) {
        ctx->kernels = sets[i];
        struct cache *cache = make_cache(ctx);
        const struct cache_entry e = fixture_entry(ctx, "key");
        assert_int_equal(dc_cache_lookup(cache, "key", &back), i < 3 ? CACHE_MISS : CACHE_STORED);
        assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
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
        const struct cache_entry e = fixture_entry(ctx, key);
        ok = ok && dc_cache_store(shared, &e) == CACHE_STORED;
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
            const struct cache_entry e = fixture_entry(ctx, "key");
            dc_cache_lookup(cache, "nothing", &back);
            dc_cache_store(cache, &e);
            dc_cache_store(cache, &e); /* in its own place */
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
            const struct cache_entry e = fixture_entry(ctx, key);
            assert_int_equal(dc_cache_store(cache, &e), CACHE_STORED);
            assert_int_equal(dc_cache_lookup(cache, key, &back), CACHE_STORED);
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
        WITH_FIXTURE(test_store_and_find),     WITH_FIXTURE(test_manifest),
        WITH_FIXTURE(test_truncated_files),    WITH_FIXTURE(test_hostile_files),
        WITH_FIXTURE(test_foreign_entries),    WITH_FIXTURE(test_misses_are_remembered),
        WITH_FIXTURE(test_memory_is_bounded),  WITH_FIXTURE(test_no_directory),
        WITH_FIXTURE(test_unwritable),         WITH_FIXTURE(test_doubtful_entries),
        WITH_FIXTURE(test_memory_only),        WITH_FIXTURE(test_system_cache),
        WITH_FIXTURE(test_permissions),        WITH_FIXTURE(test_environments),
        WITH_FIXTURE(test_concurrent_threads), WITH_FIXTURE(test_concurrent_processes),
        WITH_FIXTURE(test_out_of_memory),      WITH_FIXTURE(test_reentrant_callbacks),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}

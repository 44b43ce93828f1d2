/* SPDX-License-Identifier: MIT */
/*
 * Files of the cache that are damaged, forged, links, not to be read or not to be written: always a
 * plan, at most measured again, and nothing written outside of the cache's directory.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache.h"
#include "harness.h"
#include "tuner_fixture.h"

#define TEXT_SIZE 8192
#define NOBODY 65534

/* A context with a planted entry of the problem: its key, its file and the file's text. */
struct planted {
    doconv_context *ctx;
    struct cache *cache;
    doconv_conv_desc desc;
    char key[DC_KEY_SIZE], path[FIXTURE_PATH], text[TEXT_SIZE];
    size_t length;
};

static struct planted *plant(struct fixture *f, doconv_tune_mode tune)
{
    struct dc_problem p;
    struct planted *planted = calloc(1, sizeof *planted);
    assert_non_null(planted);
    planted->desc = fixture_problem(FIXTURE_PROBLEM);
    planted->ctx = fixture_context(f, "c", tune);
    planted->cache = planted->ctx->advisor.self;
    fixture_plant(planted->ctx, &planted->desc, NULL, NULL);
    assert_int_equal(dc_problem_create(planted->ctx, &planted->desc, &p), DOCONV_OK);
    dc_plan_key(planted->ctx, &p, NULL, planted->key, sizeof planted->key);
    fixture_entry_path(planted->ctx, planted->key, planted->path);
    planted->length = fixture_read(planted->path, planted->text, sizeof planted->text);
    fixture_log_clear(f);
    return planted;
}

static void uproot(struct planted *planted)
{
    doconv_context_destroy(planted->ctx);
    free(planted);
}

/* Looks the key up as another process would. */
static enum cache_state look_up(struct fixture *f, struct planted *p, struct cache_entry *e)
{
    fixture_log_clear(f);
    dc_cache_drop(p->cache, p->key);
    return dc_cache_lookup(p->cache, p->key, e);
}

/* A miss and one line in the log; and a plan all the same. */
static void assert_refused(struct fixture *f, struct planted *p)
{
    struct cache_entry e;
    assert_int_equal(look_up(f, p, &e), CACHE_MISS);
    assert_int_equal(f->log.warnings, 1);
    assert_int_equal(f->log.lines, 1);
    fixture_assert_origin(p->ctx, &p->desc, NULL, "estimate");
}

static void assert_served(struct fixture *f, struct planted *p)
{
    struct cache_entry e;
    assert_int_equal(look_up(f, p, &e), CACHE_STORED);
    assert_int_equal(f->log.lines, 0);
    fixture_assert_origin(p->ctx, &p->desc, NULL, "cache");
}

/* ---- damage ---- */

static void test_every_cut_and_bit(void **state)
{
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    for (size_t cut = 0; cut < p->length; cut++) {
        fixture_write(p->path, p->text, cut);
        assert_refused(f, p);
    }
    for (size_t bit = 0; bit < 8 * p->length; bit++) {
        p->text[bit / 8] ^= (char)(1 << bit % 8);
        fixture_write(p->path, p->text, p->length);
        assert_refused(f, p);
        p->text[bit / 8] ^= (char)(1 << bit % 8);
    }
    fixture_write(p->path, p->text, p->length);
    assert_served(f, p);
    uproot(p);
}

/* Number of entries in an export of the directory, and the lines that it logs. */
static int count_exported(struct fixture *f, doconv_context *ctx)
{
    doconv_entries *entries;
    fixture_log_clear(f);
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    const int count = doconv_entries_count(entries);
    doconv_entries_destroy(entries);
    return count;
}

/*
 * A damaged manifest: its environment is left out of exports, entries are served all the same, and
 * the next store makes it whole.
 */
static void test_damaged_manifest(void **state)
{
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    char path[FIXTURE_PATH + 16], text[2048];
    fixture_environment(p->ctx, path);
    strcat(path, "/MANIFEST");
    const size_t length = fixture_read(path, text, sizeof text);
    for (size_t i = 0; i < 9 * length; i++) {
        const size_t at = i / 9;
        char damaged[2048];
        memcpy(damaged, text, length);
        damaged[at] ^= (char)(i % 9 < 8 ? 1 << i % 9 : 0);
        fixture_write(path, damaged, i % 9 < 8 ? length : at);
        assert_int_equal(count_exported(f, p->ctx), 0);
        assert_int_equal(f->log.lines, 1);
        if (i % 200 == 8) {
            assert_served(f, p);
            const struct cache_entry e = fixture_entry(p->ctx, "key");
            assert_int_equal(dc_cache_store(p->cache, &e), CACHE_STORED);
            assert_int_equal(count_exported(f, p->ctx), 2);
            assert_int_equal(f->log.lines, 0);
        }
    }
    /* What can't be replaced is no reason to go without. */
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0777), 0);
    const struct cache_entry e = fixture_entry(p->ctx, "another key");
    assert_int_equal(dc_cache_store(p->cache, &e), CACHE_STORED);
    assert_int_equal(fixture_count(f, "c", ".tmp", NULL), 0);
    assert_served(f, p);
    uproot(p);
}

/* ---- formats ---- */

/* As older and newer libraries may have written it: a miss, and with a tuner a measurement. */
static void test_other_formats(void **state)
{
    static const char *const heads[] = {"doconv-cache 0\n", "doconv-cache 1\n", "doconv-cache 3\n",
                                        "doconv-cache 2147483647\n"};
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_TUNE);
    const char *body = strchr(p->text, '\n') + 1;
    const size_t length = p->length - FIXTURE_CHECKSUM - (size_t)(body - p->text);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        char text[2 * TEXT_SIZE];
        struct cache_entry e;
        snprintf(text, sizeof text, "%s%.*s%s", heads[i], (int)length, body,
                 i > 1 ? "news 1\n" : "");
        fixture_write(p->path, text, fixture_seal(text, strlen(text)));
        assert_int_equal(look_up(f, p, &e), CACHE_MISS);
        assert_int_equal(f->log.lines, 1);
        assert_non_null(strstr(f->log.last, "of another version"));
        fixture_assert_origin(p->ctx, &p->desc, NULL, "measured");
        assert_served(f, p);
    }
    uproot(p);
}

/* ---- fuzzing ---- */

#define BASES 4

struct fuzz {
    struct rng rng;
    char bases[BASES][TEXT_SIZE]; /* valid entries */
    size_t lengths[BASES];
    char text[3 * TEXT_SIZE];
    size_t size;
};

static size_t below(struct fuzz *z, size_t n)
{
    return n == 0 ? 0 : (size_t)rng_range(&z->rng, 0, (int64_t)n - 1);
}

/* Puts data into the place of `cut` bytes. */
static void splice(struct fuzz *z, size_t at, size_t cut, const void *data, size_t size)
{
    if (z->size - cut + size < sizeof z->text - FIXTURE_CHECKSUM - 1) {
        memmove(z->text + at + size, z->text + at + cut, z->size - at - cut);
        memcpy(z->text + at, data, size);
        z->size += size - cut;
    }
}

/* A line with its newline. */
static size_t pick_line(struct fuzz *z, size_t *length)
{
    size_t at = below(z, z->size), end = at;
    while (at > 0 && z->text[at - 1] != '\n') {
        at--;
    }
    while (end < z->size && z->text[end] != '\n') {
        end++;
    }
    *length = end - at + (end < z->size);
    return at;
}

static void change_byte(struct fuzz *z)
{
    static const char pool[] = "0123456789 \n:=@~-+abcdoconv\0\t\r\x7f\xff";
    const size_t at = below(z, z->size);
    const char c = below(z, 2) == 0 ? pool[below(z, sizeof pool - 1)] : (char)below(z, 256);
    splice(z, at, z->size == 0 ? 0 : below(z, 2), &c, 1);
}

static void remove_range(struct fuzz *z)
{
    const size_t at = below(z, z->size), most = z->size - at;
    splice(z, at, below(z, (most < 40 ? most : 40) + 1), "", 0);
}

/* A line goes to, or is doubled at, another place, or is removed. */
static void move_line(struct fuzz *z)
{
    char line[TEXT_SIZE];
    size_t length, other;
    const size_t at = pick_line(z, &length), what = below(z, 3);
    if (length >= sizeof line) {
        return;
    }
    memcpy(line, z->text + at, length);
    if (what != 0) {
        splice(z, at, length, "", 0);
    }
    if (what != 1) {
        splice(z, pick_line(z, &other), 0, line, length);
    }
}

static void change_number(struct fuzz *z)
{
    static const char *const numbers[] = {"0",
                                          "1",
                                          "-1",
                                          "00",
                                          "2147483647",
                                          "2147483648",
                                          "4294967296",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "1e9",
                                          "0x10",
                                          "",
                                          "1000000"};
    size_t at = below(z, z->size), end;
    while (at < z->size && (z->text[at] < '0' || z->text[at] > '9')) {
        at++;
    }
    for (end = at; end < z->size && z->text[end] >= '0' && z->text[end] <= '9'; end++) {
    }
    const char *number = numbers[below(z, sizeof numbers / sizeof numbers[0])];
    splice(z, at, end - at, number, strlen(number));
}

/* Another entry's end from some line on. */
static void cross(struct fuzz *z)
{
    const size_t other = below(z, BASES), from = below(z, z->lengths[other]);
    size_t length;
    const size_t at = pick_line(z, &length);
    const char *line = strchr(z->bases[other] + from, '\n');
    line = line != NULL ? line + 1 : z->bases[other];
    splice(z, at, z->size - at, line, strlen(line));
}

static void change_variant(struct fuzz *z)
{
    static const char *const variants[] = {
        "variant direct:\n",
        "variant :\n",
        "variant reference:reference_f32@none+x@none\n",
        "variant reference:reference_f32@none:rows=99999999999999999999\n",
        "variant reference:reference_f32@none:::::\n",
        "variant portable:portable\n",
        "variant %s%n%s%n\n",
        "variant ../../../../etc/passwd\n"};
    z->text[z->size] = '\0';
    const char *line = strstr(z->text, "\nvariant ");
    if (line != NULL) {
        const size_t at = (size_t)(line + 1 - z->text);
        const char *with = variants[below(z, sizeof variants / sizeof variants[0])];
        splice(z, at, strcspn(line + 1, "\n") + (strchr(line + 1, '\n') != NULL), with,
               strlen(with));
    }
}

static void make_noise(struct fuzz *z)
{
    z->size = below(z, TEXT_SIZE);
    for (size_t i = 0; i < z->size; i++) {
        z->text[i] = (char)below(z, 256);
    }
}

static void fuzz(struct fuzz *z)
{
    static void (*const edits[])(struct fuzz *) = {change_byte, change_byte,   remove_range,
                                                   move_line,   change_number, change_number,
                                                   cross,       change_variant};
    const size_t base = below(z, 3) == 0 ? below(z, BASES) : 0;
    const bool sealed = below(z, 4) != 0;
    z->size = z->lengths[base];
    memcpy(z->text, z->bases[base], z->size);
    if (sealed) {
        z->size -= FIXTURE_CHECKSUM;
    }
    if (below(z, 50) == 0) {
        make_noise(z);
    }
    for (size_t count = 1 + below(z, 4); count > 0; count--) {
        edits[below(z, sizeof edits / sizeof edits[0])](z);
    }
    if (sealed) {
        z->size = fixture_seal(z->text, z->size);
    }
}

static void add_base(struct fuzz *z, int index, const struct cache_entry *e)
{
    z->lengths[index] = dc_cachefile_print(e, z->bases[index], TEXT_SIZE);
    assert_true(z->lengths[index] > 0);
}

static void make_bases(struct fuzz *z, const struct planted *p)
{
    memcpy(z->bases[0], p->text, p->length + 1);
    z->lengths[0] = p->length;
    struct cache_entry e = fixture_entry(p->ctx, p->key);
    add_base(z, 1, &e);
    snprintf(e.variant, sizeof e.variant, "feature:reference_f32@none+portable:way=rows");
    e.second_revision = 2;
    add_base(z, 2, &e);
    e = fixture_entry(p->ctx, "a layer operation=layer_forward");
    snprintf(e.variant, sizeof e.variant, "kernel");
    add_base(z, 3, &e);
}

/* A file is served as what it says, or refused with one line; a plan there is always. */
static void test_fuzzed_files(void **state)
{
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    struct fuzz *z = calloc(1, sizeof *z);
    assert_non_null(z);
    z->rng = rng_from(harness_seed(), "fuzzed files");
    make_bases(z, p);
    const int count = harness_scaled(100000, 2000);
    int served = 0, chosen = 0;
    for (int i = 0; i < count; i++) {
        struct cache_entry e;
        char again[sizeof z->text];
        fuzz(z);
        fixture_write(p->path, z->text, z->size);
        const enum cache_state found = look_up(f, p, &e);
        assert_int_equal(f->log.warnings, found == CACHE_MISS);
        assert_int_equal(f->log.lines, found == CACHE_MISS);
        if (found != CACHE_MISS) {
            served++;
            assert_int_equal(dc_cachefile_print(&e, again, sizeof again), z->size);
            assert_memory_equal(again, z->text, z->size);
        }
        if (found != CACHE_MISS || i % 16 == 0) {
            doconv_plan *plan;
            assert_int_equal(doconv_plan_create(p->ctx, &p->desc, NULL, &plan), DOCONV_OK);
            const bool cached = strcmp(doconv_plan_origin(plan), "cache") == 0;
            assert_true(cached || strcmp(doconv_plan_origin(plan), "estimate") == 0);
            assert_true(!cached || strcmp(doconv_plan_variant(plan), e.variant) == 0);
            chosen += cached;
            doconv_plan_destroy(plan);
        }
    }
    /* All three ways are gone: refused, served but no candidate, chosen. */
    assert_in_range(served, count / 50, count * 4 / 5);
    assert_in_range(chosen, count / 100, served - 1);
    free(z);
    uproot(p);
}

/* ---- what may not be read or written ---- */

enum { PASSED, FAILED, NOT_REACHED };

/* In a process whose rights the permissions of files bind; it must not assert. */
static void run_unprivileged(bool (*run)(struct fixture *f), struct fixture *f)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (geteuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0)) {
            _exit(NOT_REACHED);
        }
        if (access(f->root, R_OK | X_OK) != 0) {
            _exit(NOT_REACHED); /* a directory for temporary files that is root's alone */
        }
        _exit(run(f) ? PASSED : FAILED);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) != FAILED);
}

/* Looks up, stores and plans in the directory "c"; 1: the entry was found; -1: all is not well. */
static int use_directory(struct fixture *f, int warnings)
{
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    doconv_context *ctx;
    doconv_plan *plan;
    options.tune = DOCONV_TUNE_READ;
    if (doconv_context_create(&options, &ctx) != DOCONV_OK) {
        return -1;
    }
    f->log.lines = 0;
    struct cache_entry e;
    struct cache *cache = ctx->advisor.self;
    const bool hit = dc_cache_lookup(cache, "key", &e) == CACHE_STORED;
    e = fixture_entry(ctx, "another key");
    bool ok = dc_cache_store(cache, &e) == CACHE_MEMORY && f->log.lines == warnings &&
              dc_cache_lookup(cache, "another key", &e) == CACHE_MEMORY;
    doconv_conv_desc desc;
    ok = ok && doconv_conv_desc_parse(NULL, FIXTURE_PROBLEM, &desc) == DOCONV_OK &&
         doconv_plan_create(ctx, &desc, NULL, &plan) == DOCONV_OK;
    if (ok) {
        doconv_plan_destroy(plan);
    }
    doconv_context_destroy(ctx);
    return ok ? hit : -1;
}

static bool reads_alone(struct fixture *f)
{
    return use_directory(f, 1) == 1; /* one line: about what can't be written */
}

static bool neither(struct fixture *f)
{
    return use_directory(f, 2) == 0; /* and one about what can't be read */
}

static void test_permissions(void **state)
{
    struct fixture *f = *state;
    char directory[FIXTURE_PATH], file[FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct cache_entry e = fixture_entry(ctx, "key");
    assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_STORED);
    fixture_environment(ctx, directory);
    fixture_entry_path(ctx, "key", file);
    const int files = fixture_count(f, "", "", NULL);
    assert_int_equal(chmod(f->root, 0755), 0);
    assert_int_equal(chmod(ctx->cache_directory, 0555), 0);
    assert_int_equal(chmod(file, 0444), 0);
    assert_int_equal(chmod(directory, 0555), 0); /* to be read, not written */
    run_unprivileged(reads_alone, f);
    assert_int_equal(chmod(file, 0), 0); /* not to be read */
    run_unprivileged(neither, f);
    assert_int_equal(chmod(file, 0444), 0);
    assert_int_equal(chmod(directory, 0), 0); /* not to be entered */
    run_unprivileged(neither, f);
    assert_int_equal(chmod(directory, 0755), 0);
    assert_int_equal(chmod(ctx->cache_directory, 0755), 0);
    assert_int_equal(fixture_count(f, "", "", NULL), files);
    doconv_context_destroy(ctx);
}

/* No file may grow beyond size bytes; less than 0: as before. */
static void limit_files(int64_t size)
{
    static struct rlimit before;
    struct rlimit limit;
    if (size < 0) {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        return;
    }
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A disk that is full at any byte of an entry: kept in memory, and what was there stays. */
static void test_full_disk(void **state)
{
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    void (*const before)(int) = signal(SIGXFSZ, SIG_IGN);
    for (size_t room = 0; room <= p->length; room += room + 20 < p->length ? 20 : 1) {
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        struct cache_entry e;
        assert_null(dc_cachefile_parse(p->text, p->length, &e));
        e.picoseconds++;
        fixture_log_clear(f);
        limit_files((int64_t)room);
        const enum cache_state stored = dc_cache_store(ctx->advisor.self, &e);
        limit_files(-1);
        assert_int_equal(stored, room < p->length ? CACHE_MEMORY : CACHE_STORED);
        assert_int_equal(f->log.warnings, room < p->length);
        assert_int_equal(fixture_count(f, "c", "", NULL), 2);
        doconv_context_destroy(ctx);
        assert_served(f, p);
        assert_int_equal(look_up(f, p, &e), CACHE_STORED);
        assert_int_equal(e.picoseconds, 5000000 + (room == p->length));
    }
    /* Measured there, and kept as long as the context is. */
    doconv_context *ctx = fixture_context(f, "full", DOCONV_TUNE_TUNE);
    limit_files(0);
    doconv_tune_report *report = fixture_tune(ctx, &p->desc, NULL, true);
    limit_files(-1);
    signal(SIGXFSZ, before);
    assert_int_equal(fixture_summary(report).stored, 0);
    doconv_tune_report_destroy(report);
    fixture_assert_origin(ctx, &p->desc, NULL, "cache");
    assert_int_equal(fixture_count(f, "full", "", NULL), 0);
    doconv_context_destroy(ctx);
    uproot(p);
}

/* ---- links ---- */

static void assert_outside(struct fixture *f, const char *text)
{
    char path[FIXTURE_PATH], there[64];
    fixture_path(f, "outside/file", path);
    assert_int_equal(fixture_read(path, there, sizeof there), strlen(text));
    assert_string_equal(there, text);
    assert_int_equal(fixture_count(f, "outside", "", NULL), 1);
}

static bool is_link(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

/* An entry or a manifest that is a link: not followed, and replaced by the next store. */
static void test_linked_files(void **state)
{
    static const char *const targets[] = {"../../outside/file", "../../outside/nothing", NULL};
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    char outside[FIXTURE_PATH], manifest[FIXTURE_PATH + 16];
    struct cache_entry e;
    fixture_path(f, "outside", outside);
    assert_int_equal(mkdir(outside, 0777), 0);
    fixture_path(f, "outside/file", outside);
    fixture_write(outside, "mine", 4);
    fixture_environment(p->ctx, manifest);
    strcat(manifest, "/MANIFEST");
    assert_null(dc_cachefile_parse(p->text, p->length, &e));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(remove(p->path), 0);
        assert_int_equal(remove(manifest), 0);
        assert_int_equal(symlink(i < 2 ? targets[i] : p->path, p->path), 0); /* or a loop */
        assert_int_equal(symlink(i < 2 ? targets[i] : manifest, manifest), 0);
        assert_refused(f, p);
        assert_int_equal(count_exported(f, p->ctx), 0);
        assert_int_equal(dc_cache_store(p->cache, &e), CACHE_STORED);
        assert_false(is_link(p->path) || is_link(manifest));
        assert_served(f, p);
        assert_int_equal(count_exported(f, p->ctx), 1);
        assert_outside(f, "mine");
    }
    uproot(p);
}

/* The environment's directory is a link: what is behind it is not the cache's. */
static void test_linked_environment(void **state)
{
    struct fixture *f = *state;
    struct planted *p = plant(f, DOCONV_TUNE_READ);
    char own[FIXTURE_PATH], outside[FIXTURE_PATH];
    fixture_environment(p->ctx, own);
    fixture_path(f, "outside", outside);
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(p->ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), 1);
    assert_int_equal(rename(own, outside), 0);
    const char *const targets[] = {outside, "../nothing", own}; /* the last one: a loop */
    for (int i = 0; i < 3; i++) {
        int count;
        assert_int_equal(symlink(targets[i], own), 0);
        assert_refused(f, p);
        assert_int_equal(count_exported(f, p->ctx), 0);
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        fixture_log_clear(f);
        const struct cache_entry e = fixture_entry(ctx, "key");
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e), CACHE_MEMORY);
        assert_int_equal(f->log.warnings, 1);
        assert_int_equal(
            doconv_cache_clean(
                ctx, &(doconv_cache_clean_options){.size = sizeof(doconv_cache_clean_options),
                                                   .all = 1}),
            DOCONV_OK);
        doconv_context_destroy(ctx);
        assert_int_equal(doconv_entries_store(entries, &count), DOCONV_IO_ERROR);
        assert_int_equal(count, 0);
        assert_int_equal(doconv_entries_forget(entries, &count), DOCONV_OK);
        assert_int_equal(count, 0);
        assert_int_equal(fixture_count(f, "outside", ".txt", NULL), 1);
        assert_int_equal(fixture_count(f, "", "", NULL), 3); /* and the manifest, and the link */
        assert_true(is_link(own));
        assert_int_equal(unlink(own), 0);
    }
    assert_int_equal(rename(outside, own), 0);
    assert_served(f, p);
    doconv_entries_destroy(entries);
    uproot(p);
}

/* The cache's directory may be a link: it is where the user said. */
static void test_linked_root(void **state)
{
    struct fixture *f = *state;
    char link[FIXTURE_PATH], target[FIXTURE_PATH];
    fixture_path(f, "c", link);
    fixture_path(f, "target", target);
    assert_int_equal(mkdir(target, 0777), 0);
    for (int i = 0; i < 3; i++) {
        const char *const targets[] = {"target", "nothing", "c"};
        assert_int_equal(symlink(targets[i], link), 0);
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        const struct cache_entry e = fixture_entry(ctx, "key");
        fixture_log_clear(f);
        assert_int_equal(dc_cache_store(ctx->advisor.self, &e),
                         i == 0 ? CACHE_STORED : CACHE_MEMORY);
        assert_int_equal(f->log.lines, i != 0);
        doconv_context_destroy(ctx);
        assert_int_equal(fixture_count(f, "target", "", NULL), 2);
        assert_int_equal(fixture_count(f, "", "", NULL), 3); /* and the link itself */
        assert_int_equal(unlink(link), 0);
    }
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_every_cut_and_bit), WITH_FIXTURE(test_damaged_manifest),
        WITH_FIXTURE(test_other_formats),     WITH_FIXTURE(test_fuzzed_files),
        WITH_FIXTURE(test_permissions),       WITH_FIXTURE(test_full_disk),
        WITH_FIXTURE(test_linked_files),      WITH_FIXTURE(test_linked_environment),
        WITH_FIXTURE(test_linked_root),
    };
    return cmocka_run_group_tests_name("cache_faults", tests, NULL, NULL);
}

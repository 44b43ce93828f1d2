/* SPDX-License-Identifier: MIT */
/* Entries as sets and as exports: out of a cache, into another, and what may go wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cachedir.h"
#include "entries.h"
#include "tuner_fixture.h"

#define TEXT_SIZE 65536
#define OTHER_PROBLEM "mb1_ic8ih6oc8kh3ph1:src=nhwc,dst=nhwc"

struct text {
    char data[TEXT_SIZE];
    size_t size;
};

static int add_text(void *user, const char *data, size_t length)
{
    struct text *text = user;
    assert_true(text->size + length < TEXT_SIZE);
    memcpy(text->data + text->size, data, length);
    text->size += length;
    text->data[text->size] = '\0';
    return 0;
}

static doconv_entries *make_entries(doconv_context *ctx)
{
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), 0);
    return entries;
}

static void write_entries(const doconv_entries *entries, struct text *text)
{
    text->size = 0;
    assert_int_equal(doconv_entries_write(entries, add_text, text), DOCONV_OK);
}

/* The cache of a context as an export. */
static void export_cache(doconv_context *ctx, struct text *text)
{
    doconv_entries *entries = make_entries(ctx);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    write_entries(entries, text);
    doconv_entries_destroy(entries);
}

static int import(doconv_context *ctx, const struct text *text)
{
    doconv_entries *entries = make_entries(ctx);
    int stored;
    assert_int_equal(doconv_entries_parse(entries, text->data, text->size), DOCONV_OK);
    assert_int_equal(doconv_entries_store(entries, &stored), DOCONV_OK);
    doconv_entries_destroy(entries);
    return stored;
}

static void assert_same_text(const struct text *a, const struct text *b)
{
    assert_int_equal(a->size, b->size);
    assert_memory_equal(a->data, b->data, a->size);
}

/* An entry of this key with so many samples of each of two candidates. */
static struct cache_entry make_entry(const char *key, const char *variant, int rounds)
{
    struct cache_entry e = {.workspace = 64,
                            .picoseconds = 1000 + rounds,
                            .when = FIXTURE_WHEN,
                            .against = "a",
                            .confidence_ppm = 900000,
                            .count = 2};
    snprintf(e.key, sizeof e.key, "%s", key);
    snprintf(e.variant, sizeof e.variant, "%s", variant);
    for (int i = 0; i < e.count; i++) {
        snprintf(e.measured[i].variant, sizeof e.measured[i].variant, "%s%d", variant, i);
        e.measured[i].picoseconds = (1000 + rounds) * (i + 1);
        e.measured[i].rounds = rounds;
    }
    return e;
}

static void add_entry(doconv_entries *entries, const char *manifest, const struct cache_entry *e)
{
    assert_int_equal(dc_entries_add(entries, manifest, strlen(manifest), e), DOCONV_OK);
}

static const char *own_manifest(const doconv_context *ctx)
{
    return dc_cache_manifest(ctx->advisor.self);
}

/* The manifest of a machine that this one is not. */
static void make_manifest(char *manifest, size_t size, const char *cpu)
{
    snprintf(manifest, size, "doconv-cache %d\nlibrary 0.0\ncpu %s\nisa none\n", CACHEFILE_VERSION,
             cpu);
}

/* Three entries of two environments, the own one among them. */
static void make_text(doconv_context *ctx, struct text *text)
{
    char manifest[256];
    make_manifest(manifest, sizeof manifest, "other");
    doconv_entries *entries = make_entries(ctx);
    const struct cache_entry b = make_entry("b threads=1", "x:y", 3),
                             a = make_entry("a threads=1", "x:y", 3);
    add_entry(entries, own_manifest(ctx), &b);
    add_entry(entries, own_manifest(ctx), &a);
    add_entry(entries, manifest, &b);
    write_entries(entries, text);
    doconv_entries_destroy(entries);
}

/* ---- from one cache to another ---- */

static void test_round_trip(void **state)
{
    struct fixture *f = *state;
    static struct text first, second, third;
    char variants[2][DC_VARIANT_SIZE];
    const doconv_conv_desc descs[] = {fixture_problem(FIXTURE_PROBLEM),
                                      fixture_problem(OTHER_PROBLEM)};
    doconv_context *ctx = fixture_context(f, "from", DOCONV_TUNE_ONLY);
    for (int i = 0; i < 2; i++) {
        fixture_plant(ctx, &descs[i], NULL, variants[i]);
    }
    export_cache(ctx, &first);
    export_cache(ctx, &second);
    assert_same_text(&first, &second);
    doconv_context_destroy(ctx);

    ctx = fixture_context(f, "to/deep", DOCONV_TUNE_ONLY);
    for (int i = 0; i < 2; i++) {
        fixture_assert_origin(ctx, &descs[i], NULL, ""); /* it remembers that nothing is there */
    }
    assert_int_equal(import(ctx, &first), 2);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < 2; i++) {
            doconv_plan *plan;
            assert_int_equal(doconv_plan_create(ctx, &descs[i], NULL, &plan), DOCONV_OK);
            assert_string_equal(doconv_plan_origin(plan), "cache");
            assert_string_equal(doconv_plan_variant(plan), variants[i]);
            doconv_plan_destroy(plan);
        }
        export_cache(ctx, &third);
        assert_same_text(&first, &third);
        assert_int_equal(import(ctx, &first), 0);
        doconv_context_destroy(ctx);
        ctx = fixture_context(f, "to/deep", DOCONV_TUNE_ONLY); /* as another process */
    }
    doconv_context_destroy(ctx);
    /* two entries and a manifest: no temporary file is left */
    assert_int_equal(fixture_count(f, "to", "", NULL), 3);
    assert_int_equal(f->log.warnings + f->log.errors, 0);
}

/* A context without a directory keeps winners in memory, which can be taken along too. */
static void test_memory(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    char path[FIXTURE_PATH];
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_context_options options = fixture_options(f, "c", path);
    options.cache_directory = "";
    options.tune = DOCONV_TUNE_ONLY;
    doconv_context *from, *to;
    assert_int_equal(doconv_context_create(&options, &from), DOCONV_OK);
    assert_int_equal(doconv_context_create(&options, &to), DOCONV_OK);
    make_text(from, &text);
    assert_int_equal(import(from, &text), 2); /* of the own environment only */
    assert_int_equal(import(from, &text), 0);
    doconv_entries *entries = make_entries(from);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), 2);
    assert_int_equal(doconv_entries_forget(entries, NULL), DOCONV_OK);
    doconv_entries_destroy(entries);
    export_cache(from, &text);
    assert_string_equal(text.data, "doconv-export 1\n\nend\n");

    doconv_tune_report *report = fixture_tune(from, &desc, NULL, true);
    doconv_tune_report_destroy(report);
    export_cache(from, &text);
    fixture_assert_origin(to, &desc, NULL, "");
    assert_int_equal(import(to, &text), 1);
    fixture_assert_origin(to, &desc, NULL, "cache");
    doconv_context_destroy(from);
    doconv_context_destroy(to);
}

static void test_foreign_environment(void **state)
{
    struct fixture *f = *state;
    static struct text text, back;
    char manifest[256], name[ENTRIES_NAME], path[FIXTURE_PATH], read[1024];
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    fixture_plant(ctx, &desc, NULL, NULL);
    /* The same winner on another machine is none of this one's. */
    doconv_entries *own = make_entries(ctx), *foreign = make_entries(ctx);
    assert_int_equal(doconv_entries_read(own), DOCONV_OK);
    make_manifest(manifest, sizeof manifest, "another machine's");
    add_entry(foreign, manifest, own->environments[0].items[0]);
    write_entries(foreign, &text);
    doconv_entries_destroy(own);
    doconv_entries_destroy(foreign);
    doconv_context_destroy(ctx);

    ctx = fixture_context(f, "d", DOCONV_TUNE_ONLY);
    assert_int_equal(import(ctx, &text), 1);
    fixture_assert_origin(ctx, &desc, NULL, "");
    dc_entries_name(manifest, strlen(manifest), name);
    char below[64];
    snprintf(below, sizeof below, "d/%s", name);
    assert_int_equal(fixture_count(f, below, ".txt", NULL), 1);
    assert_int_equal(fixture_count(f, below, CACHEDIR_MANIFEST, path), 1);
    fixture_read(path, read, sizeof read);
    assert_string_equal(read, manifest);
    fixture_plant(ctx, &desc, NULL, NULL);
    doconv_entries *both = make_entries(ctx);
    assert_int_equal(doconv_entries_read(both), DOCONV_OK);
    assert_int_equal(doconv_entries_count(both), 2);
    assert_int_equal(doconv_entries_keep(both, name, NULL), DOCONV_OK);
    write_entries(both, &back);
    assert_same_text(&text, &back);
    doconv_entries_destroy(both);
    both = make_entries(ctx);
    assert_int_equal(doconv_entries_read(both), DOCONV_OK);
    assert_int_equal(doconv_entries_keep(both, "own", NULL), DOCONV_OK);
    doconv_entry_info info = {.size = sizeof info};
    assert_int_equal(doconv_entries_count(both), 1);
    assert_int_equal(doconv_entries_get(both, 0, &info), DOCONV_OK);
    assert_int_equal(info.own, 1);
    assert_string_equal(info.manifest, own_manifest(ctx));
    doconv_entries_destroy(both);
    doconv_context_destroy(ctx);
}

/* ---- sets ---- */

static void test_merge(void **state)
{
    struct fixture *f = *state;
    static struct text texts[3], merged, again;
    char manifests[2][256];
    make_manifest(manifests[0], sizeof manifests[0], "one");
    make_manifest(manifests[1], sizeof manifests[1], "two");
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    static const struct {
        int text, manifest;
        const char *key, *variant;
        int rounds;
        bool stays;
    } rows[] = {
        {0, 0, "both", "x:few", 5, false},   {1, 0, "both", "x:many", 6, true},
        {2, 0, "both", "x:fewer", 4, false}, {0, 0, "alone", "x:a", 1, true},
        {1, 1, "both", "x:b", 2, true},      {2, 1, "c", "x:c", 9, true},
        {0, 0, "tie", "x:b", 7, false},      {2, 0, "tie", "x:a", 7, true},
    };
    for (int t = 0; t < 3; t++) {
        doconv_entries *entries = make_entries(ctx);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            if (rows[i].text == t) {
                const struct cache_entry e =
                    make_entry(rows[i].key, rows[i].variant, rows[i].rounds);
                add_entry(entries, manifests[rows[i].manifest], &e);
            }
        }
        write_entries(entries, &texts[t]);
        doconv_entries_destroy(entries);
    }
    static const int orders[][4] = {{0, 1, 2, 0}, {2, 1, 0, 2}, {1, 0, 2, 1}, {1, 1, 2, 0}};
    for (int o = 0; o < 4; o++) {
        doconv_entries *entries = make_entries(ctx);
        for (int t = 0; t < 4; t++) {
            const struct text *text = &texts[orders[o][t]];
            assert_int_equal(doconv_entries_parse(entries, text->data, text->size), DOCONV_OK);
        }
        int staying = 0;
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            staying += rows[i].stays;
        }
        assert_int_equal(doconv_entries_count(entries), staying);
        for (int i = 0; i < staying; i++) {
            doconv_entry_info info = {.size = sizeof info};
            doconv_tune_entry m = {.size = sizeof m};
            assert_int_equal(doconv_entries_get(entries, i, &info), DOCONV_OK);
            assert_int_equal(info.own, 0);
            size_t r = 0;
            while (!(rows[r].stays && strcmp(rows[r].key, info.key) == 0 &&
                     strcmp(manifests[rows[r].manifest], info.manifest) == 0)) {
                assert_true(++r < sizeof rows / sizeof rows[0]);
            }
            assert_string_equal(info.variant, rows[r].variant);
            assert_int_equal(info.samples, 2 * rows[r].rounds);
            assert_int_equal(info.measured, 2);
            assert_int_equal(doconv_entries_get_measured(entries, i, 1, &m), DOCONV_OK);
            assert_int_equal(m.rounds, rows[r].rounds);
            assert_int_equal(doconv_entries_get_measured(entries, i, 2, &m),
                             DOCONV_INVALID_ARGUMENT);
        }
        write_entries(entries, o == 0 ? &merged : &again);
        assert_true(o == 0 || again.size == merged.size);
        assert_memory_equal(o == 0 ? merged.data : again.data, merged.data, merged.size);
        doconv_entries_destroy(entries);
    }
    doconv_context_destroy(ctx);
}

/* What the directory has stays against fewer samples, and goes against more. */
static void test_store_keeps_the_better(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    static const struct {
        int rounds;
        bool stored;
    } rows[] = {{5, true}, {4, false}, {5, false}, {6, true}};
    int stays = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_entries *entries = make_entries(ctx);
        struct cache_entry e = make_entry("key", "reference:reference_f32@none", rows[i].rounds);
        struct cache_entry back;
        e.revision = dc_kernel_find(ctx, "reference_f32@none", 18)->revision;
        add_entry(entries, own_manifest(ctx), &e);
        int stored;
        assert_int_equal(doconv_entries_store(entries, &stored), DOCONV_OK);
        assert_int_equal(stored, rows[i].stored);
        stays = rows[i].stored ? rows[i].rounds : stays;
        assert_int_equal(dc_cache_lookup(ctx->advisor.self, "key", &back), CACHE_STORED);
        assert_int_equal(back.measured[0].rounds, stays);
        doconv_entries_destroy(entries);
    }
    doconv_context_destroy(ctx);
}

static void test_keep_and_forget(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM),
                           other = fixture_problem(OTHER_PROBLEM);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    fixture_plant(ctx, &desc, NULL, NULL);
    fixture_plant(ctx, &other, NULL, NULL);
    static const struct {
        const char *pattern;
        int count;
    } rows[] = {{"*", 2},    {"mb1_*", 2},       {"mb1_ic5*", 1},  {"mb1_ic?ih*", 2},
                {"mb2*", 0}, {"*:bias", 1},      {"*threads*", 0}, {"*nhwc", 1},
                {"", 0},     {"mb1_ic[5-7]*", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_entries *entries = make_entries(ctx);
        assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
        assert_int_equal(doconv_entries_keep(entries, NULL, rows[i].pattern), DOCONV_OK);
        assert_int_equal(doconv_entries_count(entries), rows[i].count);
        assert_true(rows[i].count > 0 || entries->count == 0);
        doconv_entries_destroy(entries);
    }
    doconv_entries *entries = make_entries(ctx);
    int removed;
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_keep(entries, "own", "mb1_ic5*"), DOCONV_OK);
    fixture_assert_origin(ctx, &desc, NULL, "cache");
    const unsigned long choices = atomic_load(&ctx->choices);
    assert_int_equal(doconv_entries_forget(entries, &removed), DOCONV_OK);
    assert_int_equal(removed, 1);
    assert_true(atomic_load(&ctx->choices) > choices); /* plans that are kept are old now */
    fixture_assert_origin(ctx, &desc, NULL, "");       /* nor does the context remember it */
    fixture_assert_origin(ctx, &other, NULL, "cache");
    assert_int_equal(fixture_count(f, "c", ".txt", NULL), 1);
    assert_int_equal(doconv_entries_forget(entries, &removed), DOCONV_OK);
    assert_int_equal(removed, 0);
    doconv_entries_destroy(entries);
    /* Everything cleaned, and nothing is there to read. */
    const doconv_cache_clean_options all = {.size = sizeof all, .all = 1};
    assert_int_equal(doconv_cache_clean(ctx, &all), DOCONV_OK);
    entries = make_entries(ctx);
    assert_int_equal(doconv_entries_read(entries), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), 0);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* ---- what may be wrong with a text ---- */

/* Nothing of it is taken, and the detail names a line. */
static void assert_refused(doconv_context *ctx, const char *text, size_t size)
{
    doconv_entries *entries = make_entries(ctx);
    char detail[256];
    assert_int_equal(doconv_entries_parse(entries, text, size), DOCONV_INVALID_FILE);
    assert_int_equal(doconv_entries_count(entries), 0);
    assert_int_equal(doconv_context_last_error(ctx, detail, sizeof detail), DOCONV_OK);
    assert_memory_equal(detail, "line ", 5);
    doconv_entries_destroy(entries);
}

static void test_damaged_texts(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    static char changed[TEXT_SIZE];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    make_text(ctx, &text);
    for (size_t cut = 0; cut < text.size; cut++) {
        assert_refused(ctx, text.data, cut);
        memcpy(changed, text.data, text.size);
        for (int bit = 0; bit < 8; bit++) {
            changed[cut] = (char)(text.data[cut] ^ 1 << bit);
            assert_refused(ctx, changed, text.size);
        }
        memmove(changed + cut, text.data + cut + 1, text.size - cut - 1); /* a byte is missing */
        assert_refused(ctx, changed, text.size - 1);
    }
    memcpy(changed, text.data, text.size);
    changed[text.size] = '\n';
    assert_refused(ctx, changed, text.size + 1);
    doconv_context_destroy(ctx);
}

/* A text of these parts, each followed by an empty line, that must be refused on this line. */
static void assert_refused_parts(doconv_context *ctx, const char *const *parts, const char *line,
                                 const char *reason)
{
    static struct text text;
    char detail[256];
    text.size = 0;
    add_text(&text, "doconv-export 1\n\n", 17);
    for (int i = 0; parts[i] != NULL; i++) {
        add_text(&text, parts[i], strlen(parts[i]));
        add_text(&text, "\n", 1);
    }
    add_text(&text, "end\n", 4);
    assert_refused(ctx, text.data, text.size);
    assert_int_equal(doconv_context_last_error(ctx, detail, sizeof detail), DOCONV_OK);
    assert_non_null(strstr(detail, line));
    assert_non_null(strstr(detail, reason));
}

static void environment_text(const char *manifest, char *text, size_t size)
{
    char name[ENTRIES_NAME];
    dc_entries_name(manifest, strlen(manifest), name);
    snprintf(text, size, "environment %s\n%s", name, manifest);
}

static void test_wrong_texts(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    static char one[2048], two[2048], a[4096], b[4096], manifest[2048];
    const struct cache_entry ea = make_entry("a", "x:y", 1), eb = make_entry("b", "x:y", 1);
    dc_cachefile_print(&ea, a, sizeof a);
    dc_cachefile_print(&eb, b, sizeof b);
    make_manifest(manifest, sizeof manifest, "one");
    environment_text(manifest, one, sizeof one);
    make_manifest(manifest, sizeof manifest, "two");
    environment_text(manifest, two, sizeof two);
    const bool rising = strcmp(one, two) < 0;
    const char *low = rising ? one : two, *high = rising ? two : one;
    assert_refused_parts(ctx, (const char *[]){a, NULL}, "line 3:", "before the first");
    assert_refused_parts(ctx, (const char *[]){low, b, a, NULL}, "line 24:", "out of order");
    assert_refused_parts(ctx, (const char *[]){low, a, a, NULL}, "line 24:", "out of order");
    assert_refused_parts(ctx, (const char *[]){high, a, low, a, NULL}, "line 24:", "out of order");
    assert_refused_parts(ctx, (const char *[]){low, a, low, b, NULL}, "line 24:", "out of order");
    assert_refused_parts(ctx, (const char *[]){low, high, a, NULL}, "line 9:", "no entries");
    assert_refused_parts(ctx, (const char *[]){low, NULL}, "line 9:", "no entries");
    assert_refused_parts(ctx, (const char *[]){low, a, "\n", NULL}, "line 24:", "neither");
    assert_refused_parts(ctx, (const char *[]){low, a, "nonsense\n", NULL}, "line 24:", "neither");

    snprintf(one, sizeof one, "environment 0123456789abcdef\n%s", manifest);
    assert_refused_parts(ctx, (const char *[]){one, a, NULL}, "line 3:", "not that of its");
    snprintf(one, sizeof one, "environment 0123456789ABCDEF\n%s", manifest);
    assert_refused_parts(ctx, (const char *[]){one, a, NULL}, "line 3:", "16 hexadecimal");
    assert_refused_parts(ctx, (const char *[]){"environment 0\n", a, NULL}, "line 3:", "16 hex");
    environment_text("doconv-cache 999\ncpu x\n", one, sizeof one);
    assert_refused_parts(ctx, (const char *[]){one, a, NULL}, "line 3:", "another version");
    environment_text("doconv-cache 2\ncpu \x1b[31m\n", one, sizeof one);
    assert_refused_parts(ctx, (const char *[]){one, a, NULL}, "line 3:", "malformed");
    char cpu[ENTRIES_MANIFEST];
    memset(cpu, 'x', sizeof cpu - 1);
    cpu[sizeof cpu - 1] = '\0';
    make_manifest(manifest, sizeof manifest, cpu);
    environment_text(manifest, one, sizeof one);
    assert_refused_parts(ctx, (const char *[]){one, a, NULL}, "line 3:", "too long");

    assert_refused(ctx, "", 0);
    assert_refused(ctx, "doconv-export 2\n\nend\n", 21);
    doconv_entries *entries = make_entries(ctx);
    assert_int_equal(doconv_entries_parse(entries, "doconv-export 1\n\nend\n", 21), DOCONV_OK);
    assert_int_equal(doconv_entries_count(entries), 0);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* ---- what may be wrong with a directory ---- */

static void test_damaged_directory(void **state)
{
    struct fixture *f = *state;
    static struct text before, after;
    char path[FIXTURE_PATH], extra[FIXTURE_PATH], text[8192];
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fixture_plant(ctx, &desc, NULL, NULL);
    export_cache(ctx, &before);
    assert_int_equal(f->log.lines, 0);
    assert_int_equal(fixture_count(f, "c", ".txt", path), 1);
    const size_t length = fixture_read(path, text, sizeof text);
    char *directory = strdup(path);
    assert_non_null(directory);
    *strrchr(directory, '/') = '\0';
    /* Names of the cache's own that hold no entry of that name; and names of others. */
    static const char *const names[] = {"0123456789abcdef.txt", "fedcba9876543210.txt"};
    for (int i = 0; i < 2; i++) {
        snprintf(extra, sizeof extra, "%.900s/%s", directory, names[i]);
        fixture_write(extra, text, i == 0 ? length : length / 2);
    }
    snprintf(extra, sizeof extra, "%.900s/notes.txt", directory);
    fixture_write(extra, "x", 1);
    fixture_log_clear(f);
    export_cache(ctx, &after);
    assert_same_text(&before, &after);
    assert_int_equal(f->log.warnings, 2);

    /* Environments: a link to the real one, one without a manifest, one with another's. */
    fixture_path(f, "c/0000000000000000", extra);
    assert_int_equal(symlink(directory, extra), 0);
    fixture_path(f, "c/0000000000000001", extra);
    assert_int_equal(mkdir(extra, 0700), 0);
    fixture_path(f, "c/0000000000000002", extra);
    assert_int_equal(mkdir(extra, 0700), 0);
    fixture_path(f, "c/0000000000000002/MANIFEST", extra);
    fixture_write(extra, own_manifest(ctx), strlen(own_manifest(ctx)));
    fixture_log_clear(f);
    export_cache(ctx, &after);
    assert_same_text(&before, &after);
    assert_int_equal(f->log.warnings, 4);
    free(directory);
    doconv_context_destroy(ctx);
}

static void test_unwritable_directory(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    char path[FIXTURE_PATH];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    make_text(ctx, &text);
    doconv_entries *entries = make_entries(ctx);
    assert_int_equal(doconv_entries_parse(entries, text.data, text.size), DOCONV_OK);
    fixture_path(f, "c", path);
    fixture_write(path, "x", 1); /* a file where the directory would be */
    int count = 9;
    assert_int_equal(doconv_entries_store(entries, &count), DOCONV_IO_ERROR);
    assert_int_equal(count, 0);
    assert_int_equal(doconv_entries_forget(entries, &count), DOCONV_OK); /* as good as forgotten */
    assert_int_equal(count, 0);
    assert_int_equal(doconv_entries_read(entries), DOCONV_IO_ERROR);
    assert_int_equal(doconv_entries_count(entries), 3);
    /* An entry's place is taken by a directory. */
    assert_int_equal(remove(path), 0);
    assert_int_equal(doconv_entries_store(entries, &count), DOCONV_OK);
    assert_int_equal(count, 3);
    assert_int_equal(fixture_count(f, "c", ".txt", path), 3);
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(doconv_entries_store(entries, &count), DOCONV_IO_ERROR);
    assert_int_equal(doconv_entries_forget(entries, &count), DOCONV_IO_ERROR);
    assert_int_equal(count, 2);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* ---- arguments and memory ---- */

static int refuse_text(void *user, const char *data, size_t length)
{
    int *left = user;
    (void)data;
    (void)length;
    return (*left)-- == 0;
}

static void test_writer_ends(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    make_text(ctx, &text);
    doconv_entries *entries = make_entries(ctx);
    assert_int_equal(doconv_entries_parse(entries, text.data, text.size), DOCONV_OK);
    int chunks = 0;
    for (doconv_status status = DOCONV_IO_ERROR; status != DOCONV_OK; chunks++) {
        int left = chunks;
        status = doconv_entries_write(entries, refuse_text, &left);
        assert_true(status == DOCONV_OK || status == DOCONV_IO_ERROR);
        assert_int_equal(left, status == DOCONV_OK ? 0 : -1); /* not called again */
    }
    assert_true(chunks > 5);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

static void test_arguments(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    doconv_entries *entries;
    doconv_entry_info info = {.size = sizeof info};
    doconv_tune_entry m = {.size = sizeof m};
    assert_int_equal(doconv_entries_create(NULL, &entries), DOCONV_INVALID_ARGUMENT);
    assert_null(entries);
    assert_int_equal(doconv_entries_create(ctx, NULL), DOCONV_INVALID_ARGUMENT);
    entries = make_entries(ctx);
    assert_int_equal(doconv_entries_read(NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_parse(NULL, "", 0), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_parse(entries, NULL, 0), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_keep(NULL, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_keep(entries, "0123", NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_keep(entries, "", NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_count(NULL), 0);
    assert_int_equal(doconv_entries_get(NULL, 0, &info), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_get(entries, 0, &info), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_get_measured(NULL, 0, 0, &m), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_write(NULL, add_text, &text), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_write(entries, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_store(NULL, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_forget(NULL, NULL), DOCONV_INVALID_ARGUMENT);
    make_text(ctx, &text);
    assert_int_equal(doconv_entries_parse(entries, text.data, text.size), DOCONV_OK);
    static const int none[] = {-1, 3, 1 << 30};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(doconv_entries_get(entries, none[i], &info), DOCONV_INVALID_ARGUMENT);
        assert_int_equal(doconv_entries_get_measured(entries, none[i], 0, &m),
                         DOCONV_INVALID_ARGUMENT);
        assert_int_equal(doconv_entries_get_measured(entries, 0, none[i], &m),
                         DOCONV_INVALID_ARGUMENT);
    }
    assert_int_equal(doconv_entries_get(entries, 0, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_get_measured(entries, 0, 0, NULL), DOCONV_INVALID_ARGUMENT);
    doconv_entries_destroy(entries);
    doconv_entries_destroy(NULL);
    doconv_context_destroy(ctx);
}

/* As an older and a newer header would have the struct. */
static void test_sizes_of_info(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    make_text(ctx, &text);
    doconv_entries *entries = make_entries(ctx);
    assert_int_equal(doconv_entries_parse(entries, text.data, text.size), DOCONV_OK);
    union {
        doconv_entry_info info;
        unsigned char bytes[sizeof(doconv_entry_info) + 64];
    } u;
    for (size_t size = 0; size <= sizeof u; size++) {
        memset(&u, 0xa5, sizeof u);
        u.info.size = size;
        const bool known = size >= offsetof(doconv_entry_info, when) && size % sizeof size == 0;
        assert_int_equal(doconv_entries_get(entries, 0, &u.info),
                         known ? DOCONV_OK : DOCONV_MISMATCH);
        assert_int_equal(u.info.size, size);
        assert_true(!known || u.info.measured == 2);
        for (size_t i = sizeof u.info; i < sizeof u; i++) {
            assert_int_equal(u.bytes[i], known && i < size ? 0 : 0xa5);
        }
    }
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* Each step of a journey there and back. */
static doconv_status travel(doconv_context *ctx, const struct text *text, struct text *back)
{
    doconv_entries *entries = NULL;
    doconv_status status = doconv_entries_create(ctx, &entries);
    if (status == DOCONV_OK) {
        status = doconv_entries_parse(entries, text->data, text->size);
    }
    if (status == DOCONV_OK) {
        status = doconv_entries_store(entries, NULL);
    }
    if (status == DOCONV_OK) {
        status = doconv_entries_read(entries);
    }
    if (status == DOCONV_OK) {
        back->size = 0;
        status = doconv_entries_write(entries, add_text, back);
    }
    doconv_entries_destroy(entries);
    return status;
}

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    static struct text text, back;
    struct fixture_failing failing;
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    make_text(ctx, &text);
    const int live = failing.live;
    int failures = 0;
    for (doconv_status status = DOCONV_OUT_OF_MEMORY; status != DOCONV_OK; failures++) {
        failing.calls = 0;
        failing.fail_at = failures;
        status = travel(ctx, &text, &back);
        assert_true(status == DOCONV_OK || status == DOCONV_OUT_OF_MEMORY);
        assert_int_equal(failing.live, live);
    }
    assert_true(failures > 10);
    assert_same_text(&text, &back);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_round_trip),
        WITH_FIXTURE(test_memory),
        WITH_FIXTURE(test_foreign_environment),
        WITH_FIXTURE(test_merge),
        WITH_FIXTURE(test_store_keeps_the_better),
        WITH_FIXTURE(test_keep_and_forget),
        WITH_FIXTURE(test_damaged_texts),
        WITH_FIXTURE(test_wrong_texts),
        WITH_FIXTURE(test_damaged_directory),
        WITH_FIXTURE(test_unwritable_directory),
        WITH_FIXTURE(test_writer_ends),
        WITH_FIXTURE(test_arguments),
        WITH_FIXTURE(test_sizes_of_info),
        WITH_FIXTURE(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}

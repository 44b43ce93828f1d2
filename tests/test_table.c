/* SPDX-License-Identifier: MIT */
/*
 * Choices that a program brings along: whom they are for in each mode, the table as C, and what
 * choices lose on another machine.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_train.h>

#include "entries.h"
#include "tuner_fixture.h"

#define OTHER_PROBLEM "mb1_ic8ih6oc8kh3ph1:src=nhwc,dst=nhwc"

static void set_key(doconv_context *ctx, const doconv_conv_desc *desc, char key[DC_KEY_SIZE])
{
    struct dc_problem p;
    assert_int_equal(dc_problem_create(ctx, desc, &p), DOCONV_OK);
    dc_plan_key(ctx, &p, NULL, key, DC_KEY_SIZE);
}

/* Whose row is one of FIXTURE_PROBLEM, with a choice that no plan takes by itself. */
struct choice {
    char key[DC_KEY_SIZE];
    struct dc_candidate candidate;
    doconv_table_row row;
    doconv_table table;
};

static void make_choice(struct fixture *f, struct choice *choice)
{
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_context *ctx = fixture_context(f, "none", DOCONV_TUNE_OFF);
    set_key(ctx, &desc, choice->key);
    choice->candidate = fixture_candidate(ctx, &desc);
    doconv_context_destroy(ctx);
    choice->row = (doconv_table_row){choice->key, choice->candidate.text, DOCONV_ISA_DEFAULT};
    choice->table = (doconv_table){sizeof choice->table, &choice->row, 1};
}

static doconv_context *table_context(struct fixture *f, const char *name, doconv_tune_mode mode,
                                     const doconv_table *table)
{
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, name, path);
    options.tune = mode;
    options.table = table;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    return ctx;
}

/* ---- whom the table chooses for ---- */

/* For a key that it has, and for one that neither it nor the cache has ("": there is no plan). */
static const struct {
    const char *with, *without;
} mode_origins[] = {
    [DOCONV_TUNE_OFF] = {"table", "estimate"},  [DOCONV_TUNE_READ] = {"table", "estimate"},
    [DOCONV_TUNE_TUNE] = {"table", "measured"}, [DOCONV_TUNE_FORCE] = {"table", "measured"},
    [DOCONV_TUNE_ONLY] = {"table", ""},
};

static void test_modes(void **state)
{
    struct fixture *f = *state;
    struct choice choice;
    make_choice(f, &choice);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM),
                           other = fixture_problem(OTHER_PROBLEM);
    for (int mode = DOCONV_TUNE_OFF; mode <= DOCONV_TUNE_ONLY; mode++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", mode);
        doconv_context *ctx = table_context(f, name, (doconv_tune_mode)mode, &choice.table);
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
        assert_string_equal(doconv_plan_origin(plan), mode_origins[mode].with);
        assert_string_equal(doconv_plan_variant(plan), choice.candidate.text);
        doconv_plan_destroy(plan);
        assert_int_equal(fixture_count(f, name, "", NULL), 0); /* nothing was stored */
        fixture_assert_origin(ctx, &other, NULL, mode_origins[mode].without);
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.errors, 0);
}

/* Over the cache, under what the caller forces. */
static void test_rank(void **state)
{
    struct fixture *f = *state;
    struct choice choice;
    make_choice(f, &choice);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM),
                           other = fixture_problem(OTHER_PROBLEM);
    doconv_context *ctx = table_context(f, "c", DOCONV_TUNE_READ, &choice.table);
    fixture_plant(ctx, &desc, NULL, NULL);
    fixture_plant(ctx, &other, NULL, NULL);
    fixture_assert_origin(ctx, &desc, NULL, "table");
    fixture_assert_origin(ctx, &other, NULL, "cache");
    doconv_plan_options options = {.size = sizeof options, .variant = choice.candidate.text};
    fixture_assert_origin(ctx, &desc, &options, "forced");
    options.variant = NULL;
    options.rigor = DOCONV_RIGOR_ESTIMATE;
    fixture_assert_origin(ctx, &desc, &options, "estimate");
    options.rigor = DOCONV_RIGOR_READ;
    fixture_assert_origin(ctx, &desc, &options, "table");
    options.rigor = DOCONV_RIGOR_MEASURE;
    fixture_assert_origin(ctx, &desc, &options, "table");
    /* Another limit is another key, for which the cache has something near. */
    options.rigor = DOCONV_RIGOR_DEFAULT;
    options.workspace_limit = (size_t)1 << 30;
    fixture_assert_origin(ctx, &desc, &options, "nearest");
    doconv_context_destroy(ctx);
}

static bool never_looked_up(void *self, const char *key, bool measures, char *variant, size_t size)
{
    (void)self;
    (void)measures;
    (void)variant;
    (void)size;
    fail_msg("the cache was asked for %s", key);
    return false;
}

static doconv_status never_measured(void *self, const struct dc_problem *problem,
                                    const doconv_plan_options *options, char *variant, size_t size)
{
    (void)self;
    (void)problem;
    (void)options;
    (void)variant;
    (void)size;
    fail_msg("something was measured");
    return DOCONV_OK;
}

/* For what the table has nobody is asked: no file is read, nothing is measured. */
static void test_nothing_is_asked(void **state)
{
    struct fixture *f = *state;
    struct choice choice;
    make_choice(f, &choice);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    for (int mode = DOCONV_TUNE_OFF; mode <= DOCONV_TUNE_ONLY; mode++) {
        doconv_context *ctx = table_context(f, "c", (doconv_tune_mode)mode, &choice.table);
        const struct dc_advisor advisor = ctx->advisor;
        ctx->advisor.lookup = never_looked_up;
        ctx->advisor.measure = never_measured;
        fixture_assert_origin(ctx, &desc, NULL, "table");
        /* as in a build without the tuner */
        ctx->advisor.lookup = NULL;
        ctx->advisor.measure = NULL;
        fixture_assert_origin(ctx, &desc, NULL, "table");
        ctx->advisor = advisor;
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.lines, 0);
}

/* Every operation of a layer in training has a key, as in the cache. */
static void test_training(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem("mb1_ic5ih9oc7kh3ph1:dmul=9");
    doconv_context *ctx = fixture_context(f, "none", DOCONV_TUNE_OFF);
    struct dc_problem layer;
    assert_int_equal(dc_problem_create(ctx, &desc, &layer), DOCONV_OK);
    const struct dc_problem fold = dc_problem_for(&layer, DC_FOLD);
    char key[DC_KEY_SIZE];
    dc_plan_key(ctx, &fold, NULL, key, sizeof key);
    struct dc_candidate_list list;
    assert_int_equal(dc_enumerate(ctx, &fold, NULL, &list), DOCONV_OK);
    int last = 0;
    while (last + 1 < list.count && list.items[last + 1].refused == NULL) {
        last++;
    }
    char variant[DC_VARIANT_SIZE];
    memcpy(variant, list.items[last].text, sizeof variant);
    dc_free(ctx, list.items);
    doconv_context_destroy(ctx);
    const doconv_table_row row = {key, variant, DOCONV_ISA_DEFAULT};
    const doconv_table table = {sizeof table, &row, 1};
    ctx = table_context(f, "none", DOCONV_TUNE_OFF, &table);
    doconv_training *training;
    assert_int_equal(doconv_training_create(ctx, &desc, NULL, &training), DOCONV_OK);
    int by_table = 0;
    for (int i = 0; i < doconv_training_operation_count(training); i++) {
        doconv_training_operation operation = {.size = sizeof operation};
        assert_int_equal(doconv_training_operation_get(training, i, &operation), DOCONV_OK);
        if (strcmp(operation.origin, "table") == 0) {
            assert_string_equal(operation.variant, variant);
            by_table++;
        }
    }
    assert_int_equal(by_table, 1);
    doconv_training_destroy(training);
    doconv_context_destroy(ctx);
}

/* ---- rows that don't help ---- */

static void test_unknown_variants(void **state)
{
    struct fixture *f = *state;
    struct choice choice;
    make_choice(f, &choice);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    static const char *const variants[] = {"direct:nonesuch_f32_1x1@none:rows=1", "", "nonsense",
                                           "reference:reference_f32@none:x=1"};
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        choice.row.variant = variants[i];
        for (int mode = DOCONV_TUNE_OFF; mode <= DOCONV_TUNE_ONLY; mode++) {
            char name[32];
            snprintf(name, sizeof name, "c%zu %d", i, mode);
            doconv_context *ctx = table_context(f, name, (doconv_tune_mode)mode, &choice.table);
            fixture_log_clear(f);
            fixture_assert_origin(ctx, &desc, NULL, mode_origins[mode].without);
            if (mode != DOCONV_TUNE_TUNE &&
                mode != DOCONV_TUNE_FORCE) { /* they may tell of noise */
                assert_int_equal(f->log.lines, 1);
                assert_memory_equal(f->log.last, "table: ", 7);
            }
            doconv_context_destroy(ctx);
        }
    }
    /* An entry of the cache is next, then. */
    doconv_context *ctx = table_context(f, "c", DOCONV_TUNE_READ, &choice.table);
    fixture_plant(ctx, &desc, NULL, NULL);
    fixture_assert_origin(ctx, &desc, NULL, "cache");
    doconv_context_destroy(ctx);
}

/* Rows of one key: the first that this ISA allows and whose variant is there. */
static void test_rows_of_a_key(void **state)
{
    struct fixture *f = *state;
    struct choice choice;
    make_choice(f, &choice);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    const doconv_isa own = (doconv_isa)dc_cpu_probe()->isa;
#ifdef __aarch64__
    const doconv_isa foreign = DOCONV_ISA_AVX512;
#else
    const doconv_isa foreign = DOCONV_ISA_NEON;
#endif
    const char *good = choice.candidate.text, *bad = "direct:nonesuch@none";
    const struct {
        doconv_table_row rows[3];
        const char *origin;
        int lines;
    } cases[] = {
        {{{"a", bad, 0}, {choice.key, good, own}, {"z", bad, 0}}, "table", 0},
        {{{choice.key, bad, foreign}, {choice.key, good, own}, {"z", bad, 0}}, "table", 0},
        {{{choice.key, bad, own}, {choice.key, good, DOCONV_ISA_NONE}, {"z", bad, 0}}, "table", 1},
        {{{choice.key, good, foreign}, {choice.key, bad, own}, {choice.key, bad, own}},
         "estimate",
         2},
        {{{"a", good, 0}, {"b", good, 0}, {"z", good, 0}}, "estimate", 0},
        {{{"a", bad, 0}, {"b", good, 0}, {choice.key, good, 0}}, "table", 0},
        {{{choice.key, good, 0}, {choice.key, bad, 0}, {choice.key, bad, 0}}, "table", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const doconv_table table = {sizeof table, cases[i].rows, 3};
        doconv_context *ctx = table_context(f, "c", DOCONV_TUNE_OFF, &table);
        fixture_log_clear(f);
        fixture_assert_origin(ctx, &desc, NULL, cases[i].origin);
        assert_int_equal(f->log.lines, cases[i].lines);
        doconv_context_destroy(ctx);
    }
    /* A context under a cap is for rows of that cap. */
    if (own == DOCONV_ISA_AVX512) {
        choice.row.isa = own;
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        options.table = &choice.table;
        options.tune = DOCONV_TUNE_OFF;
        options.max_isa = DOCONV_ISA_AVX2;
        doconv_context *ctx;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        fixture_assert_origin(ctx, &desc, NULL, "estimate");
        doconv_context_destroy(ctx);
    }
}

/* ---- tables that are none ---- */

static void test_wrong_tables(void **state)
{
    struct fixture *f = *state;
    static const doconv_table_row falling[] = {{"b", "v", 0}, {"a", "v", 0}},
                                  no_key[] = {{NULL, "v", 0}}, no_variant[] = {{"a", NULL, 0}},
                                  other_isa[] = {{"a", "v", (doconv_isa)5}},
                                  same[] = {{"a", "v", 0}, {"a", "v", 0}};
    const struct {
        doconv_table table;
        doconv_status status;
        const char *detail;
    } cases[] = {
        {{sizeof(doconv_table), falling, 2}, DOCONV_INVALID_ARGUMENT, "row 1"},
        {{sizeof(doconv_table), no_key, 1}, DOCONV_INVALID_ARGUMENT, "row 0"},
        {{sizeof(doconv_table), no_variant, 1}, DOCONV_INVALID_ARGUMENT, "row 0"},
        {{sizeof(doconv_table), other_isa, 1}, DOCONV_INVALID_ARGUMENT, "row 0"},
        {{sizeof(doconv_table), NULL, 1}, DOCONV_INVALID_ARGUMENT, "NULL"},
        {{sizeof(doconv_table) - 8, same, 2}, DOCONV_MISMATCH, "doconv_table"},
        {{0, same, 2}, DOCONV_MISMATCH, "doconv_table"},
        {{sizeof(doconv_table), same, 2}, DOCONV_OK, ""},
        {{sizeof(doconv_table), falling, 1}, DOCONV_OK, ""},
        {{sizeof(doconv_table), falling, 0}, DOCONV_OK, ""},
        {{sizeof(doconv_table), NULL, 0}, DOCONV_OK, ""},
    };
    char path[FIXTURE_PATH];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        doconv_context_options options = fixture_options(f, "c", path);
        options.table = &cases[i].table;
        doconv_context *ctx;
        fixture_log_clear(f);
        assert_int_equal(doconv_context_create(&options, &ctx), cases[i].status);
        assert_int_equal(f->log.errors, cases[i].status != DOCONV_OK);
        assert_non_null(strstr(f->log.last, cases[i].detail));
        doconv_context_destroy(ctx);
    }
    /* A newer header's table: what this version knows, if the rest is zero. */
    struct {
        doconv_table table;
        size_t unknown;
    } newer = {{sizeof newer, same, 2}, 0};
    doconv_context_options options = fixture_options(f, "c", path);
    options.table = &newer.table;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    doconv_context_destroy(ctx);
    newer.unknown = 1;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_MISMATCH);
    assert_null(ctx);
}

/* ---- the table as C ---- */

struct text {
    char data[65536];
    size_t size;
    int left; /* chunks that are taken */
};

static int add_text(void *user, const char *data, size_t length)
{
    struct text *text = user;
    assert_true(text->size + length < sizeof text->data);
    memcpy(text->data + text->size, data, length);
    text->size += length;
    text->data[text->size] = '\0';
    return text->left-- == 0;
}

static doconv_status write_table(const doconv_entries *entries, const char *name, struct text *text)
{
    text->size = 0;
    text->left = -1;
    return doconv_entries_write_table(entries, name, add_text, text);
}

static struct cache_entry make_entry(const char *key, const char *winner, int64_t time,
                                     const char *second, int64_t second_time)
{
    struct cache_entry e = {.picoseconds = time, .when = FIXTURE_WHEN, .against = "a", .count = 2};
    snprintf(e.key, sizeof e.key, "%s", key);
    snprintf(e.variant, sizeof e.variant, "%s", winner);
    e.measured[0] = (struct cache_measured){.picoseconds = time, .rounds = 5};
    e.measured[1] = (struct cache_measured){.picoseconds = second_time, .rounds = 5};
    snprintf(e.measured[0].variant, sizeof e.measured[0].variant, "%s", winner);
    snprintf(e.measured[1].variant, sizeof e.measured[1].variant, "%s", second);
    return e;
}

static void add_entry(doconv_entries *entries, const char *cpu, const char *isa,
                      struct cache_entry entry)
{
    char manifest[256];
    snprintf(manifest, sizeof manifest, "doconv-cache %d\ncpu %s\nisa %s\n", CACHEFILE_VERSION, cpu,
             isa);
    assert_int_equal(dc_entries_add(entries, manifest, strlen(manifest), &entry), DOCONV_OK);
}

/* The rows of a table, without what stands before and after them. */
static const char *rows_of(struct text *text)
{
    char *start = strstr(text->data, "rows[] = {\n");
    assert_non_null(start);
    char *end = strstr(start, "};\n");
    assert_non_null(end);
    *end = '\0';
    return start + strlen("rows[] = {\n");
}

static void test_rows_in_c(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    assert_int_equal(write_table(entries, NULL, &text), DOCONV_NOT_FOUND);
    /* a: one machine; b: two ISAs; c: two machines, of which one doesn't mind the other's winner;
     * d: likewise, but it was not measured there; e: strings that C reads otherwise. */
    add_entry(entries, "1", "avx2", make_entry("b", "x:2", 10, "x:3", 20));
    add_entry(entries, "1", "avx512", make_entry("b", "x:5", 10, "x:6", 20));
    add_entry(entries, "2", "none", make_entry("a", "x:a", 10, "x:b", 20));
    add_entry(entries, "3", "neon", make_entry("c", "x:a", 10, "x:b", 20));
    add_entry(entries, "4", "neon", make_entry("c", "x:b", 10, "x:a", 11));
    add_entry(entries, "3", "neon", make_entry("d", "x:a", 10, "x:b", 11));
    add_entry(entries, "4", "neon", make_entry("d", "x:b", 10, "x:c", 11));
    add_entry(entries, "5", "later", make_entry("e\"\\\?\?/", "x:%s", 10, "x", 11));
    assert_int_equal(write_table(entries, NULL, &text), DOCONV_OK);
    assert_non_null(strstr(text.data, "const doconv_table tuned_table = {sizeof(doconv_table)"));
    assert_string_equal(rows_of(&text), "    {\"a\",\n     \"x:a\", DOCONV_ISA_NONE},\n"
                                        "    {\"b\",\n     \"x:5\", DOCONV_ISA_AVX512},\n"
                                        "    {\"b\",\n     \"x:2\", DOCONV_ISA_AVX2},\n"
                                        "    {\"c\",\n     \"x:a\", DOCONV_ISA_NEON},\n"
                                        "    {\"d\",\n     \"x:b\", DOCONV_ISA_NEON},\n"
                                        "    {\"e\\\"\\\\\\?\\?/\",\n     \"x:%s\", "
                                        "DOCONV_ISA_DEFAULT},\n");
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

static void test_names_in_c(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    char longest[65];
    memset(longest, 'x', sizeof longest);
    longest[63] = '\0';
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    /* Nothing in the comment ends it or goes on with a line. */
    add_entry(entries, "*/ int evil; /\xff\\?\?/", "none", make_entry("a", "x:a", 1, "x", 2));
    static const char *const good[] = {"a", "_9", "Table_of_2"};
    static const char *const bad[] = {"", "9", "a-b", "a b", "a;", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char line[128];
        snprintf(line, sizeof line, "\nextern const doconv_table %s;\n", good[i]);
        assert_int_equal(write_table(entries, good[i], &text), DOCONV_OK);
        assert_non_null(strstr(text.data, line));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(write_table(entries, bad[i], &text), DOCONV_INVALID_ARGUMENT);
        assert_int_equal(text.size, 0);
    }
    assert_int_equal(write_table(entries, longest, &text), DOCONV_OK);
    const char *end = strstr(text.data, "*/");
    assert_non_null(end);
    assert_ptr_equal(strstr(text.data, "*/\n#include"), end);
    assert_null(memchr(text.data, '\\', (size_t)(end - text.data)));
    assert_null(memchr(text.data, '\xff', (size_t)(end - text.data)));
    longest[63] = 'x';
    longest[64] = '\0';
    assert_int_equal(write_table(entries, longest, &text), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_write_table(NULL, NULL, add_text, &text),
                     DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_write_table(entries, NULL, NULL, &text),
                     DOCONV_INVALID_ARGUMENT);
    for (int taken = 0; taken < 4; taken++) {
        text.size = 0;
        text.left = taken;
        assert_int_equal(doconv_entries_write_table(entries, NULL, add_text, &text),
                         DOCONV_IO_ERROR);
        assert_int_equal(text.left, -1);
    }
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

/* ---- what choices lose elsewhere ---- */

/* The name of the environment of add_entry(). */
static void set_name(const char *cpu, const char *isa, char name[ENTRIES_NAME])
{
    char manifest[256];
    snprintf(manifest, sizeof manifest, "doconv-cache %d\ncpu %s\nisa %s\n", CACHEFILE_VERSION, cpu,
             isa);
    dc_entries_name(manifest, strlen(manifest), name);
}

static void test_regret(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    static const char *const cpus[] = {"1", "2", "3"}, *const isas[] = {"avx2", "avx2", "avx512"};
    char names[3][ENTRIES_NAME];
    for (int i = 0; i < 3; i++) {
        set_name(cpus[i], isas[i], names[i]);
    }
    /* a: the same winner; b: half the speed; c: 0.8 of it, or 0.9 the other way; d: not measured;
     * e: behind by less than the margin; f: faster, but wrong there; g: on one machine alone. */
    static const struct {
        int machine;
        const char *key, *winner;
        int64_t time;
        const char *second;
        int64_t second_time;
    } rows[] = {
        {0, "a", "x:1", 10, "x:2", 20},  {1, "a", "x:1", 70, "x:2", 80},
        {0, "b", "x:1", 10, "x:2", 11},  {1, "b", "x:2", 50, "x:1", 100},
        {0, "c", "x:1", 90, "x:2", 100}, {1, "c", "x:2", 80, "x:1", 100},
        {0, "d", "x:1", 10, "x:2", 20},  {1, "d", "x:3", 10, "x:4", 20},
        {0, "e", "x:1", 10, "x:2", 11},  {1, "e", "x:2", 100, "x:1", 99},
        {0, "f", "x:1", 10, "x:2", 11},  {1, "f", "x:2", 100, "x:1", 50},
        {0, "g", "x:1", 10, "x:2", 20},  {2, "a", "x:1", 10, "x:2", 20},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cache_entry e = make_entry(rows[i].key, rows[i].winner, rows[i].time, rows[i].second,
                                          rows[i].second_time);
        e.measured[1].fate =
            rows[i].key[0] == 'f' && rows[i].machine == 1 ? CACHE_WRONG : CACHE_SLOWER;
        add_entry(entries, cpus[rows[i].machine], isas[rows[i].machine], e);
    }
    static const struct {
        int from, on, problems, known; /* from: -1 for the table of all */
        double share;                  /* the product of what is left of the speed */
        double worst;
        const char *worst_key;
    } cases[] = {
        {0, 0, 7, 7, 1.0, 0.0, "a"},
        {0, 1, 6, 4, 0.5 * 0.8, 0.5, "b"},
        {1, 0, 6, 5, 10.0 / 11 * 0.9 * 10 / 11 * 10 / 11, 0.1, "c"},
        {0, 2, 1, 1, 1.0, 0.0, "a"},
        {2, 0, 1, 0, 1.0, 0.0, ""}, /* a row of AVX-512 is none for AVX2 */
        {2, 1, 1, 0, 1.0, 0.0, ""},
        {-1, 2, 1, 1, 1.0, 0.0, "a"},
        /* b: 2, which costs the first a tenth; c: 2, likewise; d: 1 of equals; e: 1; f: 2 */
        {-1, 0, 7, 7, 10.0 / 11 * 0.9 * 10 / 11, 0.1, "c"},
        {-1, 1, 6, 5, 1.0, 0.0, "a"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        doconv_regret r = {.size = sizeof r};
        assert_int_equal(doconv_entries_regret(entries,
                                               cases[i].from < 0 ? NULL : names[cases[i].from],
                                               names[cases[i].on], &r),
                         DOCONV_OK);
        assert_int_equal(r.problems, cases[i].problems);
        assert_int_equal(r.known, cases[i].known);
        assert_true(fabs(pow(1.0 - r.loss, r.known) - cases[i].share) < 1e-9);
        assert_true(fabs(r.worst - cases[i].worst) < 1e-9);
        assert_string_equal(r.worst_key, cases[i].worst_key);
    }
    doconv_regret r = {.size = sizeof r - 8};
    assert_int_equal(doconv_entries_regret(entries, names[0], names[1], &r), DOCONV_MISMATCH);
    r.size = sizeof r;
    assert_int_equal(doconv_entries_regret(NULL, names[0], names[1], &r), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_regret(entries, "", names[1], &r), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_regret(entries, names[0], NULL, &r), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_entries_regret(entries, names[0], names[1], NULL),
                     DOCONV_INVALID_ARGUMENT);
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    static struct text text;
    struct fixture_failing failing;
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    doconv_entries *entries;
    assert_int_equal(doconv_entries_create(ctx, &entries), DOCONV_OK);
    add_entry(entries, "1", "none", make_entry("a", "x:a", 1, "x", 2));
    const int live = failing.live;
    for (int i = 0; i < 3; i++) {
        failing.calls = 0;
        failing.fail_at = i;
        assert_int_equal(write_table(entries, NULL, &text),
                         i < 2 ? DOCONV_OUT_OF_MEMORY : DOCONV_OK);
        assert_int_equal(failing.live, live);
    }
    doconv_entries_destroy(entries);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_modes),
        WITH_FIXTURE(test_rank),
        WITH_FIXTURE(test_nothing_is_asked),
        WITH_FIXTURE(test_training),
        WITH_FIXTURE(test_unknown_variants),
        WITH_FIXTURE(test_rows_of_a_key),
        WITH_FIXTURE(test_wrong_tables),
        WITH_FIXTURE(test_rows_in_c),
        WITH_FIXTURE(test_names_in_c),
        WITH_FIXTURE(test_regret),
        WITH_FIXTURE(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}

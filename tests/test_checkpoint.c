/* SPDX-License-Identifier: MIT */
/* Folding of safetensors checkpoints: values, what is kept, damaged files, memory. */
#include <math.h>

#include "checkpoint_files.h"

#if WITH_SAFETENSORS

/* Compares a weight with the formula. d, identity: or NULL. */
static void expect_folded(const unsigned char *weight, int cout, int cig, int cin, int taps,
                          int d_mul, doconv_mapping mapping, const void *w, const void *d,
                          const void *identity, bool add_identity)
{
    const int groups = cin / cig, cog = cout / groups;
    for (int o = 0; o < cout; o++) {
        for (int i = 0; i < cig; i++) {
            const int channel = mapping == DOCONV_MAPPING_PYTORCH      ? (o * cig + i) % cin
                                : mapping == DOCONV_MAPPING_TENSORFLOW ? (i * cout + o) / cog
                                                                       : o / cog * cig + i;
            for (int m = 0; m < taps; m++) {
                double sum = 0, size = 0;
                for (int s = 0; s < d_mul; s++) {
                    const size_t at = (size_t)((channel * taps + m) * d_mul + s);
                    double factor = d != NULL ? (double)float_at(d, at) : 1;
                    factor += identity != NULL ? (double)float_at(identity, at) : 0;
                    factor += add_identity && s < d_mul / taps * taps && s % taps == m;
                    const double product =
                        factor * (double)float_at(w, (size_t)((o * cig + i) * d_mul + s));
                    sum += product;
                    size += fabs(product);
                }
                const double seen = (double)float_at(weight, (size_t)((o * cig + i) * taps + m));
                if (!(fabs(seen - sum) <= 1e-6 * size + 1e-12)) {
                    print_error("weight[%d][%d][%d] is %g, must be %g\n", o, i, m, seen, sum);
                    fail();
                }
            }
        }
    }
}

static struct view fold(doconv_context *context, struct bytes file,
                        const doconv_fold_checkpoint_options *options, void **result)
{
    size_t size = 0;
    expect_ok(doconv_fold_checkpoint(context, file.data, file.size, options, result, &size));
    assert_non_null(*result);
    return look(*result, size);
}

static void release(doconv_context *context, struct view *view, void *result)
{
    free(view->header);
    doconv_checkpoint_free(context, result);
}

static const char *const everything[] = {"*"};

/* Options for layers without an identity, and of W alone. */
static doconv_fold_checkpoint_options plain_options(void)
{
    doconv_fold_checkpoint_options options = fold_options();
    options.add_identity = DOCONV_FOLD_IDENTITY_NONE;
    options.only = everything;
    options.only_count = 1;
    return options;
}

/* ---- what is folded ---- */

static void test_network(void **state)
{
    (void)state;
    static struct builder b;
    begin_file(&b, "\"__metadata__\":{\"format\":\"pt\",\"caf\\u00e9\":\"a\\\"b\"}");
    const void *tracked = add_tensor(&b, "bn.num_batches_tracked", "I64", "[]", 8);
    const void *w = add_tensor(&b, "conv.W", "F32", "[4,3,9]", 4 * 3 * 9 * 4),
               *d = add_tensor(&b, "conv.D", "F32", "[3,9,9]", 3 * 9 * 9 * 4);
    const void *identity = add_tensor(&b, "conv.d_diag", "F32", "[3,9,9]", 3 * 9 * 9 * 4);
    const void *bias = add_tensor(&b, "conv.bias", "F32", "[4]", 16);
    /*
     * Grouped; D first in the file; D_mul neither KH*KW nor a multiple; the identity under its
     * older name.
     */
    const void *gd = add_tensor(&b, "layer1.0.g.D", "F32", "[8,4,6]", 8 * 4 * 6 * 4);
    const void *gi = add_tensor(&b, "layer1.0.g.D_diag", "F32", "[8,4,6]", 8 * 4 * 6 * 4);
    const void *gw = add_tensor(&b, "layer1.0.g.W", "F32", "[12,2,6]", 12 * 2 * 6 * 4);
    const void *point = add_tensor(&b, "point.W", "F32", "[5,4,1]", 80);
    /* Not DO-Conv's, in spite of their names. */
    const void *other = add_tensor(&b, "fc.W", "F32", "[2,3]", 24),
               *mamba = add_tensor(&b, "ssm.D", "F32", "[6]", 24);
    const void *low = add_tensor(&b, "xW", "F32", "[1,1,9]", 36);
    const void *half = add_tensor(&b, "half", "BF16", "[3]", 6),
               *foreign = add_tensor(&b, "odd\\n", "Q3", "[7]", 5);
    add_tensor(&b, "none", "F16", "[3,0]", 0);
    const struct bytes file = end_file(&b);
    for (int threads = 1; threads <= 3; threads++) {
        for (int mapping = -1; mapping <= DOCONV_MAPPING_TENSORFLOW; mapping++) {
            const doconv_context_options context_options = {
                .size = sizeof context_options, .threads = threads, .tune = DOCONV_TUNE_OFF};
            doconv_context *context;
            expect_ok(doconv_context_create(&context_options, &context));
            doconv_fold_checkpoint_options options = fold_options();
            const doconv_mapping chosen =
                mapping < 0 ? DOCONV_MAPPING_PYTORCH : (doconv_mapping)mapping;
            options.mapping = &chosen;
            options.only = everything;
            options.only_count = 1;
            void *result;
            struct view view = fold(context, file, mapping < 0 ? NULL : &options, &result);
            expect_folded(expect_tensor(&view, "conv.weight", "F32", "[4,3,3,3]", 432), 4, 3, 3, 9,
                          9, chosen, w, d, identity, false);
            expect_folded(expect_tensor(&view, "layer1.0.g.weight", "F32", "[12,2,2,2]", 384), 12,
                          2, 8, 4, 6, chosen, gw, gd, gi, false);
            /* a W alone is a layer if that is said */
            assert_memory_equal(mapping < 0
                                    ? expect_tensor(&view, "point.W", "F32", "[5,4,1]", 80)
                                    : expect_tensor(&view, "point.weight", "F32", "[5,4,1,1]", 80),
                                point, 80);
            assert_memory_equal(expect_tensor(&view, "bn.num_batches_tracked", "I64", "[]", 8),
                                tracked, 8);
            assert_memory_equal(expect_tensor(&view, "conv.bias", "F32", "[4]", 16), bias, 16);
            assert_memory_equal(expect_tensor(&view, "fc.W", "F32", "[2,3]", 24), other, 24);
            assert_memory_equal(expect_tensor(&view, "ssm.D", "F32", "[6]", 24), mamba, 24);
            assert_memory_equal(expect_tensor(&view, "xW", "F32", "[1,1,9]", 36), low, 36);
            assert_memory_equal(expect_tensor(&view, "half", "BF16", "[3]", 6), half, 6);
            assert_memory_equal(expect_tensor(&view, "odd\\n", "Q3", "[7]", 5), foreign, 5);
            expect_tensor(&view, "none", "F16", "[3,0]", 0);
            assert_ptr_equal(
                strstr(view.header,
                       "{\"__metadata__\":{\"format\":\"pt\",\"caf\xc3\xa9\":\"a\\\"b\"},"),
                view.header);
            assert_int_equal(view.size, 8 + 432 + 16 + 384 + 80 + 24 + 24 + 36 + 6 + 5);
            /* The old order, and nothing that was folded. */
            static const char *const order[] = {
                "bn.num", "\"conv.weight", "\"conv.bias", "g.weight", "point.", "fc.W",
                "ssm.D",  "\"xW",          "half",        "odd",      "none"};
            const char *at = view.header;
            for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
                at = strstr(at, order[i]);
                assert_non_null(at);
            }
            assert_null(strstr(view.header, "diag"));
            assert_null(strstr(view.header, "conv.W"));
            /* Folded once, nothing is left. */
            void *again = &view;
            size_t size = 42;
            expect_status(
                doconv_fold_checkpoint(context, result,
                                       (size_t)(view.data - (unsigned char *)result) + view.size,
                                       NULL, &again, &size),
                DOCONV_NOT_FOUND);
            assert_null(again);
            assert_int_equal(size, 42);
            release(context, &view, result);
            doconv_context_destroy(context);
        }
    }
    free(file.data);
}

/* A module saved by itself, the option that adds the identity, and a file at every alignment. */
static void test_bare(void **state)
{
    (void)state;
    static struct builder b;
    doconv_context *context = open_context();
    begin_file(&b, "");
    const void *w = add_tensor(&b, "W", "F32", "[3,2,9]", 216),
               *d = add_tensor(&b, "D", "F32", "[2,9,9]", 648);
    const struct bytes file = end_file(&b);
    for (size_t shift = 0; shift < 8; shift++) {
        unsigned char *memory = malloc(file.size + shift);
        memcpy(memory + shift, file.data, file.size);
        doconv_fold_checkpoint_options options = fold_options();
        options.add_identity = shift & 1 ? DOCONV_FOLD_IDENTITY_ADD : DOCONV_FOLD_IDENTITY_NONE;
        void *result;
        struct view view =
            fold(context, (struct bytes){memory + shift, file.size}, &options, &result);
        expect_folded(expect_tensor(&view, "weight", "F32", "[3,2,3,3]", 216), 3, 2, 2, 9, 9,
                      DOCONV_MAPPING_PYTORCH, w, d, NULL, shift & 1);
        release(context, &view, result);
        free(memory);
    }
    free(file.data);
    doconv_context_destroy(context);
}

static void test_kernels(void **state)
{
    (void)state;
    static struct builder b;
    doconv_context *context = open_context();
    begin_file(&b, "");
    const void *w = add_tensor(&b, "a.W", "F32", "[2,3,7]", 168),
               *d = add_tensor(&b, "a.D", "F32", "[3,7,7]", 588);
    add_tensor(&b, "b.W", "F32", "[1,1,16]", 64);
    add_tensor(&b, "b.D", "F32", "[1,16,16]", 1024);
    const struct bytes file = end_file(&b);
    doconv_fold_checkpoint_options options = plain_options();
    void *result = NULL;
    size_t size;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "layer a: its 7 taps are no square", NULL);
    doconv_fold_kernel kernels[] = {{"b", 2, 8}, {"a", 7, 1}, {"c", 3, 3}};
    options.kernels = kernels;
    options.kernel_count = 2;
    struct view view = fold(context, file, &options, &result);
    expect_folded(expect_tensor(&view, "a.weight", "F32", "[2,3,7,1]", 168), 2, 3, 3, 7, 7,
                  DOCONV_MAPPING_PYTORCH, w, d, NULL, false);
    expect_tensor(&view, "b.weight", "F32", "[1,1,2,8]", 64);
    release(context, &view, result);
    options.kernel_count = 3;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "no DO-Conv layer is called \"c\"", NULL);
    options.kernel_count = 2;
    static const int64_t wrong[][2] = {{7, 7}, {0, 7}, {-7, -1}, {INT64_MAX, 3}, {3, 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        kernels[1].kh = wrong[i][0];
        kernels[1].kw = wrong[i][1];
        expect_status(
            doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
            DOCONV_INVALID_ARGUMENT);
        expect_error(context, "layer a: ", "the 7 taps of its D");
    }
    kernels[1].name = "b";
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "layer b is there twice", NULL);
    kernels[1].name = NULL;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    options.kernels = NULL;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    free(file.data);
    doconv_context_destroy(context);
}

/* A tensor stays aligned, be it by another order; without need the order stays. */
static void test_alignment(void **state)
{
    (void)state;
    static struct builder b;
    doconv_context *context = open_context();
    const doconv_fold_checkpoint_options options = plain_options();
    for (int odd = 0; odd < 2; odd++) {
        begin_file(&b, "");
        const void *flags = add_tensor(&b, "flags", "BOOL", odd ? "[3]" : "[8]", odd ? 3 : 8);
        const void *w = add_tensor(&b, "W", "F32", "[1,1,9]", 36),
                   *d = add_tensor(&b, "D", "F32", "[1,9,9]", 324);
        const void *steps = add_tensor(&b, "steps", "I64", "[1]", 8);
        const void *half = add_tensor(&b, "half", "F16", "[1]", 2);
        const struct bytes file = end_file(&b);
        void *result;
        struct view view = fold(context, file, &options, &result);
        const unsigned char *weight = expect_tensor(&view, "weight", "F32", "[1,1,3,3]", 36);
        expect_folded(weight, 1, 1, 1, 9, 9, DOCONV_MAPPING_PYTORCH, w, d, NULL, false);
        const unsigned char *out = expect_tensor(&view, "steps", "I64", "[1]", 8);
        assert_memory_equal(out, steps, 8);
        assert_int_equal((uintptr_t)out % 8, 0);
        assert_int_equal((uintptr_t)weight % 4, 0);
        assert_memory_equal(expect_tensor(&view, "half", "F16", "[1]", 2), half, 2);
        assert_memory_equal(expect_tensor(&view, "flags", "BOOL", odd ? "[3]" : "[8]", odd ? 3 : 8),
                            flags, odd ? 3 : 8);
        release(context, &view, result);
        free(file.data);
    }
    /* A header out of order is what older writers left. */
    const struct bytes file =
        make_file("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]},\"e\":{\"dtype\":"
                  "\"U8\",\"shape\":[0],\"data_offsets\":[4,4]},"
                  "\"W\":{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[0,4]}}   ",
                  "\0\0\200?xy", 6);
    void *result;
    struct view view = fold(context, file, &options, &result);
    assert_ptr_equal(expect_tensor(&view, "weight", "F32", "[1,1,1,1]", 4), view.data);
    assert_memory_equal(view.data, "\0\0\200?xy", 6);
    assert_ptr_equal(strstr(view.header, "{\"b\":"), view.header);
    release(context, &view, result);
    free(file.data);
    doconv_context_destroy(context);
}

struct seen {
    int count;
    char text[512];
};

static void note_layer(void *user, const doconv_folded_layer *layer)
{
    struct seen *seen = user;
    const doconv_fold_desc *f = layer->desc;
    assert_int_equal(layer->size, sizeof *layer);
    seen->count++;
    sprintf(seen->text + strlen(seen->text), "%s %d:%d,%d/%d,%dx%d,%d %d%d%d %zu-%zu;", layer->name,
            (int)f->mapping, (int)f->cout, (int)f->cin, (int)f->groups, (int)f->kh, (int)f->kw,
            (int)f->d_mul, layer->has_d, layer->has_identity, f->add_identity, layer->bytes_before,
            layer->bytes_after);
}

static void test_report(void **state)
{
    (void)state;
    static struct builder b;
    doconv_context *context = open_context();
    begin_file(&b, "");
    add_tensor(&b, "z.W", "F32", "[8,2,12]", 768);
    add_tensor(&b, "z.D", "F32", "[4,9,12]", 1728);
    add_tensor(&b, "a.W", "F32", "[1,5,1]", 20);
    add_tensor(&b, "m.W", "F32", "[1,1,4]", 16);
    add_tensor(&b, "m.D", "F32", "[1,4,4]", 64);
    add_tensor(&b, "m.d_diag", "F32", "[1,4,4]", 64);
    const struct bytes file = end_file(&b);
    struct seen seen = {0, ""};
    doconv_fold_checkpoint_options options = plain_options();
    options.report = note_layer;
    options.report_user = &seen;
    options.add_identity = DOCONV_FOLD_IDENTITY_ADD;
    const doconv_mapping mapping = DOCONV_MAPPING_PYTORCH;
    options.mapping = &mapping;
    void *result;
    struct view view = fold(context, file, &options, &result);
    const size_t full = (size_t)(view.data + view.size - (unsigned char *)result);
    assert_int_equal(seen.count, 3);
    const char *expected =
        "z 1:8,4/2,3x3,12 101 2496-576;a 1:1,5/1,1x1,1 000 20-20;m 1:1,1/1,2x2,4 110 144-16;";
    assert_string_equal(seen.text, expected);
    release(context, &view, result);
    /* A dry run tells the same and makes nothing. */
    seen = (struct seen){0, ""};
    options.dry_run = 1;
    size_t size = 0;
    result = &size;
    expect_ok(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size));
    assert_null(result);
    assert_int_equal(size, full);
    assert_string_equal(seen.text, expected);
    free(file.data);
    doconv_context_destroy(context);
}

/* ---- damage ---- */

/* Folds a damaged file: any status, but a result that is a sound file itself. */
static void fold_damaged(doconv_context *context, struct bytes file)
{
    void *result = NULL, *again = NULL;
    size_t size = 0, size_again = 0;
    const doconv_status status =
        doconv_fold_checkpoint(context, file.data, file.size, NULL, &result, &size);
    assert_true(status >= DOCONV_OK && status <= DOCONV_INVALID_FILE);
    assert_int_equal(status == DOCONV_OK, result != NULL);
    if (status == DOCONV_OK) {
        const doconv_status second =
            doconv_fold_checkpoint(context, result, size, NULL, &again, &size_again);
        if (second != DOCONV_NOT_FOUND && second != DOCONV_OK) {
            expect_status(second, DOCONV_OK);
        }
        doconv_checkpoint_free(context, again);
        doconv_checkpoint_free(context, result);
    }
}

static struct bytes small_file(void)
{
    static struct builder b;
    begin_file(&b, "\"__metadata__\":{\"format\":\"pt\"}");
    add_tensor(&b, "n", "I64", "[]", 8);
    add_tensor(&b, "a.W", "F32", "[2,1,4]", 32);
    add_tensor(&b, "a.D", "F32", "[2,4,4]", 128);
    add_tensor(&b, "a.d_diag", "F32", "[2,4,4]", 128);
    add_tensor(&b, "p.W", "F32", "[1,2,1]", 8);
    add_tensor(&b, "h", "F16", "[1]", 2);
    return end_file(&b);
}

static void test_truncated(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const struct bytes file = small_file();
    for (size_t size = 0; size < file.size; size++) {
        struct bytes part = {malloc(size > 0 ? size : 1), size};
        memcpy(part.data, file.data, size);
        void *result = context;
        size_t result_size;
        expect_status(doconv_fold_checkpoint(context, part.data, size, NULL, &result, &result_size),
                      DOCONV_INVALID_FILE);
        assert_null(result);
        free(part.data);
    }
    free(file.data);
    doconv_context_destroy(context);
}

static void test_damaged(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const struct bytes file = small_file();
    for (size_t at = 0; at < file.size; at++) {
        const unsigned char old = file.data[at];
        for (int bit = 0; bit < 8; bit++) {
            file.data[at] = (unsigned char)(old ^ 1 << bit);
            fold_damaged(context, file);
        }
        static const char others[] = "0\"\\{}[],:9-e \n";
        for (size_t i = 0; i < sizeof others; i++) { /* the NUL too */
            file.data[at] = (unsigned char)others[i];
            fold_damaged(context, file);
        }
        file.data[at] = old;
    }
    /* Several at once, and pieces exchanged. */
    uint32_t seed = 1;
    unsigned char *whole = malloc(file.size);
    memcpy(whole, file.data, file.size);
    for (int round = 0; round < 20000; round++) {
        for (int i = 0; i < 1 + round % 4; i++) {
            seed = seed * 1664525u + 1013904223u;
            const size_t from = (seed >> 8) % file.size;
            seed = seed * 1664525u + 1013904223u;
            const size_t to = (seed >> 8) % file.size, length = (seed >> 28) + 1;
            if (from + length <= file.size && to + length <= file.size) {
                memmove(file.data + to, file.data + from, length);
            }
        }
        fold_damaged(context, file);
        memcpy(file.data, whole, file.size);
    }
    free(whole);
    free(file.data);
    doconv_context_destroy(context);
}

/* ---- memory ---- */

struct budget {
    int left; /* allocations that succeed */
    int live;
};

static void *allocate(void *user, size_t size, size_t alignment)
{
    struct budget *budget = user;
    if (budget->left-- <= 0) {
        return NULL;
    }
    budget->live++;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void deallocate(void *user, void *memory)
{
    struct budget *budget = user;
    budget->live--;
    free(memory);
}

static void test_memory(void **state)
{
    (void)state;
    struct budget budget = {1000, 0};
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .allocate = allocate,
                                            .release = deallocate,
                                            .allocate_user = &budget};
    doconv_context *context;
    expect_ok(doconv_context_create(&options, &context));
    const struct bytes file = small_file();
    /*
     * A fold leaves its plan to the next one, three blocks, and the context remembers the choice in
     * two more, if there is memory: it gives them back.
     */
    const int before = budget.live, plan = 3, left = 5;
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    int tries = 0;
    for (; status != DOCONV_OK; tries++) {
        assert_true(tries < 100);
        budget.left = tries;
        void *result = context;
        size_t size;
        status = doconv_fold_checkpoint(context, file.data, file.size, NULL, &result, &size);
        if (status != DOCONV_OK) {
            expect_status(status, DOCONV_OUT_OF_MEMORY);
            assert_null(result);
        } else {
            assert_in_range(budget.live, before + plan + 1, before + left + 1); /* the result */
            doconv_checkpoint_free(context, result);
            assert_in_range(budget.live, before + plan, before + left);
        }
        assert_in_range(budget.live, before, before + left);
    }
    assert_true(tries > 5);
    free(file.data);
    doconv_context_destroy(context);
    assert_int_equal(budget.live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_network), cmocka_unit_test(test_bare),
        cmocka_unit_test(test_kernels), cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_report),  cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_damaged), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_unsupported(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    void *result = context;
    size_t size = 42;
    expect_status(doconv_fold_checkpoint(context, "", 0, NULL, &result, &size), DOCONV_UNSUPPORTED);
    expect_error(context, "without Jansson", NULL);
    assert_null(result);
    assert_int_equal(size, 42);
    doconv_checkpoint_free(context, NULL);
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unsupported)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Programs and libraries of different versions: each public struct, in each function that takes
 * one, as an older and a newer header would have it.
 */
#include <stdalign.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "api_support.h"
#include "base/versioned.h"

#define DETAIL_SIZE 256
#define ROOM 8192 /* more than any size that is accepted */

/* ---- what is read and written, for a version that has a field more ---- */

#define KNOWN(type)                                                                                \
    {                                                                                              \
#type, sizeof(type), dc_smallest_##type                                                    \
    }
static const struct {
    const char *name;
    size_t size, smallest;
} every_struct[] = {
    KNOWN(doconv_context_options),
    KNOWN(doconv_context_info),
    KNOWN(doconv_kernel_info),
    KNOWN(doconv_conv_desc),
    KNOWN(doconv_plan_options),
    KNOWN(doconv_candidate_info),
    KNOWN(doconv_fold_desc),
    KNOWN(doconv_fold_checkpoint_options),
    KNOWN(doconv_training_options),
    KNOWN(doconv_parameters),
    KNOWN(doconv_gradients),
    KNOWN(doconv_tune_options),
    KNOWN(doconv_tune_summary),
    KNOWN(doconv_tune_entry),
    KNOWN(doconv_entry_info),
    KNOWN(doconv_table),
    KNOWN(doconv_regret),
    KNOWN(doconv_network_layer),
    KNOWN(doconv_network_options),
    KNOWN(doconv_network_choice),
    KNOWN(doconv_network_reorder),
    KNOWN(doconv_network_total),
    KNOWN(doconv_network_parse_options),
};
#undef KNOWN
#define STRUCTS (sizeof every_struct / sizeof every_struct[0])

static void set_size(void *bytes, size_t size)
{
    memcpy(bytes, &size, sizeof size);
}

static size_t size_of(const void *bytes)
{
    size_t size;
    memcpy(&size, bytes, sizeof size);
    return size;
}

static bool all_are(const unsigned char *bytes, size_t count, int value)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static void test_reading(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    for (size_t i = 0; i < STRUCTS; i++) {
        const size_t old = every_struct[i].size;
        /* The library knows two fields more than the first version had. */
        const struct dc_struct known = {every_struct[i].name, old + 16, old};
        alignas(16) unsigned char from[ROOM], to[ROOM];
        for (size_t size = old; size <= old + 40; size += 8) {
            memset(from, 0x5a, sizeof from);
            memset(to, 0xa5, sizeof to);
            memset(from + known.size, 0, size > known.size ? size - known.size : 0);
            set_size(from, size);
            expect_ok(dc_read_struct(context, &known, from, to));
            assert_int_equal(size_of(to), known.size);
            const size_t common = size < known.size ? size : known.size;
            assert_true(all_are(to + sizeof size, common - sizeof size, 0x5a));
            assert_true(all_are(to + common, known.size - common, 0));
            assert_true(all_are(to + known.size, sizeof to - known.size, 0xa5));
            /* A byte of the unknown. */
            for (size_t byte = known.size; byte < size; byte++) {
                from[byte] = 1;
                expect_status(dc_read_struct(context, &known, from, to), DOCONV_MISMATCH);
                expect_error(context, known.name, "not zero");
                from[byte] = 0;
            }
        }
        expect_ok(dc_read_struct(context, &known, NULL, to));
        assert_int_equal(size_of(to), known.size);
        assert_true(all_are(to + sizeof(size_t), known.size - sizeof(size_t), 0));
    }
    doconv_context_destroy(context);
}

static void test_writing(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    for (size_t i = 0; i < STRUCTS; i++) {
        const size_t old = every_struct[i].size;
        const struct dc_struct known = {every_struct[i].name, old + 16, old};
        alignas(16) unsigned char from[ROOM], to[ROOM];
        memset(from, 0x5a, sizeof from);
        set_size(from, known.size);
        for (size_t size = old; size <= old + 40; size += 8) {
            memset(to, 0xa5, sizeof to);
            expect_ok(dc_write_struct(context, &known, from, to, size));
            assert_int_equal(size_of(to), size);
            const size_t common = size < known.size ? size : known.size;
            assert_true(all_are(to + sizeof size, common - sizeof size, 0x5a));
            assert_true(all_are(to + common, size - common, 0));
            assert_true(all_are(to + size, sizeof to - size, 0xa5));
        }
        memset(to, 0xa5, sizeof to);
        expect_status(dc_write_struct(context, &known, from, to, old - 8), DOCONV_MISMATCH);
        expect_error(context, known.name, "size");
        assert_true(all_are(to, sizeof to, 0xa5));
    }
    doconv_context_destroy(context);
}

/* The sizes of version 0.1 are what the structs had there, whatever was added since. */
static void test_smallest(void **state)
{
    (void)state;
    for (size_t i = 0; i < STRUCTS; i++) {
        assert_true(every_struct[i].smallest <= every_struct[i].size);
        assert_int_equal(every_struct[i].smallest % sizeof(size_t), 0);
        assert_true(every_struct[i].size < DC_LARGEST_STRUCT / 2);
    }
}

/* ---- each struct through each function ---- */

#define PROBLEM "mb1_ic4ih5oc4kh3ph1"

/* What the calls need beside the struct in question. */
struct world {
    doconv_context *context;
    doconv_conv_desc desc;
    doconv_plan *plan;
    doconv_candidates *list;
    doconv_training *training;
    doconv_tune_report *report; /* NULL in a build without tuner */
    const char *reference;      /* the reference kernel's name */
    float tensors[8][1024];
    void *workspace;
    size_t workspace_size;
};

static void open_world(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->context = open_context();
    w->desc = problem(PROBLEM);
    expect_ok(doconv_plan_create(w->context, &w->desc, NULL, &w->plan));
    expect_ok(doconv_candidates_create(w->context, &w->desc, NULL, &w->list));
    expect_ok(doconv_training_create(w->context, &w->desc, NULL, &w->training));
    w->workspace_size = doconv_training_workspace_size(w->training);
    w->workspace = malloc(w->workspace_size + 1);
    for (int i = 0; i < doconv_kernel_count(w->context); i++) {
        doconv_kernel_info info = {.size = sizeof info};
        expect_ok(doconv_kernel_get(w->context, i, &info));
        if (strcmp(info.operation, "reference") == 0) {
            w->reference = info.name;
        }
    }
    /* One variant: measured at once, and never stored. */
    const doconv_plan_options plan_options = {.size = sizeof plan_options, .variant = w->reference};
    const doconv_tune_options options = {.size = sizeof options, .budget_seconds = 1e-3};
    const doconv_status status =
        doconv_tune(w->context, &w->desc, &plan_options, &options, &w->report);
    assert_true(status == DOCONV_OK || status == DOCONV_UNSUPPORTED);
}

static void close_world(struct world *w)
{
    free(w->workspace);
    doconv_tune_report_destroy(w->report);
    doconv_training_destroy(w->training);
    doconv_candidates_destroy(w->list);
    doconv_plan_destroy(w->plan);
    doconv_context_destroy(w->context);
}

static void fill_context_options(void *s)
{
    *(doconv_context_options *)s = (doconv_context_options){
        .size = sizeof(doconv_context_options), .threads = 1, .tune = DOCONV_TUNE_OFF};
}

static doconv_status call_context_create(struct world *w, void *s)
{
    (void)w;
    doconv_context *context = NULL;
    const doconv_status status = doconv_context_create(s, &context);
    doconv_context_destroy(context);
    return status;
}

static void fill_desc(void *s)
{
    *(doconv_conv_desc *)s = problem(PROBLEM);
}

static doconv_status call_dst_shape(struct world *w, void *s)
{
    int64_t shape[4];
    return doconv_conv_dst_shape(w->context, s, shape);
}

static doconv_status call_format(struct world *w, void *s)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    return doconv_conv_desc_format(w->context, s, text, sizeof text);
}

static doconv_status make_plan(struct world *w, const doconv_conv_desc *desc,
                               const doconv_plan_options *options)
{
    doconv_plan *plan = NULL;
    const doconv_status status = doconv_plan_create(w->context, desc, options, &plan);
    doconv_plan_destroy(plan);
    return status;
}

static doconv_status make_candidates(struct world *w, const doconv_conv_desc *desc,
                                     const doconv_plan_options *options)
{
    doconv_candidates *list = NULL;
    const doconv_status status = doconv_candidates_create(w->context, desc, options, &list);
    doconv_candidates_destroy(list);
    return status;
}

static doconv_status make_training(struct world *w, const doconv_conv_desc *desc,
                                   const doconv_training_options *options)
{
    doconv_training *training = NULL;
    const doconv_status status = doconv_training_create(w->context, desc, options, &training);
    doconv_training_destroy(training);
    return status;
}

static doconv_status tune(struct world *w, const doconv_conv_desc *desc,
                          const doconv_plan_options *plan_options,
                          const doconv_tune_options *options)
{
    doconv_tune_report *report = NULL;
    const doconv_status status = doconv_tune(w->context, desc, plan_options, options, &report);
    doconv_tune_report_destroy(report);
    return status;
}

static doconv_status call_plan_of_desc(struct world *w, void *s)
{
    return make_plan(w, s, NULL);
}

static doconv_status call_candidates_of_desc(struct world *w, void *s)
{
    return make_candidates(w, s, NULL);
}

static doconv_status call_training_of_desc(struct world *w, void *s)
{
    return make_training(w, s, NULL);
}

static doconv_status call_tune_of_desc(struct world *w, void *s)
{
    const doconv_plan_options plan_options = {.size = sizeof plan_options, .variant = w->reference};
    const doconv_tune_options options = {.size = sizeof options, .budget_seconds = 1e-3};
    return tune(w, s, &plan_options, &options);
}

static void fill_plan_options(void *s)
{
    *(doconv_plan_options *)s =
        (doconv_plan_options){.size = sizeof(doconv_plan_options), .rigor = DOCONV_RIGOR_ESTIMATE};
}

static doconv_status call_plan_of_options(struct world *w, void *s)
{
    ((doconv_plan_options *)s)->variant = w->reference;
    return make_plan(w, &w->desc, s);
}

static doconv_status call_candidates_of_options(struct world *w, void *s)
{
    ((doconv_plan_options *)s)->variant = w->reference;
    return make_candidates(w, &w->desc, s);
}

static doconv_status call_tune_of_plan_options(struct world *w, void *s)
{
    ((doconv_plan_options *)s)->variant = w->reference;
    const doconv_tune_options options = {.size = sizeof options, .budget_seconds = 1e-3};
    return tune(w, &w->desc, s, &options);
}

static void fill_tune_options(void *s)
{
    *(doconv_tune_options *)s =
        (doconv_tune_options){.size = sizeof(doconv_tune_options), .budget_seconds = 1e-3};
}

static doconv_status call_tune_of_options(struct world *w, void *s)
{
    const doconv_plan_options plan_options = {.size = sizeof plan_options, .variant = w->reference};
    return tune(w, &w->desc, &plan_options, s);
}

static void fill_training_options(void *s)
{
    *(doconv_training_options *)s = (doconv_training_options){
        .size = sizeof(doconv_training_options), .rigor = DOCONV_RIGOR_ESTIMATE};
}

static doconv_status call_training_of_options(struct world *w, void *s)
{
    return make_training(w, &w->desc, s);
}

static void fill_fold_desc(void *s)
{
    *(doconv_fold_desc *)s = (doconv_fold_desc){.size = sizeof(doconv_fold_desc),
                                                .cout = 4,
                                                .cin = 4,
                                                .kh = 3,
                                                .kw = 3,
                                                .groups = 1,
                                                .d_mul = 9};
}

static doconv_status call_fold(struct world *w, void *s)
{
    return doconv_fold(w->context, s, w->tensors[0], w->tensors[1], w->tensors[2]);
}

static doconv_status call_fold_gradient(struct world *w, void *s)
{
    return doconv_fold_gradient(w->context, s, w->tensors[0], w->tensors[1], w->tensors[2],
                                w->tensors[3], w->tensors[4]);
}

static doconv_status call_weights_fold(struct world *w, void *s)
{
    doconv_weights *weights = NULL;
    const doconv_status status =
        doconv_weights_fold(w->plan, s, w->tensors[0], w->tensors[1], NULL, &weights);
    doconv_weights_destroy(weights);
    return status;
}

static void fill_checkpoint_options(void *s)
{
    *(doconv_fold_checkpoint_options *)s = (doconv_fold_checkpoint_options){
        .size = sizeof(doconv_fold_checkpoint_options), .dry_run = 1};
}

/* Read, whatever follows: a file of no bytes is none. */
static doconv_status call_fold_checkpoint(struct world *w, void *s)
{
    void *result;
    size_t size;
    const doconv_status status = doconv_fold_checkpoint(w->context, "", 0, s, &result, &size);
    return status == DOCONV_INVALID_FILE || status == DOCONV_UNSUPPORTED ? DOCONV_OK : status;
}

static void fill_parameters(void *s)
{
    static const float weight[4 * 4 * 9];
    *(doconv_parameters *)s =
        (doconv_parameters){.size = sizeof(doconv_parameters), .weight = weight};
}

static doconv_status call_forward(struct world *w, void *s)
{
    return doconv_training_forward(w->training, s, w->tensors[0], w->tensors[1], NULL, w->workspace,
                                   w->workspace_size);
}

static doconv_status call_backward_of_parameters(struct world *w, void *s)
{
    const doconv_gradients gradients = {.size = sizeof gradients, .src = w->tensors[2]};
    return doconv_training_backward(w->training, s, w->tensors[0], w->tensors[1], NULL, &gradients,
                                    w->workspace, w->workspace_size);
}

static void fill_gradients(void *s)
{
    static float src[1024];
    *(doconv_gradients *)s = (doconv_gradients){.size = sizeof(doconv_gradients), .src = src};
}

static doconv_status call_backward_of_gradients(struct world *w, void *s)
{
    doconv_parameters parameters;
    fill_parameters(&parameters);
    return doconv_training_backward(w->training, &parameters, w->tensors[0], w->tensors[1], NULL, s,
                                    w->workspace, w->workspace_size);
}

static doconv_status call_context_info(struct world *w, void *s)
{
    return doconv_context_get_info(w->context, s);
}

static doconv_status call_kernel_get(struct world *w, void *s)
{
    return doconv_kernel_get(w->context, 0, s);
}

static doconv_status call_candidates_get(struct world *w, void *s)
{
    return doconv_candidates_get(w->list, 0, s);
}

static doconv_status call_summary(struct world *w, void *s)
{
    return doconv_tune_report_summary(w->report, s);
}

static doconv_status call_entry(struct world *w, void *s)
{
    return doconv_tune_report_get(w->report, 0, s);
}

/* The two that are told a size beside the struct. */
static doconv_status call_init(struct world *w, void *s)
{
    (void)w;
    return doconv_conv_desc_init_sized(s, size_of(s));
}

static doconv_status call_parse(struct world *w, void *s)
{
    return doconv_conv_desc_parse_sized(w->context, PROBLEM, s, size_of(s));
}

struct row {
    const char *function, *name;
    size_t size;
    doconv_status (*call)(struct world *w, void *s);
    void (*fill)(void *s); /* NULL: an output struct */
    bool tuner, no_detail; /* no_detail: the function has no context then */
};
#define OUTPUT(function_, type)                                                                    \
    .function = #function_, .name = #type, .size = sizeof(type), .call = function_
#define INPUT(function_, type, fill_) OUTPUT(function_, type), .fill = fill_
static const struct row rows[] = {
    {INPUT(call_context_create, doconv_context_options, fill_context_options), .no_detail = true},
    {INPUT(call_dst_shape, doconv_conv_desc, fill_desc)},
    {INPUT(call_format, doconv_conv_desc, fill_desc)},
    {INPUT(call_plan_of_desc, doconv_conv_desc, fill_desc)},
    {INPUT(call_candidates_of_desc, doconv_conv_desc, fill_desc)},
    {INPUT(call_training_of_desc, doconv_conv_desc, fill_desc)},
    {INPUT(call_tune_of_desc, doconv_conv_desc, fill_desc), .tuner = true},
    {INPUT(call_plan_of_options, doconv_plan_options, fill_plan_options)},
    {INPUT(call_candidates_of_options, doconv_plan_options, fill_plan_options)},
    {INPUT(call_tune_of_plan_options, doconv_plan_options, fill_plan_options), .tuner = true},
    {INPUT(call_tune_of_options, doconv_tune_options, fill_tune_options), .tuner = true},
    {INPUT(call_training_of_options, doconv_training_options, fill_training_options)},
    {INPUT(call_fold, doconv_fold_desc, fill_fold_desc)},
    {INPUT(call_fold_gradient, doconv_fold_desc, fill_fold_desc)},
    {INPUT(call_weights_fold, doconv_fold_desc, fill_fold_desc)},
    {INPUT(call_fold_checkpoint, doconv_fold_checkpoint_options, fill_checkpoint_options)},
    {INPUT(call_forward, doconv_parameters, fill_parameters)},
    {INPUT(call_backward_of_parameters, doconv_parameters, fill_parameters)},
    {INPUT(call_backward_of_gradients, doconv_gradients, fill_gradients)},
    {OUTPUT(call_context_info, doconv_context_info)},
    {OUTPUT(call_kernel_get, doconv_kernel_info)},
    {OUTPUT(call_candidates_get, doconv_candidate_info)},
    {OUTPUT(call_summary, doconv_tune_summary), .tuner = true},
    {OUTPUT(call_entry, doconv_tune_entry), .tuner = true},
    {OUTPUT(call_init, doconv_conv_desc), .no_detail = true},
    {OUTPUT(call_parse, doconv_conv_desc)},
};

static size_t smallest_of(const struct row *row)
{
    for (size_t i = 0; i < STRUCTS; i++) {
        if (strcmp(every_struct[i].name, row->name) == 0) {
            return every_struct[i].smallest;
        }
    }
    fail_msg("%s is missing in every_struct", row->name);
    return 0;
}

static void expect_call(struct world *w, const struct row *row, void *s, doconv_status expected)
{
    const size_t size = size_of(s);
    const doconv_status status = row->call(w, s);
    char text[DETAIL_SIZE];
    expect_ok(doconv_context_last_error(w->context, text, sizeof text));
    if (status != expected) {
        fail_msg("%s with %zu bytes of %zu: %s: %s", row->function, size, row->size,
                 doconv_status_string(status), text);
    }
    if (status == DOCONV_MISMATCH && !row->no_detail) {
        expect_error(w->context, row->name, "size");
    }
}

static void expect_wrong_sizes(struct world *w, const struct row *row, unsigned char *bytes)
{
    const size_t sizes[] = {0,
                            1,
                            sizeof(size_t),
                            smallest_of(row) - 8,
                            row->size - 1,
                            row->size + 1,
                            DC_LARGEST_STRUCT + 8,
                            ROOM * 1024,
                            SIZE_MAX - 7,
                            SIZE_MAX};
    unsigned char before[ROOM];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        set_size(bytes, sizes[i]);
        memcpy(before, bytes, ROOM);
        expect_call(w, row, bytes, DOCONV_MISMATCH);
        assert_true(row->fill != NULL || memcmp(bytes, before, ROOM) == 0);
    }
}

static void expect_input(struct world *w, const struct row *row, unsigned char *bytes)
{
    for (size_t size = smallest_of(row); size <= row->size + 40; size += 8) {
        memset(bytes, 0, ROOM);
        row->fill(bytes);
        memset(bytes + size, 0x5a, ROOM - size); /* what lies behind a struct is no part of it */
        set_size(bytes, size);
        expect_call(w, row, bytes, DOCONV_OK);
        for (size_t byte = row->size; byte < size; byte += 7) {
            bytes[byte] = 1;
            expect_call(w, row, bytes, DOCONV_MISMATCH);
            bytes[byte] = 0;
        }
    }
}

static void expect_output(struct world *w, const struct row *row, unsigned char *bytes)
{
    for (size_t size = smallest_of(row); size <= row->size + 40; size += 8) {
        memset(bytes, 0xa5, ROOM);
        set_size(bytes, size);
        expect_call(w, row, bytes, DOCONV_OK);
        assert_int_equal(size_of(bytes), size);
        if (size > row->size) {
            assert_true(all_are(bytes + row->size, size - row->size, 0));
        }
        assert_true(all_are(bytes + size, ROOM - size, 0xa5));
    }
}

static void test_functions(void **state)
{
    (void)state;
    static struct world w;
    open_world(&w);
    alignas(16) static unsigned char bytes[ROOM];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].tuner && w.report == NULL) {
            continue;
        }
        if (rows[i].fill != NULL) {
            expect_input(&w, &rows[i], bytes);
        } else {
            expect_output(&w, &rows[i], bytes);
        }
        expect_wrong_sizes(&w, &rows[i], bytes);
    }
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_smallest),
        cmocka_unit_test(test_functions),
    };
    return cmocka_run_group_tests_name("versions", tests, NULL, NULL) != 0;
}

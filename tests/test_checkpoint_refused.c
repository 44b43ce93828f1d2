/* SPDX-License-Identifier: MIT */
/* Checkpoints that are not folded: malformed files, layers that don't fit, bad arguments. */
#include "checkpoint_files.h"

static void count_layer(void *user, const doconv_folded_layer *layer)
{
    (void)layer;
    ++*(int *)user;
}

static void refuse(doconv_context *context, struct bytes file, doconv_status status,
                   const char *detail)
{
    void *result = context;
    size_t size = 42;
    int layers = 0;
    doconv_fold_checkpoint_options options = fold_options();
    static const char *const everything[] = {"*"}; /* each W is said to be a layer's */
    options.only = everything;
    options.only_count = 1;
    options.add_identity = DOCONV_FOLD_IDENTITY_NONE;
    options.report = count_layer;

    options.report_user = &layers;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  status);
    expect_error(context, "checkpoint: ", detail);
    assert_null(result);
    assert_int_equal(size, 42);
    assert_int_equal(layers, 0);
}

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"
#define F32(name, shape, begin, end) T(name, "F32", shape, begin, end)

/* Headers that are wrong, with how many bytes of data follow. */
static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *detail;
    } rows[] = {
        {"", 0, "no JSON object"},
        {"[]", 0, "no JSON object"},
        {" {}", 0, "no JSON object"},
        {"{", 0, "header, byte"},
        {"{}x", 0, "header, byte"},
        {"{}{}", 0, "header, byte"},
        {"{\"a\"}", 0, "header, byte"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},}", 1, "header, byte"},
        {"{\"a\xff\":1}", 0, "unable to decode byte"},
        {"{\"a\xc0\x80\":1}", 0, "unable to decode byte"},
        {"{\"a\xed\xa0\x80\":1}", 0, "unable to decode byte"},
        {"{\"\\ud800\":1}", 0, "header, byte"},
        {"{\"a\\u0000b\":1}", 0, "header, byte"},
        {"{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2,
         "duplicate object key near '\"a\"'"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "duplicate object key near '\"dtype\"'"},
        {"{\"a\":[[[1]]]}", 0, "nests deeper"},
        {"{\"a\":{\"shape\":[{}]}}", 0, "nests deeper"},
        {"{\"]]]]\\\"]\":[[[1]]]}", 0, "nests deeper"},
        {"{\"a\":null}", 0, "tensor a: it is described by no object"},
        {"{\"a\":[]}", 0, "tensor a: it is described by no object"},
        {"{\"a\":{}}", 0, "tensor a: it has no dtype"},
        {"{\"a\":{\"dtype\":1}}", 0, "tensor a: it has a dtype that is no text"},
        {"{\"a\":{\"dtype\":\"U8\"}}", 0, "tensor a: it has no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":3}}", 0, "tensor a: it has a shape that is no array"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor a: it has no data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", 1,
         "tensor a: data_offsets: not two whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
         "tensor a: data_offsets: not two whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}}}", 1,
         "tensor a: data_offsets: not two whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1,
         "tensor a: its description has more"},
        {"{" T("a", "U8", "[-1]", 0, 1) "}", 1, "tensor a: shape: dimension 0 is no whole number"},
        {"{" T("a", "U8", "[1,1.0]", 0, 1) "}", 1,
         "tensor a: shape: dimension 1 is no whole number"},
        {"{" T("a", "U8", "[1e0]", 0, 1) "}", 1, "tensor a: shape: dimension 0 is no whole number"},
        {"{" T("a", "U8", "[\"1\"]", 0, 1) "}", 1,
         "tensor a: shape: dimension 0 is no whole number"},
        {"{" T("a", "U8", "[true]", 0, 1) "}", 1,
         "tensor a: shape: dimension 0 is no whole number"},
        {"{" T("a", "U8", "[9223372036854775808]", 0, 1) "}", 1, "header, byte"},
        {"{" T("a", "U8", "[99999999999999999999999999]", 0, 1) "}", 1, "header, byte"},
        {"{" T("a", "U8", "[1]", 0, 18446744073709551617) "}", 1, "header, byte"},
        {"{" T("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0,
         "tensor a: shape: it has more than 2^64 elements"},
        {"{" T("a", "U8", "[9223372036854775807,2,2]", 0, 0) "}", 0,
         "tensor a: shape: it has more than 2^64 elements"},
        {"{" T("a", "I64", "[2305843009213693952]", 0, 0) "}", 0,
         "tensor a: data_offsets: 0 bytes are not the 2305843009213693952 elements"},
        {"{" T("a", "I64", "[288230376151711744]", 0, 0) "}", 0,
         "tensor a: data_offsets: 0 bytes are not"},
        {"{" T("a", "U8", "[1]", 1, 0) "}", 1,
         "tensor a: data_offsets: 1 to 0 is no part of the 1 bytes"},
        {"{" T("a", "U8", "[2]", 0, 2) "}", 1,
         "tensor a: data_offsets: 0 to 2 is no part of the 1 bytes"},
        {"{" T("a", "U8", "[1]", -1, 0) "}", 1, "tensor a: data_offsets: not two whole numbers"},
        {"{" T("a", "U8", "[1]", 9223372036854775806, 9223372036854775807) "}", 1,
         "tensor a: data_offsets: 9223372036854775806 to"},
        {"{" T("a", "F32", "[3]", 0, 8) "}", 8,
         "tensor a: data_offsets: 8 bytes are not the 3 elements of type F32"},
        {"{" T("a", "F4", "[3]", 0, 1) "}", 1,
         "tensor a: data_offsets: 1 bytes are not the 3 elements of type F4"},
        {"{" T("a", "F32", "[]", 0, 8) "}", 8,
         "tensor a: data_offsets: 8 bytes are not the 1 elements"},
        {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", 3,
         "tensor b: data_offsets: it overlaps a"},
        {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 0, 2) "}", 2,
         "data_offsets: it overlaps"},
        {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[1]", 1, 2) "," T("c", "U8", "[1]", 2,
                                                                           3) "}",
         3, "tensor b: data_offsets: it overlaps a"},
        {"{" T("b", "U8", "[2]", 3, 5) "," T("a", "U8", "[2]", 0, 2) "}", 5,
         "tensor b: data_offsets: a hole of 1 bytes"},
        {"{" T("a", "U8", "[2]", 1, 3) "}", 3, "tensor a: data_offsets: a hole of 1 bytes"},
        {"{" T("a", "U8", "[2]", 0, 2) "}", 3, "1 bytes after the last tensor"},
        {"{}", 3, "3 bytes after the last tensor"},
        {"{\"__metadata__\":[]}", 0, "__metadata__: it is no object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: a is no text"},
        {"{\"\\u001b[31m\\u009b\\u007f\":1}", 0, "tensor ?[31m???: it is described"},
    };
    doconv_context *context = open_context();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct bytes file = make_file(rows[i].header, NULL, rows[i].data);
        refuse(context, file, DOCONV_INVALID_FILE, rows[i].detail);
        free(file.data);
    }
    /* The header's length. */
    static const uint64_t lengths[] = {3,
                                       4,
                                       100,
                                       100000001,
                                       UINT64_C(1) << 32,
                                       UINT64_C(1) << 63,
                                       UINT64_MAX - 8,
                                       UINT64_MAX - 7,
                                       UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const struct bytes file = make_file("{}", NULL, 0);
        for (int k = 0; k < 8; k++) {
            file.data[k] = (unsigned char)(lengths[i] >> 8 * k);
        }
        refuse(context, file, DOCONV_INVALID_FILE, "more than the 2 bytes that follow");
        free(file.data);
    }
    /* What users have instead. */
    static const struct {
        const char *begin, *detail;
    } others[] = {{"PK\3\4 torch's own", "a zip archive, as torch.save() writes"},
                  {"\x80\2\x8a\nlFPickle", "a pickle, as older torch.save() writes"},
                  {"\x80\5\x95\nlFPickle", "safetensors.torch.save_file()"},
                  {"\x89HDF\r\n\x1a\n", "an HDF5 file"},
                  {"{\"weight_map\":{}}", "the index of a checkpoint in shards"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const struct bytes other = {(unsigned char *)strdup(others[i].begin),
                                    strlen(others[i].begin)};
        refuse(context, other, DOCONV_INVALID_FILE, others[i].detail);
        free(other.data);
    }
    /* Longer than allowed although it is there. */
    const size_t huge = 100000001;
    struct bytes file = {calloc(1, huge + 8), huge + 8};
    if (file.data != NULL) {
        for (int k = 0; k < 8; k++) {
            file.data[k] = (unsigned char)((uint64_t)huge >> 8 * k);
        }
        refuse(context, file, DOCONV_INVALID_FILE,
               "more than the 100000000 that the format allows");
        free(file.data);
    }
    /* Brackets enough to empty a stack, and a name longer than any message. */
    char *header = malloc(1 << 20);
    memset(header, '[', 1 << 20);
    memcpy(header, "{\"a\":", 5);
    header[(1 << 20) - 1] = '\0';
    file = make_file(header, NULL, 0);
    refuse(context, file, DOCONV_INVALID_FILE, "nests deeper");
    free(file.data);
    memset(header, 'x', 1 << 20);
    memcpy(header, "{\"", 2);
    for (size_t i = 2; i + 16 < 1 << 20; i += 2) {
        memcpy(header + i, "\xc3\xa9", 2);
    }
    strcpy(header + (1 << 20) - 16, "\":1}");
    file = make_file(header, NULL, 0);
    refuse(context, file, DOCONV_INVALID_FILE, "\xc3\xa9...: it is described");
    free(file.data);
    free(header);
    doconv_context_destroy(context);
}

/* Sound files whose layers do not fit together. */
static void test_misfits(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        doconv_status status;
        const char *detail;
    } rows[] = {
        {"{}", 0, DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("weight", "[1]", 0, 4) "}", 4, DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("a.W", "[2,2]", 0, 16) "}", 16, DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "}", 16, DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "," F32("b.D", "[1,4,4]", 16, 80) "}", 80,
         DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("b.D", "[1,4,4]", 0, 64) "}", 64, DOCONV_NOT_FOUND, "no DO-Conv layer"},
        {"{" F32("b.D", "[1,4,4]", 0, 64) "," F32("b.d_diag", "[1,4,4]", 64, 128) "}", 128,
         DOCONV_INVALID_FILE, "tensor b.D: its W is missing"},
        {"{" F32("b.D", "[1,4,4]", 0, 64) "," F32("b.W_g", "[1]", 64, 68) "}", 68,
         DOCONV_INVALID_FILE, "tensor b.D: its W is stored as b.W_g, by weight"},
        {"{" F32("b.parametrizations.W.original", "[1]", 64, 68) "," F32("b.D", "[1,4,4]", 0,
                                                                         64) "}",
         68, DOCONV_INVALID_FILE, "its W is stored as b.parametrizations.W.original, by"},
        {"{" F32("conv/W:0", "[1]", 0, 4) "}", 4, DOCONV_NOT_FOUND, "names with '/' are Tensor"},
        {"{" F32("conv0_W", "[1]", 0, 4) "}", 4, DOCONV_NOT_FOUND, "are Gluon's"},
        {"{" F32("a.d_diag", "[1]", 0, 4) "}", 4, DOCONV_INVALID_FILE,
         "tensor a.d_diag: its W is missing"},
        {"{" F32("a.D_diag", "[1]", 0, 4) "}", 4, DOCONV_INVALID_FILE,
         "tensor a.D_diag: its W is missing"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.d_diag", "[1,1,1]", 4, 8) "}", 8,
         DOCONV_INVALID_FILE, "tensor a.W: its D is missing"},
        {"{" F32("a.W", "[1,4]", 0, 16) "," F32("a.D", "[1,4,4]", 16, 80) "}", 80,
         DOCONV_INVALID_FILE, "tensor a.W: 2 dimensions"},
        {"{" F32("a.W", "[1,1,1,1,4]", 0, 16) "," F32("a.D", "[1,4,4]", 16, 80) "}", 80,
         DOCONV_INVALID_FILE, "tensor a.W: 5 dimensions"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "," F32("a.D", "[4,4]", 16, 80) "}", 80,
         DOCONV_INVALID_FILE, "tensor a.D: 2 dimensions"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "," F32("a.D", "[4]", 16, 32) "}", 32,
         DOCONV_INVALID_FILE, "tensor a.D: 1 dimensions"},
        {"{" F32("a.W", "[1,0,4]", 0, 0) "," F32("a.D", "[1,4,4]", 0, 64) "}", 64,
         DOCONV_INVALID_FILE, "tensor a.W: dimension 1 is 0"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "," F32("a.D", "[1,0,4]", 16, 16) "}", 16,
         DOCONV_INVALID_FILE, "tensor a.D: dimension 1 is 0"},
        {"{" F32("a.W", "[1,1,3]", 0, 12) "," F32("a.D", "[1,4,4]", 12, 76) "}", 76,
         DOCONV_INVALID_FILE, "tensor a.D: its D_mul is 4, and W's 3"},
        {"{" F32("a.W", "[1,2,1]", 0, 8) "," F32("a.D", "[3,4,1]", 8, 56) "}", 56,
         DOCONV_INVALID_FILE, "tensor a.D: no number of groups"},
        {"{" F32("a.W", "[1,2,1]", 0, 8) "," F32("a.D", "[1,4,1]", 8, 24) "}", 24,
         DOCONV_INVALID_FILE, "tensor a.D: no number of groups"},
        {"{" F32("a.W", "[3,1,1]", 0, 12) "," F32("a.D", "[2,4,1]", 12, 44) "}", 44,
         DOCONV_INVALID_FILE, "tensor a.D: no number of groups"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.D", "[1,4,1]", 4,
                                                 20) "," F32("a.d_diag", "[1,1,4]", 20, 36) "}",
         36, DOCONV_INVALID_FILE, "tensor a.d_diag: its shape is not that of D, 1x4x1"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.D", "[1,4,1]", 4, 20) "," F32("a.d_diag", "[4]",
                                                                                  20, 36) "}",
         36, DOCONV_INVALID_FILE, "tensor a.d_diag: 1 dimensions"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.D", "[1,1,1]", 4, 8) "," F32(
             "a.d_diag", "[1,1,1]", 8, 12) "," F32("a.D_diag", "[1,1,1]", 12, 16) "}",
         16, DOCONV_INVALID_FILE, "tensor a.D_diag: a.d_diag is there too"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.weight", "[1]", 4, 8) "}", 8,
         DOCONV_INVALID_FILE, "tensor a.weight: it is there already"},
        {"{" F32("W", "[1,1,1]", 0, 4) "," T("weight", "U8", "[]", 4, 5) "}", 5,
         DOCONV_INVALID_FILE, "tensor weight: it is there already"},
        {"{" T("a.W", "I16", "[1,1,4]", 0, 8) "," F32("a.D", "[1,4,4]", 8, 72) "}", 72,
         DOCONV_UNSUPPORTED, "tensor a.W: type I16"},
        {"{" F32("a.W", "[1,1,4]", 0, 16) "," T("a.D", "C64", "[1,4,4]", 16, 144) "}", 144,
         DOCONV_UNSUPPORTED, "tensor a.D: type C64"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.D", "[1,1,1]", 4,
                                                 8) "," T("a.d_diag", "U16", "[1,1,1]", 8, 10) "}",
         10, DOCONV_UNSUPPORTED, "tensor a.d_diag: type U16"},
        {"{" T("a.W", "Q7", "[1,1,1]", 0, 4) "}", 4, DOCONV_UNSUPPORTED, "tensor a.W: type Q7"},
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("a.D", "[1,2,1]", 4, 12) "}", 12,
         DOCONV_INVALID_ARGUMENT, "layer a: its 2 taps are no square"},
        /* The first layer is good: nothing of it is left. */
        {"{" F32("a.W", "[1,1,1]", 0, 4) "," F32("b.W", "[1,2]", 4, 12) "," F32("b.D", "[1,4,4]",
                                                                                12, 76) "}",
         76, DOCONV_INVALID_FILE, "tensor b.W: 2 dimensions"},
    };
    doconv_context *context = open_context();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct bytes file = make_file(rows[i].header, NULL, rows[i].data);
        refuse(context, file, rows[i].status, rows[i].detail);
        free(file.data);
    }
    doconv_context_destroy(context);
}

static void test_arguments(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const struct bytes file = make_file("{" F32("W", "[1,1,1]", 0, 4) "}", NULL, 4);
    void *result = NULL;
    size_t size = 0;
    expect_status(doconv_fold_checkpoint(NULL, file.data, file.size, NULL, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_fold_checkpoint(context, NULL, file.size, NULL, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, NULL, NULL, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, NULL, &result, NULL),
                  DOCONV_INVALID_ARGUMENT);
    doconv_fold_checkpoint_options options = fold_options();
    options.size--;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_MISMATCH);
    options = fold_options();
    options.dry_run = 2;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    options = fold_options();
    options.add_identity = 3;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    options = fold_options();
    const doconv_mapping none = (doconv_mapping)3;
    options.mapping = &none;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "mapping: 3", NULL);
    options = fold_options();
    options.rename = "weight";
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "has no {name}", NULL);
    options = fold_options();
    options.type = DOCONV_FOLD_F64 + 1;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    options = fold_options();
    options.exclude_count = 1;
    expect_status(doconv_fold_checkpoint(context, file.data, file.size, &options, &result, &size),
                  DOCONV_INVALID_ARGUMENT);
    doconv_checkpoint_free(context, NULL);
    doconv_checkpoint_free(NULL, NULL);
    free(file.data);
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_misfits),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

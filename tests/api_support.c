/* SPDX-License-Identifier: MIT */
#include "api_support.h"

#include <unistd.h>

void expect_status_at(doconv_status seen, doconv_status expected, const char *call,
                      const char *file, int line)
{
    if (seen != expected) {
        print_error("%s:\n    gives %d (%s), must give %d (%s)\n", call, (int)seen,
                    doconv_status_string(seen), (int)expected, doconv_status_string(expected));
        _fail(file, line);
    }
}

void expect_error_at(const doconv_context *context, const char *first, const char *second,
                     const char *file, int line)
{
    char text[512] = "";
    if (doconv_context_last_error(context, text, sizeof text) != DOCONV_OK || text[0] == '\0' ||
        (first != NULL && strstr(text, first) == NULL) ||
        (second != NULL && strstr(text, second) == NULL)) {
        print_error("the last error is \"%s\", must contain \"%s\" and \"%s\"\n", text,
                    first != NULL ? first : "", second != NULL ? second : "");
        _fail(file, line);
    }
}

doconv_context *open_context(void)
{
    const doconv_context_options options = {
        .size = sizeof options, .threads = 1, .tune = DOCONV_TUNE_OFF};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

doconv_conv_desc problem(const char *text)
{
    doconv_conv_desc desc;
    expect_ok(doconv_conv_desc_parse(NULL, text, &desc));
    return desc;
}

doconv_plan_options plan_options(void)
{
    return (doconv_plan_options){.size = sizeof(doconv_plan_options)};
}

static float *integers(size_t bytes, unsigned seed)
{
    float *values = malloc(bytes);
    assert_non_null(values);
    for (size_t i = 0; i < bytes / sizeof *values; i++) {
        seed = seed * 1103515245u + 12345u;
        values[i] = (float)(int)(seed >> 16 & 7) - 3.0f;
    }
    return values;
}

struct tensors tensors_for(const doconv_conv_desc *desc)
{
    struct tensors t = {0};
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, desc, shape));
    expect_ok(
        doconv_tensor_bytes(desc->src_layout, desc->n, desc->cin, desc->h, desc->w, &t.src_bytes));
    expect_ok(doconv_tensor_bytes(desc->dst_layout, shape[0], shape[1], shape[2], shape[3],
                                  &t.dst_bytes));
    t.src = integers(t.src_bytes, 1);
    t.weight = integers(
        (size_t)(desc->cout * (desc->cin / desc->groups) * desc->kh * desc->kw) * sizeof(float), 2);
    t.bias = desc->has_bias ? integers((size_t)desc->cout * sizeof(float), 3) : NULL;
    t.residual = desc->residual ? integers(t.dst_bytes, 4) : NULL;
    t.dst = integers(t.dst_bytes, 5);
    return t;
}

void free_tensors(struct tensors *t)
{
    free(t->src);
    free(t->weight);
    free(t->bias);
    free(t->residual);
    free(t->dst);
    *t = (struct tensors){0};
}

size_t capture_stderr(void (*body)(void *arg), void *arg, char *text, size_t size)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    const int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    body(arg);
    fflush(stderr);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    fseek(file, 0, SEEK_END);
    const long length = ftell(file);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
    return length > 0 ? (size_t)length : 0;
}

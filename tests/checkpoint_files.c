/* SPDX-License-Identifier: MIT */
#include "checkpoint_files.h"

struct bytes make_file(const char *header, const void *data, size_t size)
{
    const size_t length = strlen(header);
    struct bytes file = {malloc(8 + length + size), 8 + length + size};
    assert_non_null(file.data);
    for (int i = 0; i < 8; i++) {
        file.data[i] = (unsigned char)((uint64_t)length >> 8 * i);
    }
    memcpy(file.data + 8, header, length);
    if (size > 0 && data != NULL) {
        memcpy(file.data + 8 + length, data, size);
    } else {
        memset(file.data + 8 + length, 0, size);
    }
    return file;
}

void begin_file(struct builder *b, const char *metadata)
{
    b->length = (size_t)sprintf(b->header, "{%s", metadata);
    b->size = 0;
    b->seed = 7;
}

void *add_tensor(struct builder *b, const char *name, const char *dtype, const char *shape,
                 size_t bytes)
{
    b->length +=
        (size_t)sprintf(b->header + b->length,
                        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                        b->length > 1 ? "," : "", name, dtype, shape, b->size, b->size + bytes);
    unsigned char *data = b->data + b->size;
    b->size += bytes;
    assert_true(b->size <= sizeof b->data && b->length < sizeof b->header);
    const bool floats = strcmp(dtype, "F32") == 0;
    for (size_t i = 0; i < bytes; i += floats ? 4 : 1) {
        b->seed = b->seed * 1103515245u + 12345u;
        const float value = (float)(int)(b->seed >> 16 & 1023) / 512.0f - 1.0f;
        if (floats) {
            memcpy(data + i, &value, sizeof value);
        } else {
            data[i] = (unsigned char)(b->seed >> 20);
        }
    }
    return data;
}

struct bytes end_file(struct builder *b)
{
    strcpy(b->header + b->length, "}");
    return make_file(b->header, b->data, b->size);
}

doconv_fold_checkpoint_options fold_options(void)
{
    return (doconv_fold_checkpoint_options){.size = sizeof(doconv_fold_checkpoint_options)};
}

struct view look(const void *result, size_t size)
{
    const unsigned char *bytes = result;
    assert_true(size >= 8);
    size_t length = 0;
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    assert_true(length <= size - 8 && length % 8 == 0);
    struct view view = {malloc(length + 1), bytes + 8 + length, size - 8 - length};
    memcpy(view.header, bytes + 8, length);
    view.header[length] = '\0';
    return view;
}

const unsigned char *expect_tensor(const struct view *view, const char *name, const char *dtype,
                                   const char *shape, size_t bytes)
{
    char text[256];
    snprintf(text, sizeof text, "\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[", name,
             dtype, shape);
    const char *at = strstr(view->header, text);
    if (at == NULL) {
        print_error("%s lacks %s\n", view->header, text);
        fail();
        return NULL;
    }
    size_t begin, end;
    assert_int_equal(sscanf(at + strlen(text), "%zu,%zu", &begin, &end), 2);
    assert_true(begin <= end && end <= view->size);
    assert_int_equal(end - begin, bytes);
    return view->data + begin;
}

float float_at(const void *data, size_t i)
{
    float value;
    memcpy(&value, (const unsigned char *)data + i * sizeof value, sizeof value);
    return value;
}

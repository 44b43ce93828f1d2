/* SPDX-License-Identifier: MIT */
#include "base/context.h"
#include "base/log.h"
#include "checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#define LENGTH_BYTES 8
#define MAX_HEADER ((uint64_t)100 * 1000 * 1000) /* what the format's own library allows */
#define MAX_DEPTH 3                              /* file, tensor, shape */
#define METADATA "__metadata__"

static const struct {
    const char *name;
    unsigned bits; /* of an element */
} types[] = {{"F64", 64},        {"F32", 32},       {"F16", 16},    {"BF16", 16},   {"I64", 64},
             {"I32", 32},        {"I16", 16},       {"I8", 8},      {"U64", 64},    {"U32", 32},
             {"U16", 16},        {"U8", 8},         {"BOOL", 8},    {"C64", 64},    {"F4", 4},
             {"F6_E2M3", 6},     {"F6_E3M2", 6},    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
             {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}};

#define FAIL(ctx, ...) dc_fail(ctx, DOCONV_INVALID_FILE, "checkpoint: " __VA_ARGS__)
#define FAIL_TENSOR(ctx, tensor, format, ...)                                                      \
    FAIL(ctx, "tensor %s: " format, dc_show((tensor)->name).text, __VA_ARGS__)

static doconv_status out_of_memory(doconv_context *ctx)
{
    return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for the header");
}

/* ---- reading ---- */

/*
 * Whether brackets nest deeper than any tensor's description. The JSON parser calls itself for
 * each, up to 2048 times: more than a small thread's stack may hold. Up to the first error in the
 * text, where the parser stops, this sees the same brackets and strings.
 */
static bool is_deep(const char *text, size_t size)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        const char c = text[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH) {
                return true;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return false;
}

/* An integer of at least 0; -1 for anything else. */
static int64_t count_of(const json_t *json)
{
    return json_is_integer(json) && json_integer_value(json) >= 0
               ? (int64_t)json_integer_value(json)
               : -1;
}

static doconv_status read_shape(doconv_context *ctx, const json_t *shape, struct dc_tensor *t,
                                uint64_t *elements)
{
    if (!json_is_array(shape)) {
        return FAIL_TENSOR(ctx, t, "it has %s",
                           shape == NULL ? "no shape" : "a shape that is no array");
    }
    *elements = 1;
    t->rank = json_array_size(shape);
    for (size_t i = 0; i < t->rank; i++) {
        const int64_t dimension = count_of(json_array_get(shape, i));
        if (dimension < 0) {
            return FAIL_TENSOR(ctx, t, "shape: dimension %zu is no whole number", i);
        }
        if (__builtin_mul_overflow(*elements, (uint64_t)dimension, elements)) {
            return FAIL_TENSOR(ctx, t,
                               "shape: it has more than 2^64 elements, from dimension %zu on", i);
        }
        if (i < DC_TENSOR_RANK) {
            t->shape[i] = dimension;
        }
    }
    return DOCONV_OK;
}

static doconv_status read_tensor(doconv_context *ctx, const json_t *json, size_t data_size,
                                 struct dc_tensor *t)
{
    if (!json_is_object(json)) {
        return FAIL_TENSOR(ctx, t, "it is described by %s", "no object");
    }
    const json_t *dtype = json_object_get(json, "dtype"), *shape = json_object_get(json, "shape"),
                 *offsets = json_object_get(json, "data_offsets");
    t->json = json;
    t->dtype = json_string_value(dtype);
    if (t->dtype == NULL || strlen(t->dtype) != json_string_length(dtype)) {
        return FAIL_TENSOR(ctx, t, "it has %s",
                           dtype == NULL ? "no dtype" : "a dtype that is no text");
    }
    uint64_t elements = 0;
    const doconv_status status = read_shape(ctx, shape, t, &elements);
    if (status != DOCONV_OK) {
        return status;
    }
    const int64_t begin = count_of(json_array_get(offsets, 0)),
                  end = count_of(json_array_get(offsets, 1));
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || begin < 0 || end < 0) {
        return FAIL_TENSOR(ctx, t, "%s",
                           offsets == NULL ? "it has no data_offsets"
                                           : "data_offsets: not two whole numbers");
    }
    if (json_object_size(json) != 3) {
        return FAIL_TENSOR(ctx, t, "%s",
                           "its description has more than dtype, shape and data_offsets");
    }
    if (begin > end || (uint64_t)end > data_size) {
        return FAIL_TENSOR(
            ctx, t, "data_offsets: %" PRId64 " to %" PRId64 " is no part of the %zu bytes of data",
            begin, end, data_size);
    }
    t->begin = (size_t)begin;
    t->size = (size_t)(end - begin);
    t->element_bytes = 1;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(t->dtype, types[i].name) == 0) {
            uint64_t bits;
            if (__builtin_mul_overflow(elements, (uint64_t)types[i].bits, &bits) || bits % 8 != 0 ||
                bits / 8 != t->size) {
                return FAIL_TENSOR(ctx, t,
                                   "data_offsets: %zu bytes are not the %" PRIu64
                                   " elements of type %s that its shape has",
                                   t->size, elements, t->dtype);
            }
            t->element_bytes = types[i].bits >= 8 ? types[i].bits / 8 : 1;
        }
    }
    return DOCONV_OK;
}

/* null stands for none, as the format's own library reads it. */
static doconv_status check_metadata(doconv_context *ctx, json_t *metadata)
{
    if (json_is_null(metadata)) {
        return DOCONV_OK;
    }
    if (!json_is_object(metadata)) {
        return FAIL(ctx, METADATA ": it is no object");
    }
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value)) {
            return FAIL(ctx, METADATA ": %s is no text", dc_show(key).text);
        }
    }
    return DOCONV_OK;
}

static int compare_names(const void *a, const void *b)
{
    const struct dc_tensor *left = *(struct dc_tensor *const *)a,
                           *right = *(struct dc_tensor *const *)b;
    return strcmp(left->name, right->name);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct dc_tensor *left = *(struct dc_tensor *const *)a,
                           *right = *(struct dc_tensor *const *)b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    if (left->size != right->size) {
        return left->size < right->size ? -1 : 1; /* an empty one before its neighbour */
    }
    return left < right ? -1 : left > right;
}

/* Each byte of the data belongs to one tensor. */
static doconv_status check_cover(doconv_context *ctx, const struct dc_safetensors *file)
{
    size_t at = 0;
    for (size_t i = 0; i < file->count; i++) {
        const struct dc_tensor *t = file->by_offset[i];
        if (t->begin < at) {
            return FAIL_TENSOR(ctx, t, "data_offsets: it overlaps %s",
                               dc_show(file->by_offset[i - 1]->name).text);
        }
        if (t->begin > at) {
            return FAIL_TENSOR(ctx, t, "data_offsets: a hole of %zu bytes before it",
                               t->begin - at);
        }
        at += t->size;
    }
    if (at != file->data_size) {
        return FAIL(ctx, "%zu bytes after the last tensor", file->data_size - at);
    }
    return DOCONV_OK;
}

static doconv_status read_tensors(doconv_context *ctx, struct dc_safetensors *file)
{
    const size_t most = json_object_size(file->json) + 1;
    file->tensors = dc_alloc(ctx, most * sizeof *file->tensors);
    file->by_name = dc_alloc(ctx, most * sizeof *file->by_name);
    file->by_offset = dc_alloc(ctx, most * sizeof *file->by_offset);
    if (file->tensors == NULL || file->by_name == NULL || file->by_offset == NULL) {
        return out_of_memory(ctx);
    }
    const char *name;
    json_t *json;
    json_object_foreach(file->json, name, json)
    {
        struct dc_tensor *t = &file->tensors[file->count];
        doconv_status status;
        if (strcmp(name, METADATA) == 0) {
            status = check_metadata(ctx, json);
            file->metadata = json_is_null(json) ? NULL : json;
        } else {
            *t = (struct dc_tensor){.name = name};
            status = read_tensor(ctx, json, file->data_size, t);
            t->bytes = file->data + t->begin;
            file->by_name[file->count] = file->by_offset[file->count] = t;
            file->count++;
        }
        if (status != DOCONV_OK) {
            return status;
        }
    }
    qsort(file->by_name, file->count, sizeof *file->by_name, compare_names);
    qsort(file->by_offset, file->count, sizeof *file->by_offset, compare_offsets);
    return check_cover(ctx, file);
}

/* What else users have, by its first bytes; NULL: unknown. No header is that long. */
static const char *other_format(const unsigned char *bytes)
{
    if (memcmp(bytes, "PK\3\4", 4) == 0) {
        return "it is a zip archive, as torch.save() writes (.pth, .pt, .ckpt)";
    }
    if (bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5) {
        return "it is a pickle, as older torch.save() writes (.pth, .pt, .ckpt)";
    }
    return memcmp(bytes, "\211HDF", 4) == 0 ? "it is an HDF5 file, as Keras writes" : NULL;
}

doconv_status dc_json_read(doconv_context *ctx, const char *text, size_t size, const char *what,
                           void **json)
{
    if (size == 0 || text[0] != '{') {
        return FAIL(ctx, "the %s is no JSON object", what);
    }
    if (is_deep(text, size)) {
        return FAIL(ctx, "the %s nests deeper than the description of a tensor", what);
    }
    json_error_t error;
    *json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (*json == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory) {
            return out_of_memory(ctx);
        }
        return FAIL(ctx, "the %s, byte %d: %s", what, error.position, dc_show(error.text).text);
    }
    return DOCONV_OK;
}

static doconv_status read_header(doconv_context *ctx, const unsigned char *bytes, size_t size,
                                 struct dc_safetensors *file)
{
    if (size < LENGTH_BYTES) {
        return FAIL(ctx, "%zu bytes are no safetensors file", size);
    }
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    if (length > size - LENGTH_BYTES) {
        const char *other = other_format(bytes);
        return other != NULL
                   ? FAIL(ctx,
                          "%s, no safetensors file: save the state_dict with "
                          "safetensors.torch.save_file(), or fold it with the Python package's "
                          "doconv.fold_file(), which reads .pth and .ckpt too",
                          other)
                   : FAIL(ctx,
                          "the header's length, %" PRIu64
                          ", is more than the %zu bytes that follow: truncated, or no safetensors "
                          "file",
                          length, size - LENGTH_BYTES);
    }
    if (length > MAX_HEADER) {
        return FAIL(ctx,
                    "the header's length, %" PRIu64 ", is more than the %" PRIu64
                    " that the format allows",
                    length, MAX_HEADER);
    }
    const char *header = (const char *)bytes + LENGTH_BYTES;
    file->data = bytes + LENGTH_BYTES + length;
    file->data_size = size - LENGTH_BYTES - (size_t)length;
    return dc_json_read(ctx, header, (size_t)length, "header", &file->json);
}

doconv_status dc_safetensors_read(doconv_context *ctx, const void *bytes, size_t size,
                                  struct dc_safetensors *file)
{
    *file = (struct dc_safetensors){.json = NULL};
    doconv_status status = read_header(ctx, bytes, size, file);
    if (status == DOCONV_OK) {
        status = read_tensors(ctx, file);
    }
    if (status != DOCONV_OK) {
        dc_safetensors_free(ctx, file);
    }
    return status;
}

void dc_safetensors_free(doconv_context *ctx, struct dc_safetensors *file)
{
    dc_free(ctx, file->tensors);
    dc_free(ctx, file->by_name);
    dc_free(ctx, file->by_offset);
    json_decref(file->json);
    *file = (struct dc_safetensors){.json = NULL};
}

/* Moves other's tensors behind file's in one of the lists of pointers. */
static void join(struct dc_tensor **to, struct dc_tensor *const *first, size_t count,
                 const struct dc_tensor *tensors, struct dc_tensor *moved)
{
    for (size_t i = 0; i < count; i++) {
        to[i] = moved + (first[i] - tensors);
    }
}

bool dc_safetensors_take(doconv_context *ctx, struct dc_safetensors *file,
                         struct dc_safetensors *other)
{
    const size_t most = file->count + other->count + 1;
    struct dc_safetensors both = {
        .json = file->json != NULL ? json_incref(file->json) : json_array(),
        .metadata = file->metadata != NULL ? file->metadata : other->metadata,
        .tensors = dc_alloc(ctx, most * sizeof *both.tensors),
        .by_name = dc_alloc(ctx, most * sizeof *both.by_name),
        .by_offset = dc_alloc(ctx, most * sizeof *both.by_offset),
        .count = file->count + other->count,
    };
    if (both.tensors == NULL || both.by_name == NULL || both.by_offset == NULL ||
        json_array_append(both.json, other->json) != 0) {
        dc_safetensors_free(ctx, &both);
        return false;
    }
    const struct dc_safetensors *parts[] = {file, other};
    size_t at = 0;
    for (int i = 0; i < 2; i++) {
        const size_t count = parts[i]->count;
        if (count > 0) {
            memcpy(both.tensors + at, parts[i]->tensors, count * sizeof *both.tensors);
        }
        join(both.by_name + at, parts[i]->by_name, count, parts[i]->tensors, both.tensors + at);
        join(both.by_offset + at, parts[i]->by_offset, count, parts[i]->tensors, both.tensors + at);
        at += count;
    }
    qsort(both.by_name, both.count, sizeof *both.by_name, compare_names);
    dc_safetensors_free(ctx, file);
    dc_safetensors_free(ctx, other);
    *file = both;
    return true;
}

struct dc_tensor *dc_safetensors_find(const struct dc_safetensors *file, const char *name)
{
    const struct dc_tensor key = {.name = name};
    const struct dc_tensor *wanted = &key;
    struct dc_tensor **found =
        bsearch(&wanted, file->by_name, file->count, sizeof *file->by_name, compare_names);
    return found != NULL ? *found : NULL;
}

/* ---- writing ---- */

/*
 * Gives each tensor that is written the place after *at, in the old order; of one element size,
 * unless that is 0. False if *at overflows.
 */
static bool place(const struct dc_safetensors *file, size_t element_bytes, size_t *at,
                  bool *aligned)
{
    for (size_t i = 0; i < file->count; i++) {
        struct dc_tensor *t = file->by_offset[i];
        const size_t width = t->replaced ? t->new_element_bytes : t->element_bytes;
        if (t->dropped || (element_bytes != 0 && width != element_bytes)) {
            continue;
        }
        t->new_size = t->replaced ? t->new_size : t->size;
        t->new_begin = *at;
        *aligned = *aligned && *at % width == 0;
        if (__builtin_add_overflow(*at, t->new_size, at)) {
            return false;
        }
    }
    return true;
}

/*
 * Readers make arrays of the data where it lies: each tensor must be aligned, so wider elements
 * come first where the old order fails.
 */
static bool place_all(const struct dc_safetensors *file, size_t *data_size)
{
    bool aligned = true;
    *data_size = 0;
    bool fits = place(file, 0, data_size, &aligned);
    if (fits && !aligned) {
        *data_size = 0;
        for (size_t width = sizeof(uint64_t); width > 0; width /= 2) {
            fits = fits && place(file, width, data_size, &aligned);
        }
    }
    return fits;
}

static json_t *describe(const struct dc_tensor *t)
{
    const json_int_t begin = (json_int_t)t->new_begin,
                     end = (json_int_t)(t->new_begin + t->new_size);
    if (t->replaced) {
        const int64_t *shape = t->new_shape;
        return json_pack("{s:s,s:[I,I,I,I],s:[I,I]}", "dtype", t->new_dtype, "shape",
                         (json_int_t)shape[0], (json_int_t)shape[1], (json_int_t)shape[2],
                         (json_int_t)shape[3], "data_offsets", begin, end);
    }
    return json_pack("{s:s,s:O,s:[I,I]}", "dtype", t->dtype, "shape",
                     json_object_get(t->json, "shape"), "data_offsets", begin, end);
}

/* The new header; NULL if out of memory. */
static json_t *make_header(const struct dc_safetensors *file)
{
    json_t *header = json_object();
    bool made = header != NULL;
    if (made && file->metadata != NULL) {
        made = json_object_set(header, METADATA, file->metadata) == 0;
    }
    for (size_t i = 0; i < file->count && made; i++) {
        const struct dc_tensor *t = &file->tensors[i];
        made =
            t->dropped || json_object_set_new(header, t->new_name != NULL ? t->new_name : t->name,
                                              describe(t)) == 0;
    }
    if (!made) {
        json_decref(header);
        return NULL;
    }
    return header;
}

doconv_status dc_safetensors_write(doconv_context *ctx, struct dc_safetensors *file, void **result,
                                   size_t *size, unsigned char **data)
{
    size_t data_size = 0, total = 0;
    if (!place_all(file, &data_size) || data_size > PTRDIFF_MAX) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "checkpoint: the folded one is larger than memory can be");
    }
    json_t *header = make_header(file);
    const size_t text = header != NULL ? json_dumpb(header, NULL, 0, JSON_COMPACT) : 0;
    doconv_status status = DOCONV_OK;
    /* The data begins at a multiple of 8; blanks after the header fill up. */
    const size_t length = (text + 7) / 8 * 8;
    if (text == 0) {
        status = out_of_memory(ctx);
    } else if (length > MAX_HEADER ||
               __builtin_add_overflow(LENGTH_BYTES + length, data_size, &total) ||
               total > PTRDIFF_MAX) {
        status = dc_fail(ctx, DOCONV_OVERFLOW,
                         "checkpoint: the folded one is larger than the format or memory allow");
    } else {
        *size = total;
    }
    if (status == DOCONV_OK && result != NULL) {
        unsigned char *out = dc_alloc(ctx, total);
        if (out == NULL) {
            status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY,
                             "checkpoint: out of memory for the folded one, %zu bytes", total);
        } else {
            for (int i = 0; i < LENGTH_BYTES; i++) {
                out[i] = (unsigned char)((uint64_t)length >> 8 * i);
            }
            memset(out + LENGTH_BYTES, ' ', length);
            *result = out;
            *data = out + LENGTH_BYTES + length;
            if (json_dumpb(header, (char *)out + LENGTH_BYTES, text, JSON_COMPACT) != text) {
                dc_free(ctx, out);
                *result = NULL;
                status = out_of_memory(ctx);
            }
        }
    }
    json_decref(header);
    for (size_t i = 0; i < file->count && status == DOCONV_OK && result != NULL; i++) {
        const struct dc_tensor *t = &file->tensors[i];
        if (!t->dropped && !t->replaced && t->size > 0) {
            memcpy(*data + t->new_begin, t->bytes, t->size);
        }
    }
    return status;
}

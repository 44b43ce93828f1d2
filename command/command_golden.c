/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* strsep */
#include "command_golden.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_TEXT_BYTES ((size_t)16 << 20)
#define MAX_DATA_BYTES ((size_t)256 << 20)
#define MAX_CASES 4096
#define MAX_TENSORS 16 /* of one case */
#define MAX_RANK 4

enum parameter {
    N,
    CI,
    H,
    W,
    CO,
    KH,
    KW,
    SH,
    SW,
    PT,
    PL,
    PB,
    PR,
    DH,
    DW,
    GROUPS,
    RELU,
    BIAS,
    D_MUL,
    IDENTITY,
    GRAD,
    PARAMETERS
};

static const struct {
    const char *name;
    int64_t least, most;
    bool needed; /* by kind=conv, and so by kind=doconv, which needs all but grad */
} parameters[PARAMETERS] = {
    [N] = {"n", 1, INT32_MAX, true},
    [CI] = {"ci", 1, INT32_MAX, true},
    [H] = {"h", 1, INT32_MAX, true},
    [W] = {"w", 1, INT32_MAX, true},
    [CO] = {"co", 1, INT32_MAX, true},
    [KH] = {"kh", 1, INT32_MAX, true},
    [KW] = {"kw", 1, INT32_MAX, true},
    [SH] = {"sh", 1, INT32_MAX, true},
    [SW] = {"sw", 1, INT32_MAX, true},
    [PT] = {"pt", 0, INT32_MAX, true},
    [PL] = {"pl", 0, INT32_MAX, true},
    [PB] = {"pb", 0, INT32_MAX, true},
    [PR] = {"pr", 0, INT32_MAX, true},
    [DH] = {"dh", 1, INT32_MAX, true},
    [DW] = {"dw", 1, INT32_MAX, true},
    [GROUPS] = {"groups", 1, INT32_MAX, true},
    [RELU] = {"relu", 0, 1, true},
    [BIAS] = {"bias", 0, 1, true},
    [D_MUL] = {"d_mul", 0, INT32_MAX, false},
    [IDENTITY] = {"identity", 0, 1, false},
    [GRAD] = {"grad", 0, 1, false},
};

struct tensor {
    char name[16];
    int line, rank;
    int64_t shape[MAX_RANK];
    const float *data;
    size_t floats;
};

/* The case that is being read: its parameters and tensors until it is complete. */
struct reader {
    const char *path;
    struct golden *golden;
    char *error;
    size_t error_size;
    int line;
    int capacity;
    struct golden_case *current;
    int64_t value[PARAMETERS];
    char mapping[16]; /* "" if the case names none */
    struct tensor tensors[MAX_TENSORS];
    int tensor_count;
};

__attribute__((format(printf, 3, 4))) static int fail(char *error, size_t size, const char *format,
                                                      ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error, size, format, args);
    va_end(args);
    return -1;
}

/* A message about a line of cases.tsv. */
#define FAIL_LINE(r, number, format, ...)                                                          \
    fail((r)->error, (r)->error_size, "%s: line %d: " format, (r)->path, number, __VA_ARGS__)

/* ---- files ---- */

/* The whole file with a NUL after it, or NULL with a message. */
static char *read_file(const char *path, size_t most, size_t *size, char *error, size_t error_size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail(error, error_size, "%s: %s", path, strerror(errno));
        return NULL;
    }
    struct stat status;
    char *data = NULL;
    if (fstat(fileno(file), &status) != 0 || !S_ISREG(status.st_mode)) {
        fail(error, error_size, "%s: not a regular file", path);
    } else if (status.st_size < 0 || (uintmax_t)status.st_size > most) {
        fail(error, error_size, "%s: %jd bytes, more than the %zu allowed", path,
             (intmax_t)status.st_size, most);
    } else if ((data = malloc((size_t)status.st_size + 1)) == NULL) {
        fail(error, error_size, "%s: out of memory", path);
    } else {
        *size = (size_t)status.st_size;
        if (fread(data, 1, *size, file) != *size) {
            fail(error, error_size, "%s: %s", path,
                 ferror(file) ? "cannot be read" : "shrank while being read");
            free(data);
            data = NULL;
        } else {
            data[*size] = '\0';
        }
    }
    fclose(file);
    return data;
}

static int read_data(const char *path, struct golden *g, char *error, size_t error_size)
{
    size_t bytes;
    unsigned char *data =
        (unsigned char *)read_file(path, MAX_DATA_BYTES, &bytes, error, error_size);
    if (data == NULL) {
        return -1;
    }
    if (bytes % sizeof(float) != 0) {
        free(data);
        return fail(error, error_size, "%s: %zu bytes are no whole number of floats", path, bytes);
    }
    g->floats = bytes / sizeof(float);
    g->data = malloc(bytes + 1);
    if (g->data == NULL) {
        free(data);
        return fail(error, error_size, "%s: out of memory", path);
    }
    for (size_t i = 0; i < g->floats; i++) {
        const unsigned char *b = data + i * sizeof(float);
        const uint32_t word =
            b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy(&g->data[i], &word, sizeof word);
    }
    free(data);
    return 0;
}

/* ---- words ---- */

static bool read_number(const char *text, int64_t most, int64_t *value)
{
    *value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        const int64_t digit = *at - '0';
        if (*value > (most - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return at != text && *at == '\0';
}

/* Names are printed: letters, digits, '_', '.', '-' only. */
static bool copy_name(char *name, size_t size, const char *text)
{
    const size_t length = strlen(text);
    if (length == 0 || length >= size ||
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") !=
            length) {
        return false;
    }
    memcpy(name, text, length + 1);
    return true;
}

/*
 * "2x16x9x9"; rank and the product of the dimensions follow from it. False if a dimension is none
 * or the product over most.
 */
static bool read_shape(char *text, struct tensor *tensor, size_t most)
{
    size_t product = 1;
    char *rest = text;
    tensor->rank = 0;
    for (char *word; (word = strsep(&rest, "x")) != NULL; tensor->rank++) {
        int64_t dimension;
        if (tensor->rank == MAX_RANK || !read_number(word, INT32_MAX, &dimension) ||
            dimension < 1 || (uint64_t)dimension > most / product) {
            return false;
        }
        tensor->shape[tensor->rank] = dimension;
        product *= (size_t)dimension;
    }
    tensor->floats = product;
    return true;
}

/* ---- a complete case ---- */

static const struct tensor *find_tensor(const struct reader *r, const char *name)
{
    for (int i = 0; i < r->tensor_count; i++) {
        if (strcmp(r->tensors[i].name, name) == 0) {
            return &r->tensors[i];
        }
    }
    return NULL;
}

/* The data of a tensor that must be there with this shape; NULL with a message otherwise. */
static const float *take_tensor(const struct reader *r, const char *name, int rank,
                                const int64_t *shape)
{
    const struct golden_case *c = r->current;
    const struct tensor *tensor = find_tensor(r, name);
    if (tensor == NULL) {
        FAIL_LINE(r, c->line, "case %s: tensor %s is missing", c->name, name);
        return NULL;
    }
    bool equal = tensor->rank == rank;
    for (int i = 0; equal && i < rank; i++) {
        equal = tensor->shape[i] == shape[i];
    }
    if (!equal) {
        char expected[96];
        int used = 0;
        for (int i = 0; i < rank; i++) {
            used += snprintf(expected + used, sizeof expected - (size_t)used, "%s%" PRId64,
                             i > 0 ? "x" : "", shape[i]);
        }
        FAIL_LINE(r, tensor->line, "case %s: tensor %s: the parameters give the shape %s", c->name,
                  name, expected);
        return NULL;
    }
    for (size_t i = 0; i < tensor->floats; i++) {
        if (!isfinite(tensor->data[i])) {
            FAIL_LINE(r, tensor->line, "case %s: tensor %s: element %zu is not finite", c->name,
                      name, i);
            return NULL;
        }
    }
    return tensor->data;
}

/*
 * Output size of one dimension; 0 if the kernel doesn't fit. Every operand is below 2^31: no
 * product overflows.
 */
static int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t kernel,
                           int64_t dilation, int64_t stride)
{
    const int64_t room = size + before + after - ((kernel - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
}

static bool is_doconv(const struct golden_case *c)
{
    return strcmp(c->kind, "doconv") == 0;
}

/* W, D and how they fold. */
static int finish_fold(struct reader *r)
{
    static const char *const mappings[] = {[DOCONV_MAPPING_PAPER] = "paper",
                                           [DOCONV_MAPPING_PYTORCH] = "pytorch",
                                           [DOCONV_MAPPING_TENSORFLOW] = "tensorflow"};
    struct golden_case *c = r->current;
    const doconv_conv_desc *d = &c->desc;
    const size_t known = sizeof mappings / sizeof mappings[0];
    size_t mapping = 0;
    while (mapping < known && strcmp(r->mapping, mappings[mapping]) != 0) {
        mapping++;
    }
    if (mapping == known) {
        return FAIL_LINE(r, c->line, "case %s: mapping=%s is not paper, pytorch or tensorflow",
                         c->name, r->mapping);
    }
    if (r->value[D_MUL] < 1) {
        return FAIL_LINE(r, c->line, "case %s: d_mul=0 with kind=doconv", c->name);
    }
    c->fold = (doconv_fold_desc){.size = sizeof c->fold,
                                 .cout = d->cout,
                                 .cin = d->cin,
                                 .kh = d->kh,
                                 .kw = d->kw,
                                 .groups = d->groups,
                                 .d_mul = r->value[D_MUL],
                                 .mapping = (doconv_mapping)mapping,
                                 .add_identity = (int)r->value[IDENTITY]};
    c->w = take_tensor(r, "W", 3, (const int64_t[]){d->cout, d->cin / d->groups, c->fold.d_mul});
    if (c->w == NULL) {
        return -1;
    }
    if (d->kh * d->kw == 1 && c->fold.d_mul == 1 && find_tensor(r, "D") == NULL) {
        return 0; /* the layer has none */
    }
    c->d = take_tensor(r, "D", 3, (const int64_t[]){d->cin, d->kh * d->kw, c->fold.d_mul});
    return c->d != NULL ? 0 : -1;
}

/* The convolution, and what folds to its weight. */
static int finish_conv(struct reader *r)
{
    struct golden_case *c = r->current;
    const int64_t *v = r->value;
    doconv_conv_desc *d = &c->desc;
    doconv_conv_desc_init(d);
    d->n = v[N];
    d->cin = v[CI];
    d->h = v[H];
    d->w = v[W];
    d->cout = v[CO];
    d->kh = v[KH];
    d->kw = v[KW];
    d->stride_h = v[SH];
    d->stride_w = v[SW];
    d->pad_top = v[PT];
    d->pad_left = v[PL];
    d->pad_bottom = v[PB];
    d->pad_right = v[PR];
    d->dilation_h = v[DH];
    d->dilation_w = v[DW];
    d->groups = v[GROUPS];
    d->relu = (int)v[RELU];
    d->has_bias = (int)v[BIAS];
    if (d->cin % d->groups != 0 || d->cout % d->groups != 0) {
        return FAIL_LINE(r, c->line,
                         "case %s: groups=%" PRId64 " does not divide ci=%" PRId64
                         " and co=%" PRId64,
                         c->name, d->groups, d->cin, d->cout);
    }
    if (!is_doconv(c) && v[D_MUL] != 0) {
        return FAIL_LINE(r, c->line, "case %s: d_mul=%" PRId64 " with kind=conv", c->name,
                         v[D_MUL]);
    }
    c->hout = output_size(d->h, d->pad_top, d->pad_bottom, d->kh, d->dilation_h, d->stride_h);
    c->wout = output_size(d->w, d->pad_left, d->pad_right, d->kw, d->dilation_w, d->stride_w);
    if (c->hout < 1 || c->wout < 1) {
        return FAIL_LINE(r, c->line, "case %s: the kernel does not fit the padded input", c->name);
    }
    c->x = take_tensor(r, "x", 4, (const int64_t[]){d->n, d->cin, d->h, d->w});
    c->weight = c->x != NULL
                    ? take_tensor(r, is_doconv(c) ? "folded" : "weight", 4,
                                  (const int64_t[]){d->cout, d->cin / d->groups, d->kh, d->kw})
                    : NULL;
    c->y = c->weight != NULL
               ? take_tensor(r, "y", 4, (const int64_t[]){d->n, d->cout, c->hout, c->wout})
               : NULL;
    if (c->y == NULL) {
        return -1;
    }
    if (d->has_bias) {
        c->bias = take_tensor(r, "bias", 1, &d->cout);
        if (c->bias == NULL) {
            return -1;
        }
    }
    return is_doconv(c) ? finish_fold(r) : 0;
}

static int finish_gradients(struct reader *r)
{
    struct golden_case *c = r->current;
    const doconv_conv_desc *d = &c->desc;
    const int64_t cig = d->cin / d->groups;
    c->dy = take_tensor(r, "dy", 4, (const int64_t[]){d->n, d->cout, c->hout, c->wout});
    c->dx =
        c->dy != NULL ? take_tensor(r, "dx", 4, (const int64_t[]){d->n, d->cin, d->h, d->w}) : NULL;
    if (c->dx == NULL) {
        return -1;
    }
    c->dw = is_doconv(c)
                ? take_tensor(r, "dW", 3, (const int64_t[]){d->cout, cig, c->fold.d_mul})
                : take_tensor(r, "dweight", 4, (const int64_t[]){d->cout, cig, d->kh, d->kw});
    if (c->dw == NULL) {
        return -1;
    }
    if (c->d != NULL) {
        c->dd = take_tensor(r, "dD", 3, (const int64_t[]){d->cin, d->kh * d->kw, c->fold.d_mul});
        if (c->dd == NULL) {
            return -1;
        }
    }
    if (d->has_bias) {
        c->dbias = take_tensor(r, "dbias", 1, &d->cout);
        return c->dbias != NULL ? 0 : -1;
    }
    return 0;
}

/* Called when the next case begins, and at the end. */
static int finish_case(struct reader *r)
{
    struct golden_case *c = r->current;
    if (c == NULL) {
        return 0;
    }
    c->gradients = r->value[GRAD] != 0;
    const bool known = strcmp(c->kind, "conv") == 0 || is_doconv(c);
    int result = known ? finish_conv(r) : 0;
    if (result == 0 && known && c->gradients) {
        result = finish_gradients(r);
    }
    r->current = NULL;
    return result;
}

/* ---- lines ---- */

static int read_parameter(struct reader *r, char *word, bool seen[PARAMETERS], bool *seen_kind)
{
    const char *name = r->current->name;
    char *value = strchr(word, '=');
    if (value == NULL) {
        return FAIL_LINE(r, r->line, "case %s: \"%.40s\" is no key=value", name, word);
    }
    *value++ = '\0';
    if (strcmp(word, "kind") == 0) {
        if (*seen_kind || !copy_name(r->current->kind, sizeof r->current->kind, value)) {
            return FAIL_LINE(r, r->line, "case %s: kind=%.40s: twice, or no kind", name, value);
        }
        *seen_kind = true;
        return 0;
    }
    if (strcmp(word, "mapping") == 0) {
        if (r->mapping[0] != '\0' || !copy_name(r->mapping, sizeof r->mapping, value)) {
            return FAIL_LINE(r, r->line, "case %s: mapping=%.40s: twice, or no mapping", name,
                             value);
        }
        return 0;
    }
    int i = 0;
    while (i < PARAMETERS && strcmp(word, parameters[i].name) != 0) {
        i++;
    }
    if (i == PARAMETERS) {
        return FAIL_LINE(r, r->line, "case %s: no parameter is called \"%.40s\"", name, word);
    }
    if (seen[i]) {
        return FAIL_LINE(r, r->line, "case %s: %s is given twice", name, word);
    }
    if (!read_number(value, parameters[i].most, &r->value[i]) ||
        r->value[i] < parameters[i].least) {
        return FAIL_LINE(r, r->line, "case %s: %s=%.40s is not in %" PRId64 "..%" PRId64, name,
                         word, value, parameters[i].least, parameters[i].most);
    }
    seen[i] = true;
    return 0;
}

static int begin_case(struct reader *r, const char *name, char *rest)
{
    struct golden *g = r->golden;
    if (finish_case(r) != 0) {
        return -1;
    }
    if (g->count == MAX_CASES) {
        return FAIL_LINE(r, r->line, "more than %d cases", MAX_CASES);
    }
    if (g->count == r->capacity) {
        r->capacity = r->capacity == 0 ? 64 : r->capacity * 2;
        struct golden_case *grown = realloc(g->cases, (size_t)r->capacity * sizeof *grown);
        if (grown == NULL) {
            return FAIL_LINE(r, r->line, "out of memory after %d cases", g->count);
        }
        g->cases = grown;
    }
    struct golden_case *c = &g->cases[g->count];
    memset(c, 0, sizeof *c);
    c->line = r->line;
    if (!copy_name(c->name, sizeof c->name, name)) {
        return FAIL_LINE(r, r->line, "\"%.80s\" is no case's name", name);
    }
    for (int i = 0; i < g->count; i++) {
        if (strcmp(g->cases[i].name, c->name) == 0) {
            return FAIL_LINE(r, r->line, "case %s is there already, in line %d", c->name,
                             g->cases[i].line);
        }
    }
    g->count++;
    r->current = c;
    r->tensor_count = 0;
    memset(r->value, 0, sizeof r->value);
    r->mapping[0] = '\0';
    bool seen[PARAMETERS] = {false}, seen_kind = false;
    for (char *word; (word = strsep(&rest, " ")) != NULL;) {
        if (*word != '\0' && read_parameter(r, word, seen, &seen_kind) != 0) {
            return -1;
        }
    }
    if (!seen_kind) {
        return FAIL_LINE(r, r->line, "case %s: kind is missing", c->name);
    }
    const bool doconv = is_doconv(c), known = doconv || strcmp(c->kind, "conv") == 0;
    for (int i = 0; i < PARAMETERS && known; i++) {
        if (!seen[i] && (parameters[i].needed || (doconv && i != GRAD))) {
            return FAIL_LINE(r, r->line, "case %s: %s is missing", c->name, parameters[i].name);
        }
    }
    if (doconv && r->mapping[0] == '\0') {
        return FAIL_LINE(r, r->line, "case %s: mapping is missing", c->name);
    }
    return 0;
}

static int read_tensor(struct reader *r, const char *name, char *rest)
{
    if (r->current == NULL || strcmp(r->current->name, name) != 0) {
        return FAIL_LINE(r, r->line, "a tensor of case %.80s outside that case", name);
    }
    const char *tensor_name = strsep(&rest, "\t");
    char *shape = strsep(&rest, "\t");
    const char *offset_text = strsep(&rest, "\t");
    if (offset_text == NULL || rest != NULL) {
        return FAIL_LINE(
            r, r->line,
            "case %s: a tensor line has 5 columns: case, \"tensor\", name, shape, offset", name);
    }
    struct tensor tensor = {.line = r->line};
    if (!copy_name(tensor.name, sizeof tensor.name, tensor_name)) {
        return FAIL_LINE(r, r->line, "case %s: \"%.40s\" is no tensor's name", name, tensor_name);
    }
    if (find_tensor(r, tensor.name) != NULL) {
        return FAIL_LINE(r, r->line, "case %s: tensor %s is there twice", name, tensor.name);
    }
    if (r->tensor_count == MAX_TENSORS) {
        return FAIL_LINE(r, r->line, "case %s: more than %d tensors", name, MAX_TENSORS);
    }
    char shape_text[64];
    snprintf(shape_text, sizeof shape_text, "%s", shape);
    int64_t offset;
    if (!read_shape(shape, &tensor, r->golden->floats)) {
        return FAIL_LINE(
            r, r->line,
            "case %s: tensor %s: the shape %s is malformed, or larger than data.f32 (%zu floats)",
            name, tensor.name, shape_text, r->golden->floats);
    }
    if (!read_number(offset_text, INT64_MAX, &offset) ||
        (uint64_t)offset > r->golden->floats - tensor.floats) {
        return FAIL_LINE(
            r, r->line,
            "case %s: tensor %s: offset %.40s is no place for %zu of the %zu floats of data.f32",
            name, tensor.name, offset_text, tensor.floats, r->golden->floats);
    }
    tensor.data = r->golden->data + offset;
    r->tensors[r->tensor_count++] = tensor;
    return 0;
}

static int read_cases(struct reader *r, char *text)
{
    for (char *line; (line = strsep(&text, "\n")) != NULL;) {
        r->line++;
        const size_t length = strlen(line);
        if (length > 0 && line[length - 1] == '\r') {
            line[length - 1] = '\0';
        }
        if (*line == '\0') {
            continue;
        }
        char *rest = line;
        const char *name = strsep(&rest, "\t"), *type = strsep(&rest, "\t");
        int result;
        if (type != NULL && rest != NULL && strcmp(type, "case") == 0) {
            result = begin_case(r, name, rest);
        } else if (type != NULL && strcmp(type, "tensor") == 0) {
            result = read_tensor(r, name, rest);
        } else {
            result = FAIL_LINE(r, r->line, "neither a case nor a tensor: \"%.40s\"",
                               type != NULL ? type : name);
        }
        if (result != 0) {
            return -1;
        }
    }
    return finish_case(r);
}

int golden_load(const char *directory, struct golden *g, char *error, size_t error_size)
{
    memset(g, 0, sizeof *g);
    char text_path[4096], data_path[4096];
    const int length = snprintf(text_path, sizeof text_path, "%s/cases.tsv", directory);
    if (length < 0 || (size_t)length >= sizeof text_path) {
        return fail(error, error_size, "the directory's path is too long");
    }
    snprintf(data_path, sizeof data_path, "%s/data.f32", directory);
    size_t size = 0;
    char *text = read_file(text_path, MAX_TEXT_BYTES, &size, error, error_size);
    if (text == NULL) {
        return -1;
    }
    int result = read_data(data_path, g, error, error_size);
    if (result == 0 && memchr(text, '\0', size) != NULL) {
        result = fail(error, error_size, "%s: has a zero byte: not text", text_path);
    }
    if (result == 0) {
        struct reader reader = {
            .path = text_path, .golden = g, .error = error, .error_size = error_size};
        result = read_cases(&reader, text);
    }
    free(text);
    if (result != 0) {
        golden_free(g);
    }
    return result;
}

void golden_free(struct golden *g)
{
    free(g->cases);
    free(g->data);
    memset(g, 0, sizeof *g);
}

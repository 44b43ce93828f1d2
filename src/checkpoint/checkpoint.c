/* SPDX-License-Identifier: MIT */
/*
 * Folding the DO-Conv layers of a safetensors file: which tensors make a layer, whether they fit
 * together, and what takes their place.
 */
#include <inttypes.h>
#include <math.h>
#include <stdalign.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "checkpoint/safetensors.h"

#define FAIL(ctx, ...) dc_fail(ctx, DOCONV_INVALID_FILE, "checkpoint: " __VA_ARGS__)
#define FAIL_TENSOR(ctx, tensor, format, ...)                                                      \
    FAIL(ctx, "tensor %s: " format, dc_show((tensor)->name).text, __VA_ARGS__)

struct layer {
    char *names; /* NAME, NUL, NAME.weight, NUL */
    const struct dc_tensor *d, *identity;
    struct dc_tensor *w;
    doconv_fold_desc desc;
};

struct folding {
    doconv_context *ctx;
    const doconv_fold_checkpoint_options *options;
    doconv_mapping mapping;
    struct dc_safetensors file;
    char *scratch; /* room for any tensor's name with another part */
    struct layer *layers;
    size_t count;
};

/* ---- names: NAME.part, or part alone ---- */

/* the official module's of today and before */
static const char *const identity_parts[] = {"d_diag", "D_diag"};
#define LONGEST_PART sizeof ".weight"

/* Whether a tensor is the part of a layer; then the length of "NAME." too. */
static bool is_part(const struct dc_tensor *t, const char *part, size_t *prefix)
{
    const size_t length = strlen(t->name), part_length = strlen(part);
    *prefix = length - part_length;
    return length >= part_length && strcmp(t->name + *prefix, part) == 0 &&
           (*prefix == 0 || t->name[*prefix - 1] == '.');
}

static struct dc_tensor *find_part(const struct folding *f, const char *name, size_t prefix,
                                   const char *part)
{
    memcpy(f->scratch, name, prefix);
    strcpy(f->scratch + prefix, part);
    return dc_safetensors_find(&f->file, f->scratch);
}

/* ---- a layer ---- */

static doconv_status check_part(doconv_context *ctx, const struct dc_tensor *t, const char *shape)
{
    if (t->rank != 3) {
        return FAIL_TENSOR(ctx, t, "%zu dimensions, not the 3 of %s", t->rank, shape);
    }
    for (int i = 0; i < 3; i++) {
        if (t->shape[i] == 0) {
            return FAIL_TENSOR(ctx, t, "dimension %d is 0", i);
        }
    }
    if (strcmp(t->dtype, "F32") != 0) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "checkpoint: tensor %s: type %s, only F32 can be folded",
                       dc_show(t->name).text, dc_show(t->dtype).text);
    }
    return DOCONV_OK;
}

/* Whole part of the square root, of less than 2^62. */
static int64_t root_of(int64_t value)
{
    int64_t root = (int64_t)sqrt((double)value);
    while (root * root > value) {
        root--;
    }
    while ((root + 1) * (root + 1) <= value) {
        root++;
    }
    return root;
}

/* KH and KW, of which the file has the product only. */
static doconv_status set_kernel(const struct folding *f, struct layer *l, int64_t taps)
{
    doconv_fold_desc *desc = &l->desc;
    for (size_t i = 0; i < f->options->kernel_count; i++) {
        const doconv_fold_kernel *k = &f->options->kernels[i];
        if (strcmp(k->name, l->names) == 0) {
            int64_t product;
            if (k->kh < 1 || k->kw < 1 || __builtin_mul_overflow(k->kh, k->kw, &product) ||
                product != taps) {
                return dc_fail(f->ctx, DOCONV_INVALID_ARGUMENT,
                               "checkpoint: options.kernels: layer %s: %" PRId64 "x%" PRId64
                               " is not the %" PRId64 " taps of its D",
                               dc_show(l->names).text, k->kh, k->kw, taps);
            }
            desc->kh = k->kh;
            desc->kw = k->kw;
            return DOCONV_OK;
        }
    }
    desc->kh = desc->kw = root_of(taps);
    if (desc->kh * desc->kw != taps) {
        return dc_fail(f->ctx, DOCONV_INVALID_ARGUMENT,
                       "checkpoint: layer %s: its %" PRId64
                       " taps are no square: its kernel's height and width must be given",
                       dc_show(l->names).text, taps);
    }
    return DOCONV_OK;
}

/* W, D and the identity as they fit together. */
static doconv_status check_layer(const struct folding *f, struct layer *l)
{
    doconv_context *ctx = f->ctx;
    doconv_status status = check_part(ctx, l->w, "Cout x Cin/groups x D_mul");
    if (status == DOCONV_OK && l->d != NULL) {
        status = check_part(ctx, l->d, "Cin x (KH*KW) x D_mul");
    }
    if (status == DOCONV_OK && l->identity != NULL) {
        status = check_part(ctx, l->identity, "D");
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const int64_t *w = l->w->shape, *d = l->d != NULL ? l->d->shape : (const int64_t[]){w[1], 1, 1};
    if (l->d == NULL && (w[2] != 1 || l->identity != NULL)) {
        return FAIL_TENSOR(ctx, l->w,
                           "its D is missing; only a 1x1 layer (D_mul 1, no d_diag) has none, and "
                           "this D_mul is %" PRId64,
                           w[2]);
    }
    if (d[2] != w[2]) {
        return FAIL_TENSOR(ctx, l->d, "its D_mul is %" PRId64 ", and W's %" PRId64, d[2], w[2]);
    }
    if (d[0] % w[1] != 0 || w[0] % (d[0] / w[1]) != 0) {
        return FAIL_TENSOR(ctx, l->d,
                           "no number of groups makes its %" PRId64 " input channels %" PRId64
                           " a group, as W has, and divides W's %" PRId64 " outputs",
                           d[0], w[1], w[0]);
    }
    if (l->identity != NULL && memcmp(l->identity->shape, d, 3 * sizeof *d) != 0) {
        return FAIL_TENSOR(ctx, l->identity,
                           "its shape is not that of D, %" PRId64 "x%" PRId64 "x%" PRId64, d[0],
                           d[1], d[2]);
    }
    l->desc = (doconv_fold_desc){.size = sizeof l->desc,
                                 .cout = w[0],
                                 .cin = d[0],
                                 .groups = d[0] / w[1],
                                 .d_mul = w[2],
                                 .mapping = f->mapping,
                                 .add_identity = l->d != NULL && l->identity == NULL &&
                                                 f->options->add_identity};
    status = set_kernel(f, l, d[1]);
    if (status != DOCONV_OK) {
        return status;
    }
    int64_t bytes;
    /* both factors are parts of the file */
    if (__builtin_mul_overflow(w[0] * w[1], d[1] * (int64_t)sizeof(float), &bytes)) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "checkpoint: layer %s: its weight is larger than memory can be",
                       dc_show(l->names).text);
    }
    l->w->new_size = (size_t)bytes;
    memcpy(l->w->new_shape, (const int64_t[]){w[0], w[1], l->desc.kh, l->desc.kw},
           sizeof l->w->new_shape);
    return DOCONV_OK;
}

static doconv_status add_layer(struct folding *f, struct dc_tensor *w, size_t prefix)
{
    doconv_context *ctx = f->ctx;
    struct dc_tensor *d = find_part(f, w->name, prefix, "D"),
                     *identity = find_part(f, w->name, prefix, identity_parts[0]),
                     *old_identity = find_part(f, w->name, prefix, identity_parts[1]);
    if (w->rank != 3 && d == NULL && identity == NULL && old_identity == NULL) {
        return DOCONV_OK; /* another layer's, which has a W too */
    }
    if (identity != NULL && old_identity != NULL) {
        return FAIL_TENSOR(ctx, old_identity, "%s is there too", dc_show(identity->name).text);
    }
    identity = identity != NULL ? identity : old_identity;
    const struct dc_tensor *other = find_part(f, w->name, prefix, "weight");
    if (other != NULL) {
        return FAIL_TENSOR(ctx, other, "it is there already: %s can't be folded to it",
                           dc_show(w->name).text);
    }
    char *names = dc_alloc(ctx, 2 * (prefix + LONGEST_PART));
    if (names == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for a name");
    }
    const size_t length = prefix > 0 ? prefix - 1 : 0; /* without the dot */
    memcpy(names, w->name, length);
    names[length] = '\0';
    char *weight = names + length + 1;
    memcpy(weight, w->name, prefix);
    strcpy(weight + prefix, "weight");
    struct layer *l = &f->layers[f->count++];
    *l = (struct layer){.names = names, .w = w, .d = d, .identity = identity};
    w->new_name = weight;
    if (d != NULL) {
        d->dropped = true;
    }
    if (identity != NULL) {
        identity->dropped = true;
    }
    return check_layer(f, l);
}

/* D and identities are found from their W; here those without one. */
static doconv_status check_alone(const struct folding *f, const struct dc_tensor *t)
{
    size_t prefix;
    bool part = t->rank == 3 && is_part(t, "D", &prefix);
    for (int i = 0; i < 2 && !part; i++) {
        part = is_part(t, identity_parts[i], &prefix);
    }
    return part && find_part(f, t->name, prefix, "W") == NULL
               ? FAIL_TENSOR(f->ctx, t, "%s", "its W is missing")
               : DOCONV_OK;
}

static doconv_status find_layers(struct folding *f)
{
    size_t longest = 0;
    for (size_t i = 0; i < f->file.count; i++) {
        const size_t length = strlen(f->file.tensors[i].name);
        longest = length > longest ? length : longest;
    }
    f->scratch = dc_alloc(f->ctx, longest + LONGEST_PART);
    f->layers = dc_alloc(f->ctx, f->file.count * sizeof *f->layers);
    if (f->scratch == NULL || f->layers == NULL) {
        return dc_fail(f->ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for the layers");
    }
    for (size_t i = 0; i < f->file.count; i++) {
        struct dc_tensor *t = &f->file.tensors[i];
        size_t prefix;
        const doconv_status status =
            is_part(t, "W", &prefix) ? add_layer(f, t, prefix) : check_alone(f, t);
        if (status != DOCONV_OK) {
            return status;
        }
    }
    for (size_t k = 0; k < f->options->kernel_count; k++) {
        size_t i = 0;
        while (i < f->count && strcmp(f->layers[i].names, f->options->kernels[k].name) != 0) {
            i++;
        }
        if (i == f->count) {
            return dc_fail(f->ctx, DOCONV_INVALID_ARGUMENT,
                           "checkpoint: options.kernels: no DO-Conv layer is called \"%s\"",
                           dc_show(f->options->kernels[k].name).text);
        }
    }
    return f->count > 0 ? DOCONV_OK
                        : dc_fail(f->ctx, DOCONV_NOT_FOUND,
                                  "checkpoint: it has no DO-Conv layer: no NAME.W with its NAME.D");
}

/* ---- folding ---- */

static void report_layers(const struct folding *f)
{
    for (size_t i = 0; i < f->count && f->options->report != NULL; i++) {
        const struct layer *l = &f->layers[i];
        const doconv_folded_layer layer = {
            .size = sizeof layer,
            .name = l->names,
            .desc = &l->desc,
            .has_d = l->d != NULL,
            .has_identity = l->identity != NULL,
            .bytes_before = l->w->size + (l->d != NULL ? l->d->size : 0) +
                            (l->identity != NULL ? l->identity->size : 0),
            .bytes_after = l->w->new_size,
        };
        f->options->report(f->options->report_user, &layer);
    }
}

/*
 * The floats of a tensor: in the file if they are aligned there, else in *copy; NULL if out of
 * memory.
 */
static const float *floats_of(const struct folding *f, const struct dc_tensor *t, float **copy)
{
    const unsigned char *bytes = f->file.data + t->begin;
    if ((uintptr_t)bytes % alignof(float) == 0) {
        return (const float *)(const void *)bytes;
    }
    *copy = dc_alloc(f->ctx, t->size);
    if (*copy != NULL) {
        memcpy(*copy, bytes, t->size);
    }
    return *copy;
}

/* D with its identity, in *copy; NULL if out of memory. */
static const float *composed_d(const struct folding *f, const struct layer *l, float **copy)
{
    const unsigned char *d = f->file.data + l->d->begin,
                        *identity = f->file.data + l->identity->begin;
    *copy = dc_alloc(f->ctx, l->d->size);
    for (size_t i = 0; *copy != NULL && i < l->d->size / sizeof(float); i++) {
        float a, b;
        memcpy(&a, d + i * sizeof a, sizeof a);
        memcpy(&b, identity + i * sizeof b, sizeof b);
        (*copy)[i] = a + b;
    }
    return *copy;
}

static doconv_status fold_layer(const struct folding *f, const struct layer *l, unsigned char *data)
{
    float *w_copy = NULL, *d_copy = NULL;
    const float *w = floats_of(f, l->w, &w_copy), *d = NULL;
    if (l->d != NULL) {
        d = l->identity != NULL ? composed_d(f, l, &d_copy) : floats_of(f, l->d, &d_copy);
    }
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    if (w != NULL && (d != NULL || l->d == NULL)) {
        status = doconv_fold(f->ctx, &l->desc, w, d, (float *)(void *)(data + l->w->new_begin));
    }
    dc_free(f->ctx, w_copy);
    dc_free(f->ctx, d_copy);
    if (status != DOCONV_OK) {
        return dc_fail(f->ctx, status, "checkpoint: layer %s: %s", dc_show(l->names).text,
                       doconv_status_string(status));
    }
    return DOCONV_OK;
}

static doconv_status fold_all(struct folding *f, void **result, size_t *result_size)
{
    const bool dry = f->options->dry_run;
    unsigned char *data = NULL;
    void *out = NULL;
    size_t size = 0;
    doconv_status status = dc_safetensors_write(f->ctx, &f->file, dry ? NULL : &out, &size, &data);
    if (status != DOCONV_OK) {
        return status;
    }
    for (size_t i = 0; i < f->count && !dry && status == DOCONV_OK; i++) {
        status = fold_layer(f, &f->layers[i], data);
    }
    if (status != DOCONV_OK) {
        dc_free(f->ctx, out);
        return status;
    }
    *result = out;
    *result_size = size;
    return DOCONV_OK;
}

/* ---- the call ---- */

static doconv_status check_options(doconv_context *ctx, const doconv_fold_checkpoint_options *o)
{
    if (o->mapping != NULL &&
        (*o->mapping < DOCONV_MAPPING_PAPER || *o->mapping > DOCONV_MAPPING_TENSORFLOW)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.mapping: %d is none",
                       (int)*o->mapping);
    }
    if ((o->add_identity != 0 && o->add_identity != 1) || (o->dry_run != 0 && o->dry_run != 1)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "checkpoint: options.add_identity or dry_run: neither 0 nor 1");
    }
    if (o->kernels == NULL && o->kernel_count > 0) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.kernels: NULL");
    }
    for (size_t i = 0; i < o->kernel_count; i++) {
        if (o->kernels[i].name == NULL) {
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                           "checkpoint: options.kernels[%zu].name: NULL", i);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(o->kernels[i].name, o->kernels[k].name) == 0) {
                return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                               "checkpoint: options.kernels: layer %s is there twice",
                               dc_show(o->kernels[i].name).text);
            }
        }
    }
    return DOCONV_OK;
}

doconv_status doconv_fold_checkpoint(doconv_context *context, const void *file, size_t size,
                                     const doconv_fold_checkpoint_options *options, void **result,
                                     size_t *result_size)
{
    if (result != NULL) {
        *result = NULL;
    }
    if (context == NULL || file == NULL || result == NULL || result_size == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                       "checkpoint: context, file, result or result_size: NULL");
    }
    doconv_fold_checkpoint_options own;
    struct folding f = {.ctx = context, .options = &own};
    doconv_status status = DC_READ_STRUCT(context, doconv_fold_checkpoint_options, options, &own);
    if (status == DOCONV_OK) {
        status = check_options(context, &own);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) {
        return dc_fail(context, DOCONV_UNSUPPORTED,
                       "checkpoint: the format's numbers are little-endian, this CPU's are not");
    }
    f.mapping = f.options->mapping != NULL ? *f.options->mapping : DOCONV_MAPPING_PYTORCH;
    status = dc_safetensors_read(context, file, size, &f.file);
    if (status != DOCONV_OK) {
        return status;
    }
    status = find_layers(&f);
    if (status == DOCONV_OK) {
        report_layers(&f);
        status = fold_all(&f, result, result_size);
    }
    for (size_t i = 0; i < f.count; i++) {
        dc_free(context, f.layers[i].names);
    }
    dc_free(context, f.layers);
    dc_free(context, f.scratch);
    dc_safetensors_free(context, &f.file);
    return status;
}

void doconv_checkpoint_free(doconv_context *context, void *result)
{
    if (context != NULL) {
        dc_free(context, result);
    }
}

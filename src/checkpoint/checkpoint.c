/* SPDX-License-Identifier: MIT */
/* Folding the DO-Conv layers of a checkpoint: the call, and the values. */
#include <stdalign.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "checkpoint/layers.h"

static void report_layers(const struct dc_folding *f)
{
    for (size_t i = 0; i < f->count && f->options->report != NULL; i++) {
        const struct dc_fold_layer *l = &f->layers[i];
        const doconv_folded_layer layer = {
            .size = sizeof layer,
            .name = l->names,
            .desc = &l->desc,
            .has_d = l->d != NULL,
            .has_identity = l->identity != NULL,
            .bytes_before = l->w->size + (l->d != NULL ? l->d->size : 0) +
                            (l->identity != NULL ? l->identity->size : 0),
            .bytes_after = l->w->new_size,
            .weight = l->w->new_name,
            .type = l->w->new_dtype,
            .assumed_square = l->assumed_square,
        };
        f->options->report(f->options->report_user, &layer);
    }
}

/* ---- values ---- */

static size_t count_of(const struct dc_tensor *t)
{
    return t->size / t->element_bytes;
}

/* The floats of a tensor, in *copy; OUT_OF_MEMORY, or OVERFLOW for a double that no float holds. */
static doconv_status copy_floats(const struct dc_folding *f, const struct dc_tensor *t,
                                 float **copy)
{
    const doconv_fold_type type = dc_type_of(t->dtype);
    const size_t count = count_of(t);
    if (!dc_floats_hold(type, t->bytes, count)) {
        return dc_fail(f->ctx, DOCONV_OVERFLOW,
                       "checkpoint: tensor %s: it has a value that is too large for fp32, in which "
                       "layers are folded",
                       dc_show(t->name).text);
    }
    *copy = dc_alloc(f->ctx, count * sizeof **copy);
    if (*copy == NULL) {
        return dc_fail(f->ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for tensor %s",
                       dc_show(t->name).text);
    }
    dc_floats_from(type, t->bytes, count, *copy);
    return DOCONV_OK;
}

/* The floats of a tensor: in the file if they are aligned there, else in *copy. */
static doconv_status floats_of(const struct dc_folding *f, const struct dc_tensor *t, float **copy,
                               const float **floats)
{
    *floats = NULL;
    if (dc_type_of(t->dtype) == DOCONV_FOLD_F32 && (uintptr_t)t->bytes % alignof(float) == 0) {
        *floats = (const float *)(const void *)t->bytes;
        return DOCONV_OK;
    }
    const doconv_status status = copy_floats(f, t, copy);
    *floats = *copy;
    return status;
}

/* D with its identity, in *copy. */
static doconv_status composed_d(const struct dc_folding *f, const struct dc_fold_layer *l,
                                float **copy, const float **d)
{
    if (l->identity == NULL) {
        return floats_of(f, l->d, copy, d);
    }
    float *identity_copy = NULL;
    const float *identity;
    doconv_status status = copy_floats(f, l->d, copy);
    if (status == DOCONV_OK) {
        status = floats_of(f, l->identity, &identity_copy, &identity);
    }
    for (size_t i = 0; status == DOCONV_OK && i < count_of(l->d); i++) {
        (*copy)[i] += identity[i];
    }
    dc_free(f->ctx, identity_copy);
    *d = *copy;
    return status;
}

/* Folds into the place in the result, by way of a copy where that holds no floats. */
static doconv_status fold_to(const struct dc_folding *f, const struct dc_fold_layer *l,
                             const float *w, const float *d, unsigned char *place)
{
    const bool direct = l->type == DOCONV_FOLD_F32;
    const size_t count = l->w->new_size / l->w->new_element_bytes;
    float *weight = direct ? (float *)(void *)place : dc_alloc(f->ctx, count * sizeof *weight);
    doconv_status status =
        weight != NULL ? doconv_fold(f->ctx, &l->desc, w, d, weight) : DOCONV_OUT_OF_MEMORY;
    if (status != DOCONV_OK) {
        status = dc_fail(f->ctx, status, "checkpoint: layer %s: %s", dc_show(l->names).text,
                         doconv_status_string(status));
    } else if (!direct && !dc_floats_to(l->type, weight, count, place)) {
        status = dc_fail(f->ctx, DOCONV_OVERFLOW,
                         "checkpoint: layer %s: its weight has a value that is too large for %s: "
                         "another type must be chosen",
                         dc_show(l->names).text, l->w->new_dtype);
    }
    if (!direct) {
        dc_free(f->ctx, weight);
    }
    return status;
}

static doconv_status fold_layer(const struct dc_folding *f, const struct dc_fold_layer *l,
                                unsigned char *data)
{
    float *w_copy = NULL, *d_copy = NULL;
    const float *w, *d = NULL;
    doconv_status status = floats_of(f, l->w, &w_copy, &w);
    if (status == DOCONV_OK && l->d != NULL) {
        status = composed_d(f, l, &d_copy, &d);
    }
    if (status == DOCONV_OK) {
        status = fold_to(f, l, w, d, data + l->w->new_begin);
    }
    dc_free(f->ctx, w_copy);
    dc_free(f->ctx, d_copy);
    return status;
}

static doconv_status fold_all(struct dc_folding *f, void **result, size_t *result_size)
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
    struct dc_folding f = {.ctx = context, .options = &own};
    doconv_status status = DC_READ_STRUCT(context, doconv_fold_checkpoint_options, options, &own);
    if (status == DOCONV_OK) {
        status = dc_fold_check_options(context, &own);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) {
        return dc_fail(context, DOCONV_UNSUPPORTED,
                       "checkpoint: the format's numbers are little-endian, this CPU's are not");
    }
    status = dc_safetensors_read_all(context, file, size, own.open, own.open_user, &f.file);
    if (status != DOCONV_OK) {
        return status;
    }
    status = dc_fold_find_layers(&f);
    if (status == DOCONV_OK) {
        report_layers(&f);
        status = fold_all(&f, result, result_size);
    }
    dc_fold_free_layers(&f);
    dc_safetensors_free(context, &f.file);
    return status;
}

void doconv_checkpoint_free(doconv_context *context, void *result)
{
    if (context != NULL) {
        dc_free(context, result);
    }
}

/* SPDX-License-Identifier: MIT */
/* Which tensors make a DO-Conv layer, and whether they fit together. */
#include "checkpoint/layers.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define FAIL_TENSOR(ctx, tensor, format, ...)                                                      \
    dc_fail(ctx, DOCONV_INVALID_FILE, "checkpoint: tensor %s: " format,                            \
            dc_show((tensor)->name).text, __VA_ARGS__)
#define FAIL_LAYER(f, layer, format, ...)                                                          \
    dc_fail((f)->ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: layer %s: " format,                    \
            dc_show((layer)->names).text, __VA_ARGS__)

/* ---- names: NAME.part, or part alone ---- */

/* the official module's of today and before */
static const char *const identity_parts[] = {"d_diag", "D_diag"};
/*
 * What PyTorch's weight and spectral normalization, by hooks and by parametrizations, put in the
 * place of a W.
 */
static const char *const normed_parts[] = {"W_g", "W_orig", "parametrizations.W.original0",
                                           "parametrizations.W.original"};
#define LONGEST_PART sizeof "parametrizations.W.original0"

/* Whether a tensor is the part of a layer; then the length of "NAME." too. */
static bool is_part(const struct dc_tensor *t, const char *part, size_t *prefix)
{
    const size_t length = strlen(t->name), part_length = strlen(part);
    *prefix = length - part_length;
    return length >= part_length && strcmp(t->name + *prefix, part) == 0 &&
           (*prefix == 0 || t->name[*prefix - 1] == '.');
}

static struct dc_tensor *find_part(const struct dc_folding *f, const char *name, size_t prefix,
                                   const char *part)
{
    memcpy(f->scratch, name, prefix);
    strcpy(f->scratch + prefix, part);
    return dc_safetensors_find(&f->file, f->scratch);
}

static struct dc_tensor *find_identity(const struct dc_folding *f, const char *name, size_t prefix)
{
    struct dc_tensor *t = find_part(f, name, prefix, identity_parts[0]);
    return t != NULL ? t : find_part(f, name, prefix, identity_parts[1]);
}

static doconv_status leave(const struct dc_folding *f, const struct dc_tensor *t, const char *why)
{
    if (f->options->note != NULL) {
        f->options->note(f->options->report_user, t->name, why);
    }
    return DOCONV_OK;
}

/* ---- do the tensors fit? ---- */

/* Why not. */
struct misfit {
    doconv_status status;
    const struct dc_tensor *tensor;
    char text[200];
};

__attribute__((format(printf, 4, 5))) static bool
misfit(struct misfit *m, doconv_status status, const struct dc_tensor *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    m->status = status;
    m->tensor = t;
    vsnprintf(m->text, sizeof m->text, format, arguments);
    va_end(arguments);
    return false;
}

static bool part_fits(const struct dc_tensor *t, const char *shape, struct misfit *m)
{
    if (t->rank != 3) {
        return misfit(m, DOCONV_INVALID_FILE, t, "%zu dimensions, not the 3 of %s", t->rank, shape);
    }
    for (int i = 0; i < 3; i++) {
        if (t->shape[i] == 0) {
            return misfit(m, DOCONV_INVALID_FILE, t, "dimension %d is 0", i);
        }
    }
    return dc_type_of(t->dtype) != DOCONV_FOLD_KEEP ||
           misfit(m, DOCONV_UNSUPPORTED, t, "type %s, only F32, F16, BF16 and F64 can be folded",
                  dc_show(t->dtype).text);
}

static bool shapes_fit(const struct dc_fold_layer *l, const int64_t *w, const int64_t *d,
                       struct misfit *m)
{
    if (l->d == NULL && (w[2] != 1 || l->identity != NULL)) {
        return misfit(m, DOCONV_INVALID_FILE, l->w,
                      "its D is missing; only a 1x1 layer (D_mul 1, no d_diag) has none, and this "
                      "D_mul is %" PRId64,
                      w[2]);
    }
    if (d[2] != w[2]) {
        return misfit(m, DOCONV_INVALID_FILE, l->d, "its D_mul is %" PRId64 ", and W's %" PRId64,
                      d[2], w[2]);
    }
    if (d[0] % w[1] != 0 || w[0] % (d[0] / w[1]) != 0) {
        return misfit(m, DOCONV_INVALID_FILE, l->d,
                      "no number of groups makes its %" PRId64 " input channels %" PRId64
                      " a group, as W has, and divides W's %" PRId64 " outputs",
                      d[0], w[1], w[0]);
    }
    return l->identity == NULL || memcmp(l->identity->shape, d, 3 * sizeof *d) == 0 ||
           misfit(m, DOCONV_INVALID_FILE, l->identity,
                  "its shape is not that of D, %" PRId64 "x%" PRId64 "x%" PRId64, d[0], d[1], d[2]);
}

/* Whether W, D and the identity make a layer; then its desc, but for what options tell. */
static bool layer_fits(struct dc_fold_layer *l, struct misfit *m)
{
    if (!part_fits(l->w, "Cout x Cin/groups x D_mul", m) ||
        (l->d != NULL && !part_fits(l->d, "Cin x (KH*KW) x D_mul", m)) ||
        (l->identity != NULL && !part_fits(l->identity, "D", m))) {
        return false;
    }
    const int64_t *w = l->w->shape, *d = l->d != NULL ? l->d->shape : (const int64_t[]){w[1], 1, 1};
    if (!shapes_fit(l, w, d, m)) {
        return false;
    }
    l->desc = (doconv_fold_desc){.size = sizeof l->desc,
                                 .cout = w[0],
                                 .cin = d[0],
                                 .kh = 1,
                                 .kw = d[1],
                                 .groups = d[0] / w[1],
                                 .d_mul = w[2]};
    return true;
}

/* ---- what the file does not tell ---- */

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

static bool has_taps(const doconv_fold_kernel *k, int64_t taps)
{
    int64_t product;
    return k->kh >= 1 && k->kw >= 1 && !__builtin_mul_overflow(k->kh, k->kw, &product) &&
           product == taps;
}

/* The size that options give, or NULL. Of patterns only one that fits. */
static const doconv_fold_kernel *given_kernel(const doconv_fold_checkpoint_options *o,
                                              const char *name, int64_t taps)
{
    const doconv_fold_kernel *found = NULL;
    for (size_t i = 0; i < o->kernel_count; i++) {
        const doconv_fold_kernel *k = &o->kernels[i];
        if (strcmp(k->name, name) == 0) {
            return k;
        }
        if (found == NULL && has_taps(k, taps) && dc_matches(k->name, name)) {
            found = k;
        }
    }
    return found;
}

/* KH and KW, of which the file has the product only. */
static doconv_status set_kernel(const struct dc_folding *f, struct dc_fold_layer *l)
{
    doconv_fold_desc *desc = &l->desc;
    const int64_t taps = desc->kh * desc->kw;
    const doconv_fold_kernel *k = given_kernel(f->options, l->names, taps);
    if (k != NULL) {
        if (!has_taps(k, taps)) {
            return dc_fail(f->ctx, DOCONV_INVALID_ARGUMENT,
                           "checkpoint: options.kernels: layer %s: %" PRId64 "x%" PRId64
                           " is not the %" PRId64 " taps of its D",
                           dc_show(l->names).text, k->kh, k->kw, taps);
        }
        desc->kh = k->kh;
        desc->kw = k->kw;
        return DOCONV_OK;
    }
    desc->kh = desc->kw = root_of(taps);
    if (desc->kh * desc->kw != taps) {
        return FAIL_LAYER(
            f, l, "its %" PRId64 " taps are no square: its kernel's height and width must be given",
            taps);
    }
    l->assumed_square = taps > 1;
    return DOCONV_OK;
}

static doconv_status set_identity(const struct dc_folding *f, struct dc_fold_layer *l)
{
    if (l->d == NULL || l->identity != NULL) {
        return DOCONV_OK;
    }
    if (f->options->add_identity == DOCONV_FOLD_IDENTITY_UNSET) {
        return FAIL_LAYER(f, l,
                          "no d_diag is stored with its D: whether D is composed as D + I or as it "
                          "is must be said (identity: %s)",
                          "add or none");
    }
    l->desc.add_identity = f->options->add_identity == DOCONV_FOLD_IDENTITY_ADD;
    return DOCONV_OK;
}

static doconv_status set_mapping(const struct dc_folding *f, struct dc_fold_layer *l)
{
    const doconv_fold_desc *d = &l->desc;
    l->desc.mapping = f->options->mapping != NULL ? *f->options->mapping : DOCONV_MAPPING_PYTORCH;
    /* One input and one output a group: all the mappings are one. */
    const bool differ = d->groups > 1 && (d->cin != d->groups || d->cout != d->groups);
    if (f->options->mapping == NULL && differ && l->d != NULL && l->identity == NULL) {
        return FAIL_LAYER(f, l,
                          "%" PRId64 " groups, and no d_diag, which the official module's files "
                          "have: the mapping that it was trained with must be said (paper for "
                          "doconv_training's zeroed one, pytorch or tensorflow)",
                          d->groups);
    }
    return DOCONV_OK;
}

static doconv_status set_weight(const struct dc_folding *f, struct dc_fold_layer *l)
{
    struct dc_tensor *w = l->w;
    const doconv_fold_desc *d = &l->desc;
    l->type = f->options->type != DOCONV_FOLD_KEEP ? (doconv_fold_type)f->options->type
                                                   : dc_type_of(w->dtype);
    int64_t count, bytes;
    /* both factors are parts of the file; fp32 is the widest that is computed with */
    if (__builtin_mul_overflow(w->shape[0] * w->shape[1], d->kh * d->kw, &count) ||
        __builtin_mul_overflow(count, (int64_t)sizeof(double), &bytes)) {
        return dc_fail(f->ctx, DOCONV_OVERFLOW,
                       "checkpoint: layer %s: its weight is larger than memory can be",
                       dc_show(l->names).text);
    }
    w->replaced = true;
    w->new_name = l->names + strlen(l->names) + 1;
    w->new_dtype = dc_type_name(l->type);
    w->new_element_bytes = dc_type_bytes(l->type);
    w->new_size = (size_t)count * w->new_element_bytes;
    memcpy(w->new_shape, (const int64_t[]){w->shape[0], w->shape[1], d->kh, d->kw},
           sizeof w->new_shape);
    if (l->d != NULL) {
        l->d->dropped = true;
    }
    if (l->identity != NULL) {
        l->identity->dropped = true;
    }
    return DOCONV_OK;
}

/* ---- is it a layer? ---- */

/* Whether NAME has the components of an optimizer's state before a layer's name. */
static bool names_state(const char *name)
{
    static const char *const words[] = {
        "exp_avg",         "exp_avg_sq", "max_exp_avg_sq", "exp_inf",   "momentum_buffer",
        "square_avg",      "grad_avg",   "acc_delta",      "optimizer", "optim",
        "optimizer_state", "moment1",    "moment2",        "velocity",
    };
    for (size_t length; *name != '\0'; name += length + (name[length] == '.')) {
        length = strcspn(name, ".");
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            if (strlen(words[i]) == length && memcmp(words[i], name, length) == 0) {
                return true;
            }
        }
    }
    return false;
}

static bool same_shape(const struct dc_tensor *a, const struct dc_tensor *b)
{
    return a->rank == b->rank && a->rank <= DC_TENSOR_RANK &&
           memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

/*
 * Whether W and D are what an optimizer keeps of a layer: it has none of the identity, which is no
 * parameter, and stands beside the layer, which has it.
 */
static bool is_state(const struct dc_folding *f, const struct dc_fold_layer *l, size_t prefix)
{
    if (names_state(l->names)) {
        return true;
    }
    const char *end = l->w->name + prefix;
    const char *at = strchr(l->names, '.');
    for (; at != NULL && l->identity == NULL; at = strchr(at + 1, '.')) {
        const char *name = l->w->name + (at + 1 - l->names);
        const size_t length = (size_t)(end - name);
        const struct dc_tensor *w = find_part(f, name, length, "W");
        if (w != NULL && same_shape(w, l->w) && find_identity(f, name, length) != NULL) {
            return true;
        }
    }
    return false;
}

/*
 * Why a W is left alone without a look at its values, or NULL. claimed: the user says that it is a
 * layer.
 */
static const char *reason_to_leave(const struct dc_folding *f, const struct dc_fold_layer *l,
                                   size_t prefix, bool claimed)
{
    const doconv_fold_checkpoint_options *o = f->options;
    if (o->only_count > 0 && !claimed) {
        return "it is not among the layers that were asked for";
    }
    if (dc_matches_any(o->exclude, o->exclude_count, l->names)) {
        return "it was excluded";
    }
    if (is_state(f, l, prefix)) {
        return "an optimizer's state of a layer";
    }
    if (l->d == NULL && l->identity == NULL && !(claimed && l->w->shape[2] == 1)) {
        return l->w->shape[2] == 1
                   ? "it has no D: only if it is named is it taken for a 1x1 DO-Conv layer"
                   : "it has no D, and is no 1x1 layer's W";
    }
    return NULL;
}

static doconv_status add_layer(struct dc_folding *f, struct dc_tensor *w, size_t prefix)
{
    struct dc_fold_layer *l = &f->layers[f->count];
    *l = (struct dc_fold_layer){.w = w,
                                .d = find_part(f, w->name, prefix, "D"),
                                .identity = find_identity(f, w->name, prefix)};
    if (w->rank != 3 && l->d == NULL && l->identity == NULL) {
        return DOCONV_OK; /* another layer's, which has a W too */
    }
    l->names = dc_fold_names(f, w->name, prefix > 0 ? prefix - 1 : 0); /* without the dot */
    if (l->names == NULL) {
        return dc_fail(f->ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for a name");
    }
    f->count++;
    const bool claimed = dc_matches_any(f->options->only, f->options->only_count, l->names);
    const char *why = reason_to_leave(f, l, prefix, claimed);
    struct misfit m;
    if (why == NULL && !layer_fits(l, &m)) {
        if (claimed || l->identity != NULL) {
            return dc_fail(f->ctx, m.status, "checkpoint: tensor %s: %s",
                           dc_show(m.tensor->name).text, m.text);
        }
        why = m.text;
    }
    if (why != NULL) {
        dc_free(f->ctx, l->names);
        f->count--;
        return leave(f, w, why);
    }
    const struct dc_tensor *old = find_part(f, w->name, prefix, identity_parts[1]);
    if (old != NULL && old != l->identity) {
        return FAIL_TENSOR(f->ctx, old, "%s is there too", dc_show(l->identity->name).text);
    }
    doconv_status status = set_kernel(f, l);
    status = status == DOCONV_OK ? set_identity(f, l) : status;
    status = status == DOCONV_OK ? set_mapping(f, l) : status;
    return status == DOCONV_OK ? set_weight(f, l) : status;
}

/* D and identities are found from their W; here those without one. */
static doconv_status look_at_alone(const struct dc_folding *f, const struct dc_tensor *t)
{
    size_t prefix;
    const bool is_d = t->rank == 3 && is_part(t, "D", &prefix);
    if ((!is_d && !is_part(t, identity_parts[0], &prefix) &&
         !is_part(t, identity_parts[1], &prefix)) ||
        find_part(f, t->name, prefix, "W") != NULL) {
        return DOCONV_OK;
    }
    const struct dc_tensor *normed = NULL;
    for (size_t i = 0; i < sizeof normed_parts / sizeof normed_parts[0] && normed == NULL; i++) {
        normed = find_part(f, t->name, prefix, normed_parts[i]);
    }
    if (normed != NULL) {
        return FAIL_TENSOR(
            f->ctx, t,
            "its W is stored as %s, by weight or spectral normalization: remove that "
            "before saving (torch.nn.utils.parametrize.remove_parametrizations, "
            "remove_weight_norm or remove_spectral_norm with the name W)",
            dc_show(normed->name).text);
    }
    return is_d && find_identity(f, t->name, prefix) == NULL
               ? leave(f, t, "it has no W")
               : FAIL_TENSOR(f->ctx, t, "%s", "its W is missing");
}

/* ---- all of them ---- */

/* Each size that is given is some layer's. */
static doconv_status check_kernels_used(const struct dc_folding *f)
{
    for (size_t k = 0; k < f->options->kernel_count; k++) {
        const doconv_fold_kernel *kernel = &f->options->kernels[k];
        const struct dc_fold_layer *matched = NULL;
        bool used = false;
        for (size_t i = 0; i < f->count && !used; i++) {
            const struct dc_fold_layer *l = &f->layers[i];
            if (dc_matches(kernel->name, l->names)) {
                matched = l;
                used = has_taps(kernel, l->desc.kh * l->desc.kw);
            }
        }
        if (matched == NULL) {
            return dc_fail(f->ctx, DOCONV_INVALID_ARGUMENT,
                           "checkpoint: options.kernels: no DO-Conv layer is called \"%s\"",
                           dc_show(kernel->name).text);
        }
        if (!used) {
            return dc_fail(
                f->ctx, DOCONV_INVALID_ARGUMENT,
                "checkpoint: options.kernels: \"%s\": no D of its layers has the rows of "
                "%" PRId64 "x%" PRId64,
                dc_show(kernel->name).text, kernel->kh, kernel->kw);
        }
    }
    return DOCONV_OK;
}

/* No layer: what it may be instead. */
static doconv_status fail_without_layer(const struct dc_folding *f)
{
    const char *other = "";
    for (size_t i = 0; i < f->file.count && *other == '\0'; i++) {
        const char *name = f->file.tensors[i].name;
        const size_t length = strlen(name);
        if (strchr(name, '/') != NULL) {
            other = "; names with '/' are TensorFlow's: rename and transpose its tensors first";
        } else if (length > 2 &&
                   (strcmp(name + length - 2, "_W") == 0 || strcmp(name + length - 2, "_D") == 0)) {
            other = "; names that end with _W and _D are Gluon's: rename them to NAME.W and NAME.D";
        }
    }
    return dc_fail(f->ctx, DOCONV_NOT_FOUND,
                   "checkpoint: it has no DO-Conv layer: no NAME.W with its NAME.D%s", other);
}

doconv_status dc_fold_find_layers(struct dc_folding *f)
{
    size_t longest = 0;
    for (size_t i = 0; i < f->file.count; i++) {
        const size_t length = strlen(f->file.tensors[i].name);
        longest = length > longest ? length : longest;
    }
    f->scratch = dc_alloc(f->ctx, longest + LONGEST_PART);
    f->layers = dc_alloc(f->ctx, (f->file.count + 1) * sizeof *f->layers);
    if (f->scratch == NULL || f->layers == NULL) {
        return dc_fail(f->ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for the layers");
    }
    for (size_t i = 0; i < f->file.count; i++) {
        struct dc_tensor *t = &f->file.tensors[i];
        size_t prefix;
        const doconv_status status =
            is_part(t, "W", &prefix) ? add_layer(f, t, prefix) : look_at_alone(f, t);
        if (status != DOCONV_OK) {
            return status;
        }
    }
    const doconv_status status = check_kernels_used(f);
    if (status != DOCONV_OK) {
        return status;
    }
    return f->count > 0 ? dc_fold_name_all(f) : fail_without_layer(f);
}

void dc_fold_free_layers(struct dc_folding *f)
{
    for (size_t i = 0; i < f->count; i++) {
        dc_free(f->ctx, f->layers[i].names);
    }
    dc_free(f->ctx, f->layers);
    dc_free(f->ctx, f->scratch);
}

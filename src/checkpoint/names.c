/* SPDX-License-Identifier: MIT */
/* Patterns of layers' names, and the names of the folded checkpoint. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "checkpoint/layers.h"

#define NAME_FIELD "{name}"

bool dc_matches(const char *pattern, const char *text)
{
    /* Where the last '*' was, and where its text ends so far: the others can take no more. */
    const char *star = NULL, *end = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            end = text;
        } else if (*pattern != '\0' && (*pattern == '?' || *pattern == *text)) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++end;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

bool dc_matches_any(const char *const *patterns, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++) {
        if (dc_matches(patterns[i], text)) {
            return true;
        }
    }
    return false;
}

/* ---- the result's names ---- */

/* What wrappers put before names: data parallel and averaged models, torch.compile(), an EMA. */
static const char *const known_prefixes[] = {"module.", "_orig_mod.", "ema."};

const char *dc_fold_stripped(const doconv_fold_checkpoint_options *options, const char *name)
{
    const char *wanted = options->strip_prefix;
    if (wanted == NULL) {
        return name;
    }
    if (*wanted != '\0') {
        const size_t length = strlen(wanted);
        return strncmp(name, wanted, length) == 0 && name[length] != '\0' ? name + length : name;
    }
    for (size_t i = 0; i < sizeof known_prefixes / sizeof known_prefixes[0];) {
        const size_t length = strlen(known_prefixes[i]);
        if (strncmp(name, known_prefixes[i], length) == 0 && name[length] != '\0') {
            name += length;
            i = 0; /* they come in any order, and more than once */
        } else {
            i++;
        }
    }
    return name;
}

char *dc_fold_names(const struct dc_folding *f, const char *name, size_t length)
{
    const char *template = f->options->rename != NULL ? f->options->rename : NAME_FIELD ".weight";
    const char *field = strstr(template, NAME_FIELD), *after = field + strlen(NAME_FIELD);
    const size_t before = (size_t)(field - template);
    char *names = dc_alloc(f->ctx, 2 * (length + 2) + strlen(template));
    if (names == NULL) {
        return NULL;
    }
    memcpy(names, name, length);
    names[length] = '\0';
    const char *stripped = dc_fold_stripped(f->options, names);
    char *weight = names + length + 1;
    memcpy(weight, template, before);
    strcpy(weight + before, stripped);
    /* a module saved by itself has no name, and no dot after it */
    strcat(weight, *stripped == '\0' && before == 0 && *after == '.' ? after + 1 : after);
    return names;
}

static const char *name_of(const struct dc_tensor *t)
{
    return t->new_name != NULL ? t->new_name : t->name;
}

static int compare_new_names(const void *a, const void *b)
{
    return strcmp(name_of(*(struct dc_tensor *const *)a), name_of(*(struct dc_tensor *const *)b));
}

doconv_status dc_fold_name_all(struct dc_folding *f)
{
    size_t count = 0;
    struct dc_tensor **kept = dc_alloc(f->ctx, (f->file.count + 1) * sizeof *kept);
    if (kept == NULL) {
        return dc_fail(f->ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for the names");
    }
    for (size_t i = 0; i < f->file.count; i++) {
        struct dc_tensor *t = &f->file.tensors[i];
        if (!t->dropped) {
            if (!t->replaced) {
                t->new_name = dc_fold_stripped(f->options, t->name);
            }
            kept[count++] = t;
        }
    }
    qsort(kept, count, sizeof *kept, compare_new_names);
    doconv_status status = DOCONV_OK;
    for (size_t i = 1; i < count && status == DOCONV_OK; i++) {
        if (compare_new_names(&kept[i - 1], &kept[i]) == 0) {
            const bool first = kept[i]->replaced;
            const struct dc_tensor *there = kept[first ? i - 1 : i],
                                   *other = kept[first ? i : i - 1];
            status = dc_fail(f->ctx, DOCONV_INVALID_FILE,
                             "checkpoint: tensor %s: it is there already: %s can't get the name %s",
                             dc_show(there->name).text, dc_show(other->name).text,
                             dc_show(name_of(other)).text);
        }
    }
    dc_free(f->ctx, kept);
    return status;
}

/* ---- options ---- */

static doconv_status check_patterns(doconv_context *ctx, const char *what,
                                    const char *const *patterns, size_t count)
{
    if (patterns == NULL && count > 0) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.%s: NULL", what);
    }
    for (size_t i = 0; i < count; i++) {
        if (patterns[i] == NULL) {
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.%s[%zu]: NULL", what,
                           i);
        }
    }
    return DOCONV_OK;
}

static doconv_status check_kernels(doconv_context *ctx, const doconv_fold_checkpoint_options *o)
{
    if (o->kernels == NULL && o->kernel_count > 0) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.kernels: NULL");
    }
    for (size_t i = 0; i < o->kernel_count; i++) {
        if (o->kernels[i].name == NULL) {
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                           "checkpoint: options.kernels[%zu].name: NULL", i);
        }
        for (size_t k = 0; k < i && strpbrk(o->kernels[i].name, "*?") == NULL; k++) {
            if (strcmp(o->kernels[i].name, o->kernels[k].name) == 0) {
                return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                               "checkpoint: options.kernels: layer %s is there twice",
                               dc_show(o->kernels[i].name).text);
            }
        }
    }
    return DOCONV_OK;
}

doconv_status dc_fold_check_options(doconv_context *ctx, const doconv_fold_checkpoint_options *o)
{
    if (o->mapping != NULL &&
        (*o->mapping < DOCONV_MAPPING_PAPER || *o->mapping > DOCONV_MAPPING_TENSORFLOW)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.mapping: %d is none",
                       (int)*o->mapping);
    }
    if (o->add_identity < DOCONV_FOLD_IDENTITY_UNSET ||
        o->add_identity > DOCONV_FOLD_IDENTITY_NONE || (o->dry_run != 0 && o->dry_run != 1)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "checkpoint: options.add_identity or dry_run: no such value");
    }
    if (o->type != DOCONV_FOLD_KEEP && dc_type_name(o->type) == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "checkpoint: options.type: %d is none",
                       o->type);
    }
    if (o->rename != NULL && strstr(o->rename, NAME_FIELD) == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "checkpoint: options.rename: \"%s\" has no " NAME_FIELD,
                       dc_show(o->rename).text);
    }
    doconv_status status = check_kernels(ctx, o);
    if (status == DOCONV_OK) {
        status = check_patterns(ctx, "only", o->only, o->only_count);
    }
    return status == DOCONV_OK ? check_patterns(ctx, "exclude", o->exclude, o->exclude_count)
                               : status;
}

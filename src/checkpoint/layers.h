/* SPDX-License-Identifier: MIT */
/* The DO-Conv layers among a checkpoint's tensors. For src/checkpoint. */
#ifndef DOCONV_CHECKPOINT_LAYERS_H
#define DOCONV_CHECKPOINT_LAYERS_H

#include "checkpoint/safetensors.h"
#include "checkpoint/types.h"

struct dc_fold_layer {
    char *names;                        /* NAME, NUL, the weight's name, NUL */
    struct dc_tensor *w, *d, *identity; /* d, identity: or NULL */
    doconv_fold_desc desc;
    doconv_fold_type type; /* of the weight */
    bool assumed_square;
};

struct dc_folding {
    doconv_context *ctx;
    const doconv_fold_checkpoint_options *options;
    struct dc_safetensors file;
    char *scratch; /* room for any tensor's name with another part */
    struct dc_fold_layer *layers;
    size_t count;
};

/*
 * Finds and checks the layers, and marks what becomes of each tensor. The context has the detail of
 * a failure.
 */
doconv_status dc_fold_find_layers(struct dc_folding *f);
void dc_fold_free_layers(struct dc_folding *f);

/* Options that no file could make right. */
doconv_status dc_fold_check_options(doconv_context *ctx, const doconv_fold_checkpoint_options *o);

/* ---- names.c ---- */

/* Whether a text is what a pattern says: '*' is any text, '?' any byte. */
bool dc_matches(const char *pattern, const char *text);
bool dc_matches_any(const char *const *patterns, size_t count, const char *text);

/* The name without what options->strip_prefix says, a part of it. */
const char *dc_fold_stripped(const doconv_fold_checkpoint_options *options, const char *name);
/* Two texts, one after the other, from dc_alloc(): NAME and the weight's name in the result. */
char *dc_fold_names(const struct dc_folding *f, const char *name, size_t length);
/* Gives each tensor its name in the result, and refuses two of one name. */
doconv_status dc_fold_name_all(struct dc_folding *f);

#endif

/* SPDX-License-Identifier: MIT */
/* The floating types of a checkpoint's tensors, to and from float. For src/checkpoint. */
#ifndef DOCONV_CHECKPOINT_TYPES_H
#define DOCONV_CHECKPOINT_TYPES_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

/* The format's name for a type; NULL for DOCONV_FOLD_KEEP and what is no doconv_fold_type. */
const char *dc_type_name(int type);
/* DOCONV_FOLD_KEEP for a name of no type that can be folded. */
doconv_fold_type dc_type_of(const char *name);
size_t dc_type_bytes(doconv_fold_type type);

/* `bytes` may have any alignment, here and below. Doubles are rounded. */
void dc_floats_from(doconv_fold_type type, const unsigned char *bytes, size_t count, float *floats);
/* Rounded to nearest, ties to even. False if a finite value is too large for the type. */
bool dc_floats_to(doconv_fold_type type, const float *floats, size_t count, unsigned char *bytes);
/* Whether dc_floats_from() makes no finite value infinite. */
bool dc_floats_hold(doconv_fold_type type, const unsigned char *bytes, size_t count);

#endif

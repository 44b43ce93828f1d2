/* SPDX-License-Identifier: MIT */
/*
 * The kernels of the build. Any file of src and tuner may include this.
 */
#ifndef DOCONV_REGISTRY_H
#define DOCONV_REGISTRY_H

#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

/* best first, NULL at the end, the reference last */
extern const struct dc_kernel *const dc_builtin_kernels[];
/* The kernel of this name, or NULL. */
const struct dc_kernel *dc_kernel_find(const doconv_context *ctx, const char *name, size_t length);
/*
 * The one after `last` (NULL: the first) of a family and ISA, if the context may use it; or NULL.
 */
const struct dc_kernel *dc_kernel_next(const doconv_context *ctx, enum dc_family family,
                                       enum dc_isa isa, const struct dc_kernel *last);
uint64_t dc_registry_fingerprint(const doconv_context *ctx);
uint64_t dc_hash(uint64_t seed, const void *data, size_t size); /* FNV-1a; seed 0 starts */

#endif

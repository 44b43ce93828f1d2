/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/context.h"
#include "base/cpu.h"
#include "base/registry.h"
#include "kernel.h"

#define DC_ROW(kernel) extern const struct dc_kernel kernel;
#include "kernel_rows.h"
#undef DC_ROW

#define DC_ROW(kernel) &kernel,
const struct dc_kernel *const dc_builtin_kernels[] = {
#include "kernel_rows.h"
    NULL};
#undef DC_ROW

const struct dc_kernel *dc_kernel_find(const doconv_context *ctx, const char *name, size_t length)
{
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        if (strlen((*row)->name) == length && memcmp((*row)->name, name, length) == 0) {
            return *row;
        }
    }
    return NULL;
}

const struct dc_kernel *dc_kernel_next(const doconv_context *ctx, enum dc_family family,
                                       enum dc_isa isa, const struct dc_kernel *last)
{
    bool after = last == NULL;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (after && k->family == family && k->isa == isa && dc_isa_usable(isa, ctx->isa)) {
            return k;
        }
        after = after || k == last;
    }
    return NULL;
}

uint64_t dc_hash(uint64_t seed, const void *data, size_t size)
{
    uint64_t hash = seed != 0 ? seed : UINT64_C(0xcbf29ce484222325);
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

uint64_t dc_registry_fingerprint(const doconv_context *ctx)
{
    uint64_t hash = 0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        hash = dc_hash(hash, (*row)->name, strlen((*row)->name) + 1);
        hash = dc_hash(hash, &(*row)->revision, sizeof(*row)->revision);
    }
    return hash;
}

/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* madvise */
#include "compare.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE_PAGE ((size_t)2 << 20)
#define PAGE ((size_t)4096)
#define APART ((size_t)256) /* so that no two tensors begin at the same offset in a page */

void *allocate_pages(size_t size)
{
    size = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *memory = aligned_alloc(LARGE_PAGE, size > 0 ? size : LARGE_PAGE);
#ifdef MADV_HUGEPAGE
    if (memory != NULL) {
        madvise(memory, size, MADV_HUGEPAGE); /* a wish */
    }
#endif
    return memory;
}

/* The floats of every tensor that a problem has, by the shapes of doconv_train.h. */
static int count_floats(const struct problem *p, size_t floats[TENSORS])
{
    const doconv_conv_desc *d = &p->desc;
    int64_t out[4];
    size_t in_bytes, out_bytes;
    if (doconv_conv_dst_shape(NULL, d, out) != DOCONV_OK ||
        doconv_tensor_bytes(d->src_layout, d->n, d->cin, d->h, d->w, &in_bytes) != DOCONV_OK ||
        doconv_tensor_bytes(d->dst_layout, out[0], out[1], out[2], out[3], &out_bytes) !=
            DOCONV_OK) {
        return -1;
    }
    const size_t taps = (size_t)(d->kh * d->kw), filters = (size_t)(d->cout * d->cin / d->groups);
    floats[SRC] = in_bytes / sizeof(float);
    floats[DST] = out_bytes / sizeof(float);
    floats[WEIGHT] = filters * (p->kind == KERNEL_STEP ? p->d_mul : taps);
    if (p->kind != LAYER) {
        floats[GRAD_SRC] = floats[SRC];
        floats[GRAD_DST] = floats[DST];
        floats[GRAD_WEIGHT] = floats[WEIGHT];
    }
    if (p->kind == KERNEL_STEP) {
        floats[D] = floats[GRAD_D] = (size_t)d->cin * taps * p->d_mul;
    }
    return 0;
}

/*
 * Random numbers in -1..1, 24 bits each. Blocked tensors have some in the channels past C too,
 * which no result may depend on.
 */
static void fill(float *to, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        to[i] = (float)(int32_t)(seed >> 40) / 8388608.0f - 1.0f;
    }
}

bool is_result(const struct problem *p, enum tensor tensor)
{
    return tensor == DST ||
           (p->kind != LAYER && (tensor == GRAD_SRC || tensor == GRAD_WEIGHT || tensor == GRAD_D));
}

int make_buffers(const struct problem *p, size_t workspace_size, size_t saved_size,
                 struct buffers *b)
{
    *b = (struct buffers){0};
    if (count_floats(p, b->floats) != 0) {
        return -1;
    }
    size_t offset[TENSORS + 2], total = 0;
    for (size_t i = 0; i < TENSORS + 2; i++) {
        const size_t bytes = i < TENSORS    ? b->floats[i] * sizeof(float)
                             : i == TENSORS ? workspace_size
                                            : saved_size;
        offset[i] = total + i * APART;
        total = (offset[i] + bytes + PAGE - 1) / PAGE * PAGE;
    }
    b->memory = allocate_pages(total);
    if (b->memory == NULL) {
        return -1;
    }
    char *memory = b->memory;
    memset(memory, 0, total);
    b->workspace = workspace_size > 0 ? memory + offset[TENSORS] : NULL;
    b->saved = saved_size > 0 ? memory + offset[TENSORS + 1] : NULL;
    for (int i = 0; i < TENSORS; i++) {
        if (b->floats[i] == 0) {
            continue;
        }
        b->tensor[i] = (float *)(void *)(memory + offset[i]);
        if (!is_result(p, (enum tensor)i)) {
            fill(b->tensor[i], b->floats[i], (uint64_t)i + 1);
        } else if ((b->expected[i] = malloc(b->floats[i] * sizeof(float))) == NULL) {
            return -1;
        }
    }
    return 0;
}

void free_buffers(struct buffers *b)
{
    for (int i = 0; i < TENSORS; i++) {
        free(b->expected[i]);
    }
    free(b->memory);
}

void spoil_results(const struct problem *p, struct buffers *b)
{
    for (int i = 0; i < TENSORS; i++) {
        for (size_t k = 0; is_result(p, (enum tensor)i) && k < b->floats[i]; k++) {
            b->tensor[i][k] = NAN;
        }
    }
}

/* SPDX-License-Identifier: MIT */
/*
 * Reader of golden cases: a directory with cases.tsv (cases and where their tensors are) and
 * data.f32 (little-endian float32). Nothing that a file says is trusted: every number is bounded
 * and every tensor lies inside the data once golden_load() succeeded.
 */
#ifndef DOCONV_COMMAND_GOLDEN_H
#define DOCONV_COMMAND_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

struct golden_case {
    char name[64], kind[16];
    int line;       /* of cases.tsv */
    bool gradients; /* it has some */
    /* kinds "conv" and "doconv" only: */
    /* NCHW; a plain convolution: by the folded weight if the kind is "doconv" */
    doconv_conv_desc desc;
    int64_t hout, wout;
    const float *x, *weight, *bias /* NULL without */,
        *y; /* finite; shapes as desc says, y's N x Cout x hout x wout */
    /* kind "doconv" only: weight is what W and D fold to. */
    doconv_fold_desc fold;
    const float *w, *d /* NULL where the layer has none */;
    /*
     * Both kinds, if it has gradients: of the loss by y, and by what its name says; dw: by weight,
     * or by w if the kind is "doconv".
     */
    const float *dy, *dx, *dw, *dd /* NULL without d */, *dbias /* NULL without bias */;
};

struct golden {
    struct golden_case *cases;
    int count;
    float *data;
    size_t floats;
};

/*
 * Returns 0; the caller owns g: golden_free(). On failure -1, g empty, and a message naming file,
 * line and tensor in error.
 */
int golden_load(const char *directory, struct golden *g, char *error, size_t error_size);

void golden_free(struct golden *g);

#endif

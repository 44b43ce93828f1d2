/* SPDX-License-Identifier: MIT */
/*
 * The parts of a check: a problem with its data and the oracle's answer, and one run of it through
 * the public API.
 */
#ifndef DOCONV_TEST_HARNESS_RIG_H
#define DOCONV_TEST_HARNESS_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "harness_buffer.h"

/*
 * Tensors of a problem in NCHW and OIHW order, and what must come out (see oracle_convolve()).
 * Absent ones are NULL.
 */
struct data {
    float *src, *weight, *bias, *residual;
    double *value, *magnitude;
};

struct experiment {
    doconv_conv_desc desc;
    int64_t hout, wout;
    uint64_t seed;
    char text[DOCONV_PROBLEM_TEXT_SIZE]; /* canonical */
    /* |values| <= 4 (bias, residual: 8): sums are exact in float */
    struct data integers;
    struct data reals;    /* uniform, over several binary orders of magnitude */
    struct data poisoned; /* the integers with one NaN in src */
};

/*
 * Makes the data of a valid problem, the same for the same seed and problem. false: text or sizes
 * fail; failure tells.
 */
bool experiment_create(struct experiment *e, const doconv_conv_desc *desc, uint64_t seed,
                       char *failure, size_t size);
void experiment_destroy(struct experiment *e);

struct rig_options {
    enum buffer_place place;
    bool nan_gaps;      /* NaNs in the padding channels of src and residual; else zeros */
    bool alias;         /* residual is dst itself */
    unsigned char dirt; /* what fills the workspace before each run */
};

/* One run: tensors in the layouts of the problem, in buffers of their own. */
struct rig {
    const struct experiment *e;
    const struct data *data;
    struct rig_options options;
    struct buffer src, weight, bias, residual, dst, workspace;
    doconv_context *ctx;
    const char *variant;
    doconv_plan *plan;
    doconv_weights *weights;
    doconv_status status; /* of the last call */
    bool residual_is_dst;
};

/*
 * Plans (variant NULL: the context's choice), packs, lays out. false: failure tells; rig_destroy()
 * is due in any case.
 */
bool rig_prepare(struct rig *rig, doconv_context *ctx, const struct experiment *e,
                 const struct data *data, const char *variant, struct rig_options options,
                 char *failure, size_t size);
/* Executes; a fault is a failure that names the buffer. dst is filled afresh first. */
bool rig_execute(struct rig *rig, char *failure, size_t size);
void rig_destroy(struct rig *rig);

/* The result in dst against the oracle: bitwise, where that is no NaN. */
bool rig_check_exact(const struct rig *rig, char *failure, size_t size);
/*
 * ... against the oracle: within the bound of a sum of K + 3 roundings, amplified. That of a kernel
 * that computes tiles is by the largest input of the output's tile in each channel; where one of
 * these is no finite number, only outputs that are NaN in the oracle's answer must be so.
 */
bool rig_check_close(const struct rig *rig, double amplification, char *failure, size_t size);
/* ... as the plan's kernel promises it for integers: bitwise, or (if it rounds them) close. */
bool rig_check_value(const struct rig *rig, char *failure, size_t size);

/* Inputs: rows [y0, y1) and columns [x0, x1) of an image. */
struct rig_window {
    int64_t y0, y1, x0, x1;
};
/* What an output's tile reads, where the plan's kernel computes tiles; false: it doesn't. */
bool rig_tile(const struct rig *rig, int64_t output, struct rig_window *window);
/* ... every element written, padding channels zero, nothing beside any buffer. */
bool rig_check_complete(const struct rig *rig, char *failure, size_t size);
/* ... padding channels of dst are zero. */
bool rig_check_gaps(const struct rig *rig, char *failure, size_t size);
/*
 * dst equals other, a copy of another run's dst, bit for bit, padding included. what: the other run
 * in words.
 */
bool rig_check_same(const struct rig *rig, const float *other, const char *what, char *failure,
                    size_t size);

#endif

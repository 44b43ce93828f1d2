/* SPDX-License-Identifier: MIT */
/*
 * What the files of folding share: how rows of W meet channels of D, and how the work of composing
 * them is cut for a kernel. For src/compose.
 *
 * A row of W is an (output, input of its group) pair: D_mul floats that compose with the channel of
 * D that meets it to KH*KW floats of the weight.
 */
#ifndef DOCONV_FOLD_CUT_H
#define DOCONV_FOLD_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* What a candidate chooses. */
struct dc_fold_parameters {
    int blocks;   /* vectors of channels of D whose transposed rows a call holds */
    int together; /* of the gradient of D: vectors of channels of a call; else 0 */
};

/* The rows of W that meet a channel of D: Cout/groups of them, `step` apart. */
struct dc_row_series {
    int64_t first, step;
};
struct dc_row_series dc_fold_rows(const doconv_fold_desc *desc, int64_t channel);

/* Does what is read and written once, W and the weight, come from beyond L2? From memory? */
bool dc_fold_rows_are_far(const doconv_fold_desc *desc);
bool dc_fold_rows_are_in_memory(const doconv_fold_desc *desc);

/* Composing with a kernel: a fold or, with D turned, the gradient of W. Tasks are parts of the
 * channels x parts of the rows that meet each. */
struct dc_fold_cut {
    const struct dc_kernel *kernel;
    doconv_fold_desc desc; /* of what is composed */
    bool turned;           /* D's channels are D_mul x taps of desc */
    int64_t blocks;        /* vectors of channels of D in all */
    int block_parts, tasks;
    ptrdiff_t blocks_a_call; /* which the kernel shares rows over */
    ptrdiff_t panel;         /* of dc_compose_args */
    bool in_memory;
    size_t scratch_floats; /* a task's */
};
struct dc_fold_cut dc_fold_cut(const doconv_fold_desc *desc, bool turned,
                               const struct dc_kernel *kernel, int threads, int blocks);

/*
 * Blocks whose transposed rows of D stay in L1, or (far) in L2: where rows come from far, blocks of
 * neighbouring channels should follow each other in a row, for memory is fast only where it is read
 * on and on.
 */
int dc_fold_blocks_fitting(const doconv_fold_desc *desc, const struct dc_kernel *kernel, bool far);

/* The layer with taps and D_mul exchanged: W's gradient composes so from the weight's. */
doconv_fold_desc dc_fold_turned(const doconv_fold_desc *desc);

/* A composition, and which part of the tensors is there. */
struct dc_compose_job {
    const struct dc_fold_cut *cut;
    const float *w, *d;
    float *weight;
    /*
     * w has only outputs from `out` on and inputs [in, in + inputs); inputs 0: all of it is there.
     */
    int64_t out, in, inputs;
    int64_t first_result; /* the output that weight begins with */
    float *scratch;       /* of all tasks */
};
/* A dc_parallel() task of a dc_compose_job. */
void dc_compose_task(void *job, int index);
/* Blocks [block, last) of channels, and outputs [start, end) of those that meet each. */
void dc_compose_blocks(const struct dc_compose_job *job, float *scratch, int64_t block,
                       int64_t last, int64_t start, int64_t end);

/* How much of D_mul the identity is added to. */
static inline int64_t dc_fold_repeated(const doconv_fold_desc *desc)
{
    const int64_t taps = desc->kh * desc->kw;
    return desc->add_identity ? desc->d_mul / taps * taps : 0;
}

/*
 * What a public call is given, as ranges of its tensors: what is read, and the weight (or the
 * gradients) that is written.
 */
doconv_status dc_fold_check_memory(doconv_context *ctx, const doconv_fold_desc *desc,
                                   const struct dc_tensors *tensors);

/* Seconds that composing takes, roughly: multiply-adds, or the stream of W and the weight. */
double dc_fold_estimate(const struct dc_problem *p, const struct dc_kernel *kernel, int tasks);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A validated descriptor with what follows from it, and its text. Any file above src/base may
 * include this.
 */
#ifndef DOCONV_PROBLEM_H
#define DOCONV_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

/*
 * A validated descriptor with what follows from it. Paddings are the effective ones: what no output
 * reads is left out. An empty batch is a problem of one image that is never run.
 */
struct dc_problem {
    doconv_conv_desc desc;
    bool empty; /* the descriptor's n is 0; desc's is 1 then */
    int64_t hout, wout;
    int64_t group_cin, group_cout;
    float lo, hi; /* ReLU and clamp in one */
    double macs;
    bool fresh_weights; /* they are packed in each call: only candidates depend on it */
    size_t src_bytes, dst_bytes, weight_bytes;
};
doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem);
/* Canonical text; size >= DOCONV_PROBLEM_TEXT_SIZE. */
void dc_problem_format(const struct dc_problem *problem, char *text, size_t size);

#endif

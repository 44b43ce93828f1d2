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
 * A validated descriptor with what follows from it, the same for equal problems: padding that no
 * output reads is left out, a mapping that is the paper's for this layer is PAPER, and an identity
 * that d_mul < KH*KW has no room for is 0.
 */
struct dc_problem {
    doconv_conv_desc desc;
    int64_t hout, wout;
    int64_t group_cin, group_cout;
    float lo, hi; /* ReLU and clamp in one */
    double macs;
    bool fresh_weights; /* they are packed in each call: only candidates depend on it */
    size_t src_bytes, dst_bytes, weight_bytes;
};
doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem);
/* The weight of a DO-Conv layer as doconv_fold() makes it, for a problem with d_mul > 0. */
doconv_fold_desc dc_problem_fold(const struct dc_problem *problem);
/*
 * Are W, D and the weight of sizes that memory can have, with room for what is computed from these?
 * Every count of desc is at least 1, and groups divide cin.
 */
bool dc_fold_fits(const doconv_fold_desc *desc);
/* Canonical text; size >= DOCONV_PROBLEM_TEXT_SIZE. */
void dc_problem_format(const struct dc_problem *problem, char *text, size_t size);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Plans and packed weights, and the choice of a candidate. For src/plan, what stands above it, and
 * the tuner.
 */
#ifndef DOCONV_PLAN_H
#define DOCONV_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "base/context.h"
#include "plan/candidate.h"
#include "plan/problem.h"

struct dc_solver;

struct doconv_plan {
    doconv_context *ctx;
    struct dc_problem problem;
    struct dc_candidate candidate;
    const struct dc_solver *solver;
    const char *origin;
    char problem_text[DOCONV_PROBLEM_TEXT_SIZE];
    uint64_t packed_layout; /* plans with the same one share weights */
    void *state;            /* the solver's; one block from dc_alloc() */
};

struct doconv_weights {
    doconv_context *ctx;
    uint64_t packed_layout;
    float *data; /* 64-byte aligned */
};

/* doconv_plan_create() without its verbose line, for plans that nobody asked for: the tuner's. */
doconv_status dc_plan_create(doconv_context *ctx, const doconv_conv_desc *desc,
                             const doconv_plan_options *options, doconv_plan **plan);
/* Plans, candidates and the tuner take plain convolutions only: UNSUPPORTED for a DO-Conv layer. */
doconv_status dc_plan_check_plain(doconv_context *ctx, const struct dc_problem *problem);
/* A caller's options, or NULL for the defaults, as checked ones of this version. */
doconv_status dc_plan_options_read(doconv_context *ctx, const doconv_plan_options *from,
                                   doconv_plan_options *options);

/*
 * The cache's key: the problem and everything else that the best choice depends on. size >=
 * DC_KEY_SIZE.
 */
void dc_plan_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, char *key, size_t size);

/*
 * Every candidate, accepted ones first, best estimate first. The caller frees list->items with
 * dc_free(). With fresh_weights, those accepted have one order of sums, whatever the number of
 * threads: training promises the same bits.
 */
doconv_status dc_enumerate(doconv_context *ctx, const struct dc_problem *problem,
                           const doconv_plan_options *options, struct dc_candidate_list *list);

#endif

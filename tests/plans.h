/* SPDX-License-Identifier: MIT */
/*
 * Plans of any operation, and the candidates that they can be made of. For tests of the operations;
 * programs with api_support.
 */
#ifndef DOCONV_TEST_PLANS_H
#define DOCONV_TEST_PLANS_H

#include <stdbool.h>

#include <doconv/doconv.h>

#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* The plan of a candidate's text, or (NULL) the context's choice; no plan ends the test. */
doconv_plan *plan_of(doconv_context *ctx, const struct dc_problem *problem, const char *variant);

/*
 * Every candidate that is accepted when it is forced: those of dc_enumerate() and, where these have
 * one order of sums, those of the other orders too. The caller frees items with dc_free().
 */
struct dc_candidate_list forcible(doconv_context *ctx, const struct dc_problem *problem);

/* With DOCONV_TEST_SCALE that share of them: the best by estimate, and others each time. */
struct dc_candidate_list forcible_share(doconv_context *ctx, const struct dc_problem *problem);

/* Is the candidate of the ISA of the context's cap? Those of others are tried under their own. */
bool of_cap(const doconv_context *ctx, const struct dc_candidate *candidate);

#endif

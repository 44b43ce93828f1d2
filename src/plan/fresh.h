/* SPDX-License-Identifier: MIT */
/*
 * Executing with weights that change in each call. For src/train and the tuner.
 */
#ifndef DOCONV_FRESH_H
#define DOCONV_FRESH_H

#include <stddef.h>

#include "plan/solver.h"

/*
 * Executes a plan with weights that are made in the call: packed, and folded first if they have a
 * fold (NULL: none). workspace: 64-byte aligned.
 */
size_t dc_fresh_workspace_size(const doconv_plan *plan, const doconv_fold_desc *fold);
void dc_fresh_run(const doconv_plan *plan, const struct dc_weight_source *source, const float *src,
                  const float *residual, float *dst, char *workspace);

#endif

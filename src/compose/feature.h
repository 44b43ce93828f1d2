/* SPDX-License-Identifier: MIT */
/*
 * Feature composition of a DO-Conv layer. For src/compose and src/library.c; others use plans of
 * DC_FEATURE_FORWARD and DC_FEATURE_BACKWARD.
 */
#ifndef DOCONV_FEATURE_H
#define DOCONV_FEATURE_H

#include "plan/solver.h"

extern const struct dc_solver dc_solver_feature_forward, dc_solver_feature_forward_portable;
extern const struct dc_solver dc_solver_feature_backward, dc_solver_feature_backward_portable;

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Folding W and D of a DO-Conv layer into the weight of a convolution, and handing that weight's
 * gradient back. For src/compose and src/library.c; others use plans of DC_FOLD and
 * DC_FOLD_GRADIENT.
 */
#ifndef DOCONV_FOLD_H
#define DOCONV_FOLD_H

#include "plan/solver.h"

extern const struct dc_solver dc_solver_fold, dc_solver_fold_portable;
extern const struct dc_solver dc_solver_fold_gradient, dc_solver_fold_gradient_portable;

#endif

/* SPDX-License-Identifier: MIT */
/* Any convolution by the scalar reference. For src/library.c and the tuner's check of results. */
#ifndef DOCONV_REFERENCE_H
#define DOCONV_REFERENCE_H

#include "kernel.h"
#include "plan/problem.h"
#include "plan/solver.h"

/*
 * Everything of a dc_reference_args but the image and the output channel. weight: OIHW; bias,
 * residual: or NULL.
 */
struct dc_reference_args dc_reference_args(const struct dc_problem *problem, const float *src,
                                           const float *weight, const float *bias,
                                           const float *residual, float *dst);

extern const struct dc_solver dc_solver_reference;

#endif

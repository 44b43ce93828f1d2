/* SPDX-License-Identifier: MIT */
/* 1x1 convolution from planes to planes (NCHW). For src/library.c. */
#ifndef DOCONV_PLANES_H
#define DOCONV_PLANES_H

#include "plan/solver.h"

extern const struct dc_solver dc_solver_planes;

#endif

/* SPDX-License-Identifier: MIT */
/* 1x1 convolution of single pixels. For src/library.c. */
#ifndef DOCONV_PIXEL_H
#define DOCONV_PIXEL_H

#include "plan/solver.h"

extern const struct dc_solver dc_solver_pixel;

#endif

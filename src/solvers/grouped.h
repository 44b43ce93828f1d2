/* SPDX-License-Identifier: MIT */
/* Depthwise convolution and narrow groups. For src/library.c. */
#ifndef DOCONV_GROUPED_H
#define DOCONV_GROUPED_H

#include "plan/solver.h"

extern const struct dc_solver dc_solver_depthwise, dc_solver_grouped;

#endif

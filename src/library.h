/* SPDX-License-Identifier: MIT */
/*
 * The roof: what joins the floors of the library into one. For library.c, the tuner, and tests that
 * build contexts of their own parts.
 */
#ifndef DOCONV_LIBRARY_H
#define DOCONV_LIBRARY_H

#include <doconv/doconv.h>

struct dc_solver;

/* Every solver, NULL at the end; of equals in an estimate the list's order decides nothing. */
extern const struct dc_solver *const dc_solvers[];

/*
 * Makes the tuner the context's advisor; in a build without it, leaves it without one. Called last
 * by doconv_context_create().
 */
doconv_status dc_tuner_attach(doconv_context *ctx);

#endif

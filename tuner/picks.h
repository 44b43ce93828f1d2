/* SPDX-License-Identifier: MIT */
/* Which candidates are worth measuring: at first, and when one of them has won. For the tuner. */
#ifndef DOCONV_PICKS_H
#define DOCONV_PICKS_H

#include "plan/candidate.h"

#define PICKS_FIRST 8 /* most at first */
#define PICKS_NEAR 4  /* most neighbours at a time */

/*
 * Picks indices from a sorted list with texts, in its order: the default, which the library would
 * take without measuring, is the first. The best of each solver are among them, then the best of
 * other kernels, then the best of all, as the estimate has it; none that it finds much slower.
 * Returns how many there are.
 */
int dc_picks_first(const struct dc_candidate_list *list, int picked[PICKS_FIRST]);

/*
 * Neighbours of a variant: of its solver, and different in one thing, a kernel or a parameter.
 * known[i]: the list's candidate i is none to pick. Likewise.
 */
int dc_picks_near(const struct dc_candidate_list *list, const char *variant, const bool *known,
                  int picked[PICKS_NEAR]);

/*
 * Things in which two variants' texts differ: the kernel, the second one, each parameter (one that
 * only one has counts too). Another solver is far more.
 */
int dc_picks_distance(const char *one, const char *other);

#endif

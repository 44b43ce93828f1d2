/* SPDX-License-Identifier: MIT */
/* The estimate, corrected by what another problem's entry measured. For the tuner's index. */
#ifndef DOCONV_NEAREST_CORRECT_H
#define DOCONV_NEAREST_CORRECT_H

#include "cachefile.h"
#include "nearest.h"
#include "plan/candidate.h"

/*
 * The best of a list of candidates by their estimates, each times the ratio measured / estimated
 * that the neighbour's entry has for its variant, or on average for its kernel, or for all. Where
 * it is no better than the neighbour's winner, that one. NULL if nothing of the entry can be
 * estimated any more.
 */
const struct dc_candidate *dc_nearest_correct(doconv_context *ctx,
                                              const struct nearest_key *neighbour,
                                              const struct cache_entry *entry,
                                              struct dc_candidate_list *list);

#endif

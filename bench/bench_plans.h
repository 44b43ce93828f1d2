/* SPDX-License-Identifier: MIT */
/* --plans: how long it takes to make a plan. */
#ifndef DOCONV_BENCH_PLANS_H
#define DOCONV_BENCH_PLANS_H

#include "bench_problem.h"

namespace bench
{

/*
 * Makes plans of the wanted problems, in each layout that they are tried in: with the choice from
 * the cache on disk, from the context's memory, and by estimate; runs a benchmark of each that
 * replays it, and prints what they take. Problems that the cache lacks have an estimate alone.
 */
void time_plans(const options &o, const workload &work, const std::vector<bool> &wanted);

} // namespace bench

#endif

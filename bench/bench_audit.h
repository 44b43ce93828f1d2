/* SPDX-License-Identifier: MIT */
/* --tune=audit: are the tuner's choices the best ones? */
#ifndef DOCONV_BENCH_AUDIT_H
#define DOCONV_BENCH_AUDIT_H

#include <vector>

#include "bench_problem.h"

namespace bench
{

/*
 * Tunes the wanted problems as a user's program does, in a fresh cache or the one that the options
 * name, measures every candidate of each, and prints how far behind the best the choices of the
 * tuner and of the estimate are. Throws usage_error; std::runtime_error for a wrong result.
 */
void audit(const options &o, const workload &work, const std::vector<bool> &wanted);

} // namespace bench

#endif

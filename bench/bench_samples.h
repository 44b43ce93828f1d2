/* SPDX-License-Identifier: MIT */
/* Samples of runners that take turns, and what becomes of them: medians and spreads. */
#ifndef DOCONV_BENCH_SAMPLES_H
#define DOCONV_BENCH_SAMPLES_H

#include <vector>

#include "bench_engine.h"

namespace bench
{

/*
 * Samples of the final rounds, and those that other processes disturbed however often they were
 * taken again.
 */
struct disturbance {
    int samples = 0, disturbed = 0;
};

/* One runner's samples, in seconds of a call. */
struct series {
    runner *what = nullptr;
    double guess = 0; /* of a call's seconds */
    std::vector<double> seconds, cpu_seconds;
    bool dropped = false;
};

/*
 * The runners that aren't dropped take turns, each round starting with another one. A sample is as
 * many calls as at_least seconds take, or one.
 */
void take_rounds(const std::vector<series *> &all, int rounds, double at_least, bool one_thread,
                 disturbance &seen);

/* The seconds of one call. */
double time_once(runner &r);

/* 0 of no values. */
double median(std::vector<double> values);

/* Median absolute deviation / median. */
double spread(const std::vector<double> &values);

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
/* Sums of the contenders' figures over the layers of a network, and ratios between them. */
#ifndef DOCONV_BENCH_SUMS_H
#define DOCONV_BENCH_SUMS_H

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bench_session.h"

namespace bench
{

/* One contender's sums over layers; of a single layer, its figure. */
struct total {
    double seconds = 0, flops = 0;
    /* what the flops take at the peak of their moments, and the bytes at the copy's rate */
    double peak_seconds = 0, copy_seconds = 0;
    int64_t count = 0;
    int layers = 0;
    double error = 0, rms_error = 0; /* the largest of a layer */

    void add(const figure &f, const problem &p, const measurement &m, int64_t times);
};

/* Whose time is divided by whose; over 1, the latter is faster. */
struct comparison {
    const char *over, *under; /* contenders' names */
    const char *text;         /* for people */
};
enum comparison_number { against_doconv, against_direct, gain, comparisons };
extern const comparison compared[comparisons];

/* The ratio of a layer; 0: one of the two has no figure. */
double ratio_of(const session &s, const measurement &m, comparison_number which);

struct ratio_sum {
    int count = 0;
    double log_sum = 0, lowest = INFINITY;
    std::string lowest_layer;

    double geomean() const
    {
        return std::exp(log_sum / count);
    }
};

/* The sums of one network. Only layers of which all contenders have a figure count. */
struct network_sum {
    std::vector<total> totals; /* in the contenders' order */
    ratio_sum ratios[comparisons];
    int layers = 0, lost = 0;
};

network_sum sum_up(const session &s, const std::string &network);

/* The ratio of the totals; 0: there is none. */
double ratio_of_totals(const session &s, const network_sum &sum, comparison_number which);

/* Those with a layer that was measured, in order. */
std::vector<std::string> networks_of(const session &s);

} // namespace bench

#endif

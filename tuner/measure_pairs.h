/* SPDX-License-Identifier: MIT */
/* Statistics of samples, and of pairs of them. For the tuner's measure*.c. */
#ifndef DOCONV_MEASURE_PAIRS_H
#define DOCONV_MEASURE_PAIRS_H

#include "measure.h"

/*
 * Two candidates side by side: what drifts from round to round moves both samples of a round, and
 * says nothing about their ratio.
 */
struct pairs {
    int count;    /* rounds that both were in; of both clean samples if there are two such */
    double ratio; /* median over these of the second's time / the first's; 1 if there are none */
    double error; /* standard error of that */
};

struct pairs dc_pairs(const struct measured *first, const struct measured *second);

/* How sure (0..1) that the true ratio is above a bound. */
double dc_pairs_above(const struct pairs *pairs, double bound);

/* Sets an item's median and spread; it has a sample, or both are 0. */
void dc_measured_summarize(struct measured *item);

#endif

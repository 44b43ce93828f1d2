/* SPDX-License-Identifier: MIT */
/*
 * The parts of dc_measure_check(): what a variant wrote is compared, tensor by tensor, with what
 * shares no kernel with it. For the tuner's check_*.c and measure_check.c.
 */
#ifndef DOCONV_CHECK_H
#define DOCONV_CHECK_H

#include <math.h>
#include <stdbool.h>

#include "measure.h"

/* Products that a check may compute by plain loops, and their rate a second, roughly. */
#define CHECK_MACS 1e7
#define CHECK_RATE 5e8
/* Terms of the shortest sums, bias and residual included, count as so many more. */
#define CHECK_FEWEST_TERMS 16.0

/* Portable loops, by their variants' texts. */
#define CHECK_FOLD "compose:portable"
#define CHECK_WEIGHT_GRADIENT "loops:portable"

struct check {
    struct measure_set *set;
    const struct measured *item; /* has run on tensors full of NaN */
    /* The verdict, on the tensors compared so far: */
    struct check_result result;
};

/* Of values, from what they should be. Starts as zeros. */
struct difference {
    double worst, largest;            /* of |got - expected|, of |expected| */
    double squares, expected_squares; /* sums of theirs */
};
static inline void dc_difference_add(struct difference *d, double got, double expected)
{
    const double difference = fabs(got - expected);
    d->worst = isnan(difference) ? INFINITY : fmax(d->worst, difference);
    d->largest = fmax(d->largest, fabs(expected));
    d->squares += difference * difference;
    d->expected_squares += expected * expected;
}
static inline void dc_difference_join(struct difference *d, const struct difference *other)
{
    d->worst = fmax(d->worst, other->worst);
    d->largest = fmax(d->largest, other->largest);
    d->squares += other->squares;
    d->expected_squares += other->expected_squares;
}

/*
 * What values are sums of: the number of terms that are added one way or another, and the size that
 * such sums usually have, which post-operations or chance may leave nothing of.
 */
struct sums {
    double terms, usual;
};

/*
 * Is a difference within rounding? Sums of k terms without a common sign grow like sqrt(k), and so
 * does their rounding relative to them: 16 units leave room for every order of additions, and none
 * for a term that is missing.
 */
bool dc_difference_is_rounding(const struct difference *d, const struct sums *sums,
                               float error_amplification);
/* Adds a difference to the verdict. */
void dc_check_judge(struct check *check, const struct difference *d, const struct sums *sums);
/* All of a tensor that the item has written. */
void dc_check_tensor(struct check *check, enum measure_tensor which, const float *expected,
                     const struct sums *sums);

double dc_largest_of(const float *values, size_t bytes);

/* Runs a plan of this variant (NULL: the estimate's) in memory of its own. */
doconv_status dc_check_run(doconv_context *ctx, const struct dc_problem *problem,
                           const char *variant, const struct dc_tensors *tensors);
/* The weight that the set's W and D fold to, by portable loops, for the caller to dc_free(). */
doconv_status dc_check_fold(const struct measure_set *set, float **folded);

doconv_status dc_check_fold_gradient(struct check *check);
doconv_status dc_check_weight_gradient(struct check *check);
doconv_status dc_check_feature_backward(struct check *check);

#endif

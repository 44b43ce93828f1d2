/* SPDX-License-Identifier: MIT */
#include "measure_pairs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Ratios of pairs deviate by as much at least, whatever a few of them show: the least of clean
 * samples, and of those that other processes had a part in.
 */
#define CLEAN_DEVIATION 0.006
#define DISTURBED_DEVIATION 0.03
/* Of a normal distribution: standard deviation / median absolute deviation ... */
#define DEVIATION_OF_MAD 1.4826
/* ... / mean absolute deviation ... */
#define DEVIATION_OF_MEAN 1.2533
#define FEW 5
/* ... and standard error of the median / of the mean. */
#define ERROR_OF_MEDIAN 1.2533
#define PI 3.14159265358979323846

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[MEASURE_ROUNDS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return count % 2 != 0 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* Median of the absolute deviations from the median; *mean: their mean. */
static double deviation(const double *values, int count, double middle, double *mean)
{
    double deviations[MEASURE_ROUNDS];
    *mean = 0.0;
    for (int i = 0; i < count; i++) {
        deviations[i] = fabs(values[i] - middle);
        *mean += deviations[i] / count;
    }
    return median(deviations, count);
}

/* Standard deviation of the values but for far-off ones. */
static double standard_deviation(const double *values, int count, double middle)
{
    double mean;
    const double median = deviation(values, count, middle, &mean);
    /* Of a few values, two that are alike by chance must not hide a third. */
    return count < FEW ? DEVIATION_OF_MEAN * mean : DEVIATION_OF_MAD * median;
}

static int ratios_of(const struct measured *first, const struct measured *second, bool clean,
                     double *ratios)
{
    int count = 0;
    for (int r = 0; r < MEASURE_ROUNDS; r++) {
        if (first->samples[r] > 0.0 && second->samples[r] > 0.0 &&
            (!clean || (first->clean[r] && second->clean[r]))) {
            ratios[count++] = second->samples[r] / first->samples[r];
        }
    }
    return count;
}

struct pairs dc_pairs(const struct measured *first, const struct measured *second)
{
    double ratios[MEASURE_ROUNDS], least = CLEAN_DEVIATION;
    int count = ratios_of(first, second, true, ratios);
    if (count < 2) {
        count = ratios_of(first, second, false, ratios);
        least = DISTURBED_DEVIATION;
    }
    if (count == 0) {
        return (struct pairs){.ratio = 1.0, .error = INFINITY};
    }
    const double ratio = median(ratios, count);
    const double spread = fmax(standard_deviation(ratios, count, ratio), least * ratio);
    return (struct pairs){count, ratio, ERROR_OF_MEDIAN * spread / sqrt(count)};
}

/*
 * Student's distribution with a whole number of degrees of freedom: Abramowitz and Stegun, Handbook
 * of Mathematical Functions (1964), 26.7.3 and 26.7.4.
 */
static double student(double t, int freedom)
{
    const double angle = atan(t / sqrt(freedom)), cosine = cos(angle);
    const bool odd = freedom % 2 != 0;
    double term = odd ? cosine : 1.0, sum = 0.0;
    for (int i = odd ? 3 : 2; i <= freedom; i += 2) {
        sum += term;
        term *= cosine * cosine * (double)(i - 1) / (double)i;
    }
    const double within = odd ? (angle + sin(angle) * sum) * 2.0 / PI : sin(angle) * sum;
    return 0.5 + 0.5 * within;
}

double dc_pairs_above(const struct pairs *pairs, double bound)
{
    /* One pair has no deviation of its own: it tells which is faster, at best. */
    if (pairs->count < 2) {
        return pairs->count == 1 && pairs->ratio > bound ? 0.5 : 0.0;
    }
    return student((pairs->ratio - bound) / pairs->error, pairs->count - 1);
}

void dc_measured_summarize(struct measured *m)
{
    double values[MEASURE_ROUNDS];
    int count = 0;
    for (int r = 0; r < MEASURE_ROUNDS; r++) {
        if (m->samples[r] > 0.0 && (m->clean[r] || m->clean_rounds == 0)) {
            values[count++] = m->samples[r];
        }
    }
    m->median = count > 0 ? median(values, count) : m->once;
    double mean;
    m->spread = count > 0 ? deviation(values, count, m->median, &mean) / m->median : 0.0;
}

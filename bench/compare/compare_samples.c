/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLE_SECONDS 0.5e-3  /* a sample is as many calls as this takes, or one */
#define LONG_CALL_SECONDS 5e-3 /* a call this long warms the caches by itself */
#define SHORT_CALL_SECONDS 0.5e-3
#define FEW_COPIES 4 /* of what isn't short: packed weights may be large */
#define FEWEST_PAIRS 25
#define MOST_PAIRS 4096
#define NARROW 0.0005 /* standard error of the ratio from which more samples tell nothing more */

static double now(void)
{
    struct timespec t = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of a call, after one that isn't timed and finds the other library's data in the caches.*/
static double sample(const struct engine *e, const struct buffers *b, int calls, bool warm,
                     doconv_status *status)
{
    if (warm && *status == DOCONV_OK) {
        *status = run_engine(e, b);
    }
    const double start = now();
    for (int i = 0; i < calls && *status == DOCONV_OK; i++) {
        *status = run_engine(e, b);
    }
    return (now() - start) / calls;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which this share of sorted values lies, between its two neighbours. */
static double quantile(const double *sorted, int count, double share)
{
    const double place = share * (count - 1);
    const int at = (int)place;
    const double next = at + 1 < count ? sorted[at + 1] : sorted[at];
    return sorted[at] + (place - at) * (next - sorted[at]);
}

static void sum_up(double *const samples[SIDES], double *scratch, int count, struct figures *f)
{
    for (int s = 0; s < SIDES; s++) {
        memcpy(scratch, samples[s], (size_t)count * sizeof *scratch);
        qsort(scratch, (size_t)count, sizeof *scratch, compare_doubles);
        f->seconds[s] = quantile(scratch, count, 0.5);
    }
    for (int i = 0; i < count; i++) {
        scratch[i] = samples[REV][i] / samples[THIS][i];
    }
    qsort(scratch, (size_t)count, sizeof *scratch, compare_doubles);
    f->low = quantile(scratch, count, 0.25);
    f->ratio = quantile(scratch, count, 0.5);
    f->high = quantile(scratch, count, 0.75);
    f->pairs = count;
}

/* The standard error of a median, by the quartiles of what is about normally distributed. */
static double uncertainty(const struct figures *f)
{
    return 0.93 * (f->high - f->low) / sqrt(f->pairs);
}

double quick_look(const struct engines *e, const struct buffers *b)
{
    doconv_status status = DOCONV_OK;
    double best = INFINITY; /* the first calls of all may be slow */
    for (int i = 0; i < 2 * SIDES; i++) {
        best = fmin(best, sample(&e->copy[0][i % SIDES], b, 1, false, &status));
    }
    return status == DOCONV_OK ? best : 0;
}

int copies_for(const struct problem *p, double call)
{
    /* Steps choose their variants by themselves: copies that are tuned may choose differently. */
    return p->kind != LAYER ? 1 : call < SHORT_CALL_SECONDS ? COPIES : FEW_COPIES;
}

/*
 * One sample of each library. A B B A: what slows down or speeds up with time does so to both. Each
 * round over the copies pairs them differently, and swaps the order of what comes first.
 */
static doconv_status take_pair(const struct engines *e, const struct buffers *b, int pair,
                               double call, double *samples[SIDES])
{
    const int round = pair / e->copies;
    const int calls = (int)fmax(1, ceil(SAMPLE_SECONDS / fmax(call, 1e-7)));
    const int copy[SIDES] = {pair % e->copies, (pair + round) % e->copies};
    doconv_status status = DOCONV_OK;
    for (int turn = 0; turn < SIDES; turn++) {
        const int side = turn ^ ((pair + round) & 1);
        samples[side][pair] =
            sample(&e->copy[copy[side]][side], b, calls, call < LONG_CALL_SECONDS, &status);
    }
    return status;
}

int take_samples(const struct engines *e, const struct buffers *b, double call, double seconds,
                 struct figures *f)
{
    double *memory = malloc((SIDES + 1) * MOST_PAIRS * sizeof *memory);
    if (memory == NULL) {
        return -1;
    }
    double *samples[SIDES] = {memory, memory + MOST_PAIRS}, *scratch = memory + SIDES * MOST_PAIRS;
    doconv_status status = DOCONV_OK;
    const double start = now();
    const int round = e->copies > 1 ? e->copies : 2;
    for (int pair = 0; pair < MOST_PAIRS && status == DOCONV_OK; pair++) {
        status = take_pair(e, b, pair, call, samples);
        const int pairs = pair + 1;
        if (pairs >= FEWEST_PAIRS && pairs % round == 0) {
            sum_up(samples, scratch, pairs, f);
            if (uncertainty(f) < NARROW || now() - start > seconds) {
                break;
            }
        }
    }
    free(memory);
    return status == DOCONV_OK ? 0 : -1;
}

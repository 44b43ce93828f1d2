/* SPDX-License-Identifier: MIT */
/* Timing: samples, their statistics, rounds. */
#include "base/clock.h"
#include "base/context.h"
#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A sample lasts this long at least: the clock and a call's overhead vanish in it. */
#define SAMPLE_SECONDS 200e-6
#define MOST_REPEATS 1000
#define MOST_COLD_REPEATS 3
/*
 * A sample that lost its core for more than this share of its time is taken again, so often; the
 * shortest counts if none has kept it.
 */
#define LOST_SHARE 0.03
#define MOST_TRIES 5
/*
 * Weights that come back from memory are a part of a run as short as this that counts: other
 * candidates' weights have taken their place in the caches.
 */
#define SHORT_SECONDS 1e-3
/* A first run as long as this needs no second one to be trusted for the number of repeats. */
#define LONG_SECONDS 20e-3
/* Another than the default must be this much faster. */
#define MARGIN 1.01
#define FINALISTS 3
/*
 * A candidate goes if it is slower than the best by these factors: after one run, after two rounds,
 * after five.
 */
#define HOPELESS_RUN 3.0
#define HOPELESS_ROUND 1.5
#define BEHIND 1.15

/* ---- a sample ---- */

/* Each task reads and writes its part: the caches of all cores are filled with it. */
static void flush_task(void *arg, int index)
{
    const struct measure_set *set = arg;
    const size_t tasks = (size_t)set->ctx->threads, part = set->flush_bytes / tasks;
    volatile char *bytes = set->flush + part * (size_t)index;
    for (size_t i = 0; i < part; i += 64) {
        bytes[i]++;
    }
}

static void touch(const volatile float *tensor, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(float); i += 16) {
        (void)tensor[i];
    }
}

/*
 * As in a network: the layer before has just written src (or the one behind it, in training,
 * grad_dst), dst's memory serves every other layer, the weight's gradient was summed right before
 * its fold's; weights, W and D were last read an inference or a step ago.
 */
static void make_cold(struct measure_set *set)
{
    static const enum measure_tensor near[] = {MEASURE_GRAD_SRC, MEASURE_DST, MEASURE_GRAD_FOLDED,
                                               MEASURE_SRC, MEASURE_GRAD_DST};
    dc_parallel(set->ctx, set->ctx->threads, flush_task, set);
    for (size_t i = 0; i < sizeof near / sizeof near[0]; i++) {
        touch(set->tensors[near[i]], set->bytes[near[i]]);
    }
}

/* A stretch of time in which calls run. */
struct stretch {
    double wall, thread;
    long switches;
};

static struct stretch begin(const struct measure_set *set)
{
    const struct dc_clock *clock = set->ctx->clock;
    struct stretch at = {.thread = clock->thread(clock->user),
                         .switches = clock->switches(clock->user)};
    at.wall = dc_now(set->ctx); /* last, and first at the end: nearest to the calls */
    return at;
}

/* Adds the time since then. */
static void end(const struct measure_set *set, const struct stretch *since, struct stretch *sum)
{
    const struct dc_clock *clock = set->ctx->clock;
    sum->wall += dc_now(set->ctx) - since->wall;
    sum->thread += clock->thread(clock->user) - since->thread;
    sum->switches += clock->switches(clock->user) - since->switches;
}

/* The time of calls alone, without what makes weights cold before each. */
static struct stretch time_runs(struct measure_set *set, const struct measured *m, int repeats)
{
    struct stretch sum = {0};
    struct stretch start = begin(set);
    for (int i = 0; i < repeats; i++) {
        if (set->cold) {
            make_cold(set);
            start = begin(set);
        }
        dc_measure_run(set, m);
        if (set->cold || i + 1 == repeats) {
            end(set, &start, &sum);
        }
    }
    return sum;
}

/*
 * Did other processes take the core? Alone, the thread's own time tells; one that waits for others
 * may sleep, so there the threads that were put aside count.
 */
static bool was_disturbed(const struct measure_set *set, const struct stretch *s)
{
    return set->ctx->threads == 1 ? s->wall - s->thread > LOST_SHARE * s->wall : s->switches > 0;
}

/* Seconds of a call, undisturbed if that can be had. */
static double time_call(struct measure_set *set, const struct measured *m, int repeats)
{
    double shortest = INFINITY;
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        const struct stretch s = time_runs(set, m, repeats);
        if (!was_disturbed(set, &s)) {
            return s.wall / repeats;
        }
        shortest = fmin(shortest, s.wall / repeats);
    }
    return shortest;
}

static void sample(struct measure_set *set, struct measured *m)
{
    if (m->rounds < MEASURE_SAMPLES) {
        if (!set->cold && m->samples[0] < SHORT_SECONDS) {
            dc_measure_run(set, m);
        }
        m->samples[m->rounds++] = time_call(set, m, m->repeats);
    }
}

/* The first run warms caches and touches pages; the second tells how often to repeat. */
static void calibrate(struct measure_set *set, struct measured *m)
{
    double once = time_call(set, m, 1);
    if (once < LONG_SECONDS) {
        once = fmin(once, time_call(set, m, 1));
    }
    const int most = set->cold ? MOST_COLD_REPEATS : MOST_REPEATS;
    m->repeats = once * most <= SAMPLE_SECONDS ? most : (int)ceil(SAMPLE_SECONDS / once);
    m->repeats = m->repeats < 1 ? 1 : m->repeats > most ? most : m->repeats;
    m->samples[0] = once;
    m->rounds = 1;
}

/* ---- statistics ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[MEASURE_SAMPLES];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return count % 2 != 0 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* Median absolute deviation / median. */
static double relative_deviation(const double *values, int count)
{
    double deviations[MEASURE_SAMPLES];
    const double middle = median(values, count);
    for (int i = 0; i < count; i++) {
        deviations[i] = fabs(values[i] - middle);
    }
    return middle > 0.0 ? median(deviations, count) / middle : 0.0;
}

static void summarize(struct measured *m)
{
    const int count = m->rounds - m->first_kept;
    m->median = median(m->samples + m->first_kept, count);
    m->spread = relative_deviation(m->samples + m->first_kept, count);
}

static double best_sample(const struct measured *m)
{
    double best = INFINITY;
    for (int i = 0; i < m->rounds; i++) {
        best = fmin(best, m->samples[i]);
    }
    return best;
}

static int by_median(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->wrong != y->wrong) {
        return x->wrong ? 1 : -1;
    }
    return (x->median > y->median) - (x->median < y->median);
}

/* Kept ones first. */
static int by_standing(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->dropped != y->dropped) {
        return x->dropped ? 1 : -1;
    }
    return by_median(a, b);
}

/* ---- rounds ---- */

/* Samples every kept item in turn, starting with another one each time. */
static void round_of(struct measure_set *set, int count, int number)
{
    for (int i = 0; i < count; i++) {
        struct measured *m = &set->items[(i + number) % count];
        if (!m->dropped) {
            sample(set, m);
        }
    }
}

/*
 * Drops what is behind by a factor, and returns how many are left. Behind in the best sample and in
 * the median both: on a busy machine one lucky sample of one candidate is no reason to drop all
 * others, nor an unlucky median to drop that one.
 */
static int drop(struct measure_set *set, double factor)
{
    double best = INFINITY, middle = INFINITY;
    int kept = 0;
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        if (!m->dropped) {
            summarize(m);
            best = fmin(best, best_sample(m));
            middle = fmin(middle, m->median);
        }
    }
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        m->dropped = m->dropped || (best_sample(m) > best * factor && m->median > middle * factor);
        kept += !m->dropped;
    }
    return kept;
}

static void report_progress(const struct measure_limits *limits, int done, int total)
{
    if (limits->progress != NULL) {
        limits->progress(limits->progress_user, done, total);
    }
}

static bool is_cancelled(const struct measure_limits *limits)
{
    return limits->cancel != NULL && limits->cancel(limits->cancel_user) != 0;
}

/*
 * Returns the number of items kept, which stand first then, the fastest before the others; *rounds:
 * that of the rounds, as progress counts them.
 */
static int coarse_rounds(struct measure_set *set, const struct measure_limits *limits, double start,
                         int finals, int *rounds, bool *cancelled)
{
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        m->dropped = m->wrong;
        m->first_kept = 0;
        if (!m->wrong) {
            calibrate(set, m);
        }
    }
    *cancelled = is_cancelled(limits);
    int kept = drop(set, HOPELESS_RUN);
    *rounds = limits->least_rounds;
    const int most = MEASURE_SAMPLES - finals - 1;
    for (int number = 0; number < most && kept > FINALISTS && !*cancelled; number++) {
        if (number >= limits->least_rounds &&
            dc_now(set->ctx) - start > 0.6 * limits->budget_seconds) {
            break;
        }
        *rounds = number > limits->least_rounds ? number : limits->least_rounds;
        report_progress(limits, number, *rounds + finals);
        round_of(set, set->count, number);
        *cancelled = is_cancelled(limits);
        if (number == 1) {
            kept = drop(set, HOPELESS_ROUND);
        } else if (number >= 4) {
            kept = drop(set, BEHIND);
        }
    }
    for (int i = 0; i < set->count; i++) {
        if (!set->items[i].wrong) {
            summarize(&set->items[i]);
        }
    }
    qsort(set->items, (size_t)set->count, sizeof *set->items, by_standing);
    return kept;
}

/* Median over the final rounds of b's time / a's: what drifts from round to round cancels. */
static double paired_ratio(const struct measured *a, const struct measured *b)
{
    double ratios[MEASURE_SAMPLES];
    const int rounds = a->rounds - a->first_kept;
    for (int r = 0; r < rounds; r++) {
        ratios[r] = b->samples[b->first_kept + r] / a->samples[a->first_kept + r];
    }
    return median(ratios, rounds);
}

/*
 * Spread of a finalist relative to its round: a clock that drifts moves all finalists of a round
 * and says nothing about their order. A finalist alone keeps the spread of its own samples.
 */
static void paired_spread(struct measured *items, int count)
{
    for (int i = 0; i < count && count > 1; i++) {
        double relative[MEASURE_SAMPLES];
        const int rounds = items[i].rounds - items[i].first_kept;
        for (int r = 0; r < rounds; r++) {
            double sum = 0.0;
            for (int j = 0; j < count; j++) {
                sum += items[j].samples[items[j].first_kept + r];
            }
            relative[r] = items[i].samples[items[i].first_kept + r] / sum;
        }
        items[i].spread = relative_deviation(relative, rounds);
    }
}

/* Index of the winner among finalists. */
static int choose(const struct measured *items, int count)
{
    int winner = 0;
    for (int i = 1; i < count; i++) {
        if (paired_ratio(&items[winner], &items[i]) < 1.0) {
            winner = i;
        }
    }
    /* A gain within the noise is no reason to leave the default. */
    for (int i = 0; i < count; i++) {
        if (items[i].is_default && i != winner &&
            paired_ratio(&items[winner], &items[i]) < MARGIN) {
            return i;
        }
    }
    return winner;
}

static void move_to_front(struct measured *items, int index)
{
    const struct measured moved = items[index];
    memmove(&items[1], &items[0], (size_t)index * sizeof *items);
    items[0] = moved;
}

bool dc_measure(struct measure_set *set, const struct measure_limits *limits)
{
    const double start = dc_now(set->ctx);
    bool cancelled = false;
    int finals = 2 * limits->least_rounds, rounds;
    const int kept = coarse_rounds(set, limits, start, finals, &rounds, &cancelled);
    int count = kept < FINALISTS ? kept : FINALISTS;
    for (int i = count; i < kept; i++) {
        if (set->items[i].is_default) {
            const struct measured standard = set->items[i];
            memmove(&set->items[count + 1], &set->items[count],
                    (size_t)(i - count) * sizeof standard);
            set->items[count++] = standard;
            break;
        }
    }
    if (dc_now(set->ctx) - start > limits->budget_seconds) {
        finals = limits->least_rounds;
    }
    if (cancelled) {
        return false; /* items stand by the medians of what there is */
    }
    for (int i = 0; i < count; i++) {
        set->items[i].first_kept = set->items[i].rounds;
    }
    for (int number = 0; number < finals; number++) {
        report_progress(limits, rounds + number, rounds + finals);
        round_of(set, count, number);
        cancelled = is_cancelled(limits);
        if (cancelled) {
            break;
        }
    }
    for (int i = 0; i < count; i++) {
        summarize(&set->items[i]);
    }
    paired_spread(set->items, count);
    move_to_front(set->items, choose(set->items, count));
    qsort(set->items + 1, (size_t)set->count - 1, sizeof *set->items, by_median);
    report_progress(limits, rounds + finals, rounds + finals);
    return !cancelled;
}

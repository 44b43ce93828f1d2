/* SPDX-License-Identifier: MIT */
/* A sample: calls of a candidate, timed, and taken again if other processes had a part in it. */
#include "base/clock.h"
#include "base/context.h"
#include "measure.h"

#include <math.h>

/* A sample lasts this long at least: the clock and a call's overhead vanish in it. */
#define SAMPLE_SECONDS 200e-6
#define MOST_REPEATS 1000
#define MOST_COLD_REPEATS 3
/* One that lost its core for more than this share of its time is taken again, so often. */
#define LOST_SHARE 0.03
#define MOST_TRIES 4
/*
 * Weights that come back from memory are a part of a run as short as this that counts: other
 * candidates' weights have taken their place in the caches.
 */
#define SHORT_SECONDS 1e-3
/* A first call as long as this is as good as any other. */
#define LONG_SECONDS 20e-3

/* ---- time ---- */

void dc_measure_set_budget(struct measure_set *set, double seconds)
{
    set->budget = seconds;
}

double dc_measure_left(const struct measure_set *set)
{
    const struct dc_clock *clock = set->ctx->clock;
    const double wall = dc_now(set->ctx) - set->wall_start,
                 own = clock->thread(clock->user) - set->thread_start,
                 lost = set->ctx->threads == 1 ? wall - own : set->lost;
    return set->budget - (wall - fmax(0.0, fmin(lost, set->budget)));
}

bool dc_measure_cancelled(struct measure_set *set)
{
    set->cancelled = set->cancelled || (set->cancel != NULL && set->cancel(set->cancel_user) != 0);
    return set->cancelled;
}

/* ---- calls ---- */

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

struct sample {
    double seconds; /* of a call */
    bool clean;
};

/*
 * Undisturbed if that can be had. Else the shortest counts: alone, by the thread's own time, which
 * leaves out what others took, but not what they left of the caches.
 */
static struct sample time_call(struct measure_set *set, struct measured *m, int repeats)
{
    struct sample best = {INFINITY, false};
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        if (tries > 0) {
            m->retaken++;
        }
        const struct stretch s = time_runs(set, m, repeats);
        if (!was_disturbed(set, &s)) {
            return (struct sample){s.wall / repeats, true};
        }
        set->lost += s.wall;
        best.seconds = fmin(best.seconds, (set->ctx->threads == 1 ? s.thread : s.wall) / repeats);
        if (dc_measure_left(set) <= 0.0) {
            break;
        }
    }
    return best;
}

static void keep(struct measure_set *set, struct measured *m, struct sample sample)
{
    /* No clock is so fine that a call takes no time: 0 would be no sample. */
    m->samples[set->round] = fmax(sample.seconds, 1e-12);
    m->clean[set->round] = sample.clean;
    m->rounds++;
    m->clean_rounds += sample.clean;
}

void dc_measure_sample(struct measure_set *set, struct measured *m)
{
    if (!set->cold && m->once < SHORT_SECONDS) {
        dc_measure_run(set, m);
    }
    keep(set, m, time_call(set, m, m->repeats));
}

void dc_measure_calibrate(struct measure_set *set, struct measured *m)
{
    /* The first call warms caches and touches pages; the second tells how often to repeat. */
    struct sample first = time_call(set, m, 1);
    if (first.seconds < LONG_SECONDS) {
        const struct sample second = time_call(set, m, 1);
        first = second.seconds < first.seconds ? second : first;
    }
    m->once = first.seconds;
    const int most = set->cold ? MOST_COLD_REPEATS : MOST_REPEATS;
    m->repeats = m->once * most <= SAMPLE_SECONDS ? most : (int)ceil(SAMPLE_SECONDS / m->once);
    m->repeats = m->repeats < 1 ? 1 : m->repeats > most ? most : m->repeats;
    if (m->repeats == 1) {
        keep(set, m, first);
    }
}

/* SPDX-License-Identifier: MIT */
/* A sample: calls of a candidate, timed, and taken again if other processes had a part in it. */
#include "base/clock.h"
#include "base/context.h"
#include "measure.h"
#include "plan/plan.h"

#include <math.h>
#include <sched.h>

/* A sample lasts this long at least: the clock and a call's overhead vanish in it. */
#define SAMPLE_SECONDS 200e-6
#define MOST_REPEATS 1000
/* Where the caches are flushed before each call, which takes longer; or some memory is evicted. */
#define MOST_FLUSHED_REPEATS 3
#define MOST_EVICTED_REPEATS 16
/* One that lost its core for more than this share of its time is taken again, so often. */
#define LOST_SHARE 0.03
#define MOST_TRIES 4
/*
 * Other candidates' weights have taken the place of a candidate's own in the caches. That these
 * come back from memory counts in a call as short as this, or one that reads so much of them in a
 * second: memory gives some five times as much.
 */
#define SHORT_SECONDS 1e-3
#define WEIGHTS_RATE 4e9
/* A first call as long as this is as good as any other. */
#define LONG_SECONDS 20e-3

/* ---- time ---- */

void dc_measure_set_budget(struct measure_set *set, double seconds)
{
    set->budget = seconds;
    set->most_lost = seconds;
}

double dc_measure_left(const struct measure_set *set)
{
    const struct dc_clock *clock = set->ctx->clock;
    const double wall = dc_now(set->ctx) - set->wall_start,
                 own = clock->thread(clock->user) - set->thread_start,
                 lost = set->ctx->threads == 1 ? wall - own : set->lost;
    return set->budget - (wall - fmax(0.0, fmin(lost, set->most_lost)));
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

static void touch(const void *memory, size_t bytes)
{
    const volatile char *at = memory;
    for (size_t i = 0; i < bytes; i += 64) {
        (void)at[i];
    }
}

/* Is it in cache when a call starts? Those that are have an order: the last is the nearest. */
static const enum measure_tensor near_tensors[] = {
    MEASURE_GRAD_SRC, MEASURE_DST, MEASURE_GRAD_FOLDED, MEASURE_SRC, MEASURE_GRAD_DST};
enum { NEAR_TENSORS = sizeof near_tensors / sizeof near_tensors[0] };

static bool is_near(enum measure_tensor tensor)
{
    bool near = false;
    for (int i = 0; i < NEAR_TENSORS; i++) {
        near = near || near_tensors[i] == tensor;
    }
    return near;
}

/* All that a call reads but what is near. */
static void evict_far(const struct measure_set *set, const struct measured *m)
{
    if (m->weights != NULL) {
        set->evict(m->weights->data, m->plan->candidate.packed_size);
    }
    for (int i = 0; i < MEASURE_TENSORS; i++) {
        if (set->bytes[i] != 0 && !is_near((enum measure_tensor)i)) {
            set->evict(set->tensors[i], set->bytes[i]);
        }
    }
}

/*
 * As in a network: the layer before has just written src (or the one behind it, in training,
 * grad_dst), dst's memory and the workspace serve every other layer, the weight's gradient was
 * summed right before its fold's; weights, W, D and a residual were last used an inference, a step
 * or some layers ago.
 */
static void make_cold(struct measure_set *set, const struct measured *m)
{
    if (set->evict != NULL) {
        evict_far(set, m);
    } else {
        dc_parallel(set->ctx, set->ctx->threads, flush_task, set);
    }
    touch(set->workspace, m->plan->workspace_size);
    for (int i = 0; i < NEAR_TENSORS; i++) {
        touch(set->tensors[near_tensors[i]], set->bytes[near_tensors[i]]);
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
            make_cold(set, m);
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

/* What others, or another candidate, left in the caches is no part of a call's time. */
static void warm_up(const struct measure_set *set, const struct measured *m)
{
    const double bytes = m->weights != NULL ? (double)m->plan->candidate.packed_size : 0.0;
    const bool counts = m->once < SHORT_SECONDS || bytes > WEIGHTS_RATE * m->once;
    if (!set->cold && m->once > 0.0 && counts) {
        dc_measure_run(set, m);
    }
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
            /* Others' turn now rather than amid the next try: that begins with a new slice. */
            sched_yield();
            m->retaken++;
        }
        warm_up(set, m);
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
    keep(set, m, time_call(set, m, m->repeats));
}

static int most_repeats(const struct measure_set *set)
{
    return !set->cold           ? MOST_REPEATS
           : set->evict != NULL ? MOST_EVICTED_REPEATS
                                : MOST_FLUSHED_REPEATS;
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
    const int most = most_repeats(set);
    m->repeats = m->once * most <= SAMPLE_SECONDS ? most : (int)ceil(SAMPLE_SECONDS / m->once);
    m->repeats = m->repeats < 1 ? 1 : m->repeats > most ? most : m->repeats;
    if (m->repeats == 1) {
        keep(set, m, first);
    }
}

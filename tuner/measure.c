/* SPDX-License-Identifier: MIT */
/* Races: rounds of samples, who drops out, who leads, when it is over. */
#include "base/context.h"
#include "measure.h"
#include "measure_pairs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Another than the default must be this much faster. */
#define MARGIN 1.01
/* Who may be faster by less than this is as good: it decides nothing. */
#define TOLERANCE 0.02
/* As sure as one must be that a candidate is no faster than that, and that it is slower. */
#define SURE_ENOUGH 0.9
#define SURE 0.95
/* Who drops out is behind by this at least, and has so many clean samples, as has the leader. */
#define BEHIND 1.02
#define LEAST_CLEAN 2
/* Rounds side by side before near ones are settled, and after which a race ends. */
#define LEAST_ROUNDS 3
#define MOST_ROUNDS 32

/* ---- who leads ---- */

static bool is_racing(const struct measured *m)
{
    return m->state == MEASURED_RACING;
}

/*
 * The fastest of all that are racing; one that was settled behind another, if it turns out clearly
 * faster than this. -1: none has a sample.
 */
static int leader_of(const struct measure_set *set)
{
    int leader = -1;
    for (int i = 0; i < set->count; i++) {
        const struct measured *m = &set->items[i];
        if (is_racing(m) && m->rounds > 0) {
            const struct pairs p =
                leader >= 0 ? dc_pairs(&set->items[leader], m) : (struct pairs){0};
            leader = leader < 0 || (p.count > 0 && p.ratio < 1.0) ? i : leader;
        }
    }
    int best = leader;
    double least = 1.0 - 0.25 * TOLERANCE;
    for (int i = 0; i < set->count && leader >= 0; i++) {
        const struct measured *m = &set->items[i];
        if (m->state == MEASURED_SETTLED) {
            const struct pairs p = dc_pairs(&set->items[leader], m);
            if (p.count >= LEAST_ROUNDS && p.ratio < least) {
                best = i;
                least = p.ratio;
            }
        }
    }
    return best;
}

/*
 * What the round says of one that is behind the leader. One that is surely not faster by more than
 * the tolerance is settled: the choice between them makes no difference.
 */
static void judge(const struct measured *leader, struct measured *m)
{
    const struct pairs p = dc_pairs(leader, m);
    m->confidence = dc_pairs_above(&p, 1.0 - TOLERANCE);
    if (m->clean_rounds >= LEAST_CLEAN && leader->clean_rounds >= LEAST_CLEAN &&
        p.ratio >= BEHIND && dc_pairs_above(&p, 1.0) >= SURE) {
        m->state = MEASURED_SLOWER;
    } else if (!m->is_default && p.count >= LEAST_ROUNDS && m->confidence >= SURE_ENOUGH) {
        m->state = MEASURED_SETTLED;
    }
}

/* Is nothing left to find out? */
static bool is_stable(const struct measure_set *set, int leader)
{
    bool stable = set->items[leader].rounds >= LEAST_CLEAN;
    for (int i = 0; i < set->count; i++) {
        const struct measured *m = &set->items[i];
        if (is_racing(m) && i != leader) {
            const struct pairs p = dc_pairs(&set->items[leader], m);
            stable = stable && p.count >= LEAST_ROUNDS && m->confidence >= SURE_ENOUGH;
        }
    }
    return stable;
}

static void judge_all(struct measure_set *set, int leader)
{
    for (int i = 0; i < set->count; i++) {
        if (is_racing(&set->items[i]) && i != leader) {
            judge(&set->items[leader], &set->items[i]);
        }
    }
}

/* ---- rounds ---- */

/* Has each that is racing as many samples as decide anything? */
static bool all_sampled(const struct measure_set *set)
{
    bool all = true;
    for (int i = 0; i < set->count; i++) {
        all = all && (!is_racing(&set->items[i]) || set->items[i].rounds >= LEAST_CLEAN);
    }
    return all;
}

/* Samples who is racing and has none of this round yet; false: the time is up. */
static bool round_of(struct measure_set *set, double later, double reserve)
{
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[(i + set->round) % set->count];
        if (is_racing(m) && !(m->samples[set->round] > 0.0)) {
            if (dc_measure_left(set) <= (all_sampled(set) ? later : reserve)) {
                return false;
            }
            dc_measure_sample(set, m);
        }
    }
    return true;
}

static void report_progress(const struct measure_set *set, doconv_progress_fn progress, void *user)
{
    if (progress != NULL) {
        const double done = 1.0 - dc_measure_left(set) / set->budget;
        progress(user, (int)(100.0 * fmax(0.0, fmin(done, 0.99))), 100);
    }
}

int dc_measure_race(struct measure_set *set, double later, double reserve,
                    doconv_progress_fn progress, void *progress_user)
{
    const int first = set->round;
    bool goes_on = !set->cancelled;
    while (goes_on && set->round < MEASURE_ROUNDS && set->round < first + MOST_ROUNDS) {
        report_progress(set, progress, progress_user);
        goes_on = round_of(set, later, reserve) && !dc_measure_cancelled(set);
        const int leader = leader_of(set);
        if (leader >= 0) {
            set->items[leader].state = MEASURED_RACING;
            judge_all(set, leader);
            goes_on = goes_on && !is_stable(set, leader);
        }
        set->round++;
    }
    const int leader = leader_of(set);
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        if (is_racing(m) && m->rounds > 0 && i != leader && !m->is_default) {
            m->state = MEASURED_SETTLED;
        }
    }
    return leader;
}

void dc_measure_again(struct measure_set *set)
{
    for (int i = 0; i < set->count; i++) {
        if (set->items[i].state != MEASURED_WRONG) {
            set->items[i].state = MEASURED_RACING;
        }
    }
}

void dc_measure_extend(struct measure_set *set)
{
    set->most_lost = 2.0 * set->budget;
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        if (m->state == MEASURED_SETTLED && (i == 0 || m->confidence < SURE_ENOUGH)) {
            m->state = MEASURED_RACING;
        }
    }
}

/* ---- the result ---- */

static int by_median(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    const bool x_wrong = x->state == MEASURED_WRONG, y_wrong = y->state == MEASURED_WRONG;
    if (x_wrong != y_wrong) {
        return x_wrong ? 1 : -1;
    }
    return (x->median > y->median) - (x->median < y->median);
}

/* The leader, unless its gain over the default is within the noise; the default without any. */
static int winner_of(const struct measure_set *set)
{
    int leader = leader_of(set);
    for (int i = 0; i < set->count; i++) {
        const struct measured *m = &set->items[i];
        if (m->state == MEASURED_WRONG) {
            continue;
        }
        if (leader < 0) {
            leader = i; /* time for no sample: the first stands for all */
        } else if (m->is_default && is_racing(m)) {
            const struct pairs p = dc_pairs(&set->items[leader], m);
            leader = p.ratio < MARGIN ? i : leader;
        }
    }
    return leader;
}

static void move_to_front(struct measured *items, int index)
{
    const struct measured moved = items[index];
    memmove(&items[1], &items[0], (size_t)index * sizeof *items);
    items[0] = moved;
}

double dc_measure_finish(struct measure_set *set)
{
    for (int i = 0; i < set->count; i++) {
        dc_measured_summarize(&set->items[i]);
    }
    move_to_front(set->items, winner_of(set));
    struct measured *first = &set->items[0];
    double confidence = 1.0;
    first->confidence = 1.0;
    for (int i = 1; i < set->count; i++) {
        struct measured *m = &set->items[i];
        if (m->state == MEASURED_WRONG) {
            continue;
        }
        const struct pairs p = dc_pairs(first, m);
        if (p.count >= 2) {
            /* Side by side: a clock that drifts leaves that. */
            m->median = p.ratio * first->median;
            /* Who had left by then was no faster than one that isn't faster than the winner. */
            const double now = dc_pairs_above(&p, 1.0 - TOLERANCE);
            m->confidence = is_racing(m) ? now : fmax(now, m->confidence);
        }
        confidence = fmin(confidence, m->confidence);
    }
    qsort(set->items + 1, (size_t)set->count - 1, sizeof *set->items, by_median);
    return confidence;
}

/* SPDX-License-Identifier: MIT */
#include "picks.h"

#include "plan/solver.h"

#include <stdlib.h>
#include <string.h>

/* None that the estimate finds slower than the best by this factor. */
#define HOPELESS 3.0
/* Kernels beside the best of each solver; more would crowd out the best ones' parameters. */
#define OTHER_KERNELS 2
#define USUAL 6 /* candidates, where there are no more solvers and kernels than that */
#define FAR 100 /* a distance */

static bool worth_measuring(const struct dc_candidate_list *list, int index)
{
    /*
     * Only where nothing else takes the problem: the reference and portable loops are what the
     * others are checked against.
     */
    return dc_candidate_is_plain(&list->items[index])
               ? index == 0
               : list->items[index].estimated_seconds <=
                     HOPELESS * list->items[0].estimated_seconds;
}

static bool may_be_picked(const struct dc_candidate_list *list, int index)
{
    return list->items[index].refused == NULL && worth_measuring(list, index);
}

/* ---- at first ---- */

/* What a pick is new by. */
enum wish { SOLVER, KERNEL, ITSELF };

static bool is_new_pick(const struct dc_candidate_list *list, const int *picked, int count,
                        int index, enum wish wish)
{
    const struct dc_candidate *c = &list->items[index];
    for (int i = 0; i < count; i++) {
        const struct dc_candidate *other = &list->items[picked[i]];
        if (wish == ITSELF
                ? picked[i] == index
                : other->solver == c->solver && (wish == SOLVER || other->kernel == c->kernel)) {
            return false;
        }
    }
    return true;
}

static int by_index(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int dc_picks_first(const struct dc_candidate_list *list, int picked[PICKS_FIRST])
{
    /* Up to how many in all, and of each wish. */
    static const int all[] = {[SOLVER] = PICKS_FIRST, [KERNEL] = PICKS_FIRST, [ITSELF] = USUAL},
                     most[] = {[SOLVER] = PICKS_FIRST, [KERNEL] = OTHER_KERNELS, [ITSELF] = USUAL};
    int count = 0;
    for (int wish = SOLVER; wish <= ITSELF; wish++) {
        int left = most[wish];
        for (int i = 0; i < list->count && count < all[wish] && left > 0; i++) {
            if (may_be_picked(list, i) && is_new_pick(list, picked, count, i, (enum wish)wish)) {
                picked[count++] = i;
                left--;
            }
        }
    }
    qsort(picked, (size_t)count, sizeof *picked, by_index);
    return count;
}

/* ---- neighbours ---- */

/* A part of a variant's text, up to one of the characters at its end. */
struct part {
    const char *text;
    size_t length;
};

static struct part part_of(const char *text, const char *ends)
{
    return (struct part){text, strcspn(text, ends)};
}

static bool same(struct part a, struct part b)
{
    return a.length == b.length && memcmp(a.text, b.text, a.length) == 0;
}

static const char *after(struct part part)
{
    const char *end = part.text + part.length;
    return *end != '\0' ? end + 1 : end;
}

static const char *parameters_of(const char *variant)
{
    return after(part_of(after(part_of(variant, ":")), ":"));
}

/* NULL: there is none of this name. */
static const char *find_parameter(const char *parameters, struct part name)
{
    while (*parameters != '\0' && !same(part_of(parameters, "=,"), name)) {
        parameters = after(part_of(parameters, ","));
    }
    return *parameters != '\0' ? parameters : NULL;
}

/* Parameters of one that the other lacks or, with `values`, has with another value. */
static int count_differences(const char *one, const char *other, bool values)
{
    int count = 0;
    for (const char *at = parameters_of(one); *at != '\0'; at = after(part_of(at, ","))) {
        const char *found = find_parameter(parameters_of(other), part_of(at, "=,"));
        count += found == NULL || (values && !same(part_of(at, ","), part_of(found, ",")));
    }
    return count;
}

int dc_picks_distance(const char *one, const char *other)
{
    if (!same(part_of(one, ":"), part_of(other, ":"))) {
        return FAR;
    }
    const struct part first = part_of(after(part_of(one, ":")), "+:"),
                      other_first = part_of(after(part_of(other, ":")), "+:"),
                      second = part_of(first.text + first.length, ":"),
                      other_second = part_of(other_first.text + other_first.length, ":");
    return !same(first, other_first) + !same(second, other_second) +
           count_differences(one, other, true) + count_differences(other, one, false);
}

int dc_picks_near(const struct dc_candidate_list *list, const char *variant, const bool *known,
                  int picked[PICKS_NEAR])
{
    int count = 0;
    for (int i = 0; i < list->count && count < PICKS_NEAR; i++) {
        if (!known[i] && may_be_picked(list, i) &&
            dc_picks_distance(list->items[i].text, variant) == 1) {
            picked[count++] = i;
        }
    }
    return count;
}

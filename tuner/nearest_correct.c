/* SPDX-License-Identifier: MIT */
#include "nearest_correct.h"

#include <math.h>

#include "base/context.h"
#include "plan/candidate.h"
#include "plan/plan.h"

/* Another than the neighbour's winner must be expected to be this much faster. */
#define MARGIN 1.02

/* A variant that the neighbour measured, and the logarithm of measured / estimated there. */
struct ratio {
    const char *variant;
    const struct dc_solver *solver;
    const struct dc_kernel *kernel, *second;
    double log;
};

static bool is_usable(const struct dc_candidate *c)
{
    return c->refused == NULL && c->estimated_seconds > 0.0;
}

/* Adds a measured variant if it is a candidate there. */
static void add_ratio(struct dc_candidate_list *there, const char *variant, int64_t picoseconds,
                      struct ratio *ratios, int *count)
{
    for (int i = 0; i < there->count; i++) {
        struct dc_candidate *c = &there->items[i];
        if (is_usable(c) && picoseconds > 0 && dc_candidate_is(c, variant)) {
            ratios[(*count)++] =
                (struct ratio){.variant = variant,
                               .solver = c->solver,
                               .kernel = c->kernel,
                               .second = c->second,
                               .log = log(1e-12 * (double)picoseconds / c->estimated_seconds)};
            return;
        }
    }
}

/* The mean of those that are as like as any: the variant's own, its kernels', its kernel's, all. */
static double log_ratio(struct dc_candidate *c, const struct ratio *ratios, int count)
{
    enum { ALL, KERNEL, KERNELS, LEVELS };
    double sums[LEVELS] = {0};
    int counts[LEVELS] = {0};
    for (int i = 0; i < count; i++) {
        const struct ratio *r = &ratios[i];
        const bool kernel = r->solver == c->solver && r->kernel == c->kernel,
                   kernels = kernel && r->second == c->second;
        if (kernels && dc_candidate_is(c, r->variant)) {
            return r->log;
        }
        for (int level = ALL; level <= (kernels ? KERNELS : kernel ? KERNEL : ALL); level++) {
            sums[level] += r->log;
            counts[level]++;
        }
    }
    int level = KERNELS;
    while (counts[level] == 0) {
        level--; /* there is one of ALL */
    }
    return sums[level] / counts[level];
}

static const struct dc_candidate *choose(struct dc_candidate_list *list, const char *winner,
                                         const struct ratio *ratios, int count)
{
    const struct dc_candidate *best = NULL, *first = NULL;
    double least = INFINITY, expected = INFINITY;
    for (int i = 0; i < list->count; i++) {
        struct dc_candidate *c = &list->items[i];
        if (!is_usable(c)) {
            continue;
        }
        const double seconds = c->estimated_seconds * exp(log_ratio(c, ratios, count));
        if (seconds < least) {
            least = seconds;
            best = c;
        }
        if (dc_candidate_is(c, winner)) {
            expected = seconds;
            first = c;
        }
    }
    return expected <= MARGIN * least ? first : best;
}

const struct dc_candidate *dc_nearest_correct(doconv_context *ctx,
                                              const struct nearest_key *neighbour,
                                              const struct cache_entry *entry,
                                              struct dc_candidate_list *list)
{
    struct ratio ratios[CACHEFILE_MEASURED + 1];
    struct dc_candidate_list there;
    int count = 0;
    if (dc_enumerate_quickly(ctx, &neighbour->problem, &neighbour->options, &there) != DOCONV_OK) {
        return NULL;
    }
    for (int i = 0; i < entry->count; i++) {
        add_ratio(&there, entry->measured[i].variant, entry->measured[i].picoseconds, ratios,
                  &count);
    }
    if (count == 0) {
        add_ratio(&there, entry->variant, entry->picoseconds, ratios, &count);
    }
    dc_free(ctx, there.items);
    return count > 0 ? choose(list, entry->variant, ratios, count) : NULL;
}

/* SPDX-License-Identifier: MIT */
/*
 * What every kernel of the registry must hold, checked on shapes sampled around the edges of its
 * tile. All calls go through the public API; the only thing taken from inside the library is the
 * list of kernels, so that tests can put deliberately wrong ones into a context.
 *
 * A failure is one line: kernel, property, problem, variant, seed, and what was seen. The same
 * problem runs again, alone, with
 *   DOCONV_TEST_SEED=SEED DOCONV_TEST_PROBLEM=PROBLEM test_kernels
 */
#ifndef DOCONV_TEST_HARNESS_H
#define DOCONV_TEST_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

enum property {
    /*
     * small integers, where every order of additions is exact: bitwise equal to the oracle,
     * residual = dst included. Kernels whose transforms round even these (Winograd's, but for
     * F(2,3)) must be as close as for reals.
     */
    PROPERTY_EXACT,
    /*
     * |error| <= error_amplification * gamma(K + 3) * (sum |src * weight| + |bias| + |residual|);
     * of tiles, with the largest src of the tile in each channel
     */
    PROPERTY_REAL,
    /* every buffer ends, then starts, at an inaccessible page: nothing is touched outside */
    PROPERTY_BOUNDS,
    /*
     * a NaN in src reaches the outputs that read it, through ReLU and clamp too, and no other; or,
     * of tiles, none of another tile
     */
    PROPERTY_NAN,
    /* every element of dst is written, its padding channels with zero, nothing beside it */
    PROPERTY_COMPLETE,
    PROPERTY_UNPOLLUTED, /* NaNs in the padding channels of src and residual reach nothing */
    /*
     * src, residual, weight, bias and packed weights unchanged; the second run gives the same bits
     */
    PROPERTY_CONST,
    PROPERTY_THREADS, /* 1..8 tasks in any order, on real threads too: the same bits */
    /* every variant of a kernel whose order of sums has the same number: the same bits */
    PROPERTY_SPLITS,
    PROPERTY_STATE, /* rounding and denormal modes of the floating-point unit are kept */
    PROPERTY_COUNT
};
#define PROPERTY_BIT(property) (1u << (property))
#define PROPERTY_ALL ((1u << PROPERTY_COUNT) - 1u)

const char *property_name(enum property property);

/* ---- random numbers (splitmix64): the same on every machine ---- */
struct rng {
    uint64_t state;
};
/* independent streams for different texts; text may be NULL */
struct rng rng_from(uint64_t seed, const char *text);
uint64_t rng_next(struct rng *rng);
int64_t rng_range(struct rng *rng, int64_t low, int64_t high); /* low..high, both included */
int64_t rng_pick(struct rng *rng, const int64_t *values, size_t count);
double rng_unit(struct rng *rng); /* [0, 1) */

/* DOCONV_TEST_SEED, else a fixed seed: a run that nobody asked to differ is the same everywhere. */
uint64_t harness_seed(void);

/* count scaled by DOCONV_TEST_SCALE (percent; 100 if unset), but not below least. */
int harness_scaled(int count, int least);

/*
 * A problem for a kernel, number index of its series: sizes around the tile's edges, every form of
 * padding, stride, dilation and groups in turn, every pair of layouts, post-ops at random. Always
 * valid, at most a few million multiplications.
 */
void harness_sample(const struct dc_kernel *kernel, struct rng *rng, int index,
                    doconv_conv_desc *desc);

/* ---- checks ---- */
struct harness {
    const struct dc_kernel *kernel; /* under test */
    /* what its contexts hold (NULL at the end, the reference last); NULL: the build's */
    const struct dc_kernel *const *kernels;
    doconv_isa cap; /* of its contexts */
    uint64_t seed;
    unsigned properties; /* PROPERTY_BITs to check */
    int shapes;          /* to sample */
    int least_accepted;  /* fewer shapes that the kernel accepts are a failure */
    int most_variants;   /* of a shape; more are thinned out at random */
};

struct harness_report {
    int sampled, accepted; /* shapes */
    int variants;          /* over all shapes */
    int runs[PROPERTY_COUNT];
    char failure[2048]; /* the first one; empty if there is none */
};

/* Checks a kernel on sampled shapes up to the first failure. true: all held. */
bool harness_run(const struct harness *harness, struct harness_report *report);

/* Checks a kernel on one problem; one that it refuses is no failure. least_accepted is ignored. */
bool harness_run_problem(const struct harness *harness, const doconv_conv_desc *desc,
                         struct harness_report *report);

/*
 * Every property with the usual number of shapes and variants, scaled by DOCONV_TEST_SCALE, under a
 * cap that is the kernel's own ISA.
 */
struct harness harness_for(const struct dc_kernel *kernel);

/*
 * Plans desc with the default choice of a context, runs it on small integers and compares with the
 * oracle. false: failure holds why. For tests that are about something else than kernels, but want
 * to know that the result is right.
 */
bool harness_check_default(doconv_context *context, const doconv_conv_desc *desc, uint64_t seed,
                           char *failure, size_t size);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A solver whose candidates take as long as a test says, on a clock that stands still between
 * calls: what is chosen by time is then certain. Its results are right, by the reference kernel.
 * For tests of the tuner; every failure is an assertion.
 */
#ifndef DOCONV_TEST_FAKE_SOLVER_H
#define DOCONV_TEST_FAKE_SOLVER_H

#include <stdbool.h>

#include <doconv/doconv.h>

#include "base/clock.h"
#include "base/context.h"
#include "kernel.h"

#define FAKE_MOST 64 /* candidates of a kernel */
#define FAKE_KERNELS 3
#define FAKE_PROBLEM "mb1_ic2ih3oc4kh1"

struct fake_candidate {
    double seconds;   /* of a call */
    double estimated; /* 0: in the order of the numbers, close together */
    bool wrong;       /* writes nothing */
    int calls;        /* made so far */
};

struct fake {
    int count;   /* candidates of a kernel */
    int kernels; /* of the family; they are alike */
    bool pairs;  /* the last kernel is the second one of each candidate */
    /* Those of the first kernel, then those of the second ... */
    struct fake_candidate candidates[FAKE_KERNELS * FAKE_MOST];
    /* Seconds of a candidate's call instead of its own, or NULL. call: from 0. */
    double (*seconds)(const struct fake *fake, int candidate, int call);
    /* Called at the start of each call, or NULL. */
    void (*called)(void *user);
    void *user;
    const struct dc_problem *problem; /* of the call that runs */
    double now;    /* the clock */
    double cpu;    /* that of the threads: only calls of candidates move it */
    long switches; /* cores lost to others */
    struct dc_clock clock;
    struct dc_kernel rows[FAKE_KERNELS];
    const struct dc_kernel *list[FAKE_KERNELS + 2]; /* and the reference kernel */
    /* The context's. */
    const struct dc_kernel *const *own_kernels;
    const struct dc_solver *const *own_solvers;
};

/*
 * Puts the fake clock, solver and kernels into a context (whose own must include the reference
 * kernel). One at a time, until fake_remove() puts the context's own back.
 */
void fake_install(struct fake *fake, doconv_context *ctx);
void fake_remove(struct fake *fake, doconv_context *ctx);

/* The candidate that a variant's text names. */
int fake_number(const char *variant);

#endif

/* SPDX-License-Identifier: MIT */
/* Golden cases run on kernels: what the verb and the run of one case share. */
#ifndef DOCONV_COMMAND_VERIFY_H
#define DOCONV_COMMAND_VERIFY_H

#include <stdbool.h>

#include <doconv/doconv.h>

#include "command_golden.h"

/* What happened to one kernel. */
struct verify_tally {
    doconv_kernel_info kernel;
    int cases, runs, failures;
    double largest;                    /* error relative to max|y| */
    const struct golden_case *counted; /* the last case that is in cases */
    char refused[128];                 /* the last reason why it refused a case */
};

struct verification {
    doconv_context *context;
    bool verbose;
    struct verify_tally *tally; /* one for each kernel of the build */
    int kernels;
    int runs, failures;
    double largest;
    char largest_where[256]; /* run with the largest error */
    int folds, fold_failures;
    double largest_fold; /* error relative to max|folded| */
    char largest_fold_where[64];
    int training_cases, training_runs, training_failures;
    double largest_gradient; /* error relative to the largest element of its tensor */
    char largest_gradient_where[160];
};

/*
 * Runs a case in every pair of layouts through every variant of every kernel that accepts it, and
 * counts. The weight of a kind=doconv case is what the library folds its W and D to; that is
 * checked first. Failures are printed and counted. Returns an exit status: COMMAND_FAILED, after a
 * message, if the case could not be run at all.
 */
int verify_case(struct verification *v, const struct golden_case *golden);

/*
 * Trains a case that has gradients for one step, in every pair of layouts, at every ISA cap up to
 * the context's, as a plain layer or by each composition that is defined for it, and compares the
 * result and all gradients with the case's. Returns as verify_case().
 */
int verify_training(struct verification *v, const struct golden_case *golden);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Golden cases run on kernels, and lists of problems run as plans: what the verb and the run of one
 * of them share. For the verb verify of the doconv command.
 */
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

/* ---- command_verify.c: counts by kernel ---- */

/* Makes a tally for each kernel of the context's build; returns an exit status. */
int verify_prepare(struct verification *v);

/* The tally of a kernel; NULL if no kernel is called so. */
struct verify_tally *verify_find_tally(const struct verification *v, const char *kernel);

/* A table: each kernel with its cases, runs and largest error, or why it did not run. */
void verify_print_kernels(const struct verification *v);

/* ---- command_verify_list.c ---- */

struct verify_list_options {
    const char *file; /* "-": standard input */
    bool tuned;       /* plans as the context's tune mode says; else by estimate */
    double memory;    /* bytes that a problem may take */
};

/* Runs each problem of a list as a plan and prints a summary; returns an exit status. */
int verify_list(struct verification *v, const struct verify_list_options *options);

/* ---- command_verify_problem.c ---- */

enum verify_outcome { VERIFY_RIGHT, VERIFY_WRONG, VERIFY_TOO_LARGE };

struct verify_problem {
    const doconv_conv_desc *desc;
    char text[DOCONV_PROBLEM_TEXT_SIZE]; /* of desc: decides the data */
    bool tuned;
    double memory; /* bytes that it may take */
    /* results */
    char variant[DOCONV_VARIANT_TEXT_SIZE];
    char kernel[DOCONV_VARIANT_TEXT_SIZE];
    double needs;      /* bytes that it takes, as far as known before the first is allocated */
    double error;      /* the largest, relative to the output's sum of magnitudes */
    char failure[384]; /* what is wrong */
};

/*
 * Plans a convolution, runs it on random data, and compares a few hundred outputs, corners and
 * borders among them, with sums in double. The data depend on the text alone.
 */
enum verify_outcome verify_problem(doconv_context *context, struct verify_problem *p);

/* ---- command_verify_tensors.c ---- */

#define VERIFY_GUARD_FLOATS 32

/* Half the distance from 1 to the next float: the relative error of one rounding. */
#define VERIFY_UNIT_ROUNDOFF 0x1p-24

/* gamma(k) = k*u / (1 - k*u): the relative error of k roundings. */
double verify_gamma(double k);

/* At least this many bytes, for free(); NULL if there are none. */
float *verify_allocate(size_t bytes);

/* Channels of a block; 1 where the layout has none. */
int64_t verify_layout_block(doconv_layout layout);

/*
 * Visits the channels past C of a blocked tensor: fills them with NaN, which no result may show, or
 * looks whether they are zero. False if one of those looked at is not zero.
 */
bool verify_visit_padding(float *tensor, doconv_layout layout, int64_t n, int64_t c, int64_t area,
                          bool fill);

#endif

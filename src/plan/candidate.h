/* SPDX-License-Identifier: MIT */
/*
 * A way to compute a problem: a solver, its kernels, its parameters; and the list of them. For
 * src/plan, the solvers and the tuner.
 */
#ifndef DOCONV_CANDIDATE_H
#define DOCONV_CANDIDATE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <doconv/doconv.h>

#include "base/context.h"
#include "kernel.h"

struct dc_solver;

/* Bytes that a solver may keep its own parameters in. */
#define DC_PARAMETERS_SIZE 32

/*
 * Text and struct are one to one: SOLVER:KERNEL[+SECOND][:PARAMETERS], or, where it is made of
 * other operations' plans, SOLVER[:PARAMETERS].
 */
struct dc_candidate {
    const struct dc_solver *solver;
    const struct dc_kernel *kernel; /* NULL: portable loops, or other operations' plans */
    const struct dc_kernel *second; /* one that works with it (the tile of a GEMM), or NULL */
    bool has_parameters;
    unsigned char parameters[DC_PARAMETERS_SIZE]; /* the solver's own, by dc_set_parameters() */
    /* Candidates of an operation that add in the same order, to the same bits, have one number. */
    int order_of_sums;
    float error_amplification; /* of the bound of a dot product's rounding; 1: direct */
    double estimated_seconds;
    size_t workspace_size, packed_size;
    const char *refused;        /* NULL: accepted; else the reason, a constant string */
    char text[DC_VARIANT_SIZE]; /* "" until dc_candidate_describe() */
};

/* A solver's parameters, a struct without padding that it defines, into a candidate and back. */
#define dc_set_parameters(candidate, value)                                                        \
    do {                                                                                           \
        _Static_assert(sizeof *(value) <= DC_PARAMETERS_SIZE, "parameters are too large");         \
        memcpy((candidate)->parameters, value, sizeof *(value));                                   \
        (candidate)->has_parameters = true;                                                        \
    } while (0)
#define dc_get_parameters(candidate, value) memcpy(value, (candidate)->parameters, sizeof *(value))

struct dc_candidate_list {
    struct dc_candidate *items;
    int count, capacity;
    int expected; /* how many, roughly; 0: a few */
    bool out_of_memory;
};

/* What an advisor infers for a problem from what it knows of others. */
struct dc_hint {
    const struct dc_candidate *candidate; /* of the list */
    const char *origin;                   /* "nearest" or "neighbour" */
    char key[DC_KEY_SIZE];                /* what it knows is for this one */
};

bool dc_candidate_append(const doconv_context *ctx, struct dc_candidate_list *list,
                         const struct dc_candidate *candidate);

/*
 * Writes the text of one candidate, or of all, that have none yet. Most candidates of a plan are
 * never named, and texts take longer than estimates.
 */
void dc_candidate_describe(struct dc_candidate *candidate);
void dc_candidates_describe(struct dc_candidate_list *list);

/* Plain loops, or the reference kernel: what all others are held against. */
bool dc_candidate_is_plain(const struct dc_candidate *candidate);

/* Is this its text? Makes the text only where its names are right. */
bool dc_candidate_is(struct dc_candidate *candidate, const char *text);

/* The accepted candidate of this text, or NULL. */
const struct dc_candidate *dc_candidate_find(struct dc_candidate_list *list, const char *text);

#endif

/* SPDX-License-Identifier: MIT */
/* --tune=audit, a layer: every candidate measured, the tuner's choice beside the best of them. */
#ifndef DOCONV_BENCH_AUDIT_LAYER_H
#define DOCONV_BENCH_AUDIT_LAYER_H

#include <string>

#include "bench_problem.h"
#include "bench_samples.h"

namespace bench
{

class progress;

/* A candidate whose time is told. */
struct audited_variant {
    std::string text;
    double seconds = 0; /* median of the final rounds */
    /*
     * its time / the best one's, less 1: median over pairs of samples of rounds that had no say in
     * which is the best. It may be below 0 by chance.
     */
    double behind = 0;
};

/* What an audit finds of a problem in given layouts. */
struct audited {
    std::string text, name;                /* canonical; in short */
    audited_variant tuned, estimate, best; /* the tuner's, the estimate's, the fastest */
    std::string origin;                    /* of the tuner's choice, as doconv_plan_origin() */
    double estimate_speed = 0;             /* tuned time / the estimate's, in pairs of samples */
    int candidates = 0, raced = 0; /* measured; of them, not dropped after two samples each */
    int rounds = 0;                /* the final ones */
    double plan_seconds = 0;       /* until the tuner's plan was there */
    disturbance seen;
};

/* How an audit measures. */
struct audit_limits {
    double seconds; /* of samples of a layer, beside the first two of each candidate */
    bool one_thread;
};

/*
 * Makes a plan as the context has it, measured if it lacks the problem, and measures its choice
 * beside every other candidate. p: the problem, desc: in its layouts. Returns false if nothing
 * takes the problem. Throws std::runtime_error, also for a wrong result.
 */
bool audit_layer(doconv_context *context, const problem &p, const doconv_conv_desc &desc,
                 const audit_limits &limits, progress &show, audited &found);

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The measuring: which runner of a contender is its fastest, and how fast, with all of them taking
 * turns.
 */
#ifndef DOCONV_BENCH_SESSION_H
#define DOCONV_BENCH_SESSION_H

#include <memory>
#include <string>
#include <vector>

#include "bench_engine.h"
#include "bench_samples.h"

namespace bench
{

/*
 * Whose figures are a column of the report: an engine, by those of its runners that have the role.
 * "doconv" and "direct" share an engine, and the runners that have both roles.
 */
struct contender {
    std::string name;
    engine *from;
    unsigned role;
};

/* A contender's outcome for one problem. */
struct figure {
    bool measured = false; /* else only why says something */
    bool failed = false;   /* not measured, and that is a fault: a wrong result, an error */
    bool wrong = false;
    std::string why;
    std::string label, layout;
    /* median of the samples, each a mean over its calls; of the contender's fastest runner */
    double seconds = 0;
    double cpu_seconds = 0; /* likewise, of all threads */
    double spread = 0;      /* median absolute deviation / median */
    double error = 0;       /* max|y - ref| / max|ref| */
    double rms_error = 0;   /* root of the mean (y - ref)^2, / max|ref| */

    /* In place of a time. */
    const char *missing() const
    {
        return wrong ? "WRONG" : failed ? "FAILED" : "none";
    }
};

struct measurement {
    std::vector<figure> figures; /* in the contenders' order */
    disturbance seen;
    double peak_flops = 0; /* a second, of the FMA loop in the same rounds */
    /*
     * bytes a second, read and written, of copying as many as the layer's tensors have, in the same
     * rounds
     */
    double copy_rate = 0;
};

/* Cold weights: what is to be pushed out of the caches, and how. */
struct coldness {
    bool on = false;
    size_t pool_bytes = 0; /* of a runner's copies of the weights */
    size_t most_bytes = 0; /* of all runners' copies */

    /* The copies of a runner shall not fit a last-level cache: they are twice as large. */
    static coldness of(const doconv_context_info &info);
};

/* The part of a layer's bytes, at the copy's rate, in a time. */
double copy_share(const problem &p, const measurement &m, double seconds);

class session
{
  public:
    session(const workload &work, std::vector<contender> contenders, doconv_isa isa, int threads,
            double min_seconds, const coldness &cold);

    /* Measures a problem; a repetition that was measured already is returned as it was. */
    const measurement &measure(size_t problem, size_t repetition);
    /*
     * The repetition with the median time of the first contender that has one; NULL if the problem
     * wasn't measured.
     */
    const measurement *typical(size_t problem) const;
    const std::vector<contender> &contenders() const
    {
        return contenders_;
    }
    /* The contender's number; -1: it isn't asked for. */
    int find(const std::string &name) const;
    const workload &work() const
    {
        return work_;
    }
    bool cold() const
    {
        return cold_.on;
    }
    int threads() const
    {
        return threads_;
    }

  private:
    measurement measure_now(const problem &p);

    const workload &work_;
    std::vector<contender> contenders_;
    doconv_isa isa_;
    peak_runner peak_;
    int threads_;
    coldness cold_;
    double min_seconds_;
    /* by problem and repetition */
    std::vector<std::vector<std::unique_ptr<measurement>>> measured_;
};

} // namespace bench

#endif

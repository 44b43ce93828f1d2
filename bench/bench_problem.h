/* SPDX-License-Identifier: MIT */
/*
 * What is measured: problems, the layers of networks that they stand for, their data, and the check
 * of results.
 */
#ifndef DOCONV_BENCH_PROBLEM_H
#define DOCONV_BENCH_PROBLEM_H

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <doconv/doconv.h>

#include "bench_options.h"

namespace bench
{

struct problem {
    /* layouts: as named, or those of --layout; NCHW if each engine takes its best */
    doconv_conv_desc desc;
    std::string text; /* canonical */
    bool free_layout; /* engines choose the layouts */
    int64_t hout, wout;
    double macs;

    double flops() const
    {
        return 2 * macs;
    }
    int64_t weight_count() const
    {
        return desc.cout * (desc.cin / desc.groups) * desc.kh * desc.kw;
    }
    size_t weight_bytes() const
    {
        return static_cast<size_t>(weight_count()) * sizeof(float);
    }
    /*
     * What must be read and written besides the weights: src, dst and the residual, without the
     * padding of any layout.
     */
    size_t activation_bytes() const
    {
        return static_cast<size_t>(src_count() + dst_count() * (desc.residual ? 2 : 1)) *
               sizeof(float);
    }
    bool depthwise() const
    {
        return desc.groups > 1 && desc.groups == desc.cin;
    }
    int64_t src_count() const
    {
        return desc.n * desc.cin * desc.h * desc.w;
    }
    int64_t dst_count() const
    {
        return desc.n * desc.cout * hout * wout;
    }
};

/* A row of the tables: several layers, also of several networks, may have one problem. */
struct layer {
    std::string network; /* "-" for problems of the command line */
    int64_t count;
    size_t problem;
};

struct workload {
    std::vector<problem> problems;
    std::vector<layer> layers;
};

/* Throws usage_error if it is none: what, and why. free_layout: as in struct problem. */
problem make_problem(doconv_context *context, const doconv_conv_desc &desc, bool free_layout,
                     const std::string &what);

/*
 * Reads the networks and problems that the options name. block: channels of --layout=blocked.
 * Throws usage_error.
 */
workload load_workload(doconv_context *context, const options &o, doconv_layout block);

/* "64->64 56x56 3x3 s2": the problem in short. */
std::string short_name(const problem &p);

/*
 * (source, destination) layouts that are worth a try where an engine may choose, else the problem's
 * own pair.
 */
std::vector<std::pair<doconv_layout, doconv_layout>> layouts_to_try(const problem &p);

/* "nhwc", or "nchw>nChw16c" if the sides differ. */
std::string layout_pair_name(const std::string &src, const std::string &dst);

/*
 * Random data of a problem, the same in every run: activations in NCHW, weights in OIHW, uniform in
 * [-1, 1).
 */
struct tensors {
    explicit tensors(const problem &p);
    std::vector<float> src, weight, bias, residual; /* the last two empty if unused */
};

/*
 * Judges results against sums in double at sampled outputs, and at those where two results differ
 * most.
 */
class checker
{
  public:
    checker(const problem &p, const tensors &t);
    /* Takes a whole result, in NCHW; returns its number. */
    size_t add(std::vector<float> y);
    /*
     * After the last add(): the largest |y - ref| / max|ref| of a result; infinity if any output of
     * it isn't finite.
     */
    double error(size_t result) const;
    /*
     * Root of the mean (y - ref)^2, / max|ref|, over the outputs that were sampled at random: those
     * where results differ most would say too much.
     */
    double rms_error(size_t result) const;

  private:
    double reference(int64_t output) const;

    const problem &p_;
    const tensors &t_;
    std::vector<std::pair<int64_t, double>> samples_;
    size_t random_samples_; /* the first of them */
    double largest_ = 0;
    std::vector<std::vector<float>> results_;
};

/* A result this far off has no speed. */
constexpr double wrong_error = 1e-3;

} // namespace bench

#endif

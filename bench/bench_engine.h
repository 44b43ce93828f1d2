/* SPDX-License-Identifier: MIT */
/* What the benchmark times: engines make runners, ready to run, of a problem. */
#ifndef DOCONV_BENCH_ENGINE_H
#define DOCONV_BENCH_ENGINE_H

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <doconv/doconv.h>

#include "bench_problem.h"

namespace bench
{

/* Floats aligned to 64 bytes, zeroed: activations, weights and scratch memory of every engine. */
class buffer
{
  public:
    /*
     * Large weights are on huge pages, as doconv's own allocator has them: an engine whose weights
     * are the caller's must not lose by that.
     */
    enum class use { any, weights };
    explicit buffer(size_t bytes = 0, use what = use::any) : bytes_((bytes + 63) / 64 * 64)
    {
        constexpr size_t huge_page = size_t{2} << 20;
        if (bytes_ > 0) {
            const size_t alignment = what == use::weights && bytes_ >= huge_page ? huge_page : 64;
            const size_t rounded = (bytes_ + alignment - 1) / alignment * alignment;
            data_.reset(static_cast<float *>(std::aligned_alloc(alignment, rounded)));
            if (!data_) {
                throw std::bad_alloc();
            }
#ifdef MADV_HUGEPAGE
            if (alignment == huge_page) {
                madvise(data_.get(), rounded, MADV_HUGEPAGE);
            }
#endif
            std::fill_n(data_.get(), bytes_ / sizeof(float), 0.0f);
        }
    }
    float *data() const
    {
        return data_.get();
    }
    size_t bytes() const
    {
        return bytes_;
    }
    void fill(float value)
    {
        std::fill_n(data_.get(), bytes_ / sizeof(float), value);
    }

  private:
    struct release {
        void operator()(float *p) const
        {
            std::free(p);
        }
    };
    size_t bytes_;
    std::unique_ptr<float, release> data_;
};

/*
 * What a runner stands for, as bits: the choice of its engine, and the best of doconv's variants
 * that sum directly. A choice that does so is both.
 */
constexpr unsigned role_choice = 1, role_direct = 2;

/* One way of an engine to compute a problem (or the FMA loop), with its memory. */
class runner
{
  public:
    virtual ~runner() = default;
    /* Once: what is timed. */
    virtual void run() = 0;
    /*
     * Cold weights: makes so many copies of the weights that together they are larger than this, at
     * least two; run() then takes the next one at each call. 0: back to one, as a runner starts.
     */
    virtual void hold_copies(size_t bytes) = 0;
    /* How many there are: so many calls meet each a copy that the others don't. */
    virtual size_t copies() const = 0;
    /*
     * Fills dst so that a run which leaves an output out shows: NaN, or the residual for engines
     * that add in place.
     */
    virtual void arm()
    {
    }
    /* dst as NCHW. */
    virtual std::vector<float> result()
    {
        return {};
    }

    std::string label;  /* doconv's variant, oneDNN's implementation */
    std::string layout; /* layout_pair_name() */
    unsigned roles = role_choice;
};

/* How many copies of a size are larger than bytes together. Tiny ones get a cap. */
inline size_t copies_for(size_t bytes, size_t size)
{
    constexpr size_t most = size_t{1} << 16;
    return bytes == 0 ? 1 : std::clamp(bytes / std::max<size_t>(size, 1) + 1, size_t{2}, most);
}

class engine
{
  public:
    virtual ~engine() = default;
    /* "name version" and what else a report should state. */
    virtual std::string description() const = 0;
    /*
     * Every way worth a try, the fastest of which is the engine's figure. None: why says for what
     * reason ("unsupported"). The data outlives the runners.
     */
    virtual std::vector<std::unique_ptr<runner>> prepare(const problem &p, const tensors &t,
                                                         std::string &why) = 0;
};

struct tuning_totals {
    int problems = 0, measured = 0, cached = 0, unstored = 0;
};

/* Prints how far the tuning of all problems is. */
class progress;

/*
 * A context as the options ask for, on the user's cache; or one that tunes what the cache in a
 * directory lacks. The caller owns it. Throws usage_error.
 */
doconv_context *create_context(const options &o, const char *cache = nullptr);

class doconv_engine : public engine
{
  public:
    /*
     * roles: of the runners that are wanted. Throws usage_error if the options ask for what this
     * CPU can't do.
     */
    doconv_engine(const options &o, unsigned roles);
    ~doconv_engine() override;
    doconv_engine(const doconv_engine &) = delete;
    doconv_engine &operator=(const doconv_engine &) = delete;

    doconv_context *context() const
    {
        return context_;
    }
    doconv_context_info info() const;
    std::string description() const override;
    std::vector<std::unique_ptr<runner>> prepare(const problem &p, const tensors &t,
                                                 std::string &why) override;

    /*
     * Finds the variants of a problem, in every layout it may take, as --tune says. show tells of
     * progress.
     */
    void tune(const problem &p, tuning_totals &totals, progress &show);

    /*
     * The plan of a problem whose layouts are its own, by the variant that tune() found, if it did;
     * the caller owns it. seconds: what tune() measured, else 0. Throws std::runtime_error.
     */
    doconv_plan *plan(const problem &p, double &seconds) const;

  private:
    /* A problem in given layouts and of a given accuracy class, with its canonical text. */
    struct placed {
        doconv_conv_desc desc;
        std::string text;
    };
    struct share; /* of a problem's progress */

    placed place(const problem &p, doconv_layout src, doconv_layout dst) const;
    placed strictly(const placed &in) const;
    /* The options of its plans, but for who chooses; and with that. */
    doconv_plan_options open_options(const placed &in) const;
    doconv_plan_options plan_options(const placed &in) const;
    /* Whether it is of the class strict. variant: one that the problem takes. */
    bool is_direct(const placed &in, const char *variant) const;
    /* Returns the variant, NULL: nothing takes the problem. Throws std::runtime_error. */
    const std::string *tune_one(const placed &in, tuning_totals &totals, share &part);
    /* Adds a runner, if there is one; why is set if not. */
    void add(const problem &p, const placed &in, unsigned roles, const tensors &t,
             std::vector<std::unique_ptr<runner>> &runners, std::string &why) const;

    doconv_context *context_ = nullptr;
    doconv_tune_mode tune_;
    bool cold_;
    size_t packed_;
    bool packed_as_direct_;
    unsigned roles_;
    struct tuned {
        std::string variant;
        double seconds;
    };
    std::map<std::string, tuned> choices_; /* tuned, by problem with layouts */
};

/*
 * Throws usage_error if this build has no oneDNN, or the one it has can't be capped as asked. isa:
 * doconv's best.
 */
std::unique_ptr<engine> create_onednn_engine(const options &o, doconv_isa isa);
bool onednn_built();

/* The loop of FMAs. label is empty; flops(): of one run, on all threads. */
class peak_runner : public runner
{
  public:
    peak_runner(doconv_isa isa, int threads);
    void run() override;
    void hold_copies(size_t) override
    {
    }
    size_t copies() const override
    {
        return 1;
    }
    double flops() const
    {
        return flops_;
    }

  private:
    void (*loop_)(long count);
    int threads_;
    double flops_;
};

/*
 * What memory allows a layer: a copy of as many bytes as its tensors have, from one half of a
 * buffer to the other, in vectors of the ISA, on all threads. With cold weights their share of the
 * bytes is read only, from memory, as the engines read them.
 */
class copy_runner : public runner
{
  public:
    copy_runner(const problem &p, doconv_isa isa, int threads, bool cold);
    void run() override;
    void hold_copies(size_t bytes) override;
    size_t copies() const override
    {
        return copies_;
    }
    /* Read and written in a run. */
    size_t bytes() const
    {
        return 2 * half_ + cold_;
    }

  private:
    void run_part(size_t part) const;

    void (*copy_)(const float *from, float *to, size_t floats);
    void (*read_)(const float *from, size_t floats);
    size_t threads_, half_, cold_, copies_ = 1, next_ = 0;
    float *to_;
    buffer halves_, weights_;
};

} // namespace bench

#endif

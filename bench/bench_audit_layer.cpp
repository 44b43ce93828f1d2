/* SPDX-License-Identifier: MIT */
/*
 * The first two samples of each candidate tell which ones are too slow to look at again. The others
 * race in rounds until few are left, the finalists. Of their rounds the even ones say which is the
 * best, and the odd ones by how much: what is chosen as the luckiest of hundreds must show its
 * advantage again.
 */
#include "bench_audit_layer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "bench_progress.h"

namespace bench
{

namespace
{

constexpr double first_seconds = 0.3e-3, race_seconds = 0.5e-3, final_seconds = 1e-3; /* a sample */
constexpr int first_samples = 2;
/* Slower than the fastest so far by this factor: after a call, after the first samples. */
constexpr double hopeless = 3, far_behind = 1.3;
/* In the race: after some rounds, what is so far behind in the median and at best goes. */
struct cut {
    int rounds;
    double factor;
};
constexpr cut cuts[] = {{4, 1.12}, {4, 1.07}, {4, 1.05}};
constexpr double race_share = 0.5; /* of the seconds of a layer */
constexpr size_t most_finalists = 6;
constexpr int fewest_finals = 12, most_finals = 80;
constexpr size_t most_idle_weights = size_t{1} << 30; /* bytes */

using clock_type = std::chrono::steady_clock;

double since(clock_type::time_point start)
{
    return std::chrono::duration<double>(clock_type::now() - start).count();
}

void check(doconv_context *context, doconv_status status, const std::string &what)
{
    if (status != DOCONV_OK) {
        char text[256] = "";
        doconv_context_last_error(context, text, sizeof text);
        throw std::runtime_error(what + ": " +
                                 (text[0] != '\0' ? text : doconv_status_string(status)));
    }
}

buffer tensor(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    if (doconv_tensor_bytes(layout, n, c, h, w, &bytes) != DOCONV_OK) {
        throw std::bad_alloc();
    }
    return buffer(bytes);
}

using owned_plan = std::unique_ptr<doconv_plan, void (*)(doconv_plan *)>;
using shared_weights = std::shared_ptr<doconv_weights>;

/* The memory that the candidates of a problem share: all but the packed weights of their own. */
class stage
{
  public:
    stage(doconv_context *owner, const problem &what, const doconv_conv_desc &desc)
        : context(owner), p(what), data(what), desc_(desc),
          src_(tensor(desc.src_layout, desc.n, desc.cin, desc.h, desc.w)),
          residual_(desc.residual ? tensor(desc.dst_layout, desc.n, desc.cout, p.hout, p.wout)
                                  : buffer()),
          dst_(tensor(desc.dst_layout, desc.n, desc.cout, p.hout, p.wout))
    {
        doconv_reorder(DOCONV_NCHW, desc.src_layout, desc.n, desc.cin, desc.h, desc.w,
                       data.src.data(), src_.data());
        if (desc.residual) {
            doconv_reorder(DOCONV_NCHW, desc.dst_layout, desc.n, desc.cout, p.hout, p.wout,
                           data.residual.data(), residual_.data());
        }
    }

    doconv_status execute(const doconv_plan *plan, const doconv_weights *weights)
    {
        return doconv_execute(plan, weights, src_.data(), residual_.data(), dst_.data(),
                              workspace_.data(), workspace_.bytes());
    }

    /* Room for a plan to run, and its weights: another one's that are packed alike, if any are. */
    shared_weights prepare(const doconv_plan *plan)
    {
        if (doconv_plan_workspace_size(plan) > workspace_.bytes()) {
            workspace_ = buffer(doconv_plan_workspace_size(plan));
        }
        const size_t size = doconv_plan_packed_size(plan);
        for (const packed &known : packed_) {
            if (known.size == size && execute(plan, known.weights.get()) == DOCONV_OK) {
                return known.weights;
            }
        }
        drop_idle();
        doconv_weights *weights = nullptr;
        check(context,
              doconv_weights_create(plan, data.weight.data(),
                                    desc_.has_bias ? data.bias.data() : nullptr, &weights),
              p.text);
        packed_.push_back({size, shared_weights(weights, doconv_weights_destroy)});
        return packed_.back().weights;
    }

    void arm()
    {
        dst_.fill(std::numeric_limits<float>::quiet_NaN());
    }

    std::vector<float> result() const
    {
        std::vector<float> y(static_cast<size_t>(p.dst_count()));
        doconv_reorder(desc_.dst_layout, DOCONV_NCHW, desc_.n, desc_.cout, p.hout, p.wout,
                       dst_.data(), y.data());
        return y;
    }

    doconv_context *const context;
    const problem &p;
    const tensors data;

  private:
    struct packed {
        size_t size;
        shared_weights weights;
    };

    /* Weights that no candidate has any more are kept for the next ones, up to a limit. */
    void drop_idle()
    {
        size_t idle = 0;
        for (const packed &known : packed_) {
            idle += known.weights.use_count() == 1 ? known.size : 0;
        }
        if (idle > most_idle_weights) {
            packed_.erase(
                std::remove_if(packed_.begin(), packed_.end(),
                               [](const packed &known) { return known.weights.use_count() == 1; }),
                packed_.end());
        }
    }

    const doconv_conv_desc desc_;
    buffer src_, residual_, dst_, workspace_;
    std::vector<packed> packed_;
};

/* A candidate on the stage. */
class candidate : public runner
{
  public:
    candidate(stage &on, const doconv_conv_desc &desc, const std::string &variant)
        : on_(on), plan_(nullptr, doconv_plan_destroy)
    {
        doconv_plan_options options = {};
        options.size = sizeof options;
        options.variant = variant.c_str();
        doconv_plan *plan = nullptr;
        check(on.context, doconv_plan_create(on.context, &desc, &options, &plan), variant);
        plan_.reset(plan);
        weights_ = on.prepare(plan);
        label = variant;
        samples.what = this;
    }

    void run() override
    {
        const doconv_status status = on_.execute(plan_.get(), weights_.get());
        if (status != DOCONV_OK) {
            throw std::runtime_error(label + ": " + doconv_status_string(status));
        }
    }
    void hold_copies(size_t) override
    {
    }
    size_t copies() const override
    {
        return 1;
    }
    void arm() override
    {
        on_.arm();
    }
    std::vector<float> result() override
    {
        return on_.result();
    }

    double least() const
    {
        return *std::min_element(samples.seconds.begin(), samples.seconds.end());
    }

    series samples;

  private:
    stage &on_;
    owned_plan plan_;
    shared_weights weights_;
};

using field = std::vector<std::unique_ptr<candidate>>;

/* A plan's choice; "": nothing takes the problem. */
std::string choose(doconv_context *context, const doconv_conv_desc &desc, doconv_rigor rigor,
                   std::string *origin)
{
    doconv_plan_options options = {};
    options.size = sizeof options;
    options.rigor = rigor;
    doconv_plan *made = nullptr;
    const doconv_status status = doconv_plan_create(context, &desc, &options, &made);
    if (status == DOCONV_UNSUPPORTED) {
        return "";
    }
    check(context, status, "plan");
    const owned_plan plan(made, doconv_plan_destroy);
    if (origin != nullptr) {
        *origin = doconv_plan_origin(made);
    }
    return doconv_plan_variant(made);
}

/*
 * The accepted candidates, best estimate first. The reference kernel and portable loops, which
 * others are checked against, are left out where there is another.
 */
std::vector<std::string> list_candidates(doconv_context *context, const doconv_conv_desc &desc)
{
    doconv_candidates *list = nullptr;
    check(context, doconv_candidates_create(context, &desc, nullptr, &list), "candidates");
    std::vector<std::string> all, slow;
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {};
        info.size = sizeof info;
        if (doconv_candidates_get(list, i, &info) == DOCONV_OK && info.refused == nullptr) {
            const std::string variant = info.variant;
            (variant.rfind("reference:", 0) == 0 ? slow : all).push_back(variant);
        }
    }
    doconv_candidates_destroy(list);
    return all.empty() ? slow : all;
}

/* Whether a candidate is worth more than its first samples, given the shortest of all so far. */
bool enter(candidate &c, double &shortest, const audit_limits &limits, disturbance &seen)
{
    c.samples.guess = time_once(c);
    if (c.samples.guess > hopeless * shortest) {
        c.samples.guess = time_once(c);
    }
    if (c.samples.guess > hopeless * shortest) {
        return false;
    }
    take_rounds({&c.samples}, first_samples, first_seconds, limits.one_thread, seen);
    shortest = std::min(shortest, c.least());
    return c.least() <= far_behind * shortest;
}

/* All of them in turn; returns those that are left. */
field try_all(stage &on, const doconv_conv_desc &desc, const std::vector<std::string> &variants,
              const std::vector<std::string> &kept, const audit_limits &limits, progress &show,
              disturbance &seen)
{
    const auto is_kept = [&](const candidate &c) {
        return std::find(kept.begin(), kept.end(), c.label) != kept.end();
    };
    field left;
    double shortest = INFINITY;
    for (size_t i = 0; i < variants.size(); i++) {
        auto c = std::make_unique<candidate>(on, desc, variants[i]);
        if (enter(*c, shortest, limits, seen) || is_kept(*c)) {
            left.push_back(std::move(c));
        }
        show.within(0.5 * static_cast<double>(i + 1) / static_cast<double>(variants.size()));
    }
    left.erase(std::remove_if(left.begin(), left.end(),
                              [&](const auto &c) {
                                  return !is_kept(*c) && (c->samples.seconds.empty() ||
                                                          c->least() > far_behind * shortest);
                              }),
               left.end());
    return left;
}

std::vector<series *> turns_of(const field &racers)
{
    std::vector<series *> turns;
    for (const auto &c : racers) {
        turns.push_back(&c->samples);
    }
    return turns;
}

/*
 * Sorts by the median and drops what is behind by the factor in it and at best: not for one lucky
 * sample of another, nor for one unlucky of its own.
 */
void drop_slow(field &racers, double factor)
{
    double best = INFINITY;
    for (const auto &c : racers) {
        best = std::min(best, c->least());
    }
    std::sort(racers.begin(), racers.end(), [](const auto &a, const auto &b) {
        return median(a->samples.seconds) < median(b->samples.seconds);
    });
    const double middle = median(racers.front()->samples.seconds);
    racers.erase(std::remove_if(racers.begin(), racers.end(),
                                [&](const auto &c) {
                                    return c->least() > factor * best &&
                                           median(c->samples.seconds) > factor * middle;
                                }),
                 racers.end());
}

/* Races those that are left until few are; named: the variants that are finalists anyway. */
void race(field &racers, const std::vector<std::string> &named, const audit_limits &limits,
          disturbance &seen)
{
    const auto start = clock_type::now();
    const auto is_named = [&](const std::unique_ptr<candidate> &c) {
        return std::find(named.begin(), named.end(), c->label) != named.end();
    };
    /* They race too, but stand aside from what drops the others. */
    const auto others = std::stable_partition(racers.begin(), racers.end(), is_named);
    field safe(std::make_move_iterator(racers.begin()), std::make_move_iterator(others));
    racers.erase(racers.begin(), others);
    for (const cut &c : cuts) {
        if (racers.size() <= most_finalists) {
            break;
        }
        std::vector<series *> turns = turns_of(racers);
        for (int round = 0; round < c.rounds && since(start) < race_share * limits.seconds;
             round++) {
            take_rounds(turns, 1, race_seconds, limits.one_thread, seen);
            std::rotate(turns.begin(), turns.begin() + 1, turns.end());
        }
        drop_slow(racers, c.factor);
    }
    if (!racers.empty()) {
        drop_slow(racers, far_behind);
    }
    if (racers.size() > most_finalists) {
        racers.resize(most_finalists);
    }
    std::move(safe.begin(), safe.end(), std::back_inserter(racers));
}

/* The samples of the even rounds, or of the odd ones. */
std::vector<double> half_of(const std::vector<double> &samples, size_t first)
{
    std::vector<double> half;
    for (size_t i = first; i < samples.size(); i += 2) {
        half.push_back(samples[i]);
    }
    return half;
}

/* Median over rounds of b's time / a's. */
double paired_ratio(const std::vector<double> &a, const std::vector<double> &b)
{
    std::vector<double> ratios;
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++) {
        ratios.push_back(b[i] / a[i]);
    }
    return median(ratios);
}

const candidate &find(const field &racers, const std::string &variant)
{
    const auto found = std::find_if(racers.begin(), racers.end(),
                                    [&](const auto &c) { return c->label == variant; });
    if (found == racers.end()) {
        throw std::runtime_error(variant + " is chosen, but no candidate");
    }
    return **found;
}

void run_finals(field &finalists, const audit_limits &limits, double left, progress &show,
                audited &found)
{
    std::vector<series *> turns = turns_of(finalists);
    double sample = 0;
    for (series *s : turns) {
        sample += std::max(final_seconds, s->guess) * 1.2;
        s->seconds.clear();
        s->cpu_seconds.clear();
    }
    found.rounds = std::clamp(static_cast<int>(left / sample), fewest_finals, most_finals) & ~1;
    for (int round = 0; round < found.rounds; round++) {
        take_rounds(turns, 1, final_seconds, limits.one_thread, found.seen);
        /* In pairs of rounds, so that even and odd ones have the same orders. */
        if (round % 2 != 0) {
            std::rotate(turns.begin(), turns.begin() + 1, turns.end());
        }
        show.within(0.6 + 0.4 * (round + 1) / found.rounds);
    }
}

void judge_results(stage &on, field &finalists)
{
    checker judge(on.p, on.data);
    for (const auto &c : finalists) {
        c->arm();
        c->run();
        judge.add(c->result());
    }
    for (size_t i = 0; i < finalists.size(); i++) {
        if (!(judge.error(i) <= wrong_error)) {
            throw std::runtime_error("wrong result of " + finalists[i]->label);
        }
    }
}

audited_variant figure_of(const candidate &c, const candidate &best)
{
    const double behind =
        &c == &best
            ? 0
            : paired_ratio(half_of(best.samples.seconds, 1), half_of(c.samples.seconds, 1)) - 1;
    return {c.label, median(c.samples.seconds), behind};
}

void compare(const field &finalists, const std::string &tuned, const std::string &estimate,
             audited &found)
{
    const auto best =
        std::min_element(finalists.begin(), finalists.end(), [](const auto &a, const auto &b) {
            return paired_ratio(half_of(a->samples.seconds, 0), half_of(b->samples.seconds, 0)) > 1;
        });
    const candidate &ours = find(finalists, tuned), &theirs = find(finalists, estimate);
    found.best = figure_of(**best, **best);
    found.tuned = figure_of(ours, **best);
    found.estimate = figure_of(theirs, **best);
    found.estimate_speed =
        &ours == &theirs ? 1 : paired_ratio(theirs.samples.seconds, ours.samples.seconds);
}

} // namespace

bool audit_layer(doconv_context *context, const problem &p, const doconv_conv_desc &desc,
                 const audit_limits &limits, progress &show, audited &found)
{
    auto start = clock_type::now();
    const std::string tuned = choose(context, desc, DOCONV_RIGOR_DEFAULT, &found.origin);
    found.plan_seconds = since(start);
    if (tuned.empty()) {
        return false;
    }
    const std::string estimate = choose(context, desc, DOCONV_RIGOR_ESTIMATE, nullptr);
    const std::vector<std::string> variants = list_candidates(context, desc);
    const std::vector<std::string> named = {tuned, estimate};
    found.candidates = static_cast<int>(variants.size());
    stage on(context, p, desc);
    field racers = try_all(on, desc, variants, named, limits, show, found.seen);
    found.raced = static_cast<int>(racers.size());
    start = clock_type::now();
    race(racers, named, limits, found.seen);
    judge_results(on, racers);
    run_finals(racers, limits, limits.seconds - since(start), show, found);
    compare(racers, tuned, estimate, found);
    return true;
}

} // namespace bench

/* SPDX-License-Identifier: MIT */
#include "bench_session.h"

#include <chrono>
#include <cmath>
#include <ctime>

namespace bench
{

namespace
{

constexpr double sample_seconds = 2e-3; /* a sample is as many calls as this takes, or one */
constexpr double trial_seconds = 1e-3;  /* likewise, while the fastest runner is sought */
constexpr int fewest_rounds = 15;
constexpr int trial_rounds = 7;
constexpr int first_trial_rounds = 2;
/* best of the first trial rounds against the best runner's: no further trial */
constexpr double far_behind = 1.4;
constexpr double near = 1.06; /* median of the trials against the best runner's: a finalist */
constexpr size_t most_finalists = 3;
constexpr double patience_seconds = 5;     /* very slow runners get fewer rounds, three at least */
constexpr double long_call_seconds = 0.02; /* a call this long warms the caches by itself */
/*
 * A sample in which the one thread was off its core for longer than this share is taken again, this
 * often at most.
 */
constexpr double disturbed_share = 0.03;
constexpr int most_attempts = 5;
constexpr size_t most_cold_bytes = size_t{512} << 20;
/* of a CPU that doesn't tell of its last level */
constexpr size_t usual_cache_bytes = size_t{32} << 20;

/* One runner's samples, in seconds of a call. */
struct series {
    runner *what;
    double guess;
    std::vector<double> seconds, cpu_seconds;
    bool dropped = false;
};

double process_cpu()
{
    timespec now = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double wall()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n == 0 ? 0 : n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double spread(const std::vector<double> &values)
{
    const double middle = median(values);
    std::vector<double> deviations;
    for (const double v : values) {
        deviations.push_back(std::fabs(v - middle));
    }
    return middle > 0 ? median(deviations) / middle : 0;
}

/*
 * With one thread, time off the core shows as wall time without CPU time. Of several attempts the
 * least disturbed counts.
 */
void take_sample(series &s, double at_least, bool one_thread, disturbance &seen)
{
    long calls = std::max(1L, std::lround(std::ceil(at_least / std::max(s.guess, 1e-7))));
    if (s.what->copies() > 1) {
        /*
         * No call meets the weights of another one of this sample, nor of the one before it that
         * warms the rest.
         */
        calls = std::min(calls, static_cast<long>(s.what->copies()) - 1);
    }
    double best_lost = INFINITY, best_seconds = 0, best_cpu = 0;
    for (int attempt = 0; attempt < (one_thread ? most_attempts : 1); attempt++) {
        if (s.guess < long_call_seconds) {
            s.what->run(); /* another runner was here before: the caches hold its data */
        }
        const double cpu_start = process_cpu(), start = wall();
        for (long i = 0; i < calls; i++) {
            s.what->run();
        }
        const double seconds = wall() - start, cpu = process_cpu() - cpu_start,
                     lost = seconds - cpu;
        if (lost < best_lost) {
            best_lost = lost;
            best_seconds = seconds;
            best_cpu = cpu;
        }
        if (lost <= disturbed_share * seconds) {
            break;
        }
    }
    seen.samples++;
    seen.disturbed += one_thread && best_lost > disturbed_share * best_seconds;
    s.cpu_seconds.push_back(best_cpu / static_cast<double>(calls));
    s.seconds.push_back(best_seconds / static_cast<double>(calls));
    s.guess = s.seconds.back();
}

/* The runners take turns, each round starting with another one. */
void take_rounds(std::vector<series *> &all, int rounds, double at_least, bool one_thread,
                 disturbance &seen)
{
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < all.size(); i++) {
            series &s = *all[(i + static_cast<size_t>(round)) % all.size()];
            if (!s.dropped) {
                take_sample(s, at_least, one_thread, seen);
            }
        }
    }
}

/* Makes the copies of the weights of those that are left, and lets go of the others'. */
void share_memory(const coldness &cold, const std::vector<runner *> &left,
                  const std::vector<runner *> &others)
{
    if (cold.on) {
        for (runner *r : others) {
            r->hold_copies(0);
        }
        const size_t bytes =
            std::min(cold.pool_bytes, cold.most_bytes / std::max<size_t>(left.size(), 1));
        for (runner *r : left) {
            r->hold_copies(bytes);
        }
    }
}

double time_once(runner &r)
{
    const double start = wall();
    r.run();
    return wall() - start;
}

/* All that one engine brought. */
struct entrant {
    std::vector<std::unique_ptr<runner>> runners;
    std::vector<series> trials;
    std::vector<size_t> results; /* the checker's numbers */
    std::vector<size_t> finalists;
    std::vector<series> finals; /* of the finalists */
};

/*
 * Short interleaved trials of every engine's runners. Those near each engine's fastest are its
 * finalists: the trials are too short to tell them apart, and one disturbed sample must not cost an
 * engine its best.
 */
void choose_finalists(std::vector<entrant> &entrants, bool one_thread, const coldness &cold,
                      disturbance &seen)
{
    std::vector<series *> all;
    const auto share = [&] {
        std::vector<runner *> left, dropped;
        for (const series *s : all) {
            (s->dropped ? dropped : left).push_back(s->what);
        }
        share_memory(cold, left, dropped);
    };
    for (entrant &e : entrants) {
        for (series &s : e.trials) {
            if (e.trials.size() > 1) {
                all.push_back(&s);
            }
        }
    }
    const auto least = [](const series &s) {
        return *std::min_element(s.seconds.begin(), s.seconds.end());
    };
    if (!all.empty()) {
        share();
        take_rounds(all, first_trial_rounds, trial_seconds, one_thread, seen);
        for (entrant &e : entrants) {
            double best = INFINITY;
            for (const series &s : e.trials) {
                best = s.seconds.empty() ? best : std::min(best, least(s));
            }
            for (series &s : e.trials) {
                s.dropped = !s.seconds.empty() && least(s) > far_behind * best;
            }
        }
        share();
        take_rounds(all, trial_rounds - first_trial_rounds, trial_seconds, one_thread, seen);
    }
    for (entrant &e : entrants) {
        std::vector<std::pair<double, size_t>> order;
        for (size_t i = 0; i < e.trials.size(); i++) {
            if (!e.trials[i].dropped) {
                order.emplace_back(median(e.trials[i].seconds), i);
            }
        }
        std::sort(order.begin(), order.end());
        for (const auto &[seconds, i] : order) {
            if (e.finalists.size() < most_finalists && seconds <= near * order[0].first) {
                e.finalists.push_back(i);
                e.finals.push_back({e.trials[i].what, e.trials[i].guess, {}, {}});
            }
        }
    }
}

} // namespace

coldness coldness::of(const doconv_context_info &info)
{
    const size_t known = static_cast<size_t>(std::max({info.l3_bytes, info.l2_bytes, int64_t{0}}));
    return {true, 2 * (info.l3_bytes > 0 ? known : std::max(known, usual_cache_bytes)),
            most_cold_bytes};
}

double copy_share(const problem &p, const measurement &m, double seconds)
{
    return static_cast<double>(p.activation_bytes() + p.weight_bytes()) / m.copy_rate / seconds;
}

session::session(const workload &work, std::vector<engine *> engines, doconv_isa isa, int threads,
                 double min_seconds, const coldness &cold)
    : work_(work), engines_(std::move(engines)), isa_(isa), peak_(isa, threads), threads_(threads),
      cold_(cold), min_seconds_(min_seconds), measured_(work.problems.size())
{
}

const measurement &session::measure(size_t problem, size_t repetition)
{
    auto &repetitions = measured_[problem];
    while (repetitions.size() <= repetition) {
        repetitions.push_back(std::make_unique<measurement>(measure_now(work_.problems[problem])));
    }
    return *repetitions[repetition];
}

const measurement *session::typical(size_t problem) const
{
    std::vector<const measurement *> repetitions;
    for (const auto &m : measured_[problem]) {
        repetitions.push_back(m.get());
    }
    if (repetitions.empty()) {
        return nullptr;
    }
    const auto key = [](const measurement *m) {
        for (const figure &f : m->figures) {
            if (f.measured) {
                return f.seconds;
            }
        }
        return 0.0;
    };
    std::sort(repetitions.begin(), repetitions.end(),
              [&](const auto *a, const auto *b) { return key(a) < key(b); });
    return repetitions[repetitions.size() / 2];
}

measurement session::measure_now(const problem &p)
{
    measurement m;
    m.figures.resize(engines_.size());
    std::vector<entrant> entrants(engines_.size());
    const tensors data(p);
    checker judge(p, data);

    for (size_t i = 0; i < engines_.size(); i++) {
        figure &f = m.figures[i];
        entrant &e = entrants[i];
        try {
            e.runners = engines_[i]->prepare(p, data, f.why);
            for (const auto &r : e.runners) {
                r->arm();
                r->run();
                e.results.push_back(judge.add(r->result()));
                e.trials.push_back({r.get(), time_once(*r), {}, {}});
            }
        } catch (const std::runtime_error &error) {
            f.failed = true;
            f.why = error.what();
            e = entrant();
        }
    }
    for (size_t i = 0; i < engines_.size(); i++) {
        figure &f = m.figures[i];
        entrant &e = entrants[i];
        for (size_t r = 0; r < e.runners.size(); r++) {
            f.error = std::max(f.error, judge.error(e.results[r]));
            if (!(f.error <= wrong_error) && !f.wrong) {
                f.failed = f.wrong = true;
                f.why = "wrong result of " + e.runners[r]->label + " in " + e.runners[r]->layout;
                f.label = e.runners[r]->label;
                f.layout = e.runners[r]->layout;
            }
        }
        if (f.wrong) {
            e = entrant();
        }
    }

    disturbance trials;
    choose_finalists(entrants, threads_ == 1, cold_, trials);
    series peak = {&peak_, time_once(peak_), {}, {}};
    std::vector<series *> turns;
    double slowest = 0;
    for (entrant &e : entrants) {
        for (series &s : e.finals) {
            turns.push_back(&s);
            slowest = std::max(slowest, s.guess);
        }
    }
    if (turns.empty()) {
        return m;
    }
    copy_runner copying(p, isa_, threads_, cold_.on);
    std::vector<runner *> left, others;
    for (entrant &e : entrants) {
        for (size_t r = 0; r < e.runners.size(); r++) {
            const bool finalist =
                std::find(e.finalists.begin(), e.finalists.end(), r) != e.finalists.end();
            (finalist ? left : others).push_back(e.runners[r].get());
        }
    }
    left.push_back(&copying);
    share_memory(cold_, left, others);
    series copies = {&copying, time_once(copying), {}, {}};
    turns.push_back(&peak);
    turns.push_back(&copies);
    const double sample = std::max(sample_seconds, slowest);
    int rounds = std::max(fewest_rounds, static_cast<int>(std::ceil(min_seconds_ / sample)) | 1);
    if (rounds * sample > std::max(patience_seconds, min_seconds_)) {
        rounds =
            std::max(3, static_cast<int>(std::max(patience_seconds, min_seconds_) / sample) | 1);
    }
    take_rounds(turns, rounds, sample_seconds, threads_ == 1, m.seen);

    for (size_t i = 0; i < entrants.size(); i++) {
        figure &f = m.figures[i];
        const entrant &e = entrants[i];
        runner *fastest = nullptr;
        for (size_t place = 0; place < e.finals.size(); place++) {
            const series &s = e.finals[place];
            const double seconds = median(s.seconds);
            if (f.measured && seconds >= f.seconds) {
                continue;
            }
            f.measured = true;
            fastest = s.what;
            f.label = s.what->label;
            f.layout = s.what->layout;
            f.seconds = seconds;
            f.cpu_seconds = median(s.cpu_seconds);
            f.spread = spread(s.seconds);
            f.error = judge.error(e.results[e.finalists[place]]);
        }
        if (fastest != nullptr && cold_.on) {
            /* Once more, of a copy that isn't the first. */
            fastest->arm();
            fastest->run();
            f.error = std::max(f.error, judge.error(judge.add(fastest->result())));
            if (!(f.error <= wrong_error)) {
                f.measured = false;
                f.failed = f.wrong = true;
                f.why = "wrong result of " + f.label + " in " + f.layout +
                        " with a copy of the weights";
            }
        }
    }
    m.peak_flops = peak_.flops() / median(peak.seconds);
    m.copy_rate = static_cast<double>(copying.bytes()) / median(copies.seconds);
    return m;
}

} // namespace bench

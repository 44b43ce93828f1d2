/* SPDX-License-Identifier: MIT */
#include "bench_session.h"

#include <cmath>

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
constexpr double patience_seconds = 5; /* very slow runners get fewer rounds, three at least */
constexpr size_t most_cold_bytes = size_t{512} << 20;
/* of a CPU that doesn't tell of its last level */
constexpr size_t usual_cache_bytes = size_t{32} << 20;

/* A runner, and what is known of it. */
struct entry {
    std::unique_ptr<runner> what;
    size_t result; /* the checker's number */
    series trials, finals;
    bool finalist = false;
};

/* All that one engine brought. */
struct entrant {
    engine *from;
    std::vector<std::unique_ptr<entry>> entries;
    bool failed = false; /* why it has no entry is a fault */
    std::string why;
};

/* The entries that race for a contender's figure. */
using field = std::vector<entry *>;

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

/* Every engine's runners, each of which has run once. */
std::vector<entrant> enter(const std::vector<contender> &contenders, const problem &p,
                           const tensors &data, checker &judge)
{
    std::vector<entrant> entrants;
    for (const contender &c : contenders) {
        if (std::any_of(entrants.begin(), entrants.end(),
                        [&](const entrant &e) { return e.from == c.from; })) {
            continue;
        }
        entrants.push_back({c.from, {}, false, ""});
        entrant &e = entrants.back();
        try {
            for (auto &r : c.from->prepare(p, data, e.why)) {
                r->arm();
                r->run();
                auto entered = std::make_unique<entry>();
                entered->result = judge.add(r->result());
                entered->trials = {r.get(), time_once(*r), {}, {}, false};
                entered->what = std::move(r);
                e.entries.push_back(std::move(entered));
            }
        } catch (const std::runtime_error &error) {
            e.entries.clear();
            e.failed = true;
            e.why = error.what();
        }
    }
    return entrants;
}

/* The entries of a contender, all right; or the figure says why there are none. */
field enlist(const contender &c, const std::vector<entrant> &entrants, const checker &judge,
             figure &f)
{
    const entrant &own = *std::find_if(entrants.begin(), entrants.end(),
                                       [&](const entrant &e) { return e.from == c.from; });
    f.failed = own.failed;
    f.why = own.why;
    field racers;
    for (const auto &e : own.entries) {
        if ((e->what->roles & c.role) == 0) {
            continue;
        }
        racers.push_back(e.get());
        f.error = std::max(f.error, judge.error(e->result));
        if (!(f.error <= wrong_error) && !f.wrong) {
            f.failed = f.wrong = true;
            f.label = e->what->label;
            f.layout = e->what->layout;
            f.why = "wrong result of " + f.label + " in " + f.layout;
        }
    }
    return f.wrong ? field() : racers;
}

/* The entries of all fields, each once: a contender may share them with another. */
field unite(const std::vector<field> &fields)
{
    field all;
    for (const field &racers : fields) {
        for (entry *e : racers) {
            if (std::find(all.begin(), all.end(), e) == all.end()) {
                all.push_back(e);
            }
        }
    }
    return all;
}

/* Drops what is far behind the best in each field that it races in. */
void drop_slow(const std::vector<field> &fields)
{
    const auto least = [](const entry *e) {
        return *std::min_element(e->trials.seconds.begin(), e->trials.seconds.end());
    };
    for (entry *e : unite(fields)) {
        e->trials.dropped = true;
    }
    for (const field &racers : fields) {
        double best = INFINITY;
        for (const entry *e : racers) {
            best = std::min(best, least(e));
        }
        for (entry *e : racers) {
            e->trials.dropped = e->trials.dropped && least(e) > far_behind * best;
        }
    }
}

/*
 * Short interleaved trials. Those near a field's fastest are its finalists: the trials are too
 * short to tell them apart, and one disturbed sample must not cost a contender its best.
 */
void choose_finalists(const std::vector<field> &fields, bool one_thread, const coldness &cold,
                      disturbance &seen)
{
    std::vector<field> contested;
    std::copy_if(fields.begin(), fields.end(), std::back_inserter(contested),
                 [](const field &racers) { return racers.size() > 1; });
    std::vector<series *> all;
    for (entry *e : unite(contested)) {
        all.push_back(&e->trials);
    }
    const auto share = [&] {
        std::vector<runner *> left, dropped;
        for (const series *s : all) {
            (s->dropped ? dropped : left).push_back(s->what);
        }
        share_memory(cold, left, dropped);
    };
    if (!all.empty()) {
        share();
        take_rounds(all, first_trial_rounds, trial_seconds, one_thread, seen);
        drop_slow(contested);
        share();
        take_rounds(all, trial_rounds - first_trial_rounds, trial_seconds, one_thread, seen);
    }
    for (const field &racers : fields) {
        std::vector<std::pair<double, entry *>> order;
        for (entry *e : racers) {
            if (!e->trials.dropped) {
                order.emplace_back(median(e->trials.seconds), e);
            }
        }
        std::sort(order.begin(), order.end(),
                  [](const auto &a, const auto &b) { return a.first < b.first; });
        for (size_t i = 0; i < std::min(order.size(), most_finalists); i++) {
            if (order[i].first <= near * order[0].first) {
                order[i].second->finalist = true;
            }
        }
    }
}

/* How many rounds the slowest of the finalists can have. */
int count_rounds(double slowest, double min_seconds)
{
    const double sample = std::max(sample_seconds, slowest);
    const double patience = std::max(patience_seconds, min_seconds);
    const int rounds =
        std::max(fewest_rounds, static_cast<int>(std::ceil(min_seconds / sample)) | 1);
    return rounds * sample <= patience ? rounds
                                       : std::max(3, static_cast<int>(patience / sample) | 1);
}

/* The fastest finalist of a field that has one, and its figure. */
const entry *find_fastest(const field &racers, figure &f)
{
    const entry *fastest = nullptr;
    for (const entry *e : racers) {
        const double seconds = median(e->finals.seconds);
        if (e->finalist && (fastest == nullptr || seconds < f.seconds)) {
            fastest = e;
            f.seconds = seconds;
        }
    }
    return fastest;
}

void fill(figure &f, const entry &fastest, const checker &judge)
{
    f.measured = true;
    f.label = fastest.what->label;
    f.layout = fastest.what->layout;
    f.seconds = median(fastest.finals.seconds);
    f.cpu_seconds = median(fastest.finals.cpu_seconds);
    f.spread = spread(fastest.finals.seconds);
    f.error = judge.error(fastest.result);
    f.rms_error = judge.rms_error(fastest.result);
}

/* Once more, of a copy of the weights that isn't the first. */
void check_copy(figure &f, runner &fastest, checker &judge)
{
    fastest.arm();
    fastest.run();
    f.error = std::max(f.error, judge.error(judge.add(fastest.result())));
    if (!(f.error <= wrong_error)) {
        f.measured = false;
        f.failed = f.wrong = true;
        f.why = "wrong result of " + f.label + " in " + f.layout + " with a copy of the weights";
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

session::session(const workload &work, std::vector<contender> contenders, doconv_isa isa,
                 int threads, double min_seconds, const coldness &cold)
    : work_(work), contenders_(std::move(contenders)), isa_(isa), peak_(isa, threads),
      threads_(threads), cold_(cold), min_seconds_(min_seconds), measured_(work.problems.size())
{
}

int session::find(const std::string &name) const
{
    for (size_t i = 0; i < contenders_.size(); i++) {
        if (contenders_[i].name == name) {
            return static_cast<int>(i);
        }
    }
    return -1;
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
    m.figures.resize(contenders_.size());
    const tensors data(p);
    checker judge(p, data);
    const std::vector<entrant> entrants = enter(contenders_, p, data, judge);
    std::vector<field> fields;
    for (size_t i = 0; i < contenders_.size(); i++) {
        fields.push_back(enlist(contenders_[i], entrants, judge, m.figures[i]));
    }
    disturbance trials;
    choose_finalists(fields, threads_ == 1, cold_, trials);

    std::vector<series *> turns;
    std::vector<runner *> left, others;
    double slowest = 0;
    for (entry *e : unite(fields)) {
        (e->finalist ? left : others).push_back(e->what.get());
        if (e->finalist) {
            e->finals = {e->what.get(), e->trials.guess, {}, {}, false};
            turns.push_back(&e->finals);
            slowest = std::max(slowest, e->finals.guess);
        }
    }
    if (turns.empty()) {
        return m;
    }
    copy_runner copying(p, isa_, threads_, cold_.on);
    left.push_back(&copying);
    share_memory(cold_, left, others);
    series peak = {&peak_, time_once(peak_), {}, {}, false};
    series copies = {&copying, time_once(copying), {}, {}, false};
    turns.push_back(&peak);
    turns.push_back(&copies);
    take_rounds(turns, count_rounds(slowest, min_seconds_), sample_seconds, threads_ == 1, m.seen);

    for (size_t i = 0; i < fields.size(); i++) {
        figure &f = m.figures[i];
        const entry *fastest = find_fastest(fields[i], f);
        if (fastest == nullptr) {
            continue;
        }
        fill(f, *fastest, judge);
        if (cold_.on) {
            check_copy(f, *fastest->what, judge);
        }
    }
    m.peak_flops = peak_.flops() / median(peak.seconds);
    m.copy_rate = static_cast<double>(copying.bytes()) / median(copies.seconds);
    return m;
}

} // namespace bench

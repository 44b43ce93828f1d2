/* SPDX-License-Identifier: MIT */
#include "bench_audit.h"

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "bench_audit_layer.h"
#include "bench_progress.h"
#include "bench_report.h"

namespace bench
{

namespace
{

constexpr double near = 0.03; /* so far behind the best, a choice is as good */

using owned_context = std::unique_ptr<doconv_context, void (*)(doconv_context *)>;

/* A directory that is removed with all that is in it. */
class temporary_directory
{
  public:
    temporary_directory()
    {
        std::string name =
            (std::filesystem::temp_directory_path() / "doconv-audit-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) {
            throw std::runtime_error("no directory can be made for the cache: \"" + name + "\"");
        }
        path_ = name;
    }
    ~temporary_directory()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    temporary_directory(const temporary_directory &) = delete;
    temporary_directory &operator=(const temporary_directory &) = delete;

    const std::string &path() const
    {
        return path_;
    }

  private:
    std::string path_;
};

std::string text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string text_of(const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return text;
}

/* The file of --tsv, a row at a time: what was measured stays if the rest is not. */
class tsv_file
{
  public:
    explicit tsv_file(const std::string &path) : path_(path), file_(nullptr, std::fclose)
    {
        if (path.empty()) {
            return;
        }
        file_.reset(std::fopen(path.c_str(), "w"));
        put("problem\tcandidates\traced\trounds\torigin\tplan_ms\ttuned\ttuned_ms\tbehind_"
            "pct\tbest\t"
            "best_ms\testimate\testimate_ms\testimate_behind_pct\testimate_speed\n");
    }

    void add(const audited &a)
    {
        put(text_of("%s\t%d\t%d\t%d\t%s\t%.3f\t", a.text.c_str(), a.candidates, a.raced, a.rounds,
                    a.origin.c_str(), a.plan_seconds * 1e3) +
            text_of("%s\t%.6f\t%.3f\t", a.tuned.text.c_str(), a.tuned.seconds * 1e3,
                    a.tuned.behind * 100) +
            text_of("%s\t%.6f\t", a.best.text.c_str(), a.best.seconds * 1e3) +
            text_of("%s\t%.6f\t%.3f\t%.5f\n", a.estimate.text.c_str(), a.estimate.seconds * 1e3,
                    a.estimate.behind * 100, a.estimate_speed));
    }

  private:
    void put(const std::string &line)
    {
        if (!path_.empty() && (file_ == nullptr || std::fputs(line.c_str(), file_.get()) < 0 ||
                               std::fflush(file_.get()) != 0)) {
            throw usage_error("--tsv: \"" + path_ + "\" can't be written");
        }
    }

    std::string path_;
    std::unique_ptr<FILE, int (*)(FILE *)> file_;
};

/* A line a layer, and one below it for each variant that isn't the tuner's. */
void print_layer(FILE *to, const audited &a)
{
    std::fprintf(to, "%-40s  %4d candidates  %9.4f ms  behind: tuned %5.1f %%, estimate %5.1f %%\n",
                 a.name.c_str(), a.candidates, a.tuned.seconds * 1e3, a.tuned.behind * 100,
                 a.estimate.behind * 100);
    std::fprintf(to, "  %-8s  %s\n", a.origin == "measured" ? "tuned" : a.origin.c_str(),
                 a.tuned.text.c_str());
    if (a.best.text != a.tuned.text) {
        std::fprintf(to, "  %-8s  %s\n", "best", a.best.text.c_str());
    }
    if (a.estimate.text != a.tuned.text) {
        std::fprintf(to, "  %-8s  %s%s\n", "estimate", a.estimate.text.c_str(),
                     a.estimate.text == a.best.text ? " (the best)" : "");
    }
    if (a.seen.disturbed * 20 > a.seen.samples) {
        std::fprintf(to, "  the machine was busy: other processes disturbed %d of %d samples\n",
                     a.seen.disturbed, a.seen.samples);
    }
    std::fflush(to);
}

void print_sum(FILE *to, const std::vector<audited> &all)
{
    double worst = 0, log_sum = 0, plan_seconds = 0;
    int within = 0;
    for (const audited &a : all) {
        within += a.tuned.behind <= near;
        worst = std::max(worst, a.tuned.behind);
        log_sum += std::log(a.estimate_speed);
        plan_seconds += a.plan_seconds;
    }
    const double count = static_cast<double>(all.size());
    std::fprintf(to, "\nplans made in %.2f s\n", plan_seconds);
    std::fprintf(
        to, "audit: %zu layers, within 3%%: %.1f%%, worst: %.1f%%, estimate: %.1f%% of tuned\n",
        all.size(), 100 * within / count, 100 * worst, 100 * std::exp(log_sum / count));
    std::fflush(to);
}

/* Benchmarks for JSON: each replays what was measured of a variant. */
void replay(const std::vector<audited> &all, const options &o)
{
    for (const audited &a : all) {
        const std::pair<const char *, const audited_variant &> variants[] = {
            {"tuned/", a.tuned}, {"best/", a.best}, {"estimate/", a.estimate}};
        for (const auto &[name, v] : variants) {
            benchmark::RegisterBenchmark((name + a.text).c_str(),
                                         [v = v, &a](benchmark::State &state) {
                                             for (auto _ : state) {
                                                 static_cast<void>(_);
                                                 state.SetIterationTime(v.seconds);
                                             }
                                             state.SetLabel(v.text);
                                             state.counters["behind_pct"] = 100 * v.behind;
                                             state.counters["candidates"] = a.candidates;
                                         })
                ->Iterations(1)
                ->UseManualTime()
                ->Unit(benchmark::kMillisecond);
        }
    }
    run_benchmarks(o);
}

/* A problem in each layout that it may take. */
std::vector<audited> audit_problem(doconv_context *context, const problem &p, const options &o,
                                   progress &show)
{
    std::vector<audited> all;
    for (const auto &[src, dst] : layouts_to_try(p)) {
        doconv_conv_desc desc = p.desc;
        desc.src_layout = src;
        desc.dst_layout = dst;
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        audited a;
        if (doconv_conv_desc_format(context, &desc, text, sizeof text) == DOCONV_OK &&
            audit_layer(context, p, desc, {o.audit_seconds, o.threads == 1}, show, a)) {
            a.text = text;
            a.name = short_name(p) + " " +
                     layout_pair_name(doconv_layout_string(src), doconv_layout_string(dst));
            all.push_back(a);
        }
    }
    return all;
}

std::vector<audited> audit_all(doconv_context *context, const options &o, const workload &work,
                               const std::vector<bool> &wanted, FILE *to)
{
    tsv_file tsv(o.tsv);
    std::vector<audited> all;
    progress show("audit", static_cast<int>(std::count(wanted.begin(), wanted.end(), true)));
    for (size_t i = 0; i < work.problems.size(); i++) {
        if (!wanted[i]) {
            continue;
        }
        show.begin(short_name(work.problems[i]));
        const std::vector<audited> found = audit_problem(context, work.problems[i], o, show);
        show.end("");
        for (const audited &a : found) {
            print_layer(to, a);
            tsv.add(a);
            all.push_back(a);
        }
    }
    if (all.empty()) {
        throw std::runtime_error("no layer was measured");
    }
    return all;
}

} // namespace

void audit(const options &o, const workload &work, const std::vector<bool> &wanted)
{
    std::unique_ptr<temporary_directory> fresh;
    if (o.audit_cache.empty()) {
        unsetenv("DOCONV_SYSTEM_CACHE"); /* it would not be fresh */
        fresh = std::make_unique<temporary_directory>();
    }
    const std::string &cache = fresh ? fresh->path() : o.audit_cache;
    const owned_context context(create_context(o, cache.c_str()), doconv_context_destroy);
    FILE *to = o.display_format.empty() ? stdout : stderr;
    const std::vector<audited> all = audit_all(context.get(), o, work, wanted, to);
    replay(all, o);
    print_sum(to, all);
}

} // namespace bench

/* SPDX-License-Identifier: MIT */
/*
 * The way through Google Benchmark. The timing is the session's, because engines must take turns
 * sample by sample, which Google Benchmark's loop can't; each benchmark replays its median as one
 * manually timed iteration.
 */
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <sstream>

#include "bench_report.h"

namespace bench
{

namespace
{

/* What Google Benchmark can't know of the replayed iterations of a benchmark, by repetition. */
struct replayed {
    std::vector<double> cpu_seconds; /* those that it measures are the replay's */
    std::vector<std::string> layouts;
};
std::map<std::string, replayed> all_replayed;

/* What Google Benchmark makes of repetitions' times, for those CPU times. */
double aggregate(std::vector<double> v, const std::string &name)
{
    const double n = static_cast<double>(v.size());
    const double mean = std::accumulate(v.begin(), v.end(), 0.0) / n;
    if (name == "mean") {
        return mean;
    }
    if (name == "median") {
        std::sort(v.begin(), v.end());
        return (v[v.size() / 2] + v[(v.size() - 1) / 2]) / 2;
    }
    double squares = 0;
    for (const double x : v) {
        squares += (x - mean) * (x - mean);
    }
    const double deviation = v.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
    return name == "stddev" ? deviation : mean > 0 ? deviation / mean : 0;
}

using benchmark_run = benchmark::BenchmarkReporter::Run;

size_t repetition_of(const benchmark_run &run, const replayed &all)
{
    const size_t index = run.repetition_index > 0 ? static_cast<size_t>(run.repetition_index) : 0;
    return std::min(index, all.cpu_seconds.size() - 1);
}

/*
 * A reporter of Google Benchmark that names runs ENGINE/PROBLEM, without
 * "/iterations:1/manual_time", and has their CPU times.
 */
template <class Base> class plain_names : public Base
{
  public:
    void ReportRuns(const std::vector<benchmark_run> &runs) override
    {
        std::vector<benchmark_run> renamed(runs);
        for (benchmark_run &run : renamed) {
            benchmark::BenchmarkName name;
            name.function_name = run.run_name.function_name;
            run.run_name = name;
            const auto known = all_replayed.find(name.function_name);
            if (known == all_replayed.end()) {
                continue;
            }
            const replayed &all = known->second;
            if (run.run_type == benchmark_run::RT_Iteration) {
                run.cpu_accumulated_time = all.cpu_seconds[repetition_of(run, all)];
            } else {
                /* A reporter divides times, but not percentages, by the iterations. */
                run.cpu_accumulated_time = aggregate(all.cpu_seconds, run.aggregate_name);
                run.cpu_accumulated_time *= run.aggregate_unit == benchmark::kTime
                                                ? static_cast<double>(run.iterations)
                                                : 1;
            }
        }
        Base::ReportRuns(renamed);
    }
};

/* Google Benchmark's JSON has one text a run, its label. This one has the layout beside it. */
class json_reporter : public plain_names<benchmark::JSONReporter>
{
  public:
    void ReportRuns(const std::vector<benchmark_run> &runs) override
    {
        std::ostream &out = GetOutputStream();
        for (const benchmark_run &run : runs) {
            std::ostringstream text;
            SetOutputStream(&text);
            plain_names::ReportRuns({run});
            SetOutputStream(&out);
            out << with_layout(text.str(), run);
        }
    }

  private:
    static std::string with_layout(std::string text, const benchmark_run &run)
    {
        const auto known = all_replayed.find(run.run_name.function_name);
        const size_t label = text.find("\n      \"label\":");
        if (known == all_replayed.end() || label == std::string::npos ||
            run.run_type != benchmark_run::RT_Iteration) {
            return text;
        }
        const std::string &layout = known->second.layouts[repetition_of(run, known->second)];
        return text.insert(label, "\n      \"layout\": \"" + layout + "\",");
    }
};

class silent_reporter : public benchmark::BenchmarkReporter
{
  public:
    bool ReportContext(const Context &) override
    {
        return true;
    }
    void ReportRuns(const std::vector<Run> &) override
    {
    }
};

std::unique_ptr<benchmark::BenchmarkReporter> create_reporter(const std::string &format)
{
    if (format == "json") {
        return std::make_unique<json_reporter>();
    }
    if (format == "console") {
        return std::make_unique<plain_names<benchmark::ConsoleReporter>>();
    }
    if (format == "csv") {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        return std::make_unique<plain_names<benchmark::CSVReporter>>();
#pragma GCC diagnostic pop
    }
    return std::make_unique<silent_reporter>();
}

/* Repetitions of the same benchmark take the measurements in turn. */
void replay(benchmark::State &state, session &s, const row &r, size_t repetition, progress &show)
{
    const layer &l = s.work().layers[r.layer];
    const problem &p = s.work().problems[l.problem];
    const bool first_time = s.typical(l.problem) == nullptr;
    if (first_time) {
        show.begin(short_name(p));
    }
    const measurement &m = s.measure(l.problem, repetition);
    if (first_time) {
        show.end(one_line(s, p, m));
    }
    const figure &f = m.figures[r.contender];
    state.SetLabel(f.label);
    if (!f.measured) {
        state.SkipWithError(
            f.wrong ? ("WRONG: max_rel_err " + std::to_string(f.error) + ", " + f.why).c_str()
                    : f.why.c_str());
    }
    for (auto _ : state) {
        static_cast<void>(_);
        state.SetIterationTime(f.seconds);
    }
    if (f.measured) {
        replayed &all = all_replayed[row_name(s, r)];
        all.cpu_seconds.push_back(f.cpu_seconds);
        all.layouts.push_back(f.layout);
        state.counters["gflops"] = p.flops() / f.seconds * 1e-9;
        state.counters["peak_pct"] = 100 * p.flops() / f.seconds / m.peak_flops;
        state.counters["peak_gflops"] = m.peak_flops * 1e-9;
        state.counters["copy_pct"] = 100 * copy_share(p, m, f.seconds);
        state.counters["copy_gbs"] = m.copy_rate * 1e-9;
        state.counters["cold_weights"] = s.cold();
        state.counters["max_rel_err"] = f.error;
        state.counters["rms_rel_err"] = f.rms_error;
        state.counters["spread"] = f.spread;
        state.counters["count"] = static_cast<double>(l.count);
    }
}

} // namespace

std::string row_name(const session &s, const row &r)
{
    return s.contenders()[r.contender].name + "/" +
           s.work().problems[s.work().layers[r.layer].problem].text + (s.cold() ? "/cold" : "");
}

std::vector<row> choose_rows(const std::string &filter, const session &s)
{
    const bool negative = filter.size() > 1 && filter[0] == '-';
    std::vector<row> rows;
    try {
        const std::regex pattern(filter.empty() || filter == "all" ? "." : filter.substr(negative),
                                 std::regex::extended);
        for (size_t l = 0; l < s.work().layers.size(); l++) {
            for (size_t e = 0; e < s.contenders().size(); e++) {
                if (std::regex_search(row_name(s, {l, e}), pattern) != negative) {
                    rows.push_back({l, e});
                }
            }
        }
    } catch (const std::regex_error &) {
        throw usage_error("--benchmark_filter: \"" + filter + "\" is not a regular expression");
    }
    if (rows.empty()) {
        throw usage_error("--benchmark_filter: \"" + filter + "\" matches no ENGINE/PROBLEM");
    }
    return rows;
}

void register_benchmarks(session &s, const std::vector<row> &rows, progress &show)
{
    for (const row &r : rows) {
        benchmark::RegisterBenchmark(
            row_name(s, r).c_str(),
            [&s, r, &show, repetition = size_t{0}](benchmark::State &state) mutable {
                replay(state, s, r, repetition++, show);
            })
            ->Iterations(1)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
    }
}

size_t run_benchmarks(const options &o)
{
    const auto display = create_reporter(o.display_format);
    std::unique_ptr<benchmark::BenchmarkReporter> file;
    if (!o.out.empty()) {
        file = create_reporter(o.out_format.empty() ? "json" : o.out_format);
    }
    return benchmark::RunSpecifiedBenchmarks(display.get(), file.get());
}

} // namespace bench

/* SPDX-License-Identifier: MIT */
#include "bench_plans.h"

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "bench_report.h"
#include "bench_samples.h"

namespace bench
{

namespace
{

constexpr size_t rounds = 25;

enum way { from_disk, from_memory, by_estimate, ways };
constexpr const char *row_names[ways] = {"plan_disk", "plan_memory", "plan_estimate"};
constexpr const char *titles[ways] = {"from the cache on disk", "from memory", "by estimate"};

/* A problem in certain layouts, and the microseconds of its plans. */
struct planned {
    doconv_conv_desc desc;
    std::string name, text;
    std::vector<double> micros[ways];
};

using owned_context = std::unique_ptr<doconv_context, void (*)(doconv_context *)>;

std::vector<planned> list_plans(doconv_context *context, const workload &work,
                                const std::vector<bool> &wanted)
{
    std::vector<planned> all;
    for (size_t i = 0; i < work.problems.size(); i++) {
        const problem &p = work.problems[i];
        for (const auto &[src, dst] : layouts_to_try(p)) {
            planned one = {p.desc, "", "", {}};
            one.desc.src_layout = src;
            one.desc.dst_layout = dst;
            one.name = short_name(p) + " " +
                       layout_pair_name(doconv_layout_string(src), doconv_layout_string(dst));
            char text[DOCONV_PROBLEM_TEXT_SIZE];
            if (wanted[i] &&
                doconv_conv_desc_format(context, &one.desc, text, sizeof text) == DOCONV_OK) {
                one.text = text;
                all.push_back(std::move(one));
            }
        }
    }
    return all;
}

/* Adds the time of a plan, unless its choice isn't the cache's where that is asked for. */
void time_plan(doconv_context *context, planned &one, way how, bool cold)
{
    doconv_plan_options o = {};
    o.size = sizeof o;
    o.cold_weights = cold;
    o.rigor = how == by_estimate ? DOCONV_RIGOR_ESTIMATE : DOCONV_RIGOR_READ;
    doconv_plan *plan = nullptr;
    const auto start = std::chrono::steady_clock::now();
    const doconv_status status = doconv_plan_create(context, &one.desc, &o, &plan);
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - start;
    if (status == DOCONV_OK &&
        (how == by_estimate || std::strcmp(doconv_plan_origin(plan), "cache") == 0)) {
        one.micros[how].push_back(taken.count());
    }
    doconv_plan_destroy(plan);
}

/*
 * Each round has a context of its own, in which the first plan of a problem reads the disk, as in a
 * program that loads a network. The very first plan of a context also finds the directory: rounds
 * begin with another problem each, and return what that took.
 */
std::vector<double> time_all(const options &o, std::vector<planned> &all)
{
    std::vector<double> first;
    for (size_t round = 0; round < rounds; round++) {
        const owned_context context(create_context(o), doconv_context_destroy);
        for (size_t i = 0; i < all.size(); i++) {
            planned &one = all[(round + i) % all.size()];
            std::vector<double> &micros = one.micros[from_disk];
            time_plan(context.get(), one, from_disk, o.cold);
            if (i == 0 && !micros.empty()) {
                first.push_back(micros.back());
                if (all.size() > 1) {
                    micros.pop_back();
                }
            }
            time_plan(context.get(), one, from_memory, o.cold);
            time_plan(context.get(), one, by_estimate, o.cold);
        }
    }
    return first;
}

void replay(std::vector<planned> &all, const options &o)
{
    for (planned &one : all) {
        for (int w = 0; w < ways; w++) {
            const double seconds = 1e-6 * median(one.micros[w]);
            if (seconds > 0) {
                const std::string name = std::string(row_names[w]) + "/" + one.text;
                benchmark::RegisterBenchmark(name.c_str(),
                                             [seconds](benchmark::State &state) {
                                                 for (auto _ : state) {
                                                     static_cast<void>(_);
                                                     state.SetIterationTime(seconds);
                                                 }
                                             })
                    ->Iterations(1)
                    ->UseManualTime()
                    ->Unit(benchmark::kMicrosecond);
            }
        }
    }
    run_benchmarks(o);
}

/* Median over the problems, and the slowest of them. */
void print_plans(FILE *to, const std::vector<planned> &all)
{
    std::fprintf(to, "\n%-24s  %8s  %8s  %8s\n", "plans, microseconds", "problems", "median",
                 "most");
    for (int w = 0; w < ways; w++) {
        std::vector<double> medians;
        double most = 0;
        const char *slowest = "";
        for (const planned &one : all) {
            const double micros = median(one.micros[w]);
            if (micros > 0) {
                medians.push_back(micros);
            }
            if (micros > most) {
                most = micros;
                slowest = one.name.c_str();
            }
        }
        std::fprintf(to, "%-24s  %8zu  %8.1f  %8.1f  %s\n", titles[w], medians.size(),
                     median(medians), most, slowest);
    }
}

} // namespace

void time_plans(const options &o, const workload &work, const std::vector<bool> &wanted)
{
    const owned_context context(create_context(o), doconv_context_destroy);
    std::vector<planned> all = list_plans(context.get(), work, wanted);
    const std::vector<double> first = time_all(o, all);
    replay(all, o);
    FILE *to = o.display_format.empty() ? stdout : stderr;
    print_plans(to, all);
    if (!first.empty()) {
        std::fprintf(to, "the first plan of a context, from disk: %.1f (it finds the directory)\n",
                     median(first));
    }
}

} // namespace bench

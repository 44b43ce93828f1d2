/* SPDX-License-Identifier: MIT */
#include "bench_chain.h"

#include <cmath>
#include <cstdio>
#include <numeric>
#include <set>

#include "bench_progress.h"
#include "bench_report.h"

namespace bench
{

namespace
{

constexpr int most_rounds = 15, fewest_rounds = 5, layer_rounds = 7;
constexpr double patience_seconds = 4;  /* of a chain's samples */
constexpr double sample_seconds = 0.02; /* a sample is as many runs as this takes, or one */

std::vector<doconv_layout> chain_layouts(layout_choice choice, doconv_layout block)
{
    switch (choice) {
    case layout_choice::nchw:
        return {DOCONV_NCHW};
    case layout_choice::nhwc:
        return {DOCONV_NHWC};
    case layout_choice::blocked:
        return {block};
    default:
        return {DOCONV_NHWC, block};
    }
}

doconv_accuracy class_of(const options &o, const std::string &engine)
{
    return engine == "direct" ? DOCONV_ACCURACY_STRICT : o.accuracy;
}

/*
 * A figure to come, for each engine and layout, and where there are several layouts, for what
 * doconv makes of them: a layout for each tensor.
 */
std::vector<chain_figure> list_figures(const std::vector<std::string> &names,
                                       const std::vector<doconv_layout> &layouts)
{
    std::vector<chain_figure> figures;
    for (const std::string &name : names) {
        for (const doconv_layout layout : layouts) {
            chain_figure f;
            f.engine = name;
            f.layout = doconv_layout_string(layout);
            f.uniform = layout;
            figures.push_back(std::move(f));
        }
        if (name != "onednn" && layouts.size() > 1) {
            chain_figure f;
            f.engine = name;
            f.layout = "mixed";
            f.mixed = true;
            figures.push_back(std::move(f));
        }
    }
    return figures;
}

/* The distinct problems of a network for all that doconv is to run. */
std::vector<problem> list_problems(const options &o, doconv_context *context, const chain &net,
                                   const std::vector<std::string> &names,
                                   const std::vector<doconv_layout> &layouts)
{
    std::vector<problem> problems;
    std::set<std::string> seen;
    for (const std::string &name : names) {
        for (const doconv_layout layout : layouts) {
            for (const chain_layer &layer : net.layers) {
                problem p = place_layer(context, layer, layout, class_of(o, name));
                if (name != "onednn" && seen.insert(p.text).second) {
                    problems.push_back(std::move(p));
                }
            }
        }
    }
    return problems;
}

void tune_chain(const options &o, doconv_engine &ours, const std::string &network,
                const std::vector<problem> &problems)
{
    if (o.tune == DOCONV_TUNE_OFF || o.tune == DOCONV_TUNE_READ || problems.empty()) {
        return;
    }
    tuning_totals totals;
    {
        progress show("tune", static_cast<int>(problems.size()));
        for (const problem &p : problems) {
            show.begin(network + " " + short_name(p));
            ours.tune(p, totals, show);
            show.end("");
        }
    }
    std::fprintf(stderr, "%s: %d problems tuned, %d variants measured, %d from the cache\n",
                 network.c_str(), totals.problems, totals.measured, totals.cached);
}

double largest_error(const std::vector<float> &y, const std::vector<float> &reference)
{
    double error = 0, largest = 0;
    for (size_t i = 0; i < y.size(); i++) {
        const double expected = static_cast<double>(reference[i]);
        const double distance = std::fabs(static_cast<double>(y[i]) - expected);
        error = distance <= error ? error : distance; /* NaN too */
        largest = std::max(largest, std::fabs(expected));
    }
    return error / largest;
}

/* Sums directly, in planes, by the estimate's choice: no contender has any of that. */
std::vector<float> run_reference(const doconv_engine &ours, const chain &net)
{
    std::string why;
    const auto reference = make_doconv_chain(ours, net, DOCONV_NCHW, DOCONV_ACCURACY_STRICT, why);
    if (!reference) {
        throw std::runtime_error(net.name + ": " + why);
    }
    return reference->run_whole();
}

void make_runners(const options &o, const doconv_engine &ours, chain_result &result)
{
    const bool tuned = o.tune != DOCONV_TUNE_OFF && o.tune != DOCONV_TUNE_READ;
    for (chain_figure &f : result.figures) {
        const doconv_accuracy accuracy = class_of(o, f.engine);
        f.what = f.engine == "onednn"
                     ? make_onednn_chain(ours.context(), result.net, f.uniform, f.why)
                 : f.mixed ? make_planned_chain(ours, result.net, accuracy, tuned, f.why)
                           : make_doconv_chain(ours, result.net, f.uniform, accuracy, f.why);
    }
    const std::vector<float> reference = run_reference(ours, result.net);
    for (chain_figure &f : result.figures) {
        if (f.what) {
            f.error = largest_error(f.what->run_whole(), reference);
            if (!(f.error <= wrong_error)) {
                f.why = "wrong result";
                f.what.reset();
            }
        }
    }
}

/* All chains take turns; then again with a clock between the layers. */
void time_runners(chain_result &result, bool one_thread)
{
    std::vector<series> samples;
    std::vector<chain_figure *> timed;
    double slowest = 0;
    for (chain_figure &f : result.figures) {
        if (f.what) {
            timed.push_back(&f);
            samples.push_back({f.what.get(), time_once(*f.what), {}, {}, false});
            slowest = std::max(slowest, samples.back().guess);
        }
    }
    std::vector<series *> turns;
    for (series &s : samples) {
        turns.push_back(&s);
    }
    const int rounds = static_cast<int>(patience_seconds / std::max(slowest, sample_seconds));
    take_rounds(turns, std::min(std::max(rounds, fewest_rounds), most_rounds), sample_seconds,
                one_thread, result.seen);
    std::vector<std::vector<std::vector<double>>> layers(timed.size());
    for (int round = 0; round < layer_rounds; round++) {
        for (size_t i = 0; i < timed.size(); i++) {
            timed[i]->what->run_timed(layers[i]);
        }
    }
    for (size_t i = 0; i < timed.size(); i++) {
        timed[i]->seconds = median(samples[i].seconds);
        timed[i]->spread = spread(samples[i].seconds);
        for (const std::vector<double> &seconds : layers[i]) {
            timed[i]->layer_seconds.push_back(median(seconds));
        }
    }
}

void compare(std::vector<chain_figure> &figures)
{
    double theirs = 0;
    for (const chain_figure &f : figures) {
        if (f.engine == "onednn" && f.measured()) {
            theirs = theirs == 0 ? f.seconds : std::min(theirs, f.seconds);
        }
    }
    for (chain_figure &f : figures) {
        f.ratio = f.measured() ? theirs / f.seconds : 0;
    }
}

} // namespace

double chain_figure::predicted() const
{
    return what ? std::accumulate(what->predicted.begin(), what->predicted.end(), 0.0) : 0;
}

int run_chains(const options &o, doconv_engine &ours, const std::vector<std::string> &names)
{
    const doconv_context_info info = ours.info();
    const auto layouts =
        chain_layouts(o.layout, info.isa == DOCONV_ISA_AVX512 ? DOCONV_NCHW16C : DOCONV_NCHW8C);
    std::vector<chain_result> all;
    for (const std::string &name : o.networks) {
        all.push_back({load_chain(ours.context(), name, o.batch), {}, {}});
    }
    bool good = true;
    for (chain_result &result : all) {
        result.figures = list_figures(names, layouts);
        tune_chain(o, ours, result.net.name,
                   list_problems(o, ours.context(), result.net, names, layouts));
        make_runners(o, ours, result);
        time_runners(result, o.threads == 1);
        compare(result.figures);
        for (const chain_figure &f : result.figures) {
            good = good && f.measured();
        }
    }
    register_chains(all);
    run_benchmarks(o);
    print_chains(all, !o.display_format.empty());
    if (!o.tsv.empty()) {
        write_chains(all, o.tsv);
    }
    return good ? 0 : 1;
}

} // namespace bench

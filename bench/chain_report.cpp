/* SPDX-License-Identifier: MIT */
#include <benchmark/benchmark.h>

#include <cstdio>

#include "bench_chain.h"

namespace bench
{

namespace
{

std::string number(const char *format, double value)
{
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return value > 0 ? text : "-";
}

/* As ratios are: over 1, the chain is slower than its layers alone. */
double of_prediction(const chain_figure &f)
{
    return f.predicted() > 0 ? f.seconds / f.predicted() : 0;
}

} // namespace

void print_chains(const std::vector<chain_result> &all, bool to_stderr)
{
    FILE *to = to_stderr ? stderr : stdout;
    for (const chain_result &result : all) {
        std::fprintf(to, "\n%s: a chain of %zu layers, %.3f GFLOP\n", result.net.name.c_str(),
                     result.net.layers.size(), result.net.flops() * 1e-9);
        std::fprintf(to, "%-8s %-8s %9s %7s %8s %7s %9s %7s %8s\n", "engine", "layout", "ms",
                     "spread", "GFLOP/s", "ratio", "sum, ms", "of it", "error");
        for (const chain_figure &f : result.figures) {
            if (!f.measured()) {
                std::fprintf(to, "%-8s %-8s %9s %s\n", f.engine.c_str(), f.layout.c_str(), "none",
                             f.why.c_str());
                continue;
            }
            std::fprintf(to, "%-8s %-8s %9.3f %6.1f%% %8.1f %7s %9s %7s %8.1e\n", f.engine.c_str(),
                         f.layout.c_str(), f.seconds * 1e3, f.spread * 100,
                         result.net.flops() / f.seconds * 1e-9, number("%.3f", f.ratio).c_str(),
                         number("%.3f", f.predicted() * 1e3).c_str(),
                         number("%.3f", of_prediction(f)).c_str(), f.error);
        }
        if (result.seen.disturbed * 20 > result.seen.samples) {
            std::fprintf(to, "the machine was busy: other processes disturbed %d of %d samples\n",
                         result.seen.disturbed, result.seen.samples);
        }
    }
    std::fflush(to);
}

void write_chains(const std::vector<chain_result> &all, const std::string &path)
{
    FILE *file = std::fopen(path.c_str(), "w");
    if (file == nullptr) {
        throw usage_error("--tsv: \"" + path + "\" can't be written");
    }
    std::fprintf(file, "network\tengine\tlayout\tlayer\tvariant\tms\tspread_pct\tgflops\tratio\t"
                       "predicted_ms\terr\n");
    for (const chain_result &result : all) {
        for (const chain_figure &f : result.figures) {
            if (!f.measured()) {
                continue;
            }
            const std::string chain_name =
                result.net.name + "\t" + f.engine + "\t" + f.layout + "\t";
            std::fprintf(file, "%s-\t-\t%.6f\t%.3f\t%.4f\t%s\t%s\t%.3e\n", chain_name.c_str(),
                         f.seconds * 1e3, f.spread * 100, result.net.flops() / f.seconds * 1e-9,
                         number("%.5f", f.ratio).c_str(),
                         number("%.6f", f.predicted() * 1e3).c_str(), f.error);
            for (size_t i = 0; i < result.net.layers.size(); i++) {
                const chain_layer &layer = result.net.layers[i];
                const double predicted = f.what->predicted.empty() ? 0 : f.what->predicted[i] * 1e3;
                std::fprintf(file, "%s%s\t%s\t%.6f\t-\t%.4f\t-\t%s\t-\n", chain_name.c_str(),
                             layer.name.c_str(), f.what->labels[i].c_str(),
                             f.layer_seconds[i] * 1e3,
                             layer.plain.flops() / f.layer_seconds[i] * 1e-9,
                             number("%.6f", predicted).c_str());
            }
        }
    }
    if (std::fclose(file) != 0) {
        throw usage_error("--tsv: \"" + path + "\" can't be written");
    }
}

void register_chains(const std::vector<chain_result> &all)
{
    for (const chain_result &result : all) {
        for (const chain_figure &f : result.figures) {
            if (!f.measured()) {
                continue;
            }
            const std::string name = "chain/" + f.engine + "/" + f.layout + "/" + result.net.name;
            const double flops = result.net.flops();
            const chain_figure *figure = &f;
            benchmark::RegisterBenchmark(name.c_str(),
                                         [figure, flops](benchmark::State &state) {
                                             for (auto _ : state) {
                                                 static_cast<void>(_);
                                                 state.SetIterationTime(figure->seconds);
                                             }
                                             state.counters["gflops"] =
                                                 flops / figure->seconds * 1e-9;
                                             state.counters["spread_pct"] = figure->spread * 100;
                                             state.counters["err"] = figure->error;
                                             if (figure->ratio > 0) {
                                                 state.counters["ratio"] = figure->ratio;
                                             }
                                             if (figure->predicted() > 0) {
                                                 state.counters["predicted_ms"] =
                                                     figure->predicted() * 1e3;
                                             }
                                         })
                ->Iterations(1)
                ->UseManualTime()
                ->Unit(benchmark::kMillisecond);
        }
    }
}

} // namespace bench

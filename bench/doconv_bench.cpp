/* SPDX-License-Identifier: MIT */
/*
 * doconv-bench: the convolutions of networks, timed engine beside engine.
 *
 *   doconv_bench.cpp     the program
 *   bench_options        the command line (with option_values.c, which all programs here share)
 *   bench_threads        cores and threads
 *   bench_problem        what is measured: layers, their data, the check of results
 *   bench_engine.h       what an engine is; engine_doconv, engine_onednn or engine_absent
 *   fma_peak, copy_rate  the loops that figures are put beside
 *   bench_session        the measuring of a problem: trials, finalists, rounds of samples
 *   bench_samples        samples in turns; medians
 *   bench_google         the way through Google Benchmark, and so to JSON
 *   bench_sums           totals and ratios; bench_cells: rows of texts
 *   bench_table          the table; bench_report: the TSV; bench_progress: the bar
 *   bench_plans          --plans
 *   bench_audit          --tune=audit; bench_audit_layer: of a layer
 *   bench_chain          --chain; chain_network: networks with data, runners of them;
 *                        chain_doconv, chain_onednn: the engines'; chain_report: what comes out
 */
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "bench_audit.h"
#include "bench_chain.h"
#include "bench_options.h"
#include "bench_plans.h"
#include "bench_report.h"
#include "bench_threads.h"
#include "help_texts.h"
#include "option_values.h"

namespace
{

using namespace bench;

void expect_writable(const char *flag, const std::string &path)
{
    if (path.empty()) {
        return;
    }
    FILE *file = std::fopen(path.c_str(), "a");
    if (file == nullptr) {
        throw usage_error(std::string(flag) + ": \"" + path + "\" can't be written");
    }
    std::fclose(file);
}

/*
 * Whose figures are asked for, in that order, each once. Of the class strict, doconv's choice is
 * the best direct variant.
 */
std::vector<std::string> contender_names(const options &o)
{
    if (o.plans || o.audit) {
        return {"doconv"};
    }
    if (o.engines.empty()) {
        std::vector<std::string> names = {"doconv"};
        if (o.accuracy != DOCONV_ACCURACY_STRICT) {
            names.push_back("direct");
        }
        if (onednn_built()) {
            names.push_back("onednn");
        } else {
            std::fprintf(stderr, "doconv-bench: oneDNN is not built: doconv alone\n");
        }
        return names;
    }
    std::set<std::string> seen;
    for (const std::string &name : o.engines) {
        if (name != "doconv" && name != "direct" && name != "onednn") {
            throw usage_error("--engines: \"" + name + "\" is not one of doconv, direct, onednn");
        }
        if (!seen.insert(name).second) {
            throw usage_error("--engines: \"" + name + "\" is named twice");
        }
    }
    return o.engines;
}

/* Which runners of doconv's the contenders need. */
unsigned doconv_roles(const std::vector<std::string> &names)
{
    unsigned roles = 0;
    for (const std::string &name : names) {
        roles |= name == "doconv" ? role_choice : name == "direct" ? role_direct : 0;
    }
    return roles;
}

/* Google Benchmark reads its own flags, and prints about those that it doesn't know. */
void initialize_benchmark(const options &o, char *program)
{
    std::vector<std::string> texts = o.benchmark_flags;
    std::vector<char *> arguments = {program};
    for (std::string &text : texts) {
        arguments.push_back(text.data());
    }
    arguments.push_back(nullptr);
    int count = static_cast<int>(arguments.size()) - 1;
    benchmark::Initialize(&count, arguments.data());
    if (count > 1) {
        throw usage_error(std::string("unknown option \"") + arguments[1] +
                          "\", or its value is wrong (see --help)");
    }
}

void describe_options(const options &o, const doconv_context_info &info)
{
    benchmark::AddCustomContext("isa", doconv_isa_string(info.isa));
    benchmark::AddCustomContext("cpu", info.cpu);
    benchmark::AddCustomContext("bench_threads", std::to_string(o.threads));
    benchmark::AddCustomContext("layout", layout_choice_name(o.layout));
    benchmark::AddCustomContext("accuracy", accuracy_name(o.accuracy));
    benchmark::AddCustomContext("tune", o.audit ? "audit" : option_name(option_tunes, o.tune));
}

void describe_run(const options &o, const doconv_context_info &info,
                  const std::vector<contender> &contenders, const workload &work,
                  const std::vector<row> &rows)
{
    describe_options(o, info);
    benchmark::AddCustomContext("weights", o.cold ? "cold" : "warm");
    benchmark::AddCustomContext("packed_limit",
                                o.packed_as_direct ? "direct" : std::to_string(o.packed));
    std::string about, networks;
    for (const contender &c : contenders) {
        const std::string text = c.from->description();
        if (about.find(text) == std::string::npos) {
            about += (about.empty() ? "" : ", ") + text;
        }
    }
    benchmark::AddCustomContext("engines", about);
    /* "resnet18:11,resnet50:23": the layers of the rows, in order. */
    std::vector<size_t> layers;
    for (const row &r : rows) {
        if (layers.empty() || layers.back() != r.layer) {
            layers.push_back(r.layer);
        }
    }
    for (size_t i = 0; i < layers.size();) {
        const std::string &network = work.layers[layers[i]].network;
        const size_t start = i;
        while (i < layers.size() && work.layers[layers[i]].network == network) {
            i++;
        }
        networks += (networks.empty() ? "" : ",") + network + ":" + std::to_string(i - start);
    }
    benchmark::AddCustomContext("networks", networks);
    std::fprintf(stderr, "%s on %s, %s, %d thread%s, layout %s, accuracy %s%s\n", about.c_str(),
                 info.cpu, doconv_isa_string(info.isa), o.threads, o.threads == 1 ? "" : "s",
                 layout_choice_name(o.layout), accuracy_name(o.accuracy),
                 o.cold ? ", cold weights" : "");
    const coldness cold = coldness::of(info);
    if (o.cold && cold.pool_bytes > cold.most_bytes) {
        std::fprintf(stderr,
                     "doconv-bench: the copies of the weights may take %zu MiB, less than twice "
                     "the last-level cache: some may be in it\n",
                     cold.most_bytes >> 20);
    }
}

void tune_all(const options &o, doconv_engine &ours, const workload &work,
              const std::vector<bool> &wanted)
{
    if (o.tune == DOCONV_TUNE_OFF || o.tune == DOCONV_TUNE_READ) {
        return;
    }
    tuning_totals totals;
    {
        progress show("tune", static_cast<int>(std::count(wanted.begin(), wanted.end(), true)));
        for (size_t p = 0; p < work.problems.size(); p++) {
            if (wanted[p]) {
                show.begin(short_name(work.problems[p]));
                const int before = totals.measured;
                ours.tune(work.problems[p], totals, show);
                const int measured = totals.measured - before;
                show.end(short_name(work.problems[p]) +
                         (measured == 0 ? ": from the cache"
                                        : ": " + std::to_string(measured) + " variants measured"));
            }
        }
    }
    std::fprintf(stderr, "%d problems tuned, %d variants measured, %d from the cache\n",
                 totals.problems, totals.measured, totals.cached);
    if (totals.unstored > 0) {
        std::fprintf(
            stderr,
            "%d results were not stored (surer ones were, or no directory can be used: \"%s\")\n",
            totals.unstored, ours.info().cache_directory);
    }
}

/* Before anything that starts threads. */
void place_threads(const options &o, char **argv)
{
    if (o.list_only) {
        set_threads(o.threads);
        return;
    }
    const std::string problem = bind_threads(o.threads, argv);
    if (!problem.empty()) {
        std::fprintf(stderr, "doconv-bench: %s\n", problem.c_str());
    }
}

/* Returns the exit status. */
int measure_rows(const options &o, session &s, const std::vector<row> &rows,
                 const std::vector<bool> &wanted)
{
    {
        progress show("time", static_cast<int>(std::count(wanted.begin(), wanted.end(), true)));
        register_benchmarks(s, rows, show);
        run_benchmarks(o);
    }
    print_table(s, !o.display_format.empty());
    if (!o.tsv.empty()) {
        write_tsv(s, o.tsv);
    }
    return all_good(s) ? 0 : 1;
}

/* Returns the exit status. */
int measure_chains(const options &o, doconv_engine &ours, const std::vector<std::string> &names)
{
    expect_writable(o.json.empty() ? "--benchmark_out" : "--json", o.out);
    expect_writable("--tsv", o.tsv);
    const doconv_context_info info = ours.info();
    describe_options(o, info);
    std::fprintf(stderr, "chains on %s, %s, %d thread%s, layout %s, accuracy %s\n", info.cpu,
                 doconv_isa_string(info.isa), o.threads, o.threads == 1 ? "" : "s",
                 layout_choice_name(o.layout), accuracy_name(o.accuracy));
    return run_chains(o, ours, names);
}

int run(int argc, char **argv)
{
    const options o = parse_options(argc, argv);
    if (o.help) {
        std::fputs(BENCH_HELP, stdout);
        return 0;
    }
    const std::vector<std::string> names = contender_names(o);
    place_threads(o, argv);

    /* A chain has one class, so each problem of it one choice. */
    const unsigned roles = o.chain ? role_choice : doconv_roles(names);
    doconv_engine ours(o, roles);
    const doconv_context_info info = ours.info();
    std::unique_ptr<engine> theirs;
    std::vector<contender> contenders;
    for (const std::string &name : names) {
        if (name == "onednn") {
            theirs = create_onednn_engine(o, info.isa);
            contenders.push_back({name, theirs.get(), role_choice});
        } else {
            contenders.push_back({name, &ours, name == "direct" ? role_direct : role_choice});
        }
    }
    initialize_benchmark(o, argv[0]);
    if (o.chain) {
        return measure_chains(o, ours, names);
    }
    const workload work = load_workload(
        ours.context(), o, info.isa == DOCONV_ISA_AVX512 ? DOCONV_NCHW16C : DOCONV_NCHW8C);
    session s(work, contenders, info.isa, o.threads, o.min_seconds,
              o.cold ? coldness::of(info) : coldness());

    const std::vector<row> rows = choose_rows(o.filter, s);
    if (o.list_only) {
        for (const row &r : rows) {
            std::printf("%s\n", row_name(s, r).c_str());
        }
        return 0;
    }
    std::vector<bool> wanted(work.problems.size());
    for (const row &r : rows) {
        wanted[work.layers[r.layer].problem] = true;
    }
    expect_writable(o.json.empty() ? "--benchmark_out" : "--json", o.out);
    expect_writable("--tsv", o.tsv);
    describe_run(o, info, contenders, work, rows);
    if (o.audit) {
        audit(o, work, wanted);
        return 0;
    }
    if (roles != 0) {
        tune_all(o, ours, work, wanted);
    }
    if (o.plans) {
        time_plans(o, work, wanted);
        return 0;
    }
    return measure_rows(o, s, rows, wanted);
}

} // namespace

int main(int argc, char **argv)
{
    try {
        return run(argc, argv);
    } catch (const bench::usage_error &error) {
        std::fprintf(stderr, "doconv-bench: %s\n", error.what());
        return 2;
    } catch (const std::bad_alloc &) {
        std::fprintf(stderr, "doconv-bench: out of memory\n");
        return 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "doconv-bench: %s\n", error.what());
        return 1;
    }
}

/* SPDX-License-Identifier: MIT */
/* --chain: networks that run whole, engine beside engine. */
#ifndef DOCONV_BENCH_CHAIN_H
#define DOCONV_BENCH_CHAIN_H

#include <string>
#include <vector>

#include "bench_samples.h"
#include "chain_network.h"

namespace bench
{

/* An engine's chain in one layout, and what became of it. */
struct chain_figure {
    std::string engine, layout;
    doconv_layout uniform = DOCONV_NHWC; /* of all tensors; mixed: chosen for each */
    bool mixed = false;
    std::unique_ptr<chain_runner> what; /* none: why says for what reason */
    std::string why;
    double seconds = 0, spread = 0;
    double ratio = 0; /* oneDNN's time in its best layout / seconds; 0: unknown */
    double error = 0; /* of the last output: max|y - ref| / max|ref| */
    std::vector<double> layer_seconds;

    bool measured() const
    {
        return seconds > 0;
    }
    /* The layers' seconds by the tuner; 0: unknown. */
    double predicted() const;
};

struct chain_result {
    chain net;
    std::vector<chain_figure> figures;
    disturbance seen;
};

/*
 * Runs the networks that the options name as chains, engines by their contenders' names, and prints
 * and writes what they take. Returns the exit status. Throws usage_error.
 */
int run_chains(const options &o, doconv_engine &ours, const std::vector<std::string> &names);

/* A block a network; to_stderr: stdout is taken by another format. */
void print_chains(const std::vector<chain_result> &all, bool to_stderr);

/* A line a chain, and one for each of its layers. Throws usage_error if it can't be written. */
void write_chains(const std::vector<chain_result> &all, const std::string &path);

/* Registers a benchmark for each chain; running it replays the measurement. */
void register_chains(const std::vector<chain_result> &all);

} // namespace bench

#endif

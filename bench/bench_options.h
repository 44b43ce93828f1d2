/* SPDX-License-Identifier: MIT */
/* What the command line asks for. */
#ifndef DOCONV_BENCH_OPTIONS_H
#define DOCONV_BENCH_OPTIONS_H

#include <stdexcept>
#include <string>
#include <vector>

#include <doconv/doconv.h>

namespace bench
{

/* Something the user asked for that can't be: the program prints it and exits 2. */
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class layout_choice { nchw, nhwc, blocked, best };

const char *layout_choice_name(layout_choice choice);
const char *accuracy_name(doconv_accuracy accuracy);

struct options {
    bool help = false;
    std::vector<std::string> networks;
    std::vector<std::string> problems;
    std::vector<std::string> engines; /* empty: every engine of the build */
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 1;
    int batch = 1;
    layout_choice layout = layout_choice::best;
    doconv_accuracy accuracy = DOCONV_ACCURACY_DEFAULT;
    doconv_tune_mode tune = DOCONV_TUNE_TUNE;
    bool cold = false; /* every call meets another copy of the weights, which no cache holds */
    /* Most bytes of packed weights, or as many as a direct kernel's take; 0, false: no limit. */
    size_t packed = 0;
    bool packed_as_direct = false;
    bool plans = false;         /* time the making of plans, not the convolutions */
    bool audit = false;         /* --tune=audit: hold the tuner's choices against every candidate */
    double audit_seconds = 2.5; /* of samples of a layer */
    std::string audit_cache;    /* a directory; "": a fresh one, removed at the end */
    bool chain = false; /* run the networks whole; cold too, for so their layers are tuned */
    std::string json, tsv;
    /*
     * --benchmark_*: Google Benchmark's own, but the two that choose rows: it would match names
     * with its suffixes.
     */
    std::vector<std::string> benchmark_flags;
    bool list_only = false;
    std::string filter; /* "": everything */
    /* Those of its flags that we have to know too. */
    std::string display_format;  /* "": our table */
    std::string out, out_format; /* its file; --json is a shorthand for these two */
    double min_seconds = 0.05;   /* of samples, for an engine and problem */
};

/* Reads argv. Throws usage_error. */
options parse_options(int argc, char **argv);

/*
 * Cuts a list of problems at ';', blanks, and at those commas that a new problem follows
 * (attributes have commas too).
 */
std::vector<std::string> split_problems(const std::string &text);

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
/* What comes out: rows for Google Benchmark, the table on stdout, the TSV file. */
#ifndef DOCONV_BENCH_REPORT_H
#define DOCONV_BENCH_REPORT_H

#include <string>
#include <vector>

#include "bench_progress.h"
#include "bench_session.h"

namespace bench
{

/* A layer timed for a contender, both by index. */
struct row {
    size_t layer, contender;
};

/* "ENGINE/PROBLEM", and "/cold" behind it if that is how the weights are. */
std::string row_name(const session &s, const row &r);

/*
 * The rows that --benchmark_filter keeps; "": all; '-' first: those that don't match. Throws
 * usage_error if it can't be read.
 */
std::vector<row> choose_rows(const std::string &filter, const session &s);

/* Registers a benchmark for each row, by its name; running it replays the session's measurement. */
void register_benchmarks(session &s, const std::vector<row> &rows, progress &show);

/* Runs what is registered. Returns the number of benchmarks run. */
size_t run_benchmarks(const options &o);

/*
 * The table: a block for each network with its totals. to_stderr: stdout is taken by another
 * format.
 */
void print_table(const session &s, bool to_stderr);

/* The same figures as tab-separated values. Throws usage_error if the file can't be written. */
void write_tsv(const session &s, const std::string &path);

/* Whether every figure that was asked for is there and right. */
bool all_good(const session &s);

/* "0.512 ms doconv, 0.498 ms onednn": a line of progress. */
std::string one_line(const session &s, const problem &p, const measurement &m);

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
/* The rows of TSV and table as texts, a cell for each column that there is. */
#ifndef DOCONV_BENCH_CELLS_H
#define DOCONV_BENCH_CELLS_H

#include <array>
#include <string>

#include "bench_sums.h"

namespace bench
{

/* In the TSV's order, after the network's name. New ones come last: some read them by number. */
enum column {
    col_problem,
    col_count,
    col_variant,
    col_layout,
    col_ms,
    col_gflops,
    col_peak,
    col_error,
    col_onednn_variant,
    col_onednn_layout,
    col_onednn_ms,
    col_onednn_gflops,
    col_ratio,
    col_copy,
    col_onednn_copy,
    col_copy_rate,
    col_weights,
    col_accuracy,
    col_rms,
    col_direct_variant,
    col_direct_layout,
    col_direct_ms,
    col_direct_gflops,
    col_direct_peak,
    col_direct_error,
    col_direct_rms,
    col_direct_copy,
    col_onednn_peak,
    col_onednn_error,
    col_onednn_rms,
    col_direct_ratio,
    col_gain,
    col_rms_ratio,
    columns
};

extern const char *const column_names[columns];

using cells = std::array<std::string, columns>;

/* For people numbers are rounded, and texts shortened: a kernel for its variant. */
enum class reader { people, programs };

cells layer_cells(const session &s, const layer &l, const measurement &m, reader who);
cells total_cells(const session &s, const network_sum &sum, reader who);
/* The geometric means of the ratios. */
cells geomean_cells(const session &s, const network_sum &sum, reader who);

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
#include "bench_cells.h"

#include <algorithm>
#include <cstdio>

namespace bench
{

const char *const column_names[columns] = {"problem",
                                           "count",
                                           "variant",
                                           "layout",
                                           "ms",
                                           "gflops",
                                           "peak_pct",
                                           "err",
                                           "onednn_impl",
                                           "onednn_layout",
                                           "onednn_ms",
                                           "onednn_gflops",
                                           "ratio",
                                           "copy_pct",
                                           "onednn_copy_pct",
                                           "copy_gbs",
                                           "weights",
                                           "accuracy",
                                           "rms_err",
                                           "direct_variant",
                                           "direct_layout",
                                           "direct_ms",
                                           "direct_gflops",
                                           "direct_peak_pct",
                                           "direct_err",
                                           "direct_rms_err",
                                           "direct_copy_pct",
                                           "onednn_peak_pct",
                                           "onednn_err",
                                           "onednn_rms_err",
                                           "direct_ratio",
                                           "gain",
                                           "rms_ratio"};

namespace
{

/* Which cells of a row are a contender's. */
struct place {
    const char *contender;
    column variant, layout, ms, gflops, peak, copy, error, rms;
};
constexpr place places[] = {
    {"doconv", col_variant, col_layout, col_ms, col_gflops, col_peak, col_copy, col_error, col_rms},
    {"direct", col_direct_variant, col_direct_layout, col_direct_ms, col_direct_gflops,
     col_direct_peak, col_direct_copy, col_direct_error, col_direct_rms},
    {"onednn", col_onednn_variant, col_onednn_layout, col_onednn_ms, col_onednn_gflops,
     col_onednn_peak, col_onednn_copy, col_onednn_error, col_onednn_rms},
};
constexpr column ratio_columns[comparisons] = {col_ratio, col_direct_ratio, col_gain};

std::string number(const char *format, double value)
{
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

/* How the numbers of a row are written. */
struct formats {
    const char *ms, *gflops, *percent, *ratio, *error;
};

const formats &formats_for(reader who)
{
    static const formats people = {"%.3f", "%.1f", "%.1f", "%.2f", "%.1e"};
    static const formats programs = {"%.6f", "%.4f", "%.3f", "%.5f", "%.3e"};
    return who == reader::people ? people : programs;
}

/* For people without the exponent's leading zero. */
std::string error_text(double error, reader who)
{
    std::string text = number(formats_for(who).error, error);
    const size_t zero = text.find("e-0");
    return who == reader::people && zero != std::string::npos ? text.erase(zero + 2, 1) : text;
}

/*
 * For people: "winograd_4x4" of "winograd:winograd_f32_4x4@avx512+direct_...:tiles=28", "brgconv"
 * of oneDNN's "brgconv:avx512_core".
 */
std::string variant_text(const std::string &label, reader who)
{
    if (who == reader::programs || label.empty()) {
        return label.empty() ? "-" : label;
    }
    const size_t at = label.find('@');
    if (at == std::string::npos) {
        const size_t isa = label.find(":avx");
        return label.substr(0, isa != std::string::npos ? isa : label.find(":sse"));
    }
    const size_t solver = label.find(':') + 1;
    std::string kernel = label.substr(solver, at - solver);
    const size_t type = kernel.find("_f32");
    return type == std::string::npos ? kernel : kernel.erase(type, 4);
}

/* For people: "nhwc>16c" of "nhwc>nChw16c". */
std::string layout_text(const std::string &layout, reader who)
{
    std::string text = layout.empty() ? "-" : layout;
    const size_t blocked = text.find(">nChw");
    return who == reader::people && blocked != std::string::npos ? text.erase(blocked + 1, 4)
                                                                 : text;
}

std::string time_text(double seconds, reader who)
{
    const bool short_one = who == reader::people && seconds < 1e-4;
    return number(short_one ? "%.4f" : formats_for(who).ms, seconds * 1e3);
}

void put_numbers(cells &row, const place &to, const total &t, reader who)
{
    const formats &as = formats_for(who);
    if (t.layers > 0) {
        row[to.ms] = time_text(t.seconds, who);
        row[to.gflops] = number(as.gflops, t.flops / t.seconds * 1e-9);
        row[to.peak] = number(as.percent, 100 * t.peak_seconds / t.seconds);
        row[to.copy] = number(as.percent, 100 * t.copy_seconds / t.seconds);
        row[to.error] = error_text(t.error, who);
        row[to.rms] = error_text(t.rms_error, who);
    }
}

void put_figure(cells &row, const place &to, const figure &f, const problem &p,
                const measurement &m, reader who)
{
    row[to.variant] = variant_text(f.label, who);
    row[to.layout] = layout_text(f.layout, who);
    total t;
    if (f.measured) {
        t.add(f, p, m, 1);
    }
    put_numbers(row, to, t, who);
    if (!f.measured) {
        row[to.ms] = f.missing();
        row[to.error] = f.wrong ? error_text(f.error, who) : "-";
    }
}

void put_ratio(cells &row, column to, double ratio, reader who)
{
    if (ratio > 0) {
        row[to] = number(formats_for(who).ratio, ratio);
    }
}

/* The accuracy class is that of the problems, which may differ among the layers of "-". */
cells empty_cells(const session &s, const char *name)
{
    cells row;
    row.fill("-");
    row[col_problem] = name;
    row[col_weights] = s.cold() ? "cold" : "warm";
    return row;
}

} // namespace

cells layer_cells(const session &s, const layer &l, const measurement &m, reader who)
{
    const problem &p = s.work().problems[l.problem];
    cells row = empty_cells(s, who == reader::people ? short_name(p).c_str() : p.text.c_str());
    row[col_count] = std::to_string(l.count);
    row[col_accuracy] = accuracy_name(p.desc.accuracy);
    for (const place &to : places) {
        const int at = s.find(to.contender);
        if (at >= 0) {
            put_figure(row, to, m.figures[static_cast<size_t>(at)], p, m, who);
        }
    }
    for (int c = 0; c < comparisons; c++) {
        put_ratio(row, ratio_columns[c], ratio_of(s, m, static_cast<comparison_number>(c)), who);
    }
    const int doconv = s.find("doconv"), direct = s.find("direct");
    if (doconv >= 0 && direct >= 0) {
        const double ours = m.figures[static_cast<size_t>(doconv)].rms_error,
                     directs = m.figures[static_cast<size_t>(direct)].rms_error;
        put_ratio(row, col_rms_ratio, directs > 0 ? ours / directs : 0, who);
    }
    if (m.copy_rate > 0) {
        row[col_copy_rate] = number(formats_for(who).gflops, m.copy_rate * 1e-9);
    }
    return row;
}

cells total_cells(const session &s, const network_sum &sum, reader who)
{
    cells row = empty_cells(s, "total");
    for (const place &to : places) {
        const int at = s.find(to.contender);
        if (at >= 0) {
            const total &t = sum.totals[static_cast<size_t>(at)];
            put_numbers(row, to, t, who);
            row[col_count] = std::to_string(t.count);
        }
    }
    for (int c = 0; c < comparisons; c++) {
        const comparison_number which = static_cast<comparison_number>(c);
        put_ratio(row, ratio_columns[c], ratio_of_totals(s, sum, which), who);
    }
    return row;
}

cells geomean_cells(const session &s, const network_sum &sum, reader who)
{
    cells row = empty_cells(s, "geomean");
    for (int c = 0; c < comparisons; c++) {
        if (sum.ratios[c].count > 0) {
            put_ratio(row, ratio_columns[c], sum.ratios[c].geomean(), who);
        }
    }
    return row;
}

} // namespace bench

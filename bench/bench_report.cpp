/* SPDX-License-Identifier: MIT */
#include "bench_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace bench
{

namespace
{

std::string number(const char *format, double value)
{
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

/* Which engine is whose column; NULL: not asked for. */
struct columns {
    explicit columns(const session &s)
    {
        for (size_t i = 0; i < s.engines().size(); i++) {
            (std::strcmp(s.engines()[i]->name(), "onednn") == 0 ? onednn : doconv) =
                static_cast<int>(i);
        }
    }
    const figure *ours(const measurement &m) const
    {
        return doconv < 0 ? nullptr : &m.figures[static_cast<size_t>(doconv)];
    }
    const figure *theirs(const measurement &m) const
    {
        return onednn < 0 ? nullptr : &m.figures[static_cast<size_t>(onednn)];
    }

    int doconv = -1, onednn = -1;
};

/* One engine's sums over a network's layers. */
struct total {
    double seconds = 0, flops = 0;
    /* what the flops take at the peak of their moments, and the bytes at the copy's rate */
    double peak_seconds = 0, copy_seconds = 0;
    int64_t count = 0;
    int layers = 0;
    double error = 0;

    void add(const figure &f, const problem &p, const measurement &m, int64_t times)
    {
        const double n = static_cast<double>(times);
        seconds += f.seconds * n;
        flops += p.flops() * n;
        peak_seconds += p.flops() / m.peak_flops * n;
        copy_seconds += copy_share(p, m, 1) * n;
        count += times;
        layers++;
        error = std::max(error, f.error);
    }
    double rate() const
    {
        return flops / seconds;
    }
    double peak_share() const
    {
        return peak_seconds / seconds;
    }
};

/* The sums of one network. Where both engines were asked for, only layers that both have count. */
struct network_sum {
    total ours, theirs;
    int64_t count = 0;
    int layers = 0, lost = 0, ratios = 0;
    double log_ratio = 0, lowest = INFINITY;
    std::string lowest_layer;

    double geomean() const
    {
        return std::exp(log_ratio / ratios);
    }
};

network_sum sum_up(const session &s, const std::string &network)
{
    const columns at(s);
    network_sum sum;
    for (const layer &l : s.work().layers) {
        const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
        if (m == nullptr) {
            continue;
        }
        sum.layers++;
        sum.count += l.count;
        const figure *ours = at.ours(*m), *theirs = at.theirs(*m);
        if ((ours != nullptr && !ours->measured) || (theirs != nullptr && !theirs->measured)) {
            sum.lost++;
            continue;
        }
        const problem &p = s.work().problems[l.problem];
        if (ours != nullptr) {
            sum.ours.add(*ours, p, *m, l.count);
        }
        if (theirs != nullptr) {
            sum.theirs.add(*theirs, p, *m, l.count);
        }
        if (ours != nullptr && theirs != nullptr) {
            const double ratio = theirs->seconds / ours->seconds;
            sum.ratios++;
            sum.log_ratio += std::log(ratio);
            if (ratio < sum.lowest) {
                sum.lowest = ratio;
                sum.lowest_layer = short_name(p);
            }
        }
    }
    return sum;
}

std::vector<std::string> networks_of(const session &s)
{
    std::vector<std::string> names;
    for (const layer &l : s.work().layers) {
        if (s.typical(l.problem) != nullptr &&
            std::find(names.begin(), names.end(), l.network) == names.end()) {
            names.push_back(l.network);
        }
    }
    return names;
}

using cells = std::vector<std::string>;

/* The columns of a row, in the TSV's order after the network's name. */
const cells tsv_header = {"problem",   "count",         "variant", "layout",      "ms",
                          "gflops",    "peak_pct",      "err",     "onednn_impl", "onednn_layout",
                          "onednn_ms", "onednn_gflops", "ratio",   "copy_pct",    "onednn_copy_pct",
                          "copy_gbs",  "weights"};
constexpr size_t peak_column = 6, ratio_column = 12, copy_column = 13;

/* "0.512", or why there is no time. */
std::string time_cell(const figure *f, const char *format)
{
    if (f == nullptr) {
        return "-";
    }
    return f->measured ? number(format, f->seconds * 1e3)
           : f->wrong  ? "WRONG"
           : f->failed ? "FAILED"
                       : "none";
}

std::string text_cell(const figure *f, const std::string &text)
{
    return f == nullptr || text.empty() ? "-" : text;
}

std::string rate_cell(const figure *f, double flops, const char *format)
{
    return f == nullptr || !f->measured ? "-" : number(format, flops / f->seconds * 1e-9);
}

/* How the numbers of a row are written. */
struct formats {
    const char *ms, *gflops, *percent, *ratio, *error;
};
constexpr formats for_people = {"%.3f", "%.1f", "%.1f", "%.2f", "%.1e"};
constexpr formats for_programs = {"%.6f", "%.4f", "%.3f", "%.5f", "%.3e"};

std::string weights_cell(const session &s)
{
    return s.cold() ? "cold" : "warm";
}

cells layer_row(const session &s, const layer &l, const measurement &m, const std::string &name,
                const formats &as)
{
    const columns at(s);
    const figure *ours = at.ours(m), *theirs = at.theirs(m);
    const problem &p = s.work().problems[l.problem];
    const bool has_ours = ours != nullptr && ours->measured,
               has_theirs = theirs != nullptr && theirs->measured;
    return {name,
            std::to_string(l.count),
            text_cell(ours, ours ? ours->label : ""),
            text_cell(ours, ours ? ours->layout : ""),
            time_cell(ours, as.ms),
            rate_cell(ours, p.flops(), as.gflops),
            has_ours ? number(as.percent, 100 * p.flops() / ours->seconds / m.peak_flops) : "-",
            has_ours || (ours != nullptr && ours->wrong) ? number(as.error, ours->error) : "-",
            text_cell(theirs, theirs ? theirs->label : ""),
            text_cell(theirs, theirs ? theirs->layout : ""),
            time_cell(theirs, as.ms),
            rate_cell(theirs, p.flops(), as.gflops),
            has_ours && has_theirs ? number(as.ratio, theirs->seconds / ours->seconds) : "-",
            has_ours ? number(as.percent, 100 * copy_share(p, m, ours->seconds)) : "-",
            has_theirs ? number(as.percent, 100 * copy_share(p, m, theirs->seconds)) : "-",
            m.copy_rate > 0 ? number(as.gflops, m.copy_rate * 1e-9) : "-",
            weights_cell(s)};
}

cells total_row(const session &s, const network_sum &sum, const formats &as)
{
    const total &ours = sum.ours, &theirs = sum.theirs;
    const bool both = ours.layers > 0 && theirs.layers > 0;
    return {"total",
            std::to_string(std::max(ours.count, theirs.count)),
            "-",
            "-",
            ours.layers > 0 ? number(as.ms, ours.seconds * 1e3) : "-",
            ours.layers > 0 ? number(as.gflops, ours.rate() * 1e-9) : "-",
            ours.layers > 0 ? number(as.percent, 100 * ours.peak_share()) : "-",
            ours.layers > 0 ? number(as.error, ours.error) : "-",
            "-",
            "-",
            theirs.layers > 0 ? number(as.ms, theirs.seconds * 1e3) : "-",
            theirs.layers > 0 ? number(as.gflops, theirs.rate() * 1e-9) : "-",
            both ? number(as.ratio, theirs.seconds / ours.seconds) : "-",
            ours.layers > 0 ? number(as.percent, 100 * ours.copy_seconds / ours.seconds) : "-",
            theirs.layers > 0 ? number(as.percent, 100 * theirs.copy_seconds / theirs.seconds)
                              : "-",
            "-",
            weights_cell(s)};
}

/* Those of the columns that a table shows, texts to the left, numbers to the right. */
void print_cells(FILE *to, const std::vector<cells> &rows, const std::vector<size_t> &shown)
{
    const std::vector<bool> left = {true,  false, true, true,  false, false, false,
                                    false, true,  true, false, false, false, false};
    std::vector<size_t> widths(left.size(), 0);
    for (const cells &row : rows) {
        for (const size_t c : shown) {
            widths[c] = std::max(widths[c], row[c].size());
        }
    }
    for (const cells &row : rows) {
        std::string line;
        for (const size_t c : shown) {
            const std::string gap(widths[c] - row[c].size(), ' ');
            line += (line.empty() ? "" : "  ") + (left[c] ? row[c] + gap : gap + row[c]);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        std::fprintf(to, "%s\n", line.c_str());
    }
}

} // namespace

void print_table(const session &s, bool to_stderr)
{
    FILE *to = to_stderr ? stderr : stdout;
    for (const std::string &network : networks_of(s)) {
        const std::string ms = s.cold() ? "ms cold" : "ms";
        std::vector<cells> rows = {{"layer", "count", "variant", "layout", ms, "GFLOP/s",
                                    "% of peak", "error", "oneDNN's implementation", "layout", ms,
                                    "GFLOP/s", "ratio", "% of copy"}};
        bool depthwise = false;
        cells reasons;
        double peak = 0;
        int peaks = 0;
        disturbance seen;
        for (const layer &l : s.work().layers) {
            const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
            if (m == nullptr) {
                continue;
            }
            seen.samples += m->seen.samples;
            seen.disturbed += m->seen.disturbed;
            const problem &p = s.work().problems[l.problem];
            depthwise = depthwise || p.depthwise();
            rows.push_back(layer_row(s, l, *m, short_name(p), for_people));
            for (size_t e = 0; e < m->figures.size(); e++) {
                if (!m->figures[e].measured) {
                    reasons.push_back(std::string(s.engines()[e]->name()) + ", " + short_name(p) +
                                      ": " + m->figures[e].why);
                }
            }
            if (m->peak_flops > 0) {
                peak += m->peak_flops;
                peaks++;
            }
        }
        if (seen.disturbed * 20 > seen.samples) {
            reasons.push_back("the machine was busy: other processes disturbed " +
                              std::to_string(seen.disturbed) + " of " +
                              std::to_string(seen.samples) + " samples");
        }
        const network_sum sum = sum_up(s, network);
        rows.push_back(total_row(s, sum, for_people));
        /* Few layers other than depthwise ones are bound by their bytes. */
        std::vector<size_t> shown;
        for (size_t c = 0; c <= ratio_column; c++) {
            shown.push_back(c);
            if (c == peak_column && depthwise) {
                shown.push_back(copy_column);
            }
        }
        std::fprintf(to, "\n%s%s\n", network == "-" ? "problems" : network.c_str(),
                     s.cold() ? ", cold weights" : "");
        print_cells(to, rows, shown);
        for (const std::string &reason : reasons) {
            std::fprintf(to, "%s\n", reason.c_str());
        }
        if (peaks > 0) {
            const std::string cores =
                s.threads() > 1 ? " of " + std::to_string(s.threads()) + " cores" : "";
            std::fprintf(to, "peak: %.1f GFLOP/s%s (mean over the layers)\n", peak / peaks * 1e-9,
                         cores.c_str());
        }
        if (sum.lost > 0) {
            std::fprintf(to, "the total is without %d of %d layers, which not every engine has\n",
                         sum.lost, sum.layers);
        }
        if (sum.ratios > 0) {
            std::fprintf(to,
                         "oneDNN's time / doconv's: geometric mean %.3f, of the total %.3f, lowest "
                         "%.3f (%s)\n",
                         sum.geomean(), sum.theirs.seconds / sum.ours.seconds, sum.lowest,
                         sum.lowest_layer.c_str());
        }
    }
    std::fflush(to);
}

void write_tsv(const session &s, const std::string &path)
{
    FILE *file = std::fopen(path.c_str(), "w");
    if (file == nullptr) {
        throw usage_error("--tsv: \"" + path + "\" can't be written");
    }
    const auto put = [&](const std::string &network, const cells &row) {
        std::fprintf(file, "%s", network.c_str());
        for (const std::string &cell : row) {
            std::fprintf(file, "\t%s", cell.c_str());
        }
        std::fprintf(file, "\n");
    };
    put("network", tsv_header);
    for (const std::string &network : networks_of(s)) {
        for (const layer &l : s.work().layers) {
            const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
            if (m != nullptr) {
                put(network, layer_row(s, l, *m, s.work().problems[l.problem].text, for_programs));
            }
        }
        const network_sum sum = sum_up(s, network);
        put(network, total_row(s, sum, for_programs));
        cells geomean(tsv_header.size(), "-");
        geomean[0] = "geomean";
        geomean.back() = weights_cell(s);
        if (sum.ratios > 0) {
            geomean[ratio_column] = number(for_programs.ratio, sum.geomean());
        }
        put(network, geomean);
    }
    const bool bad = std::ferror(file) != 0;
    if (std::fclose(file) != 0 || bad) {
        throw usage_error("--tsv: \"" + path + "\" can't be written");
    }
}

bool all_good(const session &s)
{
    bool any = false;
    for (size_t p = 0; p < s.work().problems.size(); p++) {
        const measurement *m = s.typical(p);
        if (m == nullptr) {
            continue;
        }
        for (const figure &f : m->figures) {
            if (f.failed) {
                return false;
            }
            any = any || f.measured;
        }
    }
    return any;
}

std::string one_line(const session &s, const problem &p, const measurement &m)
{
    const columns at(s);
    std::string line = short_name(p) + ":";
    for (size_t e = 0; e < m.figures.size(); e++) {
        const figure &f = m.figures[e];
        line +=
            std::string(e > 0 ? ", " : " ") + s.engines()[e]->name() + " " + time_cell(&f, "%.3f");
        if (f.measured) {
            line += number(s.cold() ? " ms cold (%.0f %%)" : " ms (%.0f %%)",
                           100 * p.flops() / f.seconds / m.peak_flops);
        }
    }
    const figure *ours = at.ours(m), *theirs = at.theirs(m);
    if (ours != nullptr && theirs != nullptr && ours->measured && theirs->measured) {
        line += number(", ratio %.2f", theirs->seconds / ours->seconds);
    }
    return line;
}

} // namespace bench

/* SPDX-License-Identifier: MIT */
/* The table for people: as many columns as there is room for. */
#include <algorithm>
#include <cstdio>

#include <sys/ioctl.h>
#include <unistd.h>

#include "bench_cells.h"
#include "bench_report.h"

namespace bench
{

namespace
{

constexpr size_t usual_width = 120; /* where no terminal says its own */

enum group { of_layer, of_doconv, of_direct, of_onednn, of_ratios };
/* A group's title, and the contender without whom it isn't there. */
struct group_text {
    const char *title, *contender;
};
constexpr group_text groups[] = {{"", nullptr},
                                 {"doconv", "doconv"},
                                 {"direct", "direct"},
                                 {"oneDNN", "onednn"},
                                 {"oneDNN's time /", "onednn"}};

/* rank: of the columns that are there, that of the highest goes first where room is short. */
struct shown_column {
    column what;
    group of;
    const char *heading;
    bool left;
    int rank;
};
const std::vector<shown_column> all_columns = {
    {col_problem, of_layer, "layer", true, 0},
    {col_count, of_layer, "n", false, 0},
    {col_variant, of_doconv, "kernel", true, 6},
    {col_layout, of_doconv, "layout", true, 4},
    {col_ms, of_doconv, "ms", false, 0},
    {col_gflops, of_doconv, "GFLOP/s", false, 15},
    {col_peak, of_doconv, "% peak", false, 3},
    {col_copy, of_doconv, "% copy", false, 5},
    {col_error, of_doconv, "error", false, 1},
    {col_rms_ratio, of_doconv, "rms", false, 14},
    {col_direct_variant, of_direct, "kernel", true, 13},
    {col_direct_layout, of_direct, "layout", true, 12},
    {col_direct_ms, of_direct, "ms", false, 0},
    {col_direct_peak, of_direct, "% peak", false, 10},
    {col_onednn_variant, of_onednn, "kernel", true, 11},
    {col_onednn_layout, of_onednn, "layout", true, 7},
    {col_onednn_ms, of_onednn, "ms", false, 0},
    {col_onednn_gflops, of_onednn, "GFLOP/s", false, 15},
    {col_onednn_peak, of_onednn, "% peak", false, 8},
    {col_onednn_error, of_onednn, "error", false, 2},
    {col_ratio, of_ratios, "doconv", false, 0},
    {col_direct_ratio, of_ratios, "direct", false, 0},
    {col_gain, of_direct, "gain", false, 9},
};

/* Blanks between two columns: those of a group are nearer. */
size_t gap(const shown_column &before, const shown_column &after)
{
    return before.of == after.of ? 1 : 2;
}

size_t width_of(const shown_column &c, const std::vector<cells> &rows)
{
    size_t width = std::string(c.heading).size();
    for (const cells &row : rows) {
        width = std::max(width, row[c.what].size());
    }
    return width;
}

size_t width_of(const std::vector<shown_column> &shown, const std::vector<cells> &rows)
{
    size_t width = 0;
    for (size_t i = 0; i < shown.size(); i++) {
        width += width_of(shown[i], rows) + (i > 0 ? gap(shown[i - 1], shown[i]) : 0);
    }
    return width;
}

size_t room(FILE *to)
{
    winsize size = {};
    const int fd = fileno(to);
    return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                              : usual_width;
}

/* Those of the contenders, as many as there is room for. */
std::vector<shown_column> choose_columns(const session &s, const std::vector<cells> &rows,
                                         bool depthwise, size_t most)
{
    std::vector<shown_column> shown;
    for (const shown_column &c : all_columns) {
        const char *contender = groups[c.of].contender;
        const bool other = (c.what == col_ratio && s.find("doconv") < 0) ||
                           (c.what == col_direct_ratio && s.find("direct") < 0) ||
                           (c.what == col_rms_ratio && s.find("direct") < 0) ||
                           (c.what == col_gain && s.find("doconv") < 0) ||
                           /* few layers other than depthwise ones are bound by their bytes */
                           (c.what == col_copy && !depthwise);
        if ((contender == nullptr || s.find(contender) >= 0) && !other) {
            shown.push_back(c);
        }
    }
    while (width_of(shown, rows) > most) {
        const auto next =
            std::max_element(shown.begin(), shown.end(),
                             [](const auto &a, const auto &b) { return a.rank < b.rank; });
        if (next->rank == 0) {
            break;
        }
        shown.erase(next);
    }
    return shown;
}

void print_line(FILE *to, std::string line)
{
    line.erase(line.find_last_not_of(' ') + 1);
    std::fprintf(to, "%s\n", line.c_str());
}

/* The titles of the groups over the first column of each, the headings, and the rows. */
void print_rows(FILE *to, const std::vector<shown_column> &shown, const std::vector<cells> &rows,
                bool cold)
{
    std::vector<std::string> lines(2 + rows.size());
    for (size_t i = 0; i < shown.size(); i++) {
        const shown_column &c = shown[i];
        const bool first = i == 0 || shown[i - 1].of != c.of;
        const size_t width = width_of(c, rows);
        const std::string blanks(i > 0 ? gap(shown[i - 1], c) : 0, ' ');
        if (first) {
            const size_t title_end = lines[0].size() + (i > 0 ? 2 : 0);
            lines[0].resize(std::max(lines[1].size() + blanks.size(), title_end), ' ');
            lines[0] += groups[c.of].title;
            lines[0] += cold && c.of != of_layer && c.of != of_ratios ? ", cold" : "";
        }
        for (size_t l = 1; l < lines.size(); l++) {
            const std::string cell = l == 1 ? c.heading : rows[l - 2][c.what];
            const std::string fill(width - cell.size(), ' ');
            lines[l] += blanks + (c.left ? cell + fill : fill + cell);
        }
    }
    for (const std::string &line : lines) {
        print_line(to, line);
    }
}

/* What is told below a network's rows: why figures are missing, how high the peak was. */
struct remarks {
    std::vector<std::string> reasons;
    double peak = 0;
    int peaks = 0;
    disturbance seen;

    void add(const session &s, const problem &p, const measurement &m)
    {
        seen.samples += m.seen.samples;
        seen.disturbed += m.seen.disturbed;
        for (size_t i = 0; i < m.figures.size(); i++) {
            if (!m.figures[i].measured) {
                reasons.push_back(s.contenders()[i].name + ", " + short_name(p) + ": " +
                                  m.figures[i].why);
            }
        }
        if (m.peak_flops > 0) {
            peak += m.peak_flops;
            peaks++;
        }
    }

    void print(FILE *to, int threads) const
    {
        for (const std::string &reason : reasons) {
            std::fprintf(to, "%s\n", reason.c_str());
        }
        if (seen.disturbed * 20 > seen.samples) {
            std::fprintf(to, "the machine was busy: other processes disturbed %d of %d samples\n",
                         seen.disturbed, seen.samples);
        }
        if (peaks > 0) {
            const std::string cores =
                threads > 1 ? " of " + std::to_string(threads) + " cores" : "";
            std::fprintf(to, "peak: %.1f GFLOP/s%s (mean over the layers)\n", peak / peaks * 1e-9,
                         cores.c_str());
        }
    }
};

void print_sums(FILE *to, const session &s, const network_sum &sum)
{
    if (sum.lost > 0) {
        std::fprintf(to, "the total is without %d of %d layers, which not every engine has\n",
                     sum.lost, sum.layers);
    }
    for (int c = 0; c < comparisons; c++) {
        const ratio_sum &ratio = sum.ratios[c];
        if (ratio.count > 0) {
            std::fprintf(to, "%s: geometric mean %.3f, of the total %.3f, lowest %.3f (%s)\n",
                         compared[c].text, ratio.geomean(),
                         ratio_of_totals(s, sum, static_cast<comparison_number>(c)), ratio.lowest,
                         ratio.lowest_layer.c_str());
        }
    }
}

void print_network(FILE *to, const session &s, const std::string &network)
{
    std::vector<cells> rows;
    remarks told;
    bool depthwise = false;
    for (const layer &l : s.work().layers) {
        const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
        if (m != nullptr) {
            const problem &p = s.work().problems[l.problem];
            depthwise = depthwise || p.depthwise();
            rows.push_back(layer_cells(s, l, *m, reader::people));
            told.add(s, p, *m);
        }
    }
    const network_sum sum = sum_up(s, network);
    rows.push_back(total_cells(s, sum, reader::people));
    std::fprintf(to, "\n%s%s\n", network == "-" ? "problems" : network.c_str(),
                 s.cold() ? ", cold weights" : "");
    print_rows(to, choose_columns(s, rows, depthwise, room(to)), rows, s.cold());
    told.print(to, s.threads());
    print_sums(to, s, sum);
}

} // namespace

void print_table(const session &s, bool to_stderr)
{
    FILE *to = to_stderr ? stderr : stdout;
    for (const std::string &network : networks_of(s)) {
        print_network(to, s, network);
    }
    std::fflush(to);
}

} // namespace bench

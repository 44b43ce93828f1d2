/* SPDX-License-Identifier: MIT */
#include "bench_report.h"

#include <cstdio>

#include "bench_cells.h"

namespace bench
{

namespace
{

void put(FILE *file, const std::string &network, const cells &row)
{
    std::fprintf(file, "%s", network.c_str());
    for (const std::string &cell : row) {
        std::fprintf(file, "\t%s", cell.c_str());
    }
    std::fprintf(file, "\n");
}

} // namespace

void write_tsv(const session &s, const std::string &path)
{
    FILE *file = std::fopen(path.c_str(), "w");
    if (file == nullptr) {
        throw usage_error("--tsv: \"" + path + "\" can't be written");
    }
    cells header;
    std::copy_n(column_names, columns, header.begin());
    put(file, "network", header);
    for (const std::string &network : networks_of(s)) {
        for (const layer &l : s.work().layers) {
            const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
            if (m != nullptr) {
                put(file, network, layer_cells(s, l, *m, reader::programs));
            }
        }
        const network_sum sum = sum_up(s, network);
        put(file, network, total_cells(s, sum, reader::programs));
        put(file, network, geomean_cells(s, sum, reader::programs));
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
    std::string line = short_name(p) + ":";
    const auto put_number = [&line](const char *format, double value) {
        char text[64];
        std::snprintf(text, sizeof text, format, value);
        line += text;
    };
    for (size_t i = 0; i < m.figures.size(); i++) {
        const figure &f = m.figures[i];
        line += (i > 0 ? ", " : " ") + s.contenders()[i].name;
        if (f.measured) {
            put_number(" %.3f", f.seconds * 1e3);
            put_number(s.cold() ? " ms cold (%.0f %%)" : " ms (%.0f %%)",
                       100 * p.flops() / f.seconds / m.peak_flops);
        } else {
            line += std::string(" ") + f.missing();
        }
    }
    const double ratio = ratio_of(s, m, against_doconv);
    if (ratio > 0) {
        put_number(", ratio %.2f", ratio);
    }
    return line;
}

} // namespace bench

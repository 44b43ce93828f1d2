/* SPDX-License-Identifier: MIT */
#include "bench_sums.h"

#include <algorithm>

namespace bench
{

const comparison compared[comparisons] = {
    {"onednn", "doconv", "oneDNN's time / doconv's"},
    {"onednn", "direct", "oneDNN's time / direct's"},
    {"direct", "doconv", "direct's time / doconv's"},
};

namespace
{

/* NULL: not asked for, or there is none. */
const figure *figure_of(const session &s, const measurement &m, const char *name)
{
    const int at = s.find(name);
    const figure *f = at < 0 ? nullptr : &m.figures[static_cast<size_t>(at)];
    return f != nullptr && f->measured ? f : nullptr;
}

void add_layer(network_sum &sum, const session &s, const measurement &m, const problem &p,
               int64_t times)
{
    sum.layers++;
    if (!std::all_of(m.figures.begin(), m.figures.end(),
                     [](const figure &f) { return f.measured; })) {
        sum.lost++;
        return;
    }
    for (size_t i = 0; i < m.figures.size(); i++) {
        sum.totals[i].add(m.figures[i], p, m, times);
    }
    for (int c = 0; c < comparisons; c++) {
        const double ratio = ratio_of(s, m, static_cast<comparison_number>(c));
        if (ratio > 0) {
            ratio_sum &to = sum.ratios[c];
            to.count++;
            to.log_sum += std::log(ratio);
            if (ratio < to.lowest) {
                to.lowest = ratio;
                to.lowest_layer = short_name(p);
            }
        }
    }
}

} // namespace

void total::add(const figure &f, const problem &p, const measurement &m, int64_t times)
{
    const double n = static_cast<double>(times);
    seconds += f.seconds * n;
    flops += p.flops() * n;
    peak_seconds += p.flops() / m.peak_flops * n;
    copy_seconds += copy_share(p, m, 1) * n;
    count += times;
    layers++;
    error = std::max(error, f.error);
    rms_error = std::max(rms_error, f.rms_error);
}

double ratio_of(const session &s, const measurement &m, comparison_number which)
{
    const figure *over = figure_of(s, m, compared[which].over),
                 *under = figure_of(s, m, compared[which].under);
    return over != nullptr && under != nullptr ? over->seconds / under->seconds : 0;
}

network_sum sum_up(const session &s, const std::string &network)
{
    network_sum sum;
    sum.totals.resize(s.contenders().size());
    for (const layer &l : s.work().layers) {
        const measurement *m = l.network == network ? s.typical(l.problem) : nullptr;
        if (m != nullptr) {
            add_layer(sum, s, *m, s.work().problems[l.problem], l.count);
        }
    }
    return sum;
}

double ratio_of_totals(const session &s, const network_sum &sum, comparison_number which)
{
    const int over = s.find(compared[which].over), under = s.find(compared[which].under);
    return sum.ratios[which].count > 0 ? sum.totals[static_cast<size_t>(over)].seconds /
                                             sum.totals[static_cast<size_t>(under)].seconds
                                       : 0;
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

} // namespace bench

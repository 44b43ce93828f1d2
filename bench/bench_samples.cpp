/* SPDX-License-Identifier: MIT */
#include "bench_samples.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include <sys/resource.h>

namespace bench
{

namespace
{

constexpr double long_call_seconds = 0.02; /* a call this long warms the caches by itself */
/*
 * A sample in which the one thread was off its core for longer than this share, or one of several
 * was put aside for another process, is taken again, this often at most.
 */
constexpr double disturbed_share = 0.03;
constexpr int most_attempts = 5;

double process_cpu()
{
    timespec now = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/* How often threads of the process have lost their cores. */
long switches()
{
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
}

double wall()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/* What a sample took. */
struct taken {
    double seconds, cpu;
    /*
     * How disturbed it was. With one thread, time off the core shows as wall time without CPU time;
     * several may sleep while they wait for one another, so there the switches count.
     */
    double lost;
    bool disturbed;
};

taken time_calls(runner &r, long calls, bool one_thread)
{
    const long switches_start = switches();
    const double cpu_start = process_cpu(), start = wall();
    for (long i = 0; i < calls; i++) {
        r.run();
    }
    taken t = {wall() - start, process_cpu() - cpu_start, 0, false};
    t.lost = one_thread ? t.seconds - t.cpu : static_cast<double>(switches() - switches_start);
    t.disturbed = t.lost > (one_thread ? disturbed_share * t.seconds : 0);
    return t;
}

/* Of several attempts the least disturbed counts. */
void take_sample(series &s, double at_least, bool one_thread, disturbance &seen)
{
    long calls = std::max(1L, std::lround(std::ceil(at_least / std::max(s.guess, 1e-7))));
    if (s.what->copies() > 1) {
        /*
         * No call meets the weights of another one of this sample, nor of the one before it that
         * warms the rest.
         */
        calls = std::min(calls, static_cast<long>(s.what->copies()) - 1);
    }
    taken best = {0, 0, INFINITY, true};
    for (int attempt = 0; attempt < most_attempts && best.disturbed; attempt++) {
        if (s.guess < long_call_seconds) {
            s.what->run(); /* another runner was here before: the caches hold its data */
        }
        const taken now = time_calls(*s.what, calls, one_thread);
        if (now.lost < best.lost) {
            best = now;
        }
    }
    seen.samples++;
    seen.disturbed += best.disturbed;
    s.cpu_seconds.push_back(best.cpu / static_cast<double>(calls));
    s.seconds.push_back(best.seconds / static_cast<double>(calls));
    s.guess = s.seconds.back();
}

} // namespace

void take_rounds(const std::vector<series *> &all, int rounds, double at_least, bool one_thread,
                 disturbance &seen)
{
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < all.size(); i++) {
            series &s = *all[(i + static_cast<size_t>(round)) % all.size()];
            if (!s.dropped) {
                take_sample(s, at_least, one_thread, seen);
            }
        }
    }
}

double time_once(runner &r)
{
    const double start = wall();
    r.run();
    return wall() - start;
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n == 0 ? 0 : n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double spread(const std::vector<double> &values)
{
    const double middle = median(values);
    std::vector<double> deviations;
    for (const double v : values) {
        deviations.push_back(std::fabs(v - middle));
    }
    return middle > 0 ? median(deviations) / middle : 0;
}

} // namespace bench

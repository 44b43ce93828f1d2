/* SPDX-License-Identifier: MIT */
#include "bench_progress.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace bench
{

progress::progress(const char *title, int steps) : title_(title), steps_(std::max(steps, 1))
{
    const char *term = std::getenv("TERM");
    terminal_ = isatty(STDERR_FILENO) == 1 && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

progress::~progress()
{
    clear();
}

void progress::begin(const std::string &what)
{
    what_ = what;
    fraction_ = 0;
    draw();
}

void progress::within(double fraction)
{
    /* Redrawn in steps of a hundredth of the bar at most, for slow terminals. */
    if (fraction >= fraction_ + 0.05) {
        fraction_ = std::min(fraction, 1.0);
        draw();
    }
}

void progress::end(const std::string &line)
{
    done_ = std::min(done_ + 1, steps_);
    fraction_ = 0;
    if (!line.empty()) {
        clear();
        std::fprintf(stderr, "%s %*d/%d  %s\n", title_,
                     static_cast<int>(std::to_string(steps_).size()), done_, steps_, line.c_str());
    }
    draw();
}

void progress::draw()
{
    if (!terminal_) {
        return;
    }
    constexpr int width = 30;
    const int filled = static_cast<int>((done_ + fraction_) / steps_ * width);
    char bar[width + 1];
    for (int i = 0; i < width; i++) {
        bar[i] = i < filled ? '#' : '.';
    }
    bar[width] = '\0';
    std::fprintf(stderr, "\r\033[K%s [%s] %d/%d  %.40s", title_, bar, done_, steps_, what_.c_str());
    std::fflush(stderr);
    drawn_ = true;
}

void progress::clear()
{
    if (drawn_) {
        std::fprintf(stderr, "\r\033[K");
        std::fflush(stderr);
        drawn_ = false;
    }
}

} // namespace bench

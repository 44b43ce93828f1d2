/* SPDX-License-Identifier: MIT */
/* Where a context's time comes from. Any file of src and tuner may include this. */
#ifndef DOCONV_CLOCK_H
#define DOCONV_CLOCK_H

#include <doconv/doconv.h>

/*
 * A clock that can be replaced: what is chosen by time is tested with kernels that take as long as
 * the test says.
 */
struct dc_clock {
    double (*wall)(void *user);   /* seconds, monotonic; the same for all threads */
    double (*thread)(void *user); /* seconds that the calling thread has had a core */
    long (*switches)(void *user); /* how often the process's threads lost theirs to others */
    void *user;
};

/* That of the system. */
extern const struct dc_clock dc_system_clock;

double dc_now(const doconv_context *ctx); /* wall seconds of the context's clock */

#endif

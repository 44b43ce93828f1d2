/* SPDX-License-Identifier: MIT */
#include "base/clock.h"

#include <sys/resource.h>
#include <time.h>

#include "base/context.h"

static double seconds_of(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double wall(void *user)
{
    (void)user;
    return seconds_of(CLOCK_MONOTONIC);
}

static double thread(void *user)
{
    (void)user;
    return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

static long switches(void *user)
{
    (void)user;
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nivcsw : 0;
}

const struct dc_clock dc_system_clock = {.wall = wall, .thread = thread, .switches = switches};

double dc_now(const doconv_context *ctx)
{
    return ctx->clock->wall(ctx->clock->user);
}

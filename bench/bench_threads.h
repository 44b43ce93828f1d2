/* SPDX-License-Identifier: MIT */
/* The threads that all engines share, and the cores that they run on. */
#ifndef DOCONV_BENCH_THREADS_H
#define DOCONV_BENCH_THREADS_H

#include <string>

#include <doconv/doconv.h>

namespace bench
{

/*
 * Sees to it that each of the threads has a core of its own: one is pinned to the core it runs on;
 * for more the program may start itself anew, so that the OpenMP runtime reads at its start that it
 * shall bind them. To be called before anything that starts threads. Returns "", or what could not
 * be done and need not stop a measurement. Throws usage_error if there are fewer cores than
 * threads, or no OpenMP.
 */
std::string bind_threads(int count, char **argv);

/* Only their number: for what measures nothing. */
void set_threads(int count);

/*
 * doconv's tasks on those threads, so that no engine's threads wait, spinning, on another's cores.
 * NULL in a build without OpenMP.
 */
doconv_parallel_for_fn shared_threads();

} // namespace bench

#endif

/* SPDX-License-Identifier: MIT */
#include "bench_threads.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <sched.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "bench_options.h"

namespace bench
{

namespace
{

std::string pin_to_core()
{
    const int core = sched_getcpu();
    if (core < 0) {
        return std::string("not pinned to a core: ") + std::strerror(errno);
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0
               ? ""
               : std::string("not pinned to a core: ") + std::strerror(errno);
}

#ifdef _OPENMP

/* What the OpenMP runtimes read about places. A user who sets one of them has decided. */
const char *const place_variables[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
                                       "KMP_AFFINITY"};

/*
 * Threads bound by hand would not stay so: a runtime ends and starts threads as it sees fit, and a
 * new one has the affinity of the thread that starts it, hence its core.
 */
std::string start_anew_bound(char **argv)
{
    for (const char *name : place_variables) {
        if (std::getenv(name) != nullptr) {
            return "";
        }
    }
    setenv("OMP_PLACES", "cores", 1);
    setenv("OMP_PROC_BIND", "close", 1);
    execv("/proc/self/exe", argv);
    return std::string("the threads are not bound to cores: ") + std::strerror(errno);
}

/*
 * CPUs that a team of so many threads may run on, all together; -1: the runtime gives no such team.
 */
int cpus_of_team(int count)
{
    cpu_set_t all;
    CPU_ZERO(&all);
    int team = 0;
    bool all_known = true;
#pragma omp parallel num_threads(count)
    {
        cpu_set_t own;
        CPU_ZERO(&own);
        const bool known = sched_getaffinity(0, sizeof own, &own) == 0;
#pragma omp critical
        {
            team++;
            all_known = all_known && known;
            CPU_OR(&all, &all, &own);
        }
    }
    return team != count ? -1 : all_known ? CPU_COUNT(&all) : count;
}

/* The whole team, however few the tasks: the runtime may end threads that a region leaves out. */
void run_on_team(void *, int count, void (*task)(void *arg, int index), void *arg)
{
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
}

#endif

} // namespace

doconv_parallel_for_fn shared_threads()
{
#ifdef _OPENMP
    return run_on_team;
#else
    return nullptr;
#endif
}

void set_threads(int count)
{
#ifdef _OPENMP
    omp_set_dynamic(0);
    omp_set_num_threads(count);
#else
    if (count > 1) {
        throw usage_error("--threads: \"" + std::to_string(count) +
                          "\": this build has no OpenMP, so one thread only");
    }
#endif
}

std::string bind_threads(int count, char **argv)
{
    set_threads(count);
    if (count == 1) {
        return pin_to_core();
    }
#ifdef _OPENMP
    const std::string problem = start_anew_bound(argv);
    int cores = cpus_of_team(count);
    /* CPUs may be two of a core. */
    if (cores > 0 && omp_get_proc_bind() != omp_proc_bind_false && omp_get_num_places() > 0) {
        cores = std::min(cores, omp_get_num_places());
    }
    if (cores < count) {
        throw usage_error("--threads: \"" + std::to_string(count) + "\": " +
                          (cores < 0 ? "the OpenMP runtime gives fewer"
                                     : "this process may run on " + std::to_string(cores) +
                                           (cores == 1 ? " core" : " cores")));
    }
    return problem;
#else
    static_cast<void>(argv);
    return "";
#endif
}

} // namespace bench

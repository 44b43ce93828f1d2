/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sched_setaffinity */
#include "study.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What the OpenMP runtimes read about places. A user who sets one of them has decided. */
static const char *const place_variables[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
                                              "KMP_AFFINITY"};

/* CPUs of the process before a runtime bound its first thread to one of them. */
#define CPUS_VARIABLE "DOCONV_STUDY_CPUS"

static void remember_cpus(const cpu_set_t *set)
{
    char text[CPU_SETSIZE + 1];
    int size = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        text[cpu] = CPU_ISSET(cpu, set) ? '1' : '0';
        size = CPU_ISSET(cpu, set) ? cpu + 1 : size;
    }
    text[size] = '\0';
    setenv(CPUS_VARIABLE, text, 1);
}

void unbind_thread(void)
{
    const char *text = getenv(CPUS_VARIABLE);
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (text == NULL || *text == '1') {
            CPU_SET(cpu, &set);
        }
        text += text != NULL && *text != '\0';
    }
    /* those that don't exist, or that the process may not have, are left out */
    sched_setaffinity(0, sizeof set, &set);
}

int bind_threads(int count, char **argv)
{
    cpu_set_t set;
    if (count == 1) {
        const int core = sched_getcpu();
        CPU_ZERO(&set);
        if (core >= 0) {
            CPU_SET(core, &set);
        }
        if (core < 0 || sched_setaffinity(0, sizeof set, &set) != 0) {
            fprintf(stderr, "doconv-study: not pinned to a core: %s\n", strerror(errno));
        }
        return 0;
    }
    /* The runtime reads its variables before main() begins, hence anew; PyTorch's inherits them. */
    for (size_t i = 0; i < sizeof place_variables / sizeof place_variables[0]; i++) {
        if (getenv(place_variables[i]) != NULL) {
            /*
             * the user's, or those from below: the runtime has bound this thread to one place by
             * now
             */
            return 0;
        }
    }
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < count) {
        fprintf(stderr, "doconv-study: --threads: \"%d\": this process may run on %d CPU%s\n",
                count, CPU_COUNT(&set), CPU_COUNT(&set) == 1 ? "" : "s");
        return -1;
    }
    remember_cpus(&set);
    setenv("OMP_PLACES", "cores", 1);
    setenv("OMP_PROC_BIND", "close", 1);
    execv("/proc/self/exe", argv);
    fprintf(stderr, "doconv-study: the threads are not bound to cores: %s\n", strerror(errno));
    return 0;
}

static double read_clock(clockid_t clock)
{
    struct timespec now = {0, 0};
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double wall_seconds(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

double cpu_seconds(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

double available_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    double bytes = 0;
    char line[128];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        int64_t kib;
        if (sscanf(line, "MemAvailable: %" SCNd64, &kib) == 1) {
            bytes = 1024.0 * (double)kib;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return bytes;
}

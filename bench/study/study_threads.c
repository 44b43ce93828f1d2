/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sched_setaffinity */
#include "study.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static cpu_set_t process_cpus; /* before any thread is bound; none: unknown */

int bind_threads(int count)
{
    if (sched_getaffinity(0, sizeof process_cpus, &process_cpus) != 0) {
        CPU_ZERO(&process_cpus);
        fprintf(stderr, "doconv-study: threads are not bound to cores: %s\n", strerror(errno));
        return 0;
    }
    if (count > 1) {
        if (CPU_COUNT(&process_cpus) < count) {
            fprintf(stderr, "doconv-study: --threads: \"%d\": this process may run on %d CPU%s\n",
                    count, CPU_COUNT(&process_cpus), CPU_COUNT(&process_cpus) == 1 ? "" : "s");
            return -1;
        }
        /* For PyTorch's process, unless the user has decided. */
        if (getenv("OMP_PROC_BIND") == NULL && getenv("OMP_PLACES") == NULL) {
            setenv("OMP_PLACES", "cores", 1);
            setenv("OMP_PROC_BIND", "close", 1);
        }
        return 0;
    }
    cpu_set_t set;
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

/* Whether the CPU is the first of its core's; also if the system doesn't tell. */
static bool leads_core(int cpu)
{
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%d", &first) != 1) {
            first = cpu;
        }
        fclose(file);
    }
    return first == cpu || !CPU_ISSET(first, &process_cpus);
}

/* The CPU of a thread of the team: a core each as far as there are cores. */
static int cpu_of(int number)
{
    for (int lead = 1; lead >= 0; lead--) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &process_cpus) && leads_core(cpu) == lead && number-- == 0) {
                return cpu;
            }
        }
    }
    return -1;
}

static void bind_thread(pid_t thread, int number)
{
    const int cpu = cpu_of(number);
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0) {
        CPU_SET(cpu, &set);
        sched_setaffinity(thread, sizeof set, &set);
    }
}

/* The number in a name that the library gives its threads; 0: another thread. */
static int number_of(const char *thread)
{
    char path[64];
    int number = 0;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", thread);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "doconv-%d", &number) != 1) {
            number = 0;
        }
        fclose(file);
    }
    return number;
}

void bind_team(int count)
{
    struct dirent *entry;
    DIR *threads = count > 1 ? opendir("/proc/self/task") : NULL;
    int bound = 0;
    while (threads != NULL && (entry = readdir(threads)) != NULL) {
        const int number = number_of(entry->d_name);
        if (number > 0 && number < count) {
            bind_thread((pid_t)atoi(entry->d_name), number);
            bound++;
        }
    }
    if (threads != NULL) {
        closedir(threads);
    }
    /* The library's threads inherit the CPUs of the one that makes the first call. */
    if (bound > 0) {
        bind_thread(0, 0);
    }
}

void unbind_thread(void)
{
    if (CPU_COUNT(&process_cpus) > 0) {
        sched_setaffinity(0, sizeof process_cpus, &process_cpus);
    }
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

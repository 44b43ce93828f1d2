/* SPDX-License-Identifier: MIT */
#include "harness_parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

#define MOST_THREADS 8

const char *task_kind_name(enum task_kind kind)
{
    static const char *const names[] = {"in order", "reversed", "shuffled", "on threads"};
    return (unsigned)kind < TASK_KINDS ? names[kind] : "unknown";
}

struct job {
    atomic_int next;
    int count;
    void (*task)(void *arg, int index);
    void *arg;
};

static void *work(void *arg)
{
    struct job *job = arg;
    for (int i = atomic_fetch_add(&job->next, 1); i < job->count;
         i = atomic_fetch_add(&job->next, 1)) {
        job->task(job->arg, i);
    }
    return NULL;
}

static void run_on_threads(int count, void (*task)(void *arg, int index), void *arg)
{
    struct job job = {.count = count, .task = task, .arg = arg};
    pthread_t threads[MOST_THREADS];
    int started = 0;
    while (started < count && started < MOST_THREADS &&
           pthread_create(&threads[started], NULL, work, &job) == 0) {
        started++;
    }
    if (started == 0) {
        fprintf(stderr, "tests: no thread can be started\n");
        exit(1);
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void run_shuffled(uint64_t seed, int count, void (*task)(void *arg, int index), void *arg)
{
    int *order = malloc((size_t)count * sizeof *order);
    if (order == NULL) {
        fprintf(stderr, "tests: no memory for %d tasks\n", count);
        exit(1);
    }
    struct rng rng = rng_from(seed, "tasks");
    for (int i = 0; i < count; i++) {
        const int j = (int)rng_range(&rng, 0, i);
        order[i] = order[j];
        order[j] = i;
    }
    for (int i = 0; i < count; i++) {
        task(arg, order[i]);
    }
    free(order);
}

void task_run(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    const struct task_order *order = user;
    switch (order->kind) {
    case TASKS_REVERSED:
        for (int i = count - 1; i >= 0; i--) {
            task(arg, i);
        }
        break;
    case TASKS_SHUFFLED:
        run_shuffled(order->seed, count, task, arg);
        break;
    case TASKS_PTHREADS:
        run_on_threads(count, task, arg);
        break;
    default:
        for (int i = 0; i < count; i++) {
            task(arg, i);
        }
        break;
    }
}

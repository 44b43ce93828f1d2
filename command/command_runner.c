/* SPDX-License-Identifier: MIT */
/*
 * A program's own parallel_for, as engines have one. Who waits spins for about as long as the gap
 * between two layers, then sleeps, so that a call costs what it costs in an engine.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "command_shared.h"

#define MOST_THREADS 64
#define SPINS 20000

static struct {
    pthread_t workers[MOST_THREADS];
    int count; /* of workers */
    pthread_mutex_t lock;
    pthread_cond_t more;
    atomic_uint call; /* its number */
    atomic_int open;  /* workers that have not finished it */
    bool ends;
    int tasks;
    void (*task)(void *arg, int index);
    void *arg;
} team = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

/* A thread's tasks of the call; the calling thread is number 0. */
static void run_share(int number)
{
    for (int i = number; i < team.tasks; i += team.count + 1) {
        team.task(team.arg, i);
    }
}

/* Returns when there is another call than `last`, with its number. */
static unsigned wait_for_call(unsigned last)
{
    for (int i = 0; i < SPINS && atomic_load(&team.call) == last; i++) {
    }
    pthread_mutex_lock(&team.lock);
    while (atomic_load(&team.call) == last) {
        pthread_cond_wait(&team.more, &team.lock);
    }
    pthread_mutex_unlock(&team.lock);
    return last + 1;
}

static void *work(void *number)
{
    for (unsigned last = 0;;) {
        last = wait_for_call(last);
        if (team.ends) {
            return NULL;
        }
        run_share((int)(intptr_t)number);
        atomic_fetch_sub(&team.open, 1);
    }
}

/* Lets the workers see what was set. */
static void begin_call(void)
{
    atomic_store(&team.open, team.count);
    pthread_mutex_lock(&team.lock);
    atomic_fetch_add(&team.call, 1);
    pthread_cond_broadcast(&team.more);
    pthread_mutex_unlock(&team.lock);
}

void command_runner_run(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    const int threads = *(const int *)user;
    /* As many as can be had; the first call starts them, before there is any to wait for. */
    while (atomic_load(&team.call) == 0 && team.count + 1 < threads && team.count < MOST_THREADS &&
           pthread_create(&team.workers[team.count], NULL, work,
                          (void *)(intptr_t)(team.count + 1)) == 0) {
        team.count++;
    }
    team.tasks = count;
    team.task = task;
    team.arg = arg;
    begin_call();
    run_share(0);
    for (int i = 0; atomic_load(&team.open) > 0; i++) {
        if (i >= SPINS) {
            sched_yield();
        }
    }
}

void command_runner_end(void)
{
    team.ends = true;
    begin_call();
    for (int i = 0; i < team.count; i++) {
        pthread_join(team.workers[i], NULL);
    }
    team.count = 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * A call is open while it has tasks that nobody took. Workers that come by join it and take tasks;
 * whoever finds none left closes it, and the calling thread, which takes tasks too, waits for those
 * that joined. A worker that the system doesn't run just then is not waited for: the others do its
 * part.
 */
#define _GNU_SOURCE /* syscall */
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
/* A build of the tests has the other way on Linux too. */
#if defined(__linux__) && !defined(DC_WITHOUT_FUTEX)
#define WITH_FUTEX 1
#include <sys/syscall.h>
#else
#define WITH_FUTEX 0
#endif

#include "base/context.h"
#include "base/cpu.h"
#include "base/runner.h"

#define CACHE_LINE 64
/*
 * How long a thread that waits keeps its core: longer than the gap between two layers of a network,
 * and than it takes to wake a thread, but nothing that a neighbour on the core would notice.
 */
#define SPIN_NANOSECONDS 50000
#define SPINS_PER_LOOK 16 /* at the clock, which costs as much as a few spins */

/* ---- sleeping until a word changes ---- */

struct event {
    _Atomic uint32_t word;
#if !WITH_FUTEX
    pthread_mutex_t lock;
    pthread_cond_t changed;
#endif
};

#if WITH_FUTEX

/* As linux/futex.h has them, which a C library may come without. */
#ifndef SYS_futex /* 32-bit systems whose time is 64 bits wide from the start */
#define SYS_futex SYS_futex_time64
#endif
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129

static void event_init(struct event *e)
{
    atomic_init(&e->word, 0);
}

static void event_destroy(struct event *e)
{
    (void)e;
}

/* Sleeps while the word has this value; may return early. */
static void event_wait(struct event *e, uint32_t value)
{
    syscall(SYS_futex, &e->word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

/* Wakes so many of those that sleep, after the word was changed. */
static void event_wake(struct event *e, int count)
{
    syscall(SYS_futex, &e->word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

#else

static void event_init(struct event *e)
{
    atomic_init(&e->word, 0);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
}

static void event_destroy(struct event *e)
{
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
}

static void event_wait(struct event *e, uint32_t value)
{
    pthread_mutex_lock(&e->lock);
    if (atomic_load(&e->word) == value) {
        pthread_cond_wait(&e->changed, &e->lock);
    }
    pthread_mutex_unlock(&e->lock);
}

static void event_wake(struct event *e, int count)
{
    pthread_mutex_lock(&e->lock);
    if (count == 1) {
        pthread_cond_signal(&e->changed);
    } else {
        pthread_cond_broadcast(&e->changed);
    }
    pthread_mutex_unlock(&e->lock);
}

#endif

/* ---- the team ---- */

struct member {
    struct dc_runner *runner;
    pthread_t thread;
    int number;        /* from 1; 0 is the calling thread's */
    atomic_bool taken; /* the task of this number */
};

/* A gate's word: how many workers may still join, how many are inside, does the caller sleep. */
#define CALLER_SLEEPS 1u
#define INSIDE 2u
#define INSIDE_MASK 0xfffeu
#define PLACE 0x10000u
#define PLACES_MASK 0xffff0000u

struct dc_runner {
    int threads;
    /*
     * The process that the workers belong to; its negative while they are started; 0: none yet.
     * Only in this process is anything below of use: fork() copies it, but no workers.
     */
    _Atomic int owner;
    int workers;       /* that run */
    bool spin;         /* there is a CPU for each of the team */
    atomic_bool taken; /* by a call */
    atomic_bool stop;

    /* A call. Written before the gate opens, and only while nobody is inside. */
    alignas(CACHE_LINE) int count;
    void (*task)(void *arg, int index);
    void *arg;
    fenv_t environment;

    alignas(CACHE_LINE) _Atomic uint32_t next; /* task to look at */

    alignas(CACHE_LINE) struct event gate; /* the caller sleeps on it */
    struct event calls;                    /* counts them; workers sleep on it */
    _Atomic int sleeping;                  /* workers that sleep, or are about to */

    /* threads of them; the first is the calling thread */
    alignas(CACHE_LINE) struct member member[];
};

static void pause_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* yield does nothing on most cores */
#endif
}

/* Nanoseconds; no floating point, whose modes are the caller's. */
static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Spins, if the team may, until (gate & mask) == 0 is what is wanted. Returns whether it is. */
static bool spin_until(struct dc_runner *r, uint32_t mask, bool zero)
{
    const int64_t start = r->spin ? now() : 0;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            const uint32_t gate = atomic_load_explicit(&r->gate.word, memory_order_acquire);
            if (((gate & mask) == 0) == zero) {
                return true;
            }
            if (!r->spin) {
                return false;
            }
            pause_core();
        }
    } while (now() - start < SPIN_NANOSECONDS);
    return false;
}

/* Whether the task is still there. Of those beyond the team's size the counter gives each once. */
static bool take(struct dc_runner *r, uint32_t task)
{
    return task >= (uint32_t)r->threads ||
           !atomic_exchange_explicit(&r->member[task].taken, true, memory_order_relaxed);
}

/*
 * A thread begins with the task of its own number: its caches have what that task of the call
 * before left there.
 */
static void run_tasks(struct dc_runner *r, uint32_t number)
{
    const uint32_t count = (uint32_t)r->count;
    if (number < count && take(r, number)) {
        r->task(r->arg, (int)number);
    }
    for (;;) {
        const uint32_t i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (i >= count) {
            return;
        }
        if (take(r, i)) {
            r->task(r->arg, (int)i);
        }
    }
}

/* ---- a worker ---- */

/* Acquires what the caller wrote before it opened the gate. */
static bool join(struct dc_runner *r)
{
    uint32_t gate = atomic_load_explicit(&r->gate.word, memory_order_relaxed);
    while ((gate & PLACES_MASK) != 0) {
        if (atomic_compare_exchange_weak_explicit(&r->gate.word, &gate, gate - PLACE + INSIDE,
                                                  memory_order_acquire, memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

/* All tasks are taken: nobody else need join. Releases what this worker's tasks wrote. */
static void leave(struct dc_runner *r)
{
    uint32_t gate = atomic_load_explicit(&r->gate.word, memory_order_relaxed), left;
    do {
        left = (gate & ~PLACES_MASK) - INSIDE;
        if ((left & INSIDE_MASK) == 0) {
            left = 0; /* the caller need not sleep any more */
        }
    } while (!atomic_compare_exchange_weak_explicit(&r->gate.word, &gate, left,
                                                    memory_order_release, memory_order_relaxed));
    if (left == 0 && (gate & CALLER_SLEEPS) != 0) {
        event_wake(&r->gate, 1);
    }
}

static void name_thread(int number)
{
    char name[16];
    snprintf(name, sizeof name, "doconv-%d", number);
#if defined(__linux__)
    prctl(PR_SET_NAME, name, 0, 0, 0);
#elif defined(__APPLE__)
    pthread_setname_np(name);
#endif
}

static void *run_worker(void *arg)
{
    struct member *w = arg;
    struct dc_runner *r = w->runner;
    fenv_t own;
    name_thread(w->number);
    fegetenv(&own);
    for (;;) {
        const uint32_t calls = atomic_load_explicit(&r->calls.word, memory_order_acquire);
        if (join(r)) {
            fesetenv(&r->environment);
            run_tasks(r, (uint32_t)w->number);
            fesetenv(&own);
            leave(r);
        } else if (atomic_load_explicit(&r->stop, memory_order_relaxed)) {
            return NULL;
        } else if (!spin_until(r, PLACES_MASK, false)) {
            /*
             * Both sides write, then read what the other writes, in one order for all: either the
             * caller sees this sleeper, or the word isn't the one seen above any more.
             */
            atomic_fetch_add(&r->sleeping, 1);
            event_wait(&r->calls, calls);
            atomic_fetch_sub(&r->sleeping, 1);
        }
    }
}

/* ---- the team's start ---- */

/* Also in a child of fork(), which finds the state that its parent's team was in. */
static void start_workers(struct dc_runner *r)
{
    sigset_t all, before;
    r->workers = 0;
    r->spin = dc_usable_cpus() >= r->threads;
    atomic_init(&r->taken, false);
    atomic_init(&r->sleeping, 0);
    event_init(&r->gate);
    event_init(&r->calls);
    /* The program's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (r->workers < r->threads - 1) {
        struct member *w = &r->member[r->workers + 1];
        w->runner = r;
        w->number = r->workers + 1;
        if (pthread_create(&w->thread, NULL, run_worker, w) != 0) {
            break;
        }
        r->workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Takes the team, started if need be, for a call; false if another call has it, or it is alone. */
static bool enter(struct dc_runner *r)
{
    const int process = (int)getpid();
    int owner = atomic_load_explicit(&r->owner, memory_order_acquire);
    if (owner != process) {
        /* Of several threads that come first, one starts the workers; the others don't wait. */
        if (owner == -process || !atomic_compare_exchange_strong(&r->owner, &owner, -process)) {
            return false;
        }
        start_workers(r);
        atomic_store_explicit(&r->owner, process, memory_order_release);
    }
    return r->workers > 0 && !atomic_load_explicit(&r->taken, memory_order_relaxed) &&
           !atomic_exchange_explicit(&r->taken, true, memory_order_acquire);
}

/* ---- a call ---- */

static void open_gate(struct dc_runner *r, uint32_t places)
{
    for (int i = 0; i < r->count && i < r->threads; i++) {
        atomic_store_explicit(&r->member[i].taken, false, memory_order_relaxed);
    }
    atomic_store_explicit(&r->next, 0, memory_order_relaxed);
    atomic_store_explicit(&r->gate.word, places * PLACE, memory_order_release);
    atomic_fetch_add(&r->calls.word, 1);
    if (atomic_load(&r->sleeping) > 0) {
        event_wake(&r->calls, (int)places);
    }
}

static void close_gate(struct dc_runner *r)
{
    uint32_t gate = atomic_fetch_and_explicit(&r->gate.word, ~PLACES_MASK, memory_order_acquire);
    if ((gate & INSIDE_MASK) == 0 || spin_until(r, INSIDE_MASK, true)) {
        return;
    }
    gate = atomic_load_explicit(&r->gate.word, memory_order_acquire);
    while ((gate & INSIDE_MASK) != 0) {
        if ((gate & CALLER_SLEEPS) != 0 ||
            atomic_compare_exchange_weak_explicit(&r->gate.word, &gate, gate | CALLER_SLEEPS,
                                                  memory_order_acquire, memory_order_acquire)) {
            event_wait(&r->gate, gate | CALLER_SLEEPS);
            gate = atomic_load_explicit(&r->gate.word, memory_order_acquire);
        }
    }
}

void dc_runner_run(void *runner, int count, void (*task)(void *arg, int index), void *arg)
{
    struct dc_runner *r = runner;
    if (count > 1 && r->threads > 1 && enter(r)) {
        const int most = count - 1;
        r->count = count;
        r->task = task;
        r->arg = arg;
        fegetenv(&r->environment);
        open_gate(r, (uint32_t)(r->workers < most ? r->workers : most));
        run_tasks(r, 0);
        close_gate(r);
        atomic_store_explicit(&r->taken, false, memory_order_release);
        return;
    }
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
}

struct dc_runner *dc_runner_create(doconv_context *ctx, int threads)
{
    struct dc_runner *r = dc_alloc(ctx, sizeof *r + (size_t)threads * sizeof(struct member));
    if (r != NULL) {
        r->threads = threads;
        atomic_init(&r->owner, 0);
        atomic_init(&r->stop, false);
    }
    return r;
}

void dc_runner_destroy(doconv_context *ctx, struct dc_runner *r)
{
    /* A child of fork() that made no call has no workers. */
    if (r != NULL && atomic_load(&r->owner) == (int)getpid()) {
        atomic_store_explicit(&r->stop, true, memory_order_relaxed);
        atomic_fetch_add(&r->calls.word, 1);
        event_wake(&r->calls, r->workers);
        for (int i = 0; i < r->workers; i++) {
            pthread_join(r->member[i + 1].thread, NULL);
        }
        event_destroy(&r->gate);
        event_destroy(&r->calls);
    }
    dc_free(ctx, r);
}

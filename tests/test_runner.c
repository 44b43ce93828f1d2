/* SPDX-License-Identifier: MIT */
/* The threads that a context has of its own: what runs where, and what outlives what. */
#define _GNU_SOURCE /* pthread_getname_np, sched_setaffinity */
#include <dirent.h>
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmocka.h>

#include "base/context.h"

#define MOST_THREADS 16
#define CHILD_SECONDS 60 /* after which a child hangs; emulated and sanitized ones are slow */

/* TSan knows no threads in a child of a program with threads; QEMU's user mode crashes in one. */
#if defined(__SANITIZE_THREAD__) || defined(EMULATED)
#define FORK_WITH_THREADS 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FORK_WITH_THREADS 0
#endif
#endif
#ifndef FORK_WITH_THREADS
#define FORK_WITH_THREADS 1
#endif

/* Linked in pthread_create()'s place: threads that may yet be started; negative: any number. */
static atomic_int starts_left = -1;
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *arg)
{
    if (atomic_load(&starts_left) == 0) {
        return EAGAIN;
    }
    if (atomic_load(&starts_left) > 0) {
        atomic_fetch_sub(&starts_left, 1);
    }
    return __real_pthread_create(thread, attributes, start, arg);
}

static doconv_context *open_context(int threads)
{
    const doconv_context_options options = {.size = sizeof options, .threads = threads};
    doconv_context *ctx = NULL;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    return ctx;
}

static void sleep_for(long nanoseconds)
{
    nanosleep(&(struct timespec){0, nanoseconds}, NULL);
}

/* ---- tasks that count ---- */

/* Plain counters: a runner that doesn't order what tasks write before its return shows in TSan. */
struct counted {
    int count;
    unsigned *hits;
};

static void count_task(void *arg, int index)
{
    struct counted *c = arg;
    c->hits[index]++;
}

static bool run_counted(doconv_context *ctx, int count)
{
    struct counted c = {count, calloc((size_t)count + 1, sizeof *c.hits)};
    bool once = c.hits != NULL;
    if (once) {
        dc_parallel(ctx, count, count_task, &c);
        for (int i = 0; i < count; i++) {
            once = once && c.hits[i] == 1;
        }
        once = once && c.hits[count] == 0;
    }
    free(c.hits);
    return once;
}

static void test_every_task_once(void **state)
{
    (void)state;
    static const int counts[] = {0, 1, 2, 3, 7, 16, 17, 1000, 100000};
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        doconv_context *ctx = open_context(threads);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            for (int turn = 0; turn < 5; turn++) {
                assert_true(run_counted(ctx, counts[i]));
            }
        }
        doconv_context_destroy(ctx);
    }
}

/* ---- tasks that meet: each waits for all of the team ---- */

struct meeting {
    int threads;
    atomic_int arrived;
    pthread_t caller;
    atomic_int strangers;   /* tasks of threads that aren't the caller's */
    atomic_int unlike_ours; /* of those that bear another name or take signals */
};

static void meet_task(void *arg, int index)
{
    struct meeting *m = arg;
    (void)index;
    if (!pthread_equal(pthread_self(), m->caller)) {
        char name[16] = "";
        sigset_t blocked;
        pthread_getname_np(pthread_self(), name, sizeof name);
        pthread_sigmask(SIG_BLOCK, NULL, &blocked);
        atomic_fetch_add(&m->strangers, 1);
        atomic_fetch_add(&m->unlike_ours, strncmp(name, "doconv-", 7) != 0 ||
                                              !sigismember(&blocked, SIGINT) ||
                                              !sigismember(&blocked, SIGUSR1));
    }
    atomic_fetch_add(&m->arrived, 1);
    for (int i = 0; atomic_load(&m->arrived) < m->threads && i < 100000; i++) {
        sleep_for(100000);
    }
}

/* Whether so many threads run at once. */
static bool run_meeting(doconv_context *ctx, int threads)
{
    struct meeting m = {.threads = threads, .caller = pthread_self()};
    dc_parallel(ctx, threads, meet_task, &m);
    return m.strangers == threads - 1 && m.unlike_ours == 0;
}

static void test_team_is_whole(void **state)
{
    (void)state;
    for (int threads = 2; threads <= MOST_THREADS; threads += 7) {
        doconv_context *ctx = open_context(threads);
        assert_true(run_meeting(ctx, threads));
        sleep_for(2000000); /* workers are asleep now */
        assert_true(run_meeting(ctx, threads));
        assert_true(run_meeting(ctx, 2));
        doconv_context_destroy(ctx);
    }
}

/* The names of /proc/self/task in order of time, as one text. */
static int list_threads(char *text, size_t size)
{
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    size_t used = 0;
    *text = '\0';
    for (struct dirent *e; directory != NULL && (e = readdir(directory)) != NULL;) {
        if (e->d_name[0] != '.') {
            used += (size_t)snprintf(text + used, size - used, "%s ", e->d_name);
            count++;
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
    return count;
}

static void test_team_keeps_its_size(void **state)
{
    (void)state;
    char before[1024], after[1024];
    const int others = list_threads(before, sizeof before); /* a sanitizer has threads too */
    doconv_context *ctx = open_context(8);
    assert_true(run_meeting(ctx, 8));
    assert_int_equal(list_threads(before, sizeof before), others + 7);
    for (int i = 0; i < 400; i++) {
        assert_true(run_counted(ctx, i % 9));
    }
    assert_int_equal(list_threads(after, sizeof after), others + 7);
    assert_string_equal(after, before); /* none ended, none was started */
    doconv_context_destroy(ctx);
}

static void test_threads_that_cannot_be_started(void **state)
{
    (void)state;
    for (int left = 0; left <= 3; left += 3) {
        doconv_context *ctx = open_context(8);
        atomic_store(&starts_left, left);
        assert_true(run_counted(ctx, 100));
        atomic_store(&starts_left, -1);
        assert_true(left == 0 || run_meeting(ctx, left + 1));
        assert_true(run_counted(ctx, 8));
        doconv_context_destroy(ctx);
    }
}

/* ---- calls within calls, and beside each other ---- */

struct nest {
    doconv_context *inner;
    atomic_int wrong;
};

static void nest_task(void *arg, int index)
{
    struct nest *nest = arg;
    if (!run_counted(nest->inner, 5 + index)) {
        atomic_fetch_add(&nest->wrong, 1);
    }
}

static void test_nested_calls(void **state)
{
    (void)state;
    doconv_context *ctx = open_context(4), *other = open_context(3);
    for (int turn = 0; turn < 50; turn++) {
        struct nest same = {.inner = ctx}, foreign = {.inner = other};
        dc_parallel(ctx, 12, nest_task, &same);
        dc_parallel(ctx, 12, nest_task, &foreign);
        assert_int_equal(same.wrong + foreign.wrong, 0);
    }
    doconv_context_destroy(other);
    doconv_context_destroy(ctx);
}

struct caller {
    doconv_context *ctx;
    unsigned seed;
    int calls;
    bool right;
};

static void *call_often(void *arg)
{
    struct caller *c = arg;
    c->right = true;
    for (int i = 0; i < c->calls && c->right; i++) {
        c->seed = c->seed * 1664525u + 1013904223u;
        c->right = run_counted(c->ctx, (int)(c->seed >> 16) % 12);
        if ((c->seed >> 28) == 0) {
            sleep_for((long)(c->seed >> 10) % 100000);
        }
    }
    return NULL;
}

/* A context of which nobody has made a call yet, too: all callers come first at once. */
static void test_callers_at_once(void **state)
{
    (void)state;
    for (int threads = 2; threads <= 8; threads += 3) {
        doconv_context *ctx = open_context(threads);
        struct caller callers[5];
        pthread_t ids[5];
        for (int i = 0; i < 5; i++) {
            callers[i] = (struct caller){ctx, 77u * (unsigned)(i + threads), 3000, false};
            assert_int_equal(pthread_create(&ids[i], NULL, call_often, &callers[i]), 0);
        }
        for (int i = 0; i < 5; i++) {
            pthread_join(ids[i], NULL);
            assert_true(callers[i].right);
        }
        doconv_context_destroy(ctx);
    }
}

static void test_contexts_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        doconv_context *ctx = open_context(1 + i % 6);
        for (int call = 0; call < i % 4; call++) {
            assert_true(run_counted(ctx, 8));
        }
        doconv_context_destroy(ctx);
    }
}

/* ---- convolutions ---- */

#define PIXELS (28 * 28)
#define CHANNELS 32
#define LAYER "mb1_ic32ih28oc32kh3ph1:src=nhwc,dst=nhwc,bias"

struct layer {
    doconv_plan *plan;
    doconv_weights *weights;
    float *src, *dst, *workspace;
};

/* Inputs and weights whose products are near scale squared. */
static void open_layer(doconv_context *ctx, float scale, struct layer *l)
{
    static float weight[CHANNELS * CHANNELS * 9], bias[CHANNELS];
    doconv_conv_desc desc;
    assert_int_equal(doconv_conv_desc_parse(ctx, LAYER, &desc), DOCONV_OK);
    assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &l->plan), DOCONV_OK);
    for (int i = 0; i < CHANNELS * CHANNELS * 9; i++) {
        weight[i] = scale * (float)(i % 17 - 7) / 7.0f;
    }
    assert_int_equal(doconv_weights_create(l->plan, weight, bias, &l->weights), DOCONV_OK);
    l->src = malloc(PIXELS * CHANNELS * sizeof(float));
    l->dst = malloc(PIXELS * CHANNELS * sizeof(float));
    l->workspace = malloc(doconv_plan_workspace_size(l->plan) + 1);
    assert_true(l->src != NULL && l->dst != NULL && l->workspace != NULL);
    for (int i = 0; i < PIXELS * CHANNELS; i++) {
        l->src[i] = scale * (float)(i % 23 - 9) / 11.0f;
    }
}

static void close_layer(struct layer *l)
{
    free(l->workspace);
    free(l->dst);
    free(l->src);
    doconv_weights_destroy(l->weights);
    doconv_plan_destroy(l->plan);
}

static bool run_layer(struct layer *l)
{
    return doconv_execute(l->plan, l->weights, l->src, NULL, l->dst, l->workspace,
                          doconv_plan_workspace_size(l->plan)) == DOCONV_OK;
}

/* Whether some calls all give this. */
static bool gives(struct layer *l, const float *wanted)
{
    bool same = true;
    for (int i = 0; i < 5; i++) {
        memset(l->dst, 0xff, PIXELS * CHANNELS * sizeof(float));
        same =
            run_layer(l) && memcmp(l->dst, wanted, PIXELS * CHANNELS * sizeof(float)) == 0 && same;
    }
    return same;
}

/* ---- fork() ---- */

/* Child: what its function returns is its exit status; 0 is good. */
static pid_t start_child(int (*run)(void *), void *arg)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        _exit(run(arg));
    }
    assert_true(child > 0);
    return child;
}

static int wait_for(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

struct forked {
    doconv_context *ctx;
    struct layer layer;
    float *wanted;
    int generations; /* below this process */
};

static int run_child(void *arg)
{
    struct forked *f = arg;
    if (!gives(&f->layer, f->wanted)) {
        return 1;
    }
    if (!run_counted(f->ctx, 100) || !run_meeting(f->ctx, f->ctx->threads)) {
        return 2;
    }
    if (f->generations-- > 1) {
        const int status = wait_for(start_child(run_child, f));
        if (status != 0 || !gives(&f->layer, f->wanted)) {
            return status != 0 ? status : 3;
        }
    }
    close_layer(&f->layer);
    doconv_context_destroy(f->ctx);
    return 0;
}

static int destroy_in_child(void *arg)
{
    struct forked *f = arg;
    close_layer(&f->layer);
    doconv_context_destroy(f->ctx);
    return 0;
}

static void open_forked(struct forked *f, int threads)
{
    *f = (struct forked){.ctx = open_context(threads), .generations = 3};
    open_layer(f->ctx, 1.0f, &f->layer);
    f->wanted = malloc(PIXELS * CHANNELS * sizeof(float));
    assert_true(f->wanted != NULL && run_layer(&f->layer));
    memcpy(f->wanted, f->layer.dst, PIXELS * CHANNELS * sizeof(float));
}

static void close_forked(struct forked *f)
{
    free(f->wanted);
    close_layer(&f->layer);
    doconv_context_destroy(f->ctx);
}

/* Like a loader of data: workers are forked after the program computed, and it goes on. */
static void test_fork_after_use(void **state)
{
    (void)state;
    if (!FORK_WITH_THREADS) {
        skip();
    }
    struct forked f;
    open_forked(&f, 4);
    pid_t children[6];
    for (int i = 0; i < 6; i++) {
        children[i] = start_child(run_child, &f);
        assert_true(gives(&f.layer, f.wanted));
    }
    assert_int_equal(wait_for(start_child(destroy_in_child, &f)), 0);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(wait_for(children[i]), 0);
    }
    assert_true(run_meeting(f.ctx, 4));
    close_forked(&f);
}

struct busy {
    doconv_context *ctx;
    atomic_bool stop;
};

static void *keep_busy(void *arg)
{
    struct busy *b = arg;
    while (!atomic_load(&b->stop)) {
        struct meeting m = {.threads = 0, .caller = pthread_self()};
        dc_parallel(b->ctx, 3, meet_task, &m);
    }
    return NULL;
}

/* The child finds the team as it was: in the midst of a call of a thread that it doesn't have. */
static void test_fork_during_a_call(void **state)
{
    (void)state;
    if (!FORK_WITH_THREADS) {
        skip();
    }
    struct forked f;
    open_forked(&f, 3);
    struct busy busy = {.ctx = f.ctx};
    pthread_t thread;
    f.generations = 1;
    assert_int_equal(pthread_create(&thread, NULL, keep_busy, &busy), 0);
    for (int i = 0; i < 40; i++) {
        sleep_for(10000 * (i % 7));
        assert_int_equal(wait_for(start_child(run_child, &f)), 0);
    }
    atomic_store(&busy.stop, true);
    pthread_join(thread, NULL);
    close_forked(&f);
}

/* ---- the caller's floating-point modes ---- */

static const int team_sizes[] = {1, 2, 8};

static void set_flush_to_zero(bool on)
{
#if defined(__x86_64__)
    const unsigned modes = _MM_FLUSH_ZERO_MASK | _MM_DENORMALS_ZERO_MASK;
    _mm_setcsr((_mm_getcsr() & ~modes) | (on ? modes : 0));
#elif defined(__aarch64__)
    uint64_t modes;
    __asm__ volatile("mrs %0, fpcr" : "=r"(modes));
    modes = (modes & ~(UINT64_C(1) << 24)) | (uint64_t)on << 24;
    __asm__ volatile("msr fpcr, %0" ::"r"(modes));
#else
    (void)on;
#endif
}

static void set_rounding_up(bool on)
{
    assert_int_equal(fesetround(on ? FE_UPWARD : FE_TONEAREST), 0);
}

/*
 * Teams of each size give one result with the mode and another without; threads that were there
 * before it was set follow, and return.
 */
static void check_mode(void (*set)(bool on), float scale)
{
    const size_t bytes = PIXELS * CHANNELS * sizeof(float);
    float *with = malloc(bytes), *without = malloc(bytes);
    assert_true(with != NULL && without != NULL);
    for (size_t i = 0; i < sizeof team_sizes / sizeof team_sizes[0]; i++) {
        doconv_context *ctx = open_context(team_sizes[i]);
        struct layer layer;
        open_layer(ctx, scale, &layer);
        assert_true(run_meeting(ctx, team_sizes[i]) && run_layer(&layer));
        if (i == 0) {
            memcpy(without, layer.dst, bytes);
        }
        set(true);
        const bool ran = run_layer(&layer);
        if (i == 0) {
            memcpy(with, layer.dst, bytes);
        }
        const bool followed = gives(&layer, with);
        set(false);
        assert_true(ran && followed);
        assert_memory_not_equal(with, without, bytes);
        assert_true(gives(&layer, without));
        close_layer(&layer);
        doconv_context_destroy(ctx);
    }
    free(with);
    free(without);
}

static void test_flush_to_zero(void **state)
{
    (void)state;
#if defined(__x86_64__) || defined(__aarch64__)
    check_mode(set_flush_to_zero, 1e-20f); /* products are denormal */
#else
    skip();
#endif
}

static void test_rounding(void **state)
{
    (void)state;
    check_mode(set_rounding_up, 1.0f);
}

/* Each task notes the mode that it meets, on whatever thread. */
struct modes {
    struct meeting meeting;
    atomic_int wrong;
};

static void mode_task(void *arg, int index)
{
    struct modes *m = arg;
    atomic_fetch_add(&m->wrong, fegetround() != FE_DOWNWARD);
    meet_task(&m->meeting, index);
}

static void test_mode_on_every_thread(void **state)
{
    (void)state;
    doconv_context *ctx = open_context(8);
    assert_true(run_meeting(ctx, 8));
    struct modes modes = {.meeting = {.threads = 8, .caller = pthread_self()}};
    fesetround(FE_DOWNWARD);
    dc_parallel(ctx, 8, mode_task, &modes);
    assert_int_equal(fegetround(), FE_DOWNWARD);
    fesetround(FE_TONEAREST);
    assert_int_equal(modes.wrong, 0);
    assert_int_equal(modes.meeting.strangers, 7);
    doconv_context_destroy(ctx);
}

/* ---- how many by default ---- */

static int default_threads(const char *variable)
{
    if (variable != NULL) {
        setenv("OMP_NUM_THREADS", variable, 1);
    } else {
        unsetenv("OMP_NUM_THREADS");
    }
    doconv_context *ctx = open_context(0);
    doconv_context_info info = {.size = sizeof info};
    assert_int_equal(doconv_context_get_info(ctx, &info), DOCONV_OK);
    doconv_context_destroy(ctx);
    unsetenv("OMP_NUM_THREADS");
    return info.threads;
}

static void test_default_number(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    const int cpus = CPU_COUNT(&all);
    static const char *const words[] = {"", "0", "-2", "two", "3x", "4097", "99999999999999999999"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        assert_int_equal(default_threads(words[i]), cpus);
    }
    assert_int_equal(default_threads(NULL), cpus);
    assert_int_equal(default_threads("3"), 3);
    assert_int_equal(default_threads("5,2"), 5);
    assert_int_equal(default_threads(" 7 "), 7);
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    const int narrow = default_threads(NULL);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(narrow, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_team_is_whole),
        cmocka_unit_test(test_team_keeps_its_size),
        cmocka_unit_test(test_threads_that_cannot_be_started),
        cmocka_unit_test(test_nested_calls),
        cmocka_unit_test(test_callers_at_once),
        cmocka_unit_test(test_contexts_come_and_go),
        cmocka_unit_test(test_fork_after_use),
        cmocka_unit_test(test_fork_during_a_call),
        cmocka_unit_test(test_flush_to_zero),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_mode_on_every_thread),
        cmocka_unit_test(test_default_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

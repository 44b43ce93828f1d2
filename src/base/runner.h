/* SPDX-License-Identifier: MIT */
/*
 * The threads that a context has of its own, where its caller brings no parallel_for. For
 * src/base/context.c and tests.
 */
#ifndef DOCONV_RUNNER_H
#define DOCONV_RUNNER_H

#include <doconv/doconv.h>

struct dc_runner;

/*
 * A team of so many threads, the calling one among them. The others (workers) are started by the
 * first call that has tasks for them. NULL if memory is out.
 */
struct dc_runner *dc_runner_create(doconv_context *ctx, int threads);

/* Ends the workers; NULL is allowed. No call may be running. */
void dc_runner_destroy(doconv_context *ctx, struct dc_runner *runner);

/*
 * A doconv_parallel_for_fn whose user is a struct dc_runner. Tasks run in the floating-point
 * environment of the calling thread. Thread-safe: while one thread's call has the workers, a call
 * of another thread, or of a task, runs all its tasks itself. It never fails: where no worker can
 * be started, it does the same. A child of fork() starts workers of its own.
 */
void dc_runner_run(void *runner, int count, void (*task)(void *arg, int index), void *arg);

#endif

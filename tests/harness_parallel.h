/* SPDX-License-Identifier: MIT */
/*
 * Ways to run the tasks of an execute: doconv_parallel_for_fn with a struct task_order as its user.
 */
#ifndef DOCONV_TEST_HARNESS_PARALLEL_H
#define DOCONV_TEST_HARNESS_PARALLEL_H

#include <stdint.h>

enum task_kind {
    TASKS_FORWARD,
    TASKS_REVERSED,
    TASKS_SHUFFLED,
    TASKS_PTHREADS, /* a thread for each task, up to 8 */
    TASK_KINDS
};

struct task_order {
    enum task_kind kind;
    uint64_t seed; /* of TASKS_SHUFFLED */
};

const char *task_kind_name(enum task_kind kind);
void task_run(void *user, int count, void (*task)(void *arg, int index), void *arg);

#endif

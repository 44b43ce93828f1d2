/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the tuner and its cache share: a directory of their own, a log that counts,
 * contexts. Every failure is an assertion.
 */
#ifndef DOCONV_TEST_TUNER_FIXTURE_H
#define DOCONV_TEST_TUNER_FIXTURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv_tune.h>

#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"
#include "library.h"
#include "cache.h"
#include "base/cpu.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

#define FIXTURE_PATH 1024

struct fixture_log {
    pthread_mutex_t lock;
    int errors, warnings, lines;
    int executes; /* lines of mode verbose for one execute */
    char last[512];
};

struct fixture {
    char root[FIXTURE_PATH]; /* a new, empty directory, removed at the end */
    struct fixture_log log;
};

/*
 * cmocka's set-up and tear-down: *state is a struct fixture. The environment's DOCONV_ variables
 * are unset before each test.
 */
int fixture_setup(void **state);
int fixture_teardown(void **state);

/* "root/name" */
void fixture_path(const struct fixture *f, const char *name, char path[FIXTURE_PATH]);

/*
 * Options of a context with one thread, the fixture's log and the cache directory root/name. path
 * must outlive their use.
 */
doconv_context_options fixture_options(struct fixture *f, const char *name,
                                       char path[FIXTURE_PATH]);
doconv_context *fixture_context(struct fixture *f, const char *name, doconv_tune_mode tune);

/* An allocator that fails one call, and counts what is live. */
struct fixture_failing {
    int calls, fail_at, live; /* fail_at: the number of the call, from 0; -1: none */
};
/* Lets a context of these options allocate through *failing, which starts with no failure. */
void fixture_fail(doconv_context_options *options, struct fixture_failing *failing);

/* Forgets counts and text. */
void fixture_log_clear(struct fixture *f);

/* A context's advisor anew, after its kernels were replaced; choices made before are forgotten. */
void fixture_reattach(doconv_context *ctx, const struct dc_kernel *const *kernels);

/*
 * Number of files below root/name whose names end so; 0 if there is no such directory. path (may be
 * NULL): one of them.
 */
int fixture_count(const struct fixture *f, const char *name, const char *ending,
                  char path[FIXTURE_PATH]);

/* Removes a file, a link, or a directory with all that is in it. */
void fixture_remove(const char *path);

/* Reads a whole file of less than size bytes; adds a NUL. Returns the length. */
size_t fixture_read(const char *path, char *text, size_t size);
void fixture_write(const char *path, const void *data, size_t size);

/* The directory of a context's environment, and the file of a key in it. */
void fixture_environment(const doconv_context *ctx, char path[FIXTURE_PATH]);
void fixture_entry_path(const doconv_context *ctx, const char *key, char path[FIXTURE_PATH]);

/* Puts the right checksum under the body of an entry's text. Returns the length of both. */
size_t fixture_seal(char *text, size_t body);
#define FIXTURE_CHECKSUM ((size_t)26) /* length of that line */

/* A kernel that each build has: the reference, the last of the list. */
const struct dc_kernel *fixture_kernel(const doconv_context *ctx);
/* An entry of that kernel that a cache takes, with three measured variants. */
struct cache_entry fixture_entry(const doconv_context *ctx, const char *key);
/* Likewise of a kernel that no context needs to have. */
struct cache_entry fixture_entry_of(const char *kernel, unsigned revision, const char *key);

/* ---- problems and plans ---- */

#define FIXTURE_WHEN "2026-11-27T22:56:22Z" /* when planted entries were measured */
#define FIXTURE_PROBLEM "mb1_ic5ih9oc7kh3ph1:bias"

/* Little to do, so that a test measures in milliseconds. */
extern const doconv_tune_options fixture_quick;

doconv_conv_desc fixture_problem(const char *text);

/* Tunes with little to do. The caller owns the report. */
doconv_tune_report *fixture_tune(doconv_context *ctx, const doconv_conv_desc *desc,
                                 const doconv_plan_options *plan_options, bool force);
doconv_tune_summary fixture_summary(const doconv_tune_report *report);

/* The accepted candidate with the worst estimate: not what a plan takes by itself. */
struct dc_candidate fixture_candidate(doconv_context *ctx, const doconv_conv_desc *desc);

/*
 * Puts that candidate into the cache of ctx, on disk, as a measurement without noise would. variant
 * (may be NULL): its text.
 */
void fixture_plant(doconv_context *ctx, const doconv_conv_desc *desc,
                   const doconv_plan_options *options, char variant[DC_VARIANT_SIZE]);

/* Makes a plan, which must have this origin; "": the plan must fail with NOT_FOUND. */
void fixture_assert_origin(doconv_context *ctx, const doconv_conv_desc *desc,
                           const doconv_plan_options *options, const char *origin);

#endif

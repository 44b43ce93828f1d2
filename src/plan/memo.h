/* SPDX-License-Identifier: MIT */
/*
 * The choices that a context made before: who asks again gets the candidate without enumeration.
 * For src/plan/plan.c. Thread-safe.
 */
#ifndef DOCONV_MEMO_H
#define DOCONV_MEMO_H

#include <stdbool.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "base/context.h"
#include "plan/candidate.h"
#include "plan/problem.h"

#define DC_MEMO_WORDS 56

/* All that a choice depends on but what the advisor knows, as numbers. */
struct dc_memo_key {
    int64_t words[DC_MEMO_WORDS];
    uint64_t hash;
    unsigned long choices; /* the context's: what was chosen before the last of them is old */
};

/* A candidate, who chose it, and the key that it is from, or "": as a plan has them. */
struct dc_choice {
    struct dc_candidate candidate;
    const char *origin;
    char source[DC_KEY_SIZE];
};

/* options: or NULL. It notes the context's count of choices: make the key before the choice. */
void dc_memo_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, struct dc_memo_key *key);
/* The choice that was kept for the key, if nothing was chosen since. */
bool dc_memo_find(const doconv_context *ctx, const struct dc_memo_key *key,
                  struct dc_choice *choice);
/* Without memory it keeps nothing. */
void dc_memo_keep(doconv_context *ctx, const struct dc_memo_key *key,
                  const struct dc_choice *choice);

#endif

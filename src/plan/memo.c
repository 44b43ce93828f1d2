/* SPDX-License-Identifier: MIT */
/*
 * Sets of a few places, by the hash of the key; the oldest of a set goes first. What is in a place
 * never changes. The mutex guards places alone: no memory is asked for under it.
 */
#include <pthread.h>
#include <string.h>

#include "base/context.h"
#include "plan/memo.h"

#define SETS 256
#define WAYS 4

struct item {
    struct dc_memo_key key;
    struct dc_candidate candidate;
    const char *origin;
    char source[]; /* as in struct dc_choice */
};

struct memo {
    struct dc_kept kept;
    doconv_context *ctx;
    pthread_mutex_t lock;
    struct item *items[SETS][WAYS]; /* the newest first */
};

static void destroy(struct dc_kept *kept)
{
    struct memo *memo = (struct memo *)kept;
    for (int s = 0; s < SETS; s++) {
        for (int w = 0; w < WAYS; w++) {
            dc_free(memo->ctx, memo->items[s][w]);
        }
    }
    pthread_mutex_destroy(&memo->lock);
    dc_free(memo->ctx, memo);
}

/* The context's, made by the first who keeps something; NULL without memory. */
static struct memo *memo_of(doconv_context *ctx)
{
    struct dc_kept *there = atomic_load(&ctx->memo);
    if (there != NULL) {
        return (struct memo *)there;
    }
    struct memo *memo = dc_alloc(ctx, sizeof *memo);
    if (memo == NULL) {
        return NULL;
    }
    memset(memo, 0, sizeof *memo);
    memo->kept.destroy = destroy;
    memo->ctx = ctx;
    if (pthread_mutex_init(&memo->lock, NULL) != 0) {
        dc_free(ctx, memo);
        return NULL;
    }
    if (!atomic_compare_exchange_strong(&ctx->memo, &there, &memo->kept)) {
        destroy(&memo->kept);
        return (struct memo *)there;
    }
    return memo;
}

static int64_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void dc_memo_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, struct dc_memo_key *key)
{
    const doconv_conv_desc *d = &problem->desc;
    const doconv_fold_desc *f = &problem->fold;
    const doconv_plan_options none = {.size = sizeof none}, *o = options != NULL ? options : &none;
    const int64_t words[] = {
        (int64_t)problem->operation,
        problem->threads,
        problem->fresh_weights,
        problem->cold_weights,
        (int64_t)o->rigor,
        o->cold_weights,
        o->fallback,
        (int64_t)o->workspace_limit,
        (int64_t)o->packed_limit,
        (int64_t)ctx->tune,
        ctx->deterministic,
        ctx->own_threads,
        (int64_t)ctx->isa,
        (int64_t)(intptr_t)ctx->kernels,
        (int64_t)(intptr_t)ctx->solvers,
        d->n,
        d->cin,
        d->h,
        d->w,
        d->cout,
        d->kh,
        d->kw,
        d->stride_h,
        d->stride_w,
        d->pad_top,
        d->pad_left,
        d->pad_bottom,
        d->pad_right,
        d->dilation_h,
        d->dilation_w,
        d->groups,
        (int64_t)d->src_layout,
        (int64_t)d->dst_layout,
        d->has_bias,
        d->residual,
        d->relu,
        d->clamp,
        bits_of(d->clamp_lo),
        bits_of(d->clamp_hi),
        (int64_t)d->accuracy,
        d->d_mul,
        (int64_t)d->composition,
        (int64_t)d->mapping,
        d->add_identity,
        f->cout,
        f->cin,
        f->kh,
        f->kw,
        f->groups,
        f->d_mul,
        (int64_t)f->mapping,
        f->add_identity,
    };
    _Static_assert(sizeof words <= sizeof key->words, "DC_MEMO_WORDS is too small");
    memset(key->words, 0, sizeof key->words);
    memcpy(key->words, words, sizeof words);
    key->hash = 0;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        key->hash = (key->hash ^ (uint64_t)words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        key->hash ^= key->hash >> 29;
    }
    key->choices = atomic_load(&ctx->choices);
}

static bool is_same(const struct dc_memo_key *a, const struct dc_memo_key *b)
{
    return a->hash == b->hash && memcmp(a->words, b->words, sizeof a->words) == 0;
}

bool dc_memo_find(const doconv_context *ctx, const struct dc_memo_key *key,
                  struct dc_choice *choice)
{
    struct memo *memo = (struct memo *)atomic_load(&ctx->memo);
    bool found = false;
    if (memo == NULL) {
        return false;
    }
    pthread_mutex_lock(&memo->lock);
    struct item *const *set = memo->items[key->hash % SETS];
    for (int w = 0; w < WAYS && set[w] != NULL && !found; w++) {
        found = is_same(&set[w]->key, key) && set[w]->key.choices == key->choices;
        if (found) {
            choice->candidate = set[w]->candidate;
            choice->origin = set[w]->origin;
            memcpy(choice->source, set[w]->source, strlen(set[w]->source) + 1);
        }
    }
    pthread_mutex_unlock(&memo->lock);
    return found;
}

/* The place of the same key, of an old choice then; else the last, free or the oldest. */
static int place_of(struct item *const *set, const struct dc_memo_key *key)
{
    for (int w = 0; w < WAYS && set[w] != NULL; w++) {
        if (is_same(&set[w]->key, key)) {
            return w;
        }
    }
    return WAYS - 1;
}

void dc_memo_keep(doconv_context *ctx, const struct dc_memo_key *key,
                  const struct dc_choice *choice)
{
    struct memo *memo = memo_of(ctx);
    const size_t length = strlen(choice->source) + 1;
    struct item *item = memo != NULL ? dc_alloc(ctx, sizeof *item + length) : NULL;
    if (item == NULL) {
        return;
    }
    item->key = *key;
    item->candidate = choice->candidate;
    item->origin = choice->origin;
    memcpy(item->source, choice->source, length);
    pthread_mutex_lock(&memo->lock);
    struct item **set = memo->items[key->hash % SETS];
    const int place = place_of(set, key);
    struct item *old = set[place];
    memmove(set + 1, set, (size_t)place * sizeof *set);
    set[0] = item;
    pthread_mutex_unlock(&memo->lock);
    dc_free(ctx, old);
}

/* SPDX-License-Identifier: MIT */
/*
 * Entries like one that the cache lacks. The nearest is of the same layer, shape and layouts, and
 * differs in what seldom decides; its variant is taken as it is. A neighbour is of another batch or
 * image size: there the estimate knows what changes, and the neighbour's measurements how far it is
 * off. Items never change once they are in the index, and stay: whoever has seen one may read it
 * without the lock. An item only says where to look: the cache itself says what is there.
 */
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache.h"
#include "cachedir.h"
#include "nearest.h"
#include "nearest_correct.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"

/* Bytes that hold the first line of an entry and its key. */
#define HEAD_SIZE ((size_t)(DC_KEY_SIZE + 64))
/* Entries that are tried before there is no hint. */
#define MOST_TRIES 8

struct item {
    struct nearest_key parsed;
    char key[];
};

struct nearest {
    doconv_context *ctx;
    pthread_mutex_t lock; /* guards read and count, and items that are not counted yet */
    bool read;            /* the directories */
    int count;
    struct item *items[NEAREST_ENTRIES];
};

struct nearest *dc_nearest_create(doconv_context *ctx)
{
    struct nearest *index = dc_alloc(ctx, sizeof *index);
    if (index == NULL) {
        return NULL;
    }
    index->ctx = ctx;
    index->read = false;
    index->count = 0;
    if (pthread_mutex_init(&index->lock, NULL) != 0) {
        dc_free(ctx, index);
        return NULL;
    }
    return index;
}

void dc_nearest_destroy(struct nearest *index)
{
    if (index != NULL) {
        for (int i = 0; i < index->count; i++) {
            dc_free(index->ctx, index->items[i]);
        }
        pthread_mutex_destroy(&index->lock);
        dc_free(index->ctx, index);
    }
}

/* Returns how many there are; fewer than `most` if this one could be added. */
static int add(struct nearest *index, const char *key, int most)
{
    struct nearest_key parsed;
    const size_t length = strlen(key) + 1;
    const bool valid = dc_nearest_parse(key, &parsed);
    struct item *item = valid ? dc_alloc(index->ctx, sizeof *item + length) : NULL;
    if (item != NULL) {
        item->parsed = parsed;
        memcpy(item->key, key, length);
    }
    pthread_mutex_lock(&index->lock);
    bool there = item == NULL || index->count >= most;
    for (int i = 0; i < index->count && !there; i++) {
        there = strcmp(index->items[i]->key, key) == 0;
    }
    if (!there) {
        index->items[index->count++] = item;
        item = NULL;
    }
    const int count = index->count;
    pthread_mutex_unlock(&index->lock);
    dc_free(index->ctx, item);
    return count;
}

void dc_nearest_add(struct nearest *index, const char *key)
{
    add(index, key, NEAREST_ENTRIES);
}

/* ---- the directories ---- */

/* The key that an entry's second line has; false if there is none. */
static bool read_key(const char *directory, const char *name, char key[DC_KEY_SIZE])
{
    char path[CACHEDIR_PATH + CACHEDIR_NAME], text[HEAD_SIZE];
    snprintf(path, sizeof path, "%s/%.100s", directory, name);
    const ssize_t length = dc_cachedir_head(path, text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    const char *line = strstr(text, "\nkey ");
    if (line == NULL) {
        return false;
    }
    line += sizeof "\nkey " - 1;
    const size_t size = strcspn(line, "\n");
    if (line[size] == '\0' || size >= DC_KEY_SIZE) {
        return false;
    }
    memcpy(key, line, size);
    key[size] = '\0';
    return true;
}

static void read_directory(struct nearest *index, const char *path)
{
    const double start = dc_now(index->ctx);
    DIR *directory = path[0] != '\0' ? opendir(path) : NULL;
    if (directory == NULL) {
        return; /* nothing is known then */
    }
    int count = 0;
    for (struct dirent *item; count < NEAREST_READ && (item = readdir(directory)) != NULL &&
                              dc_now(index->ctx) - start < NEAREST_SECONDS;) {
        const size_t length = strlen(item->d_name);
        char key[DC_KEY_SIZE];
        if (length == 20 && strcmp(item->d_name + 16, ".txt") == 0 &&
            read_key(path, item->d_name, key)) {
            count = add(index, key, NEAREST_READ);
        }
    }
    closedir(directory);
}

/*
 * Returns how many items there are. Two threads may both read, and add the same once: no file is
 * read and no memory asked for under a lock.
 */
static int read_once(struct cache *cache)
{
    struct nearest *index = dc_cache_index(cache);
    pthread_mutex_lock(&index->lock);
    const bool read = index->read;
    pthread_mutex_unlock(&index->lock);
    if (!read) {
        read_directory(index, dc_cache_directory(cache, false));
        read_directory(index, dc_cache_directory(cache, true));
    }
    pthread_mutex_lock(&index->lock);
    index->read = true;
    const int count = index->count;
    pthread_mutex_unlock(&index->lock);
    return count;
}

/* ---- distances ---- */

static bool is_same_layer(const struct nearest_key *a, const struct nearest_key *b)
{
    const struct dc_problem *p = &a->problem, *q = &b->problem;
    const doconv_conv_desc *d = &p->desc, *e = &q->desc;
    return p->operation == q->operation && p->threads == q->threads && a->kept == b->kept &&
           p->fresh_weights == q->fresh_weights && d->cin == e->cin && d->cout == e->cout &&
           d->kh == e->kh && d->kw == e->kw && d->stride_h == e->stride_h &&
           d->stride_w == e->stride_w && d->pad_top == e->pad_top && d->pad_left == e->pad_left &&
           d->dilation_h == e->dilation_h && d->dilation_w == e->dilation_w &&
           d->groups == e->groups && d->src_layout == e->src_layout &&
           d->dst_layout == e->dst_layout && d->accuracy == e->accuracy && d->d_mul == e->d_mul &&
           d->composition == e->composition && d->mapping == e->mapping &&
           d->add_identity == e->add_identity;
}

static bool is_same_shape(const doconv_conv_desc *d, const doconv_conv_desc *e)
{
    return d->n == e->n && d->h == e->h && d->w == e->w && d->pad_bottom == e->pad_bottom &&
           d->pad_right == e->pad_right;
}

static double octaves(double a, double b)
{
    return fabs(log2(a / b));
}

/* A limit of 0 is the library's own for a workspace, and none for packed weights. */
static double limit_octaves(size_t a, size_t b, double none)
{
    return octaves(a != 0 ? (double)a : none, b != 0 ? (double)b : none);
}

/*
 * What differs weighs more than all that is before it: parts of the epilogue, who runs the threads,
 * limits, cold weights; a neighbour's size goes beyond that. Fractions tell limits and sizes apart.
 */
static double distance(const struct nearest_key *a, const struct nearest_key *b)
{
    const doconv_conv_desc *d = &a->problem.desc, *e = &b->problem.desc;
    const doconv_plan_options *o = &a->options, *q = &b->options;
    const bool clamps = d->relu != e->relu || d->clamp != e->clamp || d->clamp_lo != e->clamp_lo ||
                        d->clamp_hi != e->clamp_hi;
    const bool limits =
        o->workspace_limit != q->workspace_limit || o->packed_limit != q->packed_limit;
    double sum = (d->has_bias != e->has_bias) + clamps + (d->residual != e->residual);
    sum += a->caller != b->caller ? 4.0 : 0.0;
    sum += limits ? 8.0 : 0.0;
    sum += o->cold_weights != q->cold_weights ? 16.0 : 0.0;
    const double apart = limit_octaves(o->workspace_limit, q->workspace_limit, 0x1p26) +
                         limit_octaves(o->packed_limit, q->packed_limit, 0x1p62);
    double fraction = apart / 256.0;
    if (!is_same_shape(d, e)) {
        sum += 32.0;
        fraction += octaves((double)d->n, (double)e->n) / 256.0 +
                    octaves((double)d->h * (double)d->w, (double)e->h * (double)e->w) / 256.0;
    }
    return sum + fmin(fraction, 0.999);
}

/* ---- a hint ---- */

struct near {
    const struct item *item;
    double distance;
};

/* Is x to be tried before y? */
static bool is_nearer(const struct near *x, const struct near *y)
{
    return x->distance != y->distance ? x->distance < y->distance
                                      : strcmp(x->item->key, y->item->key) < 0;
}

/* The nearest items of the layer but the key's own, in their order; returns how many. */
static int find_near(const struct nearest *index, int count, const struct nearest_key *wanted,
                     const char *key, struct near near[MOST_TRIES])
{
    int found = 0;
    for (int i = 0; i < count; i++) {
        struct near next = {.item = index->items[i]};
        if (!is_same_layer(wanted, &next.item->parsed) || strcmp(next.item->key, key) == 0) {
            continue;
        }
        next.distance = distance(wanted, &next.item->parsed);
        int place = found < MOST_TRIES ? found++ : MOST_TRIES;
        for (; place > 0 && is_nearer(&next, &near[place - 1]); place--) {
            if (place < MOST_TRIES) {
                near[place] = near[place - 1];
            }
        }
        if (place < MOST_TRIES) {
            near[place] = next;
        }
    }
    return found;
}

bool dc_nearest_infer(void *self, const struct dc_problem *problem,
                      const doconv_plan_options *options, struct dc_candidate_list *list,
                      struct dc_hint *hint)
{
    struct cache *cache = self;
    doconv_context *ctx = dc_cache_context(cache);
    const int count = read_once(cache);
    struct cache_entry *entry = count > 0 ? dc_alloc(ctx, sizeof *entry) : NULL;
    struct nearest_key wanted;
    struct near near[MOST_TRIES];
    char key[DC_KEY_SIZE];
    dc_plan_key(ctx, problem, options, key, sizeof key);
    if (entry == NULL || !dc_nearest_parse(key, &wanted)) {
        dc_free(ctx, entry);
        return false;
    }
    const int tries = find_near(dc_cache_index(cache), count, &wanted, key, near);
    hint->candidate = NULL;
    for (int i = 0; i < tries && hint->candidate == NULL; i++) {
        const struct item *item = near[i].item;
        if (dc_cache_lookup(cache, item->key, entry) == CACHE_MISS) {
            continue;
        }
        const bool nearest = is_same_shape(&wanted.problem.desc, &item->parsed.problem.desc);
        hint->origin = nearest ? "nearest" : "neighbour";
        hint->candidate = nearest ? dc_candidate_find(list, entry->variant)
                                  : dc_nearest_correct(ctx, &item->parsed, entry, list);
        memcpy(hint->key, item->key, strlen(item->key) + 1);
    }
    dc_free(ctx, entry);
    return hint->candidate != NULL;
}

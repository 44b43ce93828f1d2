/* SPDX-License-Identifier: MIT */
/* Sets of entries: adding, the choice between two of a key, filtering, looking. */
#include "entries.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"
#include "base/versioned.h"
#include "cache.h"

#define HEX "0123456789abcdef"

/* ---- environments ---- */

void dc_entries_name(const char *manifest, size_t length, char name[ENTRIES_NAME])
{
    snprintf(name, ENTRIES_NAME, "%016" PRIx64, dc_hash(0, manifest, length));
}

bool dc_entries_is_name(const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '\0' || strchr(HEX, name[i]) == NULL) {
            return false;
        }
    }
    return length == ENTRIES_NAME - 1;
}

const char *dc_entries_check_manifest(const char *name, const char *manifest, size_t length)
{
    char expected[ENTRIES_NAME], head[32];
    const size_t head_length =
        (size_t)snprintf(head, sizeof head, ENTRIES_MANIFEST_HEAD "%d\n", CACHEFILE_VERSION);
    if (length >= ENTRIES_MANIFEST) {
        return "its manifest is too long";
    }
    dc_entries_name(manifest, length, expected);
    if (strcmp(name, expected) != 0) {
        return "its name is not that of its manifest";
    }
    if (length < head_length || memcmp(manifest, head, head_length) != 0) {
        return "its entries are of another version";
    }
    /* As an export separates it from what follows, an empty line would end it. */
    bool start = false;
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)manifest[i];
        if (c == '\n' ? start : c < ' ' || c == 0x7f) {
            return "its manifest is malformed";
        }
        start = c == '\n';
    }
    return start ? NULL : "its manifest is malformed";
}

/* ---- adding ---- */

/* Room for one more item: the block, or a larger one in its place; NULL if out of memory. */
static void *grown(doconv_context *ctx, void *items, int count, int *capacity, size_t size)
{
    if (count < *capacity) {
        return items;
    }
    const int larger = *capacity > 0 ? 2 * *capacity : 8;
    void *result = dc_alloc(ctx, (size_t)larger * size);
    if (result != NULL) {
        if (count > 0) {
            memcpy(result, items, (size_t)count * size);
        }
        dc_free(ctx, items);
        *capacity = larger;
    }
    return result;
}

/* The index of an environment, or where it would be. */
static int find_environment(const struct doconv_entries *entries, const char *name, bool *found)
{
    int i = 0;
    while (i < entries->count && strcmp(entries->environments[i].name, name) < 0) {
        i++;
    }
    *found = i < entries->count && strcmp(entries->environments[i].name, name) == 0;
    return i;
}

static int find_key(const struct entries_environment *environment, const char *key, bool *found)
{
    int from = 0, to = environment->count;
    *found = false;
    while (from < to) {
        const int middle = from + (to - from) / 2;
        const int order = strcmp(environment->items[middle]->key, key);
        *found = *found || order == 0;
        if (order < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

const struct cache_entry *dc_entries_find(const struct entries_environment *environment,
                                          const char *key)
{
    bool found;
    const int place = find_key(environment, key, &found);
    return found ? environment->items[place] : NULL;
}

static struct entries_environment *get_environment(struct doconv_entries *entries,
                                                   const char *manifest, size_t length)
{
    char name[ENTRIES_NAME];
    bool found;
    dc_entries_name(manifest, length, name);
    const int place = find_environment(entries, name, &found);
    if (found) {
        return &entries->environments[place];
    }
    void *environments = grown(entries->ctx, entries->environments, entries->count,
                               &entries->capacity, sizeof *entries->environments);
    if (environments == NULL) {
        return NULL;
    }
    entries->environments = environments;
    struct entries_environment *new = &entries->environments[place];
    memmove(new + 1, new, (size_t)(entries->count - place) * sizeof *new);
    memset(new, 0, sizeof *new);
    memcpy(new->name, name, sizeof name);
    memcpy(new->manifest, manifest, length);
    entries->count++;
    return new;
}

static int64_t samples(const struct cache_entry *entry)
{
    int64_t sum = 0;
    for (int i = 0; i < entry->count; i++) {
        sum += entry->measured[i].rounds;
    }
    return sum;
}

bool dc_entries_keeps(const struct cache_entry *a, const struct cache_entry *b)
{
    if (a->doubtful != b->doubtful) {
        return b->doubtful != 0;
    }
    const int64_t x = samples(a), y = samples(b);
    if (x != y) {
        return x > y;
    }
    /* The same whatever comes first. */
    return a->picoseconds != b->picoseconds ? a->picoseconds < b->picoseconds
                                            : strcmp(a->variant, b->variant) <= 0;
}

static bool insert(doconv_context *ctx, struct entries_environment *environment, int place,
                   const struct cache_entry *entry)
{
    void *items = grown(ctx, environment->items, environment->count, &environment->capacity,
                        sizeof *environment->items);
    if (items == NULL) {
        return false;
    }
    environment->items = items;
    struct cache_entry *copy = dc_alloc(ctx, sizeof *copy);
    if (copy == NULL) {
        return false;
    }
    *copy = *entry;
    struct cache_entry **at = &environment->items[place];
    memmove(at + 1, at, (size_t)(environment->count - place) * sizeof *at);
    *at = copy;
    environment->count++;
    return true;
}

/* ---- dropping ---- */

static void drop_environment(struct doconv_entries *entries, int index)
{
    struct entries_environment *environment = &entries->environments[index];
    for (int i = 0; i < environment->count; i++) {
        dc_free(entries->ctx, environment->items[i]);
    }
    dc_free(entries->ctx, environment->items);
    entries->count--;
    memmove(environment, environment + 1, (size_t)(entries->count - index) * sizeof *environment);
}

doconv_status dc_entries_add(struct doconv_entries *entries, const char *manifest, size_t length,
                             const struct cache_entry *entry)
{
    struct entries_environment *environment = get_environment(entries, manifest, length);
    bool found, ok = environment != NULL;
    if (ok) {
        const int place = find_key(environment, entry->key, &found);
        if (!found) {
            ok = insert(entries->ctx, environment, place, entry);
        } else if (!dc_entries_keeps(environment->items[place], entry)) {
            *environment->items[place] = *entry;
        }
        if (environment->count == 0) {
            drop_environment(entries, (int)(environment - entries->environments));
        }
    }
    return ok ? DOCONV_OK : dc_fail(entries->ctx, DOCONV_OUT_OF_MEMORY, "entries: out of memory");
}

/* Does the problem that a key begins with match? */
static bool matches(const char *key, const char *pattern)
{
    char problem[DC_KEY_SIZE];
    snprintf(problem, sizeof problem, "%.*s", (int)strcspn(key, " "), key);
    return fnmatch(pattern, problem, 0) == 0;
}

doconv_status doconv_entries_keep(doconv_entries *entries, const char *environment,
                                  const char *pattern)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const bool own = environment != NULL && strcmp(environment, "own") == 0;
    if (environment != NULL && !own && !dc_entries_is_name(environment, strlen(environment))) {
        const struct dc_shown shown = dc_show(environment);
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT,
                       "environment: \"%s\" is not own, nor 16 hexadecimal digits", shown.text);
    }
    const char *name = own ? entries->own : environment;
    for (int e = entries->count - 1; e >= 0; e--) {
        struct entries_environment *from = &entries->environments[e];
        const bool named = name == NULL || strcmp(name, from->name) == 0;
        int kept = 0;
        for (int i = 0; i < from->count; i++) {
            if (named && (pattern == NULL || matches(from->items[i]->key, pattern))) {
                from->items[kept++] = from->items[i];
            } else {
                dc_free(entries->ctx, from->items[i]);
            }
        }
        from->count = kept;
        if (kept == 0) {
            drop_environment(entries, e);
        }
    }
    return DOCONV_OK;
}

/* ---- the set ---- */

doconv_status doconv_entries_create(doconv_context *context, doconv_entries **entries)
{
    if (entries != NULL) {
        *entries = NULL;
    }
    if (context == NULL || entries == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "entries");
    }
    struct doconv_entries *result = dc_alloc(context, sizeof *result);
    if (result == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "entries: out of memory");
    }
    *result = (struct doconv_entries){.ctx = context};
    const char *manifest = dc_cache_manifest(context->advisor.self);
    dc_entries_name(manifest, strlen(manifest), result->own);
    *entries = result;
    return DOCONV_OK;
}

void doconv_entries_destroy(doconv_entries *entries)
{
    if (entries != NULL) {
        while (entries->count > 0) {
            drop_environment(entries, entries->count - 1);
        }
        dc_free(entries->ctx, entries->environments);
        dc_free(entries->ctx, entries);
    }
}

int doconv_entries_count(const doconv_entries *entries)
{
    int count = 0;
    for (int e = 0; entries != NULL && e < entries->count; e++) {
        count += entries->environments[e].count;
    }
    return count;
}

/* The entry of this index, and its environment; NULL: there is none. */
static const struct cache_entry *find_index(const struct doconv_entries *entries, int index,
                                            const struct entries_environment **environment)
{
    for (int e = 0; e < entries->count && index >= 0; e++) {
        *environment = &entries->environments[e];
        if (index < (*environment)->count) {
            return (*environment)->items[index];
        }
        index -= (*environment)->count;
    }
    return NULL;
}

doconv_status doconv_entries_get(const doconv_entries *entries, int index, doconv_entry_info *info)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const struct entries_environment *environment = NULL;
    const struct cache_entry *entry = find_index(entries, index, &environment);
    if (entry == NULL || info == NULL) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT, "info: NULL, or index: %d is none",
                       index);
    }
    const doconv_entry_info result = {
        .size = sizeof result,
        .environment = environment->name,
        .manifest = environment->manifest,
        .key = entry->key,
        .variant = entry->variant,
        .seconds = 1e-12 * (double)entry->picoseconds,
        .max_rel_error = 1e-12 * (double)entry->max_rel_error_e12,
        .workspace_bytes = entry->workspace,
        .samples = samples(entry),
        .measured = entry->count,
        .own = strcmp(environment->name, entries->own) == 0,
        .when = entry->when,
        .against = entry->against,
        .against_seconds = 1e-12 * (double)entry->against_picoseconds,
        .confidence = 1e-6 * entry->confidence_ppm,
        .doubtful = entry->doubtful,
    };
    return DC_WRITE_STRUCT(entries->ctx, doconv_entry_info, &result, info);
}

doconv_status doconv_entries_get_measured(const doconv_entries *entries, int index, int candidate,
                                          doconv_tune_entry *measured)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const struct entries_environment *environment;
    const struct cache_entry *entry = find_index(entries, index, &environment);
    if (entry == NULL || measured == NULL || candidate < 0 || candidate >= entry->count) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT,
                       "measured: NULL, or entry %d has no candidate %d", index, candidate);
    }
    const doconv_tune_entry result = dc_cachefile_public(&entry->measured[candidate]);
    return DC_WRITE_STRUCT(entries->ctx, doconv_tune_entry, &result, measured);
}

/* SPDX-License-Identifier: MIT */
/*
 * Files: DIRECTORY/ENVIRONMENT/KEY.txt, both names hashes. The environment is everything that makes
 * measured choices comparable: CPU, ISA, cache sizes, the set of kernels and the format; another
 * CPU or build has another directory and finds its own again. A file holds its full key, so that a
 * hash that two keys share is a miss. Written to a temporary file, fsync, rename; no file locks:
 * they break on network file systems, and a measurement done twice is the cheaper failure. A
 * directory's time of modification tells when its environment was last used; what is too old is
 * collected (collect.c) before the first entry is stored. The mutex guards memory alone: no I/O and
 * no callback happen under it.
 */
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/registry.h"
#include "cache.h"
#include "cachedir.h"
#include "collect.h"
#include "kernel.h"
#include "nearest.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUCKETS 2048

struct node {
    uint64_t hash;
    uint64_t used; /* clock of the last look-up; 0: the slot is free */
    int next;      /* of the chain of its bucket; -1: it is the last */
    char *key;
    struct cache_entry *entry; /* NULL: known to be missing */
    enum cache_state state;
};

struct cache {
    doconv_context *ctx;
    pthread_mutex_t lock; /* guards clock and nodes */
    uint64_t clock;
    struct node nodes[CACHE_MEMORY_ENTRIES];
    int buckets[BUCKETS]; /* by hash: the first node; -1: there is none */
    struct nearest *index;
    /* the environment's directories; "" if there is none */
    char user[CACHEDIR_PATH], system[CACHEDIR_PATH];
    char environment[512];  /* what their name is the hash of */
    atomic_bool collected;  /* what is too old in the user's directory */
    atomic_bool used;       /* and its time of modification says so */
    atomic_bool complained; /* about a directory that can't be written */
};

/* ---- memory ---- */

/* The lock is held. */
static struct node *find(struct cache *cache, uint64_t hash, const char *key)
{
    for (int i = cache->buckets[hash % BUCKETS]; i >= 0; i = cache->nodes[i].next) {
        struct node *node = &cache->nodes[i];
        if (node->hash == hash && strcmp(node->key, key) == 0) {
            node->used = ++cache->clock;
            return node;
        }
    }
    return NULL;
}

/* Takes a node out of its chain. The lock is held. */
static void unchain(struct cache *cache, const struct node *node)
{
    const int index = (int)(node - cache->nodes);
    int *link = &cache->buckets[node->hash % BUCKETS];
    while (*link != index) {
        link = &cache->nodes[*link].next;
    }
    *link = node->next;
}

/* Puts it into the chain of its hash. The lock is held. */
static void chain(struct cache *cache, struct node *node)
{
    int *first = &cache->buckets[node->hash % BUCKETS];
    node->next = *first;
    *first = (int)(node - cache->nodes);
}

/* The lock is held. */
static struct node *least_used(struct cache *cache)
{
    struct node *node = &cache->nodes[0];
    for (int i = 1; i < CACHE_MEMORY_ENTRIES; i++) {
        if (cache->nodes[i].used < node->used) {
            node = &cache->nodes[i];
        }
    }
    return node;
}

/*
 * Calls the allocator, which may be the application's and may use the context: never under the
 * lock.
 */
static void release_node(struct cache *cache, struct node *node)
{
    dc_free(cache->ctx, node->key);
    dc_free(cache->ctx, node->entry);
    *node = (struct node){0};
}

/*
 * Copies for the table, made without the lock for the same reason. CACHE_MISS remembers that there
 * is nothing; entry is unused then. Without memory the node has no key.
 */
static struct node make_node(struct cache *cache, uint64_t hash, const char *key,
                             const struct cache_entry *entry, enum cache_state state)
{
    struct node node = {.hash = hash, .state = state};
    const size_t length = strlen(key) + 1;
    node.key = dc_alloc(cache->ctx, length);
    if (node.key != NULL && state != CACHE_MISS) {
        node.entry = dc_alloc(cache->ctx, sizeof *node.entry);
    }
    if (node.key == NULL || (state != CACHE_MISS && node.entry == NULL)) {
        release_node(cache, &node);
        return node;
    }
    memcpy(node.key, key, length);
    if (node.entry != NULL) {
        *node.entry = *entry;
    }
    return node;
}

/*
 * Puts a node into the table. *node becomes what the table had in its place, for the caller to
 * release without the lock, which is held. A node without key (no memory) only drops what the table
 * had.
 */
static void exchange(struct cache *cache, uint64_t hash, const char *key, struct node *node)
{
    struct node *place = find(cache, hash, key);
    if (place == NULL && node->key != NULL) {
        place = least_used(cache);
    }
    if (place != NULL) {
        const struct node old = *place;
        if (old.used != 0) {
            unchain(cache, place);
        }
        *place = *node;
        place->used = node->key != NULL ? ++cache->clock : 0;
        if (place->used != 0) {
            chain(cache, place);
        }
        *node = old;
    }
}

/* ---- reading ---- */

static bool entry_path(const char *directory, uint64_t hash, char *path, size_t size)
{
    return directory[0] != '\0' &&
           (size_t)snprintf(path, size, "%s/%016" PRIx64 ".txt", directory, hash) < size;
}

/* Does the build have a variant's kernel of this name? NULL, or why not. */
static const char *check_kernel(const struct cache *cache, const char *name, size_t length,
                                unsigned revision)
{
    static const char portable[] = "portable"; /* loops without a kernel, of revision 0 */
    const struct dc_kernel *kernel = name != NULL ? dc_kernel_find(cache->ctx, name, length) : NULL;
    const bool loops =
        name != NULL && length == sizeof portable - 1 && memcmp(name, portable, length) == 0;
    if (kernel == NULL && !loops) {
        return "its kernel is not in this build";
    }
    return (loops ? 0 : kernel->revision) == revision ? NULL : "its kernel has another revision";
}

static const char *check_kernels(const struct cache *cache, const struct cache_entry *entry)
{
    size_t length;
    const char *name = dc_cachefile_kernel(entry->variant, &length);
    if (dc_cachefile_composes(entry)) {
        return NULL; /* kernels of other entries, or of the estimate */
    }
    const char *reason = check_kernel(cache, name, length, entry->revision);
    if (reason != NULL) {
        return reason;
    }
    name = dc_cachefile_second(entry->variant, &length);
    if (name == NULL) {
        return entry->second_revision == 0 ? NULL : "its variant has no second kernel";
    }
    return check_kernel(cache, name, length, entry->second_revision);
}

/* NULL: *entry is the key's valid entry. */
static const char *read_entry(const struct cache *cache, const char *path, const char *key,
                              char *text, struct cache_entry *entry)
{
    const char *reason;
    const ssize_t length = dc_cachedir_read(path, text, CACHEFILE_SIZE, &reason);
    if (length < 0) {
        return reason;
    }
    reason = dc_cachefile_parse(text, (size_t)length, entry);
    if (reason != NULL) {
        return reason;
    }
    if (strcmp(entry->key, key) != 0) {
        return "it is another problem's";
    }
    return check_kernels(cache, entry);
}

static bool load(struct cache *cache, const char *directory, uint64_t hash, const char *key,
                 struct cache_entry *entry)
{
    char path[CACHEDIR_PATH + CACHEDIR_NAME];
    if (!entry_path(directory, hash, path, sizeof path)) {
        return false;
    }
    char *text = dc_alloc(cache->ctx, CACHEFILE_SIZE);
    if (text == NULL) {
        return false;
    }
    const char *reason = read_entry(cache, path, key, text, entry);
    dc_free(cache->ctx, text);
    if (reason != NULL && *reason != '\0') {
        dc_log(cache->ctx, DOCONV_LOG_WARNING, "cache: %.800s is ignored: %s", path, reason);
    }
    return reason == NULL;
}

/* ---- writing: NULL, or the reason of a failure ---- */

static int collect(const struct cache *cache, enum collect_scope scope,
                   doconv_cache_report_fn report, void *user)
{
    const struct collect options = {
        .root = cache->ctx->cache_directory,
        .own = strrchr(cache->user, '/') + 1,
        .environment = cache->environment,
        .scope = scope,
        .report = report,
        .report_user = user,
    };
    return dc_collect(&options);
}

static bool save(struct cache *cache, const struct cache_entry *entry, uint64_t hash)
{
    if (cache->ctx->memory_only) {
        return false; /* as asked: nothing to complain of */
    }
    const char *reason = NULL;
    char *text = dc_alloc(cache->ctx, CACHEFILE_SIZE);
    const size_t length = text != NULL ? dc_cachefile_print(entry, text, CACHEFILE_SIZE) : 0;
    if (cache->user[0] == '\0') {
        reason = "there is none; DOCONV_CACHE can name one";
    } else if (length == 0) {
        reason = text == NULL ? "out of memory" : "the entry has no valid text";
    } else {
        char name[CACHEDIR_NAME];
        if (!atomic_exchange(&cache->collected, true)) {
            (void)collect(cache, COLLECT_BUILDS, NULL, NULL); /* what must stay does no harm */
        }
        snprintf(name, sizeof name, "%016" PRIx64 ".txt", hash);
        reason = dc_cachedir_store(cache->user, cache->environment, name, text, length);
    }
    dc_free(cache->ctx, text);
    if (reason != NULL && !atomic_exchange(&cache->complained, true)) {
        dc_log(
            cache->ctx, DOCONV_LOG_WARNING,
            "cache: the directory \"%.800s\" can't be written, choices are kept in memory only: %s",
            cache->user, reason);
    }
    return reason == NULL;
}

/* ---- interface ---- */

static void set_directory(doconv_context *ctx, char *path, const char *root, uint64_t hash)
{
    path[0] = '\0';
    if (root != NULL && root[0] != '\0' &&
        (size_t)snprintf(path, CACHEDIR_PATH, "%s/%016" PRIx64, root, hash) >= CACHEDIR_PATH) {
        path[0] = '\0';
        dc_log(ctx, DOCONV_LOG_WARNING,
               "cache: the directory's name of %zu characters is too long and ignored",
               strlen(root));
    }
}

struct cache *dc_cache_create(doconv_context *ctx)
{
    struct cache *cache = dc_alloc(ctx, sizeof *cache);
    if (cache == NULL) {
        return NULL;
    }
    memset(cache, 0, sizeof *cache);
    for (int i = 0; i < BUCKETS; i++) {
        cache->buckets[i] = -1;
    }
    cache->index = dc_nearest_create(ctx);
    if (cache->index == NULL || pthread_mutex_init(&cache->lock, NULL) != 0) {
        dc_nearest_destroy(cache->index);
        dc_free(ctx, cache);
        return NULL;
    }
    cache->ctx = ctx;
    atomic_init(&cache->collected, false);
    atomic_init(&cache->used, false);
    atomic_init(&cache->complained, false);
    const struct dc_cpu *cpu = dc_cpu_probe();
    snprintf(cache->environment, sizeof cache->environment,
             "doconv-cache %d\nlibrary %s\ncpu %s\nisa %s\nl1d %" PRId64 "\nl2 %" PRId64
             "\nl3 %" PRId64 "\nkernels %016" PRIx64 "\n",
             CACHEFILE_VERSION, doconv_version_string(), cpu->name, dc_isa_name(ctx->isa),
             cpu->l1d_bytes, cpu->l2_bytes, cpu->l3_bytes, dc_registry_fingerprint(ctx));
    const uint64_t hash = dc_hash(0, cache->environment, strlen(cache->environment));
    set_directory(ctx, cache->user, ctx->cache_directory, hash);
    set_directory(ctx, cache->system, getenv("DOCONV_SYSTEM_CACHE"), hash);
    return cache;
}

void dc_cache_destroy(struct cache *cache)
{
    if (cache != NULL) {
        for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
            release_node(cache, &cache->nodes[i]);
        }
        dc_nearest_destroy(cache->index);
        pthread_mutex_destroy(&cache->lock);
        dc_free(cache->ctx, cache);
    }
}

doconv_context *dc_cache_context(const struct cache *cache)
{
    return cache->ctx;
}

struct nearest *dc_cache_index(const struct cache *cache)
{
    return cache->index;
}

const char *dc_cache_directory(const struct cache *cache, bool system)
{
    return system ? cache->system : cache->user;
}

const char *dc_cache_manifest(const struct cache *cache)
{
    return cache->environment;
}

/* What memory knows of a key; false if nothing, not even that it is missing. */
static bool recall(struct cache *cache, uint64_t hash, const char *key, struct cache_entry *entry,
                   enum cache_state *state)
{
    const struct node *node = find(cache, hash, key);
    *state = node != NULL ? node->state : CACHE_MISS;
    if (*state != CACHE_MISS) {
        *entry = *node->entry;
    }
    return node != NULL;
}

enum cache_state dc_cache_lookup(struct cache *cache, const char *key, struct cache_entry *entry)
{
    const uint64_t hash = dc_hash(0, key, strlen(key));
    enum cache_state state;
    pthread_mutex_lock(&cache->lock);
    const bool known = recall(cache, hash, key, entry, &state);
    pthread_mutex_unlock(&cache->lock);
    if (known) {
        return state;
    }
    bool hit = load(cache, cache->user, hash, key, entry);
    if (hit && !atomic_exchange(&cache->used, true)) {
        /* A wish: the cache may be read only. */
        (void)utimensat(AT_FDCWD, cache->user, NULL, AT_SYMLINK_NOFOLLOW);
    }
    hit = hit || load(cache, cache->system, hash, key, entry);
    const enum cache_state found = !hit                   ? CACHE_MISS
                                   : entry->doubtful != 0 ? CACHE_DOUBTFUL
                                                          : CACHE_STORED;
    struct node node = make_node(cache, hash, key, hit ? entry : NULL, found);
    pthread_mutex_lock(&cache->lock);
    /* Another thread may have measured it meanwhile. */
    if (!recall(cache, hash, key, entry, &state) || (hit && state == CACHE_MISS)) {
        exchange(cache, hash, key, &node);
        state = found;
    }
    pthread_mutex_unlock(&cache->lock);
    release_node(cache, &node);
    return state;
}

static void remember(struct cache *cache, const struct cache_entry *entry, enum cache_state state)
{
    const uint64_t hash = dc_hash(0, entry->key, strlen(entry->key));
    struct node node = make_node(cache, hash, entry->key, entry, state);
    pthread_mutex_lock(&cache->lock);
    exchange(cache, hash, entry->key, &node);
    pthread_mutex_unlock(&cache->lock);
    dc_nearest_add(cache->index, entry->key);
    atomic_fetch_add(&cache->ctx->choices, 1); /* after it can be found */
    release_node(cache, &node);
}

enum cache_state dc_cache_store(struct cache *cache, const struct cache_entry *entry)
{
    const uint64_t hash = dc_hash(0, entry->key, strlen(entry->key));
    const enum cache_state state = save(cache, entry, hash) ? CACHE_STORED : CACHE_MEMORY;
    remember(cache, entry, state);
    return state;
}

void dc_cache_settle(struct cache *cache, const struct cache_entry *entry)
{
    remember(cache, entry, CACHE_STORED);
}

int dc_cache_clean(struct cache *cache, bool all, doconv_cache_report_fn report, void *user)
{
    return cache->user[0] != '\0' ? collect(cache, all ? COLLECT_ALL : COLLECT_OLD, report, user)
                                  : 0;
}

void dc_cache_drop(struct cache *cache, const char *key)
{
    struct node nothing = {0};
    pthread_mutex_lock(&cache->lock);
    exchange(cache, dc_hash(0, key, strlen(key)), key, &nothing);
    pthread_mutex_unlock(&cache->lock);
    dc_nearest_add(cache->index, key); /* its file may be new */
    atomic_fetch_add(&cache->ctx->choices, 1);
    release_node(cache, &nothing);
}

bool dc_cache_memory_get(struct cache *cache, int index, struct cache_entry *entry)
{
    pthread_mutex_lock(&cache->lock);
    const struct node *node = &cache->nodes[index];
    const bool found = node->used != 0 && node->state == CACHE_MEMORY;
    if (found) {
        *entry = *node->entry;
    }
    pthread_mutex_unlock(&cache->lock);
    return found;
}

int dc_cache_memory_count(struct cache *cache)
{
    int count = 0;
    pthread_mutex_lock(&cache->lock);
    for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
        count += cache->nodes[i].used != 0;
    }
    pthread_mutex_unlock(&cache->lock);
    return count;
}

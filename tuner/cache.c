/* SPDX-License-Identifier: MIT */
/*
 * Files: DIRECTORY/ENVIRONMENT/KEY.txt, both names hashes. The environment is everything that makes measured choices comparable: CPU, ISA, cache sizes, the
 * set of kernels and the format; another CPU or build has another directory and finds its own again. A file holds its full key, so that a
 * hash that two keys share is a miss. Written to a temporary file, fsync, rename; no locks: locks break on network file systems, and a
 * measurement done twice is the cheaper failure.
 */
#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_SIZE 4096

struct node {
    uint64_t hash;
    uint64_t used; /* clock of the last look-up; 0: the slot is free */
    struct cache_entry *entry; /* NULL: known to be missing */
    char key[DC_KEY_SIZE];
};

struct cache {
    doconv_context *ctx;
    pthread_mutex_t lock;
    uint64_t clock;
    struct node *nodes;
    char user[PATH_SIZE], system[PATH_SIZE]; /* the environment's directories; "" if there is none */
    char environment[512];                   /* what the directory's name is the hash of */
    bool prepared;                           /* the user's directory exists */
};

/* ---- memory; the lock is held ---- */

static struct node *find(struct cache *cache, uint64_t hash, const char *key)
{
    for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
        struct node *node = &cache->nodes[i];
        if (node->used != 0 && node->hash == hash && strcmp(node->key, key) == 0) {
            node->used = ++cache->clock;
            return node;
        }
    }
    return NULL;
}

/* entry may be NULL: a miss. Without memory the entry is just not kept. */
static void remember(struct cache *cache, uint64_t hash, const char *key, const struct cache_entry *entry)
{
    struct cache_entry *copy = NULL;
    if (entry != NULL) {
        copy = dc_alloc(cache->ctx, sizeof *copy);
        if (copy == NULL) {
            return;
        }
        *copy = *entry;
    }
    struct node *node = find(cache, hash, key);
    if (node == NULL) {
        node = &cache->nodes[0];
        for (int i = 1; i < CACHE_MEMORY_ENTRIES; i++) {
            if (cache->nodes[i].used < node->used) {
                node = &cache->nodes[i];
            }
        }
    }
    dc_free(cache->ctx, node->entry);
    node->hash = hash;
    node->used = ++cache->clock;
    node->entry = copy;
    snprintf(node->key, sizeof node->key, "%s", key);
}

/* ---- disk ---- */

static bool entry_path(const char *directory, uint64_t hash, char *path, size_t size)
{
    return directory[0] != '\0' && (size_t)snprintf(path, size, "%s/%016" PRIx64 ".txt", directory, hash) < size;
}

/* Reads a file of at most size bytes; its length, -1 with errno on failure (EFBIG: longer, or no plain file). */
static ssize_t read_whole(const char *path, char *text, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) {
        return -1;
    }
    struct stat info;
    size_t length = 0;
    ssize_t n = -1;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > (off_t)size) {
        errno = EFBIG;
    } else {
        while ((n = read(fd, text + length, size - length)) > 0) {
            length += (size_t)n;
        }
    }
    const int error = errno;
    close(fd);
    errno = error;
    return n < 0 ? -1 : (ssize_t)length;
}

static bool load(struct cache *cache, const char *directory, uint64_t hash, const char *key, struct cache_entry *entry)
{
    char path[PATH_SIZE + 32];
    if (!entry_path(directory, hash, path, sizeof path)) {
        return false;
    }
    char *text = dc_alloc(cache->ctx, CACHEFILE_SIZE);
    if (text == NULL) {
        return false;
    }
    const char *reason = NULL;
    const ssize_t length = read_whole(path, text, CACHEFILE_SIZE);
    if (length < 0) {
        reason = errno == ENOENT || errno == ENOTDIR ? "" : errno == EFBIG || errno == ELOOP ? "it is no small plain file" : strerror(errno);
    } else {
        reason = cachefile_parse(text, (size_t)length, entry);
        if (reason == NULL && strcmp(entry->key, key) != 0) {
            reason = "it is another problem's";
        }
        if (reason == NULL) {
            const char *name = strchr(entry->variant, ':');
            const struct dc_kernel *kernel = name != NULL ? dc_kernel_find(cache->ctx, name + 1, strcspn(name + 1, ":")) : NULL;
            if (kernel == NULL || kernel->revision != entry->revision) {
                reason = "its kernel is not in this build";
            }
        }
    }
    dc_free(cache->ctx, text);
    if (reason != NULL && *reason != '\0') {
        dc_log(cache->ctx, DOCONV_LOG_WARNING, "cache: %s is ignored: %s", path, reason);
    }
    return reason == NULL;
}

/* mkdir -p. */
static bool make_directory(char *path)
{
    for (char *c = path + 1; *c != '\0'; c++) {
        if (*c == '/') {
            *c = '\0';
            const bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
            *c = '/';
            if (!ok) {
                return false;
            }
        }
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        const ssize_t n = write(fd, text, length);
        if (n < 0) {
            return false;
        }
        text += n;
        length -= (size_t)n;
    }
    return fsync(fd) == 0;
}

/* Atomic: a reader, and a crash, see the old file or the new one. Process, cache and clock tell temporary files apart. The lock is held. */
static bool write_file(struct cache *cache, const char *path, const char *text, size_t length)
{
    char temporary[PATH_SIZE + 96];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.%" PRIxPTR ".%" PRIu64 ".tmp", path, (long)getpid(), (uintptr_t)cache,
                         ++cache->clock) >= sizeof temporary) {
        errno = ENAMETOOLONG;
        return false;
    }
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    bool ok = write_all(fd, text, length);
    ok = close(fd) == 0 && ok && rename(temporary, path) == 0;
    if (!ok) {
        const int error = errno;
        unlink(temporary);
        errno = error;
    }
    return ok;
}

/* The lock is held. */
static bool prepare_directory(struct cache *cache)
{
    if (!cache->prepared) {
        char path[PATH_SIZE + 32];
        snprintf(path, sizeof path, "%s", cache->user);
        if (!make_directory(path)) {
            return false;
        }
        snprintf(path, sizeof path, "%s/MANIFEST", cache->user);
        if (access(path, F_OK) != 0 && !write_file(cache, path, cache->environment, strlen(cache->environment))) {
            return false;
        }
        cache->prepared = true;
    }
    return true;
}

static doconv_status save(struct cache *cache, const struct cache_entry *entry, uint64_t hash)
{
    if (cache->user[0] == '\0') {
        return DOCONV_IO_ERROR;
    }
    char *text = dc_alloc(cache->ctx, CACHEFILE_SIZE);
    if (text == NULL) {
        return DOCONV_OUT_OF_MEMORY;
    }
    char path[PATH_SIZE + 32];
    const size_t length = cachefile_print(entry, text, CACHEFILE_SIZE);
    const bool ok = length != 0 && entry_path(cache->user, hash, path, sizeof path) && prepare_directory(cache) && write_file(cache, path, text, length);
    if (!ok) {
        dc_log(cache->ctx, DOCONV_LOG_WARNING, "cache: %s can't be written: %s", cache->user, strerror(errno));
    }
    dc_free(cache->ctx, text);
    return ok ? DOCONV_OK : DOCONV_IO_ERROR;
}

/* ---- interface ---- */

struct cache *cache_create(doconv_context *ctx)
{
    struct cache *cache = dc_alloc(ctx, sizeof *cache);
    struct node *nodes = dc_alloc(ctx, CACHE_MEMORY_ENTRIES * sizeof *nodes);
    if (cache == NULL || nodes == NULL || pthread_mutex_init(&cache->lock, NULL) != 0) {
        dc_free(ctx, cache);
        dc_free(ctx, nodes);
        return NULL;
    }
    cache->ctx = ctx;
    cache->clock = 0;
    cache->nodes = nodes;
    cache->prepared = false;
    for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
        nodes[i].used = 0;
        nodes[i].entry = NULL;
    }
    const struct dc_cpu *cpu = dc_cpu_probe();
    snprintf(cache->environment, sizeof cache->environment,
             "doconv-cache %d\nlibrary %s\ncpu %s\nisa %s\nl1d %" PRId64 "\nl2 %" PRId64 "\nl3 %" PRId64 "\nkernels %016" PRIx64 "\n", CACHEFILE_VERSION, doconv_version_string(), cpu->name,
             dc_isa_name(ctx->isa), cpu->l1d_bytes, cpu->l2_bytes, cpu->l3_bytes, dc_registry_fingerprint(ctx));
    const uint64_t hash = dc_hash(0, cache->environment, strlen(cache->environment));
    const char *const roots[] = {ctx->cache_directory, getenv("DOCONV_SYSTEM_CACHE")};
    char *const paths[] = {cache->user, cache->system};
    for (int i = 0; i < 2; i++) {
        paths[i][0] = '\0';
        if (roots[i] != NULL && roots[i][0] != '\0' && (size_t)snprintf(paths[i], PATH_SIZE, "%s/%016" PRIx64, roots[i], hash) >= PATH_SIZE) {
            paths[i][0] = '\0';
            dc_log(ctx, DOCONV_LOG_WARNING, "cache: the directory's name of %zu characters is too long and ignored", strlen(roots[i]));
        }
    }
    return cache;
}

void cache_destroy(struct cache *cache)
{
    if (cache != NULL) {
        for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
            dc_free(cache->ctx, cache->nodes[i].entry);
        }
        pthread_mutex_destroy(&cache->lock);
        dc_free(cache->ctx, cache->nodes);
        dc_free(cache->ctx, cache);
    }
}

doconv_context *cache_context(const struct cache *cache)
{
    return cache->ctx;
}

bool cache_lookup(struct cache *cache, const char *key, struct cache_entry *entry)
{
    const uint64_t hash = dc_hash(0, key, strlen(key));
    pthread_mutex_lock(&cache->lock);
    const struct node *node = find(cache, hash, key);
    bool hit = node != NULL && node->entry != NULL;
    if (hit) {
        *entry = *node->entry;
    } else if (node == NULL) {
        hit = load(cache, cache->user, hash, key, entry) || load(cache, cache->system, hash, key, entry);
        remember(cache, hash, key, hit ? entry : NULL);
    }
    pthread_mutex_unlock(&cache->lock);
    return hit;
}

doconv_status cache_store(struct cache *cache, const struct cache_entry *entry)
{
    const uint64_t hash = dc_hash(0, entry->key, strlen(entry->key));
    pthread_mutex_lock(&cache->lock);
    remember(cache, hash, entry->key, entry);
    const doconv_status status = save(cache, entry, hash);
    pthread_mutex_unlock(&cache->lock);
    return status;
}

int cache_memory_count(struct cache *cache)
{
    int count = 0;
    pthread_mutex_lock(&cache->lock);
    for (int i = 0; i < CACHE_MEMORY_ENTRIES; i++) {
        count += cache->nodes[i].used != 0;
    }
    pthread_mutex_unlock(&cache->lock);
    return count;
}

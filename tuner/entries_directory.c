/* SPDX-License-Identifier: MIT */
/* Entries out of the cache's directory, into it, and away from it. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"
#include "cache.h"
#include "cachedir.h"
#include "entries.h"

/* The path of an environment's directory, and of what is in it. */
typedef char directory_text[CACHEDIR_PATH];
typedef char path_text[CACHEDIR_PATH + CACHEDIR_NAME];

static bool has_directory(const struct doconv_entries *entries)
{
    return entries->ctx->cache_directory[0] != '\0';
}

/* Is there room for the names of environments and their files? */
static doconv_status check_directory(const struct doconv_entries *entries)
{
    return strlen(entries->ctx->cache_directory) + ENTRIES_NAME < CACHEDIR_PATH
               ? DOCONV_OK
               : dc_fail(entries->ctx, DOCONV_IO_ERROR, "cache: the directory's name is too long");
}

static void set_directory(const struct doconv_entries *entries, const char *name,
                          directory_text path)
{
    snprintf(path, sizeof(directory_text), "%s/%s", entries->ctx->cache_directory, name);
}

static void set_name(const char *key, char name[CACHEDIR_NAME])
{
    snprintf(name, CACHEDIR_NAME, "%016" PRIx64 ".txt", dc_hash(0, key, strlen(key)));
}

/*
 * Reads an entry into text (CACHEFILE_SIZE bytes) and *entry. NULL, or why the file is none; "": it
 * is not there.
 */
static const char *read_entry(const char *directory, const char *name, char *text,
                              struct cache_entry *entry)
{
    path_text path;
    char expected[CACHEDIR_NAME];
    const char *reason;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    const ssize_t length = dc_cachedir_read(path, text, CACHEFILE_SIZE, &reason);
    if (length < 0) {
        return reason;
    }
    reason = dc_cachefile_parse(text, (size_t)length, entry);
    if (reason == NULL) {
        set_name(entry->key, expected);
        reason = strcmp(name, expected) == 0 ? NULL : "it is another problem's";
    }
    return reason;
}

/* ---- reading ---- */

struct reading {
    struct doconv_entries *entries;
    const char *directory;
    const char *manifest;
    size_t length; /* of the manifest */
    char *text;    /* CACHEFILE_SIZE bytes */
    struct cache_entry entry;
};

static void leave_out(const struct reading *r, const char *name, const char *reason)
{
    if (*reason != '\0') {
        dc_log(r->entries->ctx, DOCONV_LOG_WARNING, "cache: %.800s/%.100s is left out: %s",
               r->directory, name, reason);
    }
}

static bool is_entry(const char *name)
{
    const size_t digits = ENTRIES_NAME - 1;
    return strlen(name) == digits + 4 && dc_entries_is_name(name, digits) &&
           strcmp(name + digits, ".txt") == 0;
}

static doconv_status read_files(struct reading *r, DIR *directory)
{
    doconv_status status = DOCONV_OK;
    for (struct dirent *item; status == DOCONV_OK && (item = readdir(directory)) != NULL;) {
        if (!is_entry(item->d_name)) {
            continue;
        }
        const char *reason = read_entry(r->directory, item->d_name, r->text, &r->entry);
        if (reason == NULL) {
            status = dc_entries_add(r->entries, r->manifest, r->length, &r->entry);
        } else {
            leave_out(r, item->d_name, reason);
        }
    }
    return status;
}

/* name: of an environment. Links are not followed, as nowhere in the cache's directory. */
static doconv_status read_environment(struct reading *r, const char *name)
{
    directory_text path;
    path_text manifest_path;
    char manifest[ENTRIES_MANIFEST];
    const char *reason;
    struct stat info;
    set_directory(r->entries, name, path);
    if (lstat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
        return DOCONV_OK;
    }
    r->directory = path;
    r->manifest = manifest;
    snprintf(manifest_path, sizeof manifest_path, "%s/" CACHEDIR_MANIFEST, path);
    const ssize_t length = dc_cachedir_read(manifest_path, manifest, sizeof manifest, &reason);
    if (length >= 0) {
        r->length = (size_t)length;
        reason = dc_entries_check_manifest(name, manifest, r->length);
    } else if (*reason == '\0') {
        reason = "it is not there";
    }
    DIR *directory = opendir(path);
    if (directory == NULL) {
        reason = strerror(errno);
    }
    doconv_status status = DOCONV_OK;
    if (reason == NULL) {
        status = read_files(r, directory);
    } else {
        leave_out(r, CACHEDIR_MANIFEST, reason);
    }
    if (directory != NULL) {
        closedir(directory);
    }
    return status;
}

/* Every environment that there is. */
static doconv_status read_root(struct reading *r)
{
    doconv_context *ctx = r->entries->ctx;
    DIR *root = opendir(ctx->cache_directory);
    if (root == NULL) {
        return errno == ENOENT
                   ? DOCONV_OK
                   : dc_fail(ctx, DOCONV_IO_ERROR, "cache: the directory \"%.100s\": %s",
                             ctx->cache_directory, strerror(errno));
    }
    doconv_status status = DOCONV_OK;
    for (struct dirent *item; status == DOCONV_OK && (item = readdir(root)) != NULL;) {
        if (dc_entries_is_name(item->d_name, strlen(item->d_name))) {
            status = read_environment(r, item->d_name);
        }
    }
    closedir(root);
    return status;
}

/* What no file has: the context has no directory, or can't write there. */
static doconv_status read_memory(struct reading *r)
{
    struct cache *cache = r->entries->ctx->advisor.self;
    const char *manifest = dc_cache_manifest(cache);
    doconv_status status = DOCONV_OK;
    for (int i = 0; i < CACHE_MEMORY_ENTRIES && status == DOCONV_OK; i++) {
        if (dc_cache_memory_get(cache, i, &r->entry)) {
            status = dc_entries_add(r->entries, manifest, strlen(manifest), &r->entry);
        }
    }
    return status;
}

doconv_status doconv_entries_read(doconv_entries *entries)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_context *ctx = entries->ctx;
    doconv_status status = check_directory(entries);
    if (status != DOCONV_OK) {
        return status;
    }
    struct reading *r = dc_alloc(ctx, sizeof *r);
    char *text = dc_alloc(ctx, CACHEFILE_SIZE);
    if (r == NULL || text == NULL) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "entries: out of memory");
    } else {
        *r = (struct reading){.entries = entries, .text = text};
        status = has_directory(entries) ? read_root(r) : DOCONV_OK;
        status = status == DOCONV_OK ? read_memory(r) : status;
    }
    dc_free(ctx, text);
    dc_free(ctx, r);
    return status;
}

/* ---- storing ---- */

/* There may be another machine's context or none that uses the environment. */
static void drop_from_memory(const struct doconv_entries *entries,
                             const struct entries_environment *environment, const char *key)
{
    if (strcmp(environment->name, entries->own) == 0) {
        dc_cache_drop(entries->ctx->advisor.self, key);
    }
}

struct storing {
    const struct doconv_entries *entries;
    char *text; /* CACHEFILE_SIZE bytes */
    struct cache_entry *there;
    int stored;
};

/* NULL, or the reason of a failure. */
static const char *store_environment(struct storing *s,
                                     const struct entries_environment *environment)
{
    directory_text path;
    set_directory(s->entries, environment->name, path);
    const char *reason = dc_cachedir_create(path, environment->manifest);
    for (int i = 0; i < environment->count && reason == NULL; i++) {
        const struct cache_entry *entry = environment->items[i];
        char name[CACHEDIR_NAME];
        set_name(entry->key, name);
        if (read_entry(path, name, s->text, s->there) == NULL &&
            strcmp(s->there->key, entry->key) == 0 && dc_entries_keeps(s->there, entry)) {
            continue;
        }
        const size_t length = dc_cachefile_print(entry, s->text, CACHEFILE_SIZE);
        reason = dc_cachedir_store(path, environment->manifest, name, s->text, length);
        s->stored += reason == NULL;
        drop_from_memory(s->entries, environment, entry->key);
    }
    return reason;
}

/* Without a directory a context keeps its own environment's alone, as many as there is room for. */
static void store_in_memory(struct storing *s, const struct entries_environment *environment)
{
    struct cache *cache = s->entries->ctx->advisor.self;
    for (int i = 0; i < environment->count && strcmp(environment->name, s->entries->own) == 0;
         i++) {
        const struct cache_entry *entry = environment->items[i];
        if (dc_cache_lookup(cache, entry->key, s->there) == CACHE_MISS ||
            !dc_entries_keeps(s->there, entry)) {
            s->stored += dc_cache_store(cache, entry) == CACHE_MEMORY;
        }
    }
}

doconv_status doconv_entries_store(const doconv_entries *entries, int *stored)
{
    if (stored != NULL) {
        *stored = 0;
    }
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_context *ctx = entries->ctx;
    doconv_status status = check_directory(entries);
    struct storing s = {.entries = entries};
    if (status == DOCONV_OK) {
        s.text = dc_alloc(ctx, CACHEFILE_SIZE);
        s.there = dc_alloc(ctx, sizeof *s.there);
        if (s.text == NULL || s.there == NULL) {
            status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "entries: out of memory");
        }
    }
    for (int e = 0; e < entries->count && status == DOCONV_OK; e++) {
        const char *reason = NULL;
        if (has_directory(entries)) {
            reason = store_environment(&s, &entries->environments[e]);
        } else {
            store_in_memory(&s, &entries->environments[e]);
        }
        if (reason != NULL) {
            status = dc_fail(ctx, DOCONV_IO_ERROR, "cache: the directory \"%.100s\": %s",
                             ctx->cache_directory, reason);
        }
    }
    dc_free(ctx, s.text);
    dc_free(ctx, s.there);
    if (stored != NULL) {
        *stored = s.stored;
    }
    return status;
}

/* ---- forgetting ---- */

/* *error: the first errno. Returns how many files there were. */
static int forget_environment(const struct doconv_entries *entries,
                              const struct entries_environment *environment, int *error)
{
    int count = 0;
    directory_text directory;
    set_directory(entries, environment->name, directory);
    for (int i = 0; i < environment->count; i++) {
        const char *key = environment->items[i]->key;
        char name[CACHEDIR_NAME];
        set_name(key, name);
        const int failed = has_directory(entries) ? dc_cachedir_remove(directory, name) : ENOENT;
        count += failed == 0;
        /* Behind a link there is nothing of the cache's. */
        if (failed != 0 && failed != ENOENT && failed != ENOTDIR && failed != ELOOP &&
            *error == 0) {
            *error = failed;
        }
        drop_from_memory(entries, environment, key);
    }
    return count;
}

doconv_status doconv_entries_forget(const doconv_entries *entries, int *removed)
{
    int count = 0, error = 0;
    if (removed != NULL) {
        *removed = 0;
    }
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const doconv_status status = check_directory(entries);
    if (status != DOCONV_OK) {
        return status;
    }
    for (int e = 0; e < entries->count; e++) {
        count += forget_environment(entries, &entries->environments[e], &error);
    }
    if (removed != NULL) {
        *removed = count;
    }
    return error == 0
               ? DOCONV_OK
               : dc_fail(entries->ctx, DOCONV_IO_ERROR, "cache: the directory \"%.100s\": %s",
                         entries->ctx->cache_directory, strerror(error));
}

/* SPDX-License-Identifier: MIT */
/* Entries between the cache and files. */
#include <stdlib.h>
#include <string.h>

#include "command_cache.h"

/* ---- sets of entries ---- */

static int keep(struct cache_command *c)
{
    const char *name = c->environment;
    if (name != NULL && strcmp(name, "all") == 0) {
        name = NULL;
    }
    if (doconv_entries_keep(c->entries, name, NULL) != DOCONV_OK) {
        return command_usage_error("cache",
                                   "--environment: \"%.80s\" is not own, all or 16 digits of "
                                   "doconv cache list",
                                   name);
    }
    return COMMAND_OK;
}

/* The cache must be one that outlives the command. */
static int check_directory(const struct cache_command *c)
{
    doconv_context_info info = {.size = sizeof info};
    return doconv_context_get_info(c->context, &info) == DOCONV_OK &&
                   info.cache_directory[0] != '\0'
               ? COMMAND_OK
               : command_error("cache: there is no directory; DOCONV_CACHE can name one");
}

int cache_read(struct cache_command *c)
{
    if (check_directory(c) != COMMAND_OK) {
        return COMMAND_FAILED;
    }
    const doconv_status status = doconv_entries_read(c->entries);
    return status == DOCONV_OK ? keep(c)
                               : command_library_error(c->context, status, "reading the cache");
}

int cache_parse(struct cache_command *c)
{
    int result = COMMAND_OK;
    for (int i = 0; i < c->count && result == COMMAND_OK; i++) {
        unsigned char *data;
        size_t size = 0;
        result = command_read_file("cache", c->words[i], &data, &size);
        if (result != COMMAND_OK) {
            break;
        }
        const doconv_status status = doconv_entries_parse(c->entries, (const char *)data, size);
        free(data);
        if (status != DOCONV_OK) {
            command_library_error(c->context, status, "cache: %s", c->words[i]);
            result = status == DOCONV_INVALID_FILE ? COMMAND_USAGE : COMMAND_FAILED;
        }
    }
    return result == COMMAND_OK ? keep(c) : result;
}

int cache_environments(const struct cache_command *c)
{
    const char *last = NULL;
    int environments = 0;
    for (int i = 0; i < doconv_entries_count(c->entries); i++) {
        doconv_entry_info info = {.size = sizeof info};
        if (doconv_entries_get(c->entries, i, &info) == DOCONV_OK && info.environment != last) {
            environments++;
            last = info.environment;
        }
    }
    return environments;
}

/* ---- text ---- */

struct text {
    unsigned char *data;
    size_t size, capacity;
};

static int add_text(void *user, const char *data, size_t length)
{
    struct text *text = user;
    if (length > text->capacity - text->size) {
        const size_t capacity = 2 * text->capacity + length + 4096;
        unsigned char *grown = realloc(text->data, capacity);
        if (grown == NULL) {
            return 1;
        }
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, data, length);
    text->size += length;
    return 0;
}

/* "-": standard output, whose failure the end of the program tells. */
static int write_text(const struct text *text, const char *path)
{
    if (strcmp(path, "-") == 0) {
        fwrite(text->data, 1, text->size, stdout);
        return COMMAND_OK;
    }
    return command_write_file("cache", path, text->data, text->size);
}

static void print_count(const struct cache_command *c, const char *what, const char *path)
{
    if (strcmp(path, "-") != 0) {
        const int count = doconv_entries_count(c->entries), environments = cache_environments(c);
        printf("%s: %d entr%s of %d environment%s %s\n", path, count, count == 1 ? "y" : "ies",
               environments, environments == 1 ? "" : "s", what);
    }
}

typedef doconv_status (*write_entries_fn)(const struct cache_command *c, struct text *text);

static doconv_status export_entries(const struct cache_command *c, struct text *text)
{
    return doconv_entries_write(c->entries, add_text, text);
}

static doconv_status write_table(const struct cache_command *c, struct text *text)
{
    return doconv_entries_write_table(c->entries, c->name, add_text, text);
}

/* Writes a text of the entries to a file; what: was done to them. */
static int write_entries(const struct cache_command *c, write_entries_fn write, const char *path,
                         const char *what)
{
    struct text text = {0};
    const doconv_status status = write(c, &text);
    int result = COMMAND_OK;
    if (status != DOCONV_OK) {
        result = command_library_error(c->context, status, "cache: %s", path);
    } else {
        result = write_text(&text, path);
    }
    free(text.data);
    if (result == COMMAND_OK) {
        print_count(c, what, path);
    }
    return result;
}

/* ---- actions ---- */

int cache_export(struct cache_command *c)
{
    const int result = cache_read(c);
    return result == COMMAND_OK ? write_entries(c, export_entries, c->words[0], "exported")
                                : result;
}

int cache_merge(struct cache_command *c)
{
    const int result = cache_parse(c);
    const char *path = c->output != NULL ? c->output : "-";
    return result == COMMAND_OK ? write_entries(c, export_entries, path, "merged") : result;
}

int cache_import(struct cache_command *c)
{
    int result = check_directory(c);
    if (result == COMMAND_OK) {
        result = cache_parse(c);
    }
    if (result != COMMAND_OK) {
        return result;
    }
    int stored;
    const doconv_status status = doconv_entries_store(c->entries, &stored);
    printf("%d of %d entries stored; the cache has the others, or better ones\n", stored,
           doconv_entries_count(c->entries));
    return status == DOCONV_OK ? COMMAND_OK
                               : command_library_error(c->context, status, "storing the entries");
}

int cache_to_c(struct cache_command *c)
{
    const char *path = c->words[0];
    c->words++;
    c->count--;
    if (c->count == 0 && c->environment == NULL) {
        c->environment = "own"; /* the choices of an older build are not this one's */
    }
    const int result = c->count > 0 ? cache_parse(c) : cache_read(c);
    return result == COMMAND_OK ? write_entries(c, write_table, path, "written as a table")
                                : result;
}

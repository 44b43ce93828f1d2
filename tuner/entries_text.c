/* SPDX-License-Identifier: MIT */
/*
 * Exports: a set of entries as one text. A line that says what it is, then blocks, each followed by
 * an empty line, then the line "end":
 *
 *   doconv-export 1
 *
 *   environment NAME          and the lines of its manifest, whose hash NAME is
 *
 *   doconv-cache 2            an entry of that environment as its file has it
 *   ...
 *   checksum ...
 *
 *   end
 *
 * Environments rise by name, entries by key. Each block proves itself, by hash or checksum, and no
 * block is counted anywhere, so the union that a version control system makes of two exports is one
 * too. What the parser accepts, the printer gives back byte for byte.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "entries.h"

#define EXPORT_VERSION 1
#define EXPORT "doconv-export "
#define ENVIRONMENT "environment "
#define END "end\n"

/* ---- writing ---- */

struct writer {
    doconv_write_fn write;
    void *user;
    bool ok;
};

static void put(struct writer *w, const char *text, size_t length)
{
    w->ok = w->ok && w->write(w->user, text, length) == 0;
}

/* buffer: CACHEFILE_SIZE bytes. */
static void put_environment(struct writer *w, const struct entries_environment *environment,
                            char *buffer)
{
    size_t length = (size_t)snprintf(buffer, CACHEFILE_SIZE, ENVIRONMENT "%s\n%s\n",
                                     environment->name, environment->manifest);
    put(w, buffer, length);
    for (int i = 0; i < environment->count && w->ok; i++) {
        length = dc_cachefile_print(environment->items[i], buffer, CACHEFILE_SIZE - 1);
        buffer[length] = '\n';
        put(w, buffer, length + 1);
    }
}

doconv_status doconv_entries_write(const doconv_entries *entries, doconv_write_fn write, void *user)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (write == NULL) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT, "write: NULL");
    }
    char *buffer = dc_alloc(entries->ctx, CACHEFILE_SIZE);
    if (buffer == NULL) {
        return dc_fail(entries->ctx, DOCONV_OUT_OF_MEMORY, "export: out of memory");
    }
    struct writer w = {write, user, true};
    const int length = snprintf(buffer, CACHEFILE_SIZE, EXPORT "%d\n\n", EXPORT_VERSION);
    put(&w, buffer, (size_t)length);
    for (int e = 0; e < entries->count && w.ok; e++) {
        put_environment(&w, &entries->environments[e], buffer);
    }
    put(&w, END, sizeof END - 1);
    dc_free(entries->ctx, buffer);
    return w.ok ? DOCONV_OK
                : dc_fail(entries->ctx, DOCONV_IO_ERROR, "export: the text can't be written");
}

/* ---- reading ---- */

struct parser {
    struct doconv_entries *entries;
    bool add; /* else only look */
    const char *at, *end;
    size_t line;          /* of at, from 1 on */
    const char *manifest; /* of the environment; NULL before the first */
    size_t manifest_length;
    int count; /* entries of it so far */
    char name[ENTRIES_NAME];
    char key[DC_KEY_SIZE]; /* the last one of it */
    struct cache_entry entry;
};

static doconv_status refuse(const struct parser *p, size_t line, const char *reason)
{
    return dc_fail(p->entries->ctx, DOCONV_INVALID_FILE, "line %zu: %s", line, reason);
}

static bool starts(const struct parser *p, const char *word)
{
    const size_t length = strlen(word);
    return (size_t)(p->end - p->at) >= length && memcmp(p->at, word, length) == 0;
}

/* The lines up to an empty one, which is passed; false if the text ends before. */
static bool take_block(struct parser *p, const char **block, size_t *length)
{
    *block = p->at;
    for (const char *c = p->at; c + 1 < p->end; c++) {
        p->line += *c == '\n';
        if (c[0] == '\n' && c[1] == '\n') {
            *length = (size_t)(c + 1 - p->at);
            p->line++;
            p->at = c + 2;
            return true;
        }
    }
    return false;
}

/* An environment must have had entries before what follows it. */
static const char *check_entries(const struct parser *p)
{
    return p->manifest != NULL && p->count == 0 ? "the environment before has no entries" : NULL;
}

static const char *take_environment(struct parser *p, const char *block, size_t length)
{
    const size_t head = sizeof ENVIRONMENT - 1, digits = ENTRIES_NAME - 1;
    char last[ENTRIES_NAME];
    memcpy(last, p->name, sizeof last);
    if (length < head + digits + 1 || !dc_entries_is_name(block + head, digits) ||
        block[head + digits] != '\n') {
        return "the environment has no name of 16 hexadecimal digits";
    }
    memcpy(p->name, block + head, digits);
    p->name[digits] = '\0';
    const char *reason = check_entries(p);
    p->manifest = block + head + digits + 1;
    p->manifest_length = length - head - digits - 1;
    if (reason == NULL && last[0] != '\0' && strcmp(last, p->name) >= 0) {
        reason = "the environments are out of order";
    }
    p->count = 0;
    return reason != NULL ? reason
                          : dc_entries_check_manifest(p->name, p->manifest, p->manifest_length);
}

static const char *take_entry(struct parser *p, const char *block, size_t length)
{
    const char *reason = dc_cachefile_parse(block, length, &p->entry);
    if (reason != NULL) {
        return reason;
    }
    if (p->manifest == NULL) {
        return "an entry comes before the first environment";
    }
    if (p->count > 0 && strcmp(p->key, p->entry.key) >= 0) {
        return "the entries are out of order";
    }
    memcpy(p->key, p->entry.key, sizeof p->key);
    p->count++;
    return NULL;
}

/* The blocks, up to the end of the text. */
static doconv_status take_blocks(struct parser *p)
{
    while (!starts(p, END)) {
        const size_t line = p->line;
        const bool environment = starts(p, ENVIRONMENT);
        const char *block;
        size_t length;
        if (!environment && !starts(p, ENTRIES_MANIFEST_HEAD)) {
            return refuse(p, line,
                          p->at == p->end
                              ? "the text ends without its last line, \"end\""
                              : "neither an environment nor an entry nor the end begins here");
        }
        if (!take_block(p, &block, &length)) {
            return refuse(p, line, "the text ends in what begins here");
        }
        const char *reason =
            environment ? take_environment(p, block, length) : take_entry(p, block, length);
        if (reason != NULL) {
            return dc_fail(p->entries->ctx, DOCONV_INVALID_FILE, "line %zu: %s is refused: %s",
                           line, environment ? "the environment" : "the entry", reason);
        }
        if (!environment && p->add) {
            const doconv_status status =
                dc_entries_add(p->entries, p->manifest, p->manifest_length, &p->entry);
            if (status != DOCONV_OK) {
                return status;
            }
        }
    }
    const char *reason = check_entries(p);
    if (reason == NULL && p->at + sizeof END - 1 != p->end) {
        reason = "something follows the end";
    }
    return reason != NULL ? refuse(p, p->line, reason) : DOCONV_OK;
}

static doconv_status parse(struct parser *p, const char *text, size_t size)
{
    char head[32];
    snprintf(head, sizeof head, EXPORT "%d\n\n", EXPORT_VERSION);
    p->at = text;
    p->end = text + size;
    p->line = 1;
    p->manifest = NULL;
    p->count = 0;
    p->name[0] = '\0';
    if (!starts(p, EXPORT)) {
        return refuse(p, 1, "it is no export of a cache");
    }
    if (!starts(p, head)) {
        return refuse(p, 1, "it is of another version");
    }
    p->at += strlen(head);
    p->line = 3;
    return take_blocks(p);
}

doconv_status doconv_entries_parse(doconv_entries *entries, const char *text, size_t size)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (text == NULL) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT, "text: NULL");
    }
    struct parser *p = dc_alloc(entries->ctx, sizeof *p);
    if (p == NULL) {
        return dc_fail(entries->ctx, DOCONV_OUT_OF_MEMORY, "export: out of memory");
    }
    p->entries = entries;
    /* All is checked before anything is added. */
    p->add = false;
    doconv_status status = parse(p, text, size);
    if (status == DOCONV_OK) {
        p->add = true;
        status = parse(p, text, size);
    }
    dc_free(entries->ctx, p);
    return status;
}

/* SPDX-License-Identifier: MIT */
/*
 * Lines of "name value" in a fixed order, numbers as decimal integers: the text is the same in
 * every locale. The last line is a checksum of everything before it, so a file that was cut or
 * changed anywhere is refused.
 */
#include "base/registry.h"
#include "cachefile.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CHECKSUM "checksum "
#define CHECKSUM_LINE (sizeof CHECKSUM - 1 + 16 + 1)

/* Printable ASCII, at least one character. */
static bool valid_line(const char *text, size_t size)
{
    size_t length = 0;
    while (length < size && text[length] >= ' ' && text[length] <= '~') {
        length++;
    }
    return length > 0 && length < size && text[length] == '\0';
}

static bool valid(const struct cache_entry *e)
{
    bool ok = valid_line(e->key, sizeof e->key) && valid_line(e->variant, sizeof e->variant) &&
              e->revision <= INT32_MAX && e->second_revision <= INT32_MAX && e->workspace >= 0 &&
              e->picoseconds >= 0 && e->max_rel_error_e12 >= 0 && e->count >= 0 &&
              e->count <= CACHEFILE_MEASURED;
    for (int i = 0; ok && i < e->count; i++) {
        const struct cache_measured *m = &e->measured[i];
        ok = valid_line(m->variant, sizeof m->variant) && m->picoseconds >= 0 && m->rounds >= 0 &&
             m->spread_ppm >= 0 && (m->dropped == 0 || m->dropped == 1);
    }
    return ok;
}

size_t dc_cachefile_print(const struct cache_entry *entry, char *text, size_t size)
{
    if (!valid(entry)) {
        return 0;
    }
    size_t used = 0;
    char second[16] = "";
    if (entry->second_revision != 0) {
        snprintf(second, sizeof second, "+%u", entry->second_revision);
    }
    int n = snprintf(text, size,
                     "doconv-cache %d\nkey %s\nvariant %s\nrevision %u%s\nworkspace %" PRId64
                     "\npicoseconds %" PRId64 "\nmax_rel_error_e12 %" PRId64 "\n",
                     CACHEFILE_VERSION, entry->key, entry->variant, entry->revision, second,
                     entry->workspace, entry->picoseconds, entry->max_rel_error_e12);
    for (int i = 0; n >= 0 && (used += (size_t)n) < size && i < entry->count; i++) {
        const struct cache_measured *m = &entry->measured[i];
        n = snprintf(text + used, size - used, "measured %" PRId64 " %d %d %d %s\n", m->picoseconds,
                     m->rounds, m->spread_ppm, m->dropped, m->variant);
    }
    if (n < 0 || used >= size) {
        return 0;
    }
    n = snprintf(text + used, size - used, CHECKSUM "%016" PRIx64 "\n", dc_hash(0, text, used));
    return n < 0 || used + (size_t)n >= size ? 0 : used + (size_t)n;
}

struct reader {
    const char *at, *end;
};

static bool take(struct reader *r, const char *word)
{
    const size_t length = strlen(word);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0) {
        return false;
    }
    r->at += length;
    return true;
}

/* A decimal integer in 0..most, without leading zeros. */
static bool take_int(struct reader *r, int64_t most, int64_t *value)
{
    const char *start = r->at;
    *value = 0;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        const int digit = *r->at++ - '0';
        if (digit > most || *value > (most - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return r->at > start && (r->at - start == 1 || *start != '0');
}

/* The rest of the line: printable ASCII, at least one character, fits size with its NUL. */
static bool take_line(struct reader *r, char *text, size_t size)
{
    size_t length = 0;
    while (r->at < r->end && *r->at != '\n') {
        if (*r->at < ' ' || *r->at > '~' || length + 1 >= size) {
            return false;
        }
        text[length++] = *r->at++;
    }
    text[length] = '\0';
    return length > 0 && take(r, "\n");
}

/* "1", or "1+2" of two kernels. */
static bool take_revisions(struct reader *r, struct cache_entry *entry)
{
    int64_t first, second = 0;
    if (!take_int(r, INT32_MAX, &first)) {
        return false;
    }
    /* Without a second kernel the line has no "+0": one text an entry. */
    if (take(r, "+") && (!take_int(r, INT32_MAX, &second) || second == 0)) {
        return false;
    }
    entry->revision = (unsigned)first;
    entry->second_revision = (unsigned)second;
    return true;
}

static bool take_measured(struct reader *r, struct cache_measured *m)
{
    int64_t rounds, spread, dropped;
    if (!take(r, "measured ") || !take_int(r, INT64_MAX, &m->picoseconds) || !take(r, " ") ||
        !take_int(r, INT32_MAX, &rounds) || !take(r, " ") || !take_int(r, INT32_MAX, &spread) ||
        !take(r, " ") || !take_int(r, 1, &dropped) || !take(r, " ") ||
        !take_line(r, m->variant, sizeof m->variant)) {
        return false;
    }
    m->rounds = (int)rounds;
    m->spread_ppm = (int)spread;
    m->dropped = (int)dropped;
    return true;
}

const char *dc_cachefile_parse(const char *text, size_t length, struct cache_entry *entry)
{
    if (length >= CACHEFILE_SIZE || length <= CHECKSUM_LINE) {
        return "its size is wrong";
    }
    const char *checksum = text + length - CHECKSUM_LINE;
    char expected[CHECKSUM_LINE + 1];
    snprintf(expected, sizeof expected, CHECKSUM "%016" PRIx64 "\n",
             dc_hash(0, text, length - CHECKSUM_LINE));
    if (memcmp(checksum, expected, CHECKSUM_LINE) != 0) {
        return "its checksum is wrong";
    }
    struct reader r = {text, checksum};
    int64_t version;
    if (!take(&r, "doconv-cache ") || !take_int(&r, INT32_MAX, &version) || !take(&r, "\n")) {
        return "it is no cache entry";
    }
    if (version != CACHEFILE_VERSION) {
        return "it is of another version";
    }
    if (!take(&r, "key ") || !take_line(&r, entry->key, sizeof entry->key) ||
        !take(&r, "variant ") || !take_line(&r, entry->variant, sizeof entry->variant) ||
        !take(&r, "revision ") || !take_revisions(&r, entry) || !take(&r, "\nworkspace ") ||
        !take_int(&r, INT64_MAX, &entry->workspace) || !take(&r, "\npicoseconds ") ||
        !take_int(&r, INT64_MAX, &entry->picoseconds) || !take(&r, "\nmax_rel_error_e12 ") ||
        !take_int(&r, INT64_MAX, &entry->max_rel_error_e12) || !take(&r, "\n")) {
        return "a line is malformed";
    }
    for (entry->count = 0; r.at < r.end; entry->count++) {
        if (entry->count == CACHEFILE_MEASURED) {
            return "it has too many lines";
        }
        if (!take_measured(&r, &entry->measured[entry->count])) {
            return "a line is malformed";
        }
    }
    return NULL;
}

doconv_tune_entry dc_cachefile_public(const struct cache_measured *measured)
{
    return (doconv_tune_entry){
        .size = sizeof(doconv_tune_entry),
        .variant = measured->variant,
        .median_seconds = 1e-12 * (double)measured->picoseconds,
        .spread = 1e-6 * measured->spread_ppm,
        .rounds = measured->rounds,
        .dropped = measured->dropped,
    };
}

const char *dc_cachefile_kernel(const char *variant, size_t *length)
{
    const char *colon = strchr(variant, ':');
    if (colon == NULL) {
        return NULL;
    }
    *length = strcspn(colon + 1, ":+");
    return colon + 1;
}

const char *dc_cachefile_second(const char *variant, size_t *length)
{
    const char *first = dc_cachefile_kernel(variant, length);
    if (first == NULL || first[*length] != '+') {
        return NULL;
    }
    const char *second = first + *length + 1;
    *length = strcspn(second, ":");
    return second;
}

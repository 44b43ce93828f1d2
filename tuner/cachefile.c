/* SPDX-License-Identifier: MIT */
#include "cachefile.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/*
 * Lines of "name value", in a fixed order, numbers as decimal integers: the text is the same in every locale. The last line is a checksum of
 * everything before it, so a file cut or changed anywhere is refused.
 */

size_t cachefile_print(const struct cache_entry *entry, char *text, size_t size)
{
    size_t used = 0;
    int n = snprintf(text, size, "doconv-cache %d\nkey %s\nvariant %s\nrevision %u\npicoseconds %" PRId64 "\nmax_rel_error_e12 %" PRId64 "\n",
                     CACHEFILE_VERSION, entry->key, entry->variant, entry->revision, entry->picoseconds, entry->max_rel_error_e12);
    for (int i = 0; n >= 0 && (used += (size_t)n) < size && i < entry->count; i++) {
        const struct cache_measured *m = &entry->measured[i];
        n = snprintf(text + used, size - used, "measured %" PRId64 " %d %d %d %s\n", m->picoseconds, m->rounds, m->spread_ppm, m->dropped, m->variant);
    }
    if (n < 0 || used >= size) {
        return 0;
    }
    n = snprintf(text + used, size - used, "checksum %016" PRIx64 "\n", dc_hash(0, text, used));
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
        if (*value > (most - digit) / 10) {
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

const char *cachefile_parse(const char *text, size_t length, struct cache_entry *entry)
{
    static const char last[] = "checksum ";
    const size_t tail = sizeof last - 1 + 16 + 1;
    if (length > CACHEFILE_SIZE || length <= tail) {
        return "its size is wrong";
    }
    const char *checksum = text + length - tail;
    char expected[64];
    snprintf(expected, sizeof expected, "%s%016" PRIx64 "\n", last, dc_hash(0, text, length - tail));
    if (memcmp(checksum, expected, tail) != 0) {
        return "its checksum is wrong";
    }
    struct reader r = {text, checksum};
    int64_t version, revision;
    if (!take(&r, "doconv-cache ") || !take_int(&r, INT32_MAX, &version) || !take(&r, "\n")) {
        return "it is no cache entry";
    }
    if (version != CACHEFILE_VERSION) {
        return "it is of another version";
    }
    if (!take(&r, "key ") || !take_line(&r, entry->key, sizeof entry->key) || !take(&r, "variant ") ||
        !take_line(&r, entry->variant, sizeof entry->variant) || !take(&r, "revision ") || !take_int(&r, INT32_MAX, &revision) ||
        !take(&r, "\npicoseconds ") || !take_int(&r, INT64_MAX, &entry->picoseconds) || !take(&r, "\nmax_rel_error_e12 ") ||
        !take_int(&r, INT64_MAX, &entry->max_rel_error_e12) || !take(&r, "\n")) {
        return "a line is malformed";
    }
    entry->revision = (unsigned)revision;
    for (entry->count = 0; r.at < r.end; entry->count++) {
        int64_t rounds, spread, dropped;
        if (entry->count == CACHEFILE_MEASURED) {
            return "it has too many lines";
        }
        struct cache_measured *m = &entry->measured[entry->count];
        if (!take(&r, "measured ") || !take_int(&r, INT64_MAX, &m->picoseconds) || !take(&r, " ") || !take_int(&r, INT32_MAX, &rounds) ||
            !take(&r, " ") || !take_int(&r, INT32_MAX, &spread) || !take(&r, " ") || !take_int(&r, 1, &dropped) || !take(&r, " ") ||
            !take_line(&r, m->variant, sizeof m->variant)) {
            return "a line is malformed";
        }
        m->rounds = (int)rounds;
        m->spread_ppm = (int)spread;
        m->dropped = (int)dropped;
    }
    return NULL;
}

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

/* "2026-11-27T22:56:22Z": digits in their places; which date they are is nobody's concern here. */
static bool valid_when(const char *text)
{
    static const char form[CACHEFILE_WHEN] = "0000-00-00T00:00:00Z";
    for (int i = 0; i < CACHEFILE_WHEN; i++) {
        const bool digit = text[i] >= '0' && text[i] <= '9';
        if (form[i] == '0' ? !digit : text[i] != form[i]) {
            return false;
        }
    }
    return true;
}

static bool valid_measured(const struct cache_measured *m)
{
    return valid_line(m->variant, sizeof m->variant) && m->picoseconds >= 0 && m->clean >= 0 &&
           m->clean <= m->rounds && m->retaken >= 0 && m->spread_ppm >= 0 &&
           m->fate >= CACHE_KEPT && m->fate <= CACHE_WRONG;
}

static bool valid(const struct cache_entry *e)
{
    bool ok = valid_line(e->key, sizeof e->key) && valid_line(e->variant, sizeof e->variant) &&
              e->revision <= INT32_MAX && e->second_revision <= INT32_MAX && e->workspace >= 0 &&
              e->picoseconds >= 0 && e->max_rel_error_e12 >= 0 && valid_when(e->when) &&
              valid_line(e->against, sizeof e->against) && e->against_picoseconds >= 0 &&
              e->confidence_ppm >= 0 && e->confidence_ppm <= 1000000 &&
              (e->doubtful == 0 || e->doubtful == 1) && e->count >= 0 &&
              e->count <= CACHEFILE_MEASURED;
    for (int i = 0; ok && i < e->count; i++) {
        ok = valid_measured(&e->measured[i]);
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
                     "\npicoseconds %" PRId64 "\nmax_rel_error_e12 %" PRId64
                     "\nwhen %s\nagainst %" PRId64 " %s\nconfidence_ppm %d\ndoubtful %d\n",
                     CACHEFILE_VERSION, entry->key, entry->variant, entry->revision, second,
                     entry->workspace, entry->picoseconds, entry->max_rel_error_e12, entry->when,
                     entry->against_picoseconds, entry->against, entry->confidence_ppm,
                     entry->doubtful);
    for (int i = 0; n >= 0 && (used += (size_t)n) < size && i < entry->count; i++) {
        const struct cache_measured *m = &entry->measured[i];
        n = snprintf(text + used, size - used, "measured %" PRId64 " %d %d %d %d %d %s\n",
                     m->picoseconds, m->rounds, m->clean, m->retaken, m->spread_ppm, m->fate,
                     m->variant);
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

/* An integer and the blank behind it. */
static bool take_number(struct reader *r, int64_t most, int *value)
{
    int64_t wide;
    const bool ok = take_int(r, most, &wide) && take(r, " ");
    *value = ok ? (int)wide : 0;
    return ok;
}

static bool take_measured(struct reader *r, struct cache_measured *m)
{
    return take(r, "measured ") && take_int(r, INT64_MAX, &m->picoseconds) && take(r, " ") &&
           take_number(r, INT32_MAX, &m->rounds) && take_number(r, m->rounds, &m->clean) &&
           take_number(r, INT32_MAX, &m->retaken) && take_number(r, INT32_MAX, &m->spread_ppm) &&
           take_number(r, CACHE_WRONG, &m->fate) && take_line(r, m->variant, sizeof m->variant);
}

/* When, against what and how well it was measured. */
static bool take_measurement(struct reader *r, struct cache_entry *entry)
{
    int64_t confidence, doubtful;
    if (!take(r, "when ") || !take_line(r, entry->when, sizeof entry->when) ||
        !valid_when(entry->when) || !take(r, "against ") ||
        !take_int(r, INT64_MAX, &entry->against_picoseconds) || !take(r, " ") ||
        !take_line(r, entry->against, sizeof entry->against) || !take(r, "confidence_ppm ") ||
        !take_int(r, 1000000, &confidence) || !take(r, "\ndoubtful ") ||
        !take_int(r, 1, &doubtful) || !take(r, "\n")) {
        return false;
    }
    entry->confidence_ppm = (int)confidence;
    entry->doubtful = (int)doubtful;
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
        !take_int(&r, INT64_MAX, &entry->max_rel_error_e12) || !take(&r, "\n") ||
        !take_measurement(&r, entry)) {
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
    static const char *const reasons[] = {
        [CACHE_KEPT] = "", [CACHE_SLOWER] = "slower", [CACHE_WRONG] = "wrong"};
    return (doconv_tune_entry){
        .size = sizeof(doconv_tune_entry),
        .variant = measured->variant,
        .median_seconds = 1e-12 * (double)measured->picoseconds,
        .spread = 1e-6 * measured->spread_ppm,
        .rounds = measured->rounds,
        .dropped = measured->fate != CACHE_KEPT,
        .clean = measured->clean,
        .retaken = measured->retaken,
        .why = reasons[measured->fate],
    };
}

bool dc_cachefile_composes(const struct cache_entry *entry)
{
    return strstr(entry->key, " operation=layer_") != NULL;
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

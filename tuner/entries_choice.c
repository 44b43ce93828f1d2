/* SPDX-License-Identifier: MIT */
#include "entries_choice.h"

#include <stdio.h>
#include <string.h>

doconv_isa dc_entries_isa(const struct entries_environment *environment)
{
    static const doconv_isa all[] = {DOCONV_ISA_NONE, DOCONV_ISA_AVX2, DOCONV_ISA_AVX512,
                                     DOCONV_ISA_NEON};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char line[32];
        snprintf(line, sizeof line, "\nisa %s\n", doconv_isa_string(all[i]));
        if (strstr(environment->manifest, line) != NULL) {
            return all[i];
        }
    }
    return DOCONV_ISA_DEFAULT;
}

double dc_entries_slowdown(const struct cache_entry *entry, const char *variant)
{
    if (strcmp(entry->variant, variant) == 0) {
        return 1.0;
    }
    for (int i = 0; i < entry->count; i++) {
        const struct cache_measured *m = &entry->measured[i];
        if (strcmp(m->variant, variant) == 0 && entry->picoseconds > 0) {
            /* The winner may be behind by the margin of the estimate's choice. */
            const double time = (double)m->picoseconds / (double)entry->picoseconds;
            return m->fate == CACHE_WRONG ? 0.0 : time >= 1.0 ? time : 1.0;
        }
    }
    return 0.0;
}

/* A guess where it was not measured: it was left out, as slow as the slowest or slower. */
static double cost(const struct cache_entry *entry, const char *variant)
{
    double most = dc_entries_slowdown(entry, variant);
    if (most > 0.0) {
        return most;
    }
    most = 2.0;
    for (int i = 0; i < entry->count; i++) {
        const double slowdown = dc_entries_slowdown(entry, entry->measured[i].variant);
        most = slowdown > most ? slowdown : most;
    }
    return most;
}

const char *dc_entries_choose(const struct entries_choice *group, int count)
{
    const char *best = NULL;
    double least = 0.0;
    for (int i = 0; i < count; i++) {
        const char *variant = group[i].entry->variant;
        double product = 1.0;
        for (int j = 0; j < count; j++) {
            product *= cost(group[j].entry, variant);
        }
        if (best == NULL || product < least || (!(product > least) && strcmp(variant, best) < 0)) {
            best = variant;
            least = product;
        }
    }
    return best;
}

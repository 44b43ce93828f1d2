/* SPDX-License-Identifier: MIT */
/* What the choices of one machine lose on another, by what that one measured. */
#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "base/log.h"
#include "base/versioned.h"
#include "entries_choice.h"

/* An environment by its name; NULL: the set has none of it. */
static const struct entries_environment *find_environment(const struct doconv_entries *entries,
                                                          const char *name)
{
    for (int e = 0; name != NULL && e < entries->count; e++) {
        if (strcmp(entries->environments[e].name, name) == 0) {
            return &entries->environments[e];
        }
    }
    return NULL;
}

/* The choice of the table of all: of every machine with this ISA. group: room for one of each. */
static const char *choose_of_all(const struct doconv_entries *entries, const char *key,
                                 doconv_isa isa, struct entries_choice *group)
{
    int count = 0;
    for (int e = 0; e < entries->count; e++) {
        const struct entries_environment *environment = &entries->environments[e];
        const struct cache_entry *entry = dc_entries_find(environment, key);
        if (entry != NULL && dc_entries_isa(environment) == isa) {
            group[count++] = (struct entries_choice){entry, isa};
        }
    }
    return dc_entries_choose(group, count);
}

static void add(doconv_regret *regret, double *logs, const char *key, double slowdown)
{
    regret->problems++;
    if (slowdown > 0.0) {
        const double loss = 1.0 - 1.0 / slowdown;
        if (regret->known == 0 || loss > regret->worst) {
            regret->worst = loss;
            regret->worst_key = key;
        }
        regret->known++;
        *logs += log(slowdown);
    }
}

/* from: NULL for the table of all. */
static doconv_regret compare(const struct doconv_entries *entries,
                             const struct entries_environment *from,
                             const struct entries_environment *on, struct entries_choice *group)
{
    doconv_regret regret = {.size = sizeof regret, .worst_key = ""};
    const doconv_isa isa = dc_entries_isa(on);
    const doconv_isa row = from != NULL ? dc_entries_isa(from) : isa;
    /* A row for a better ISA is none for this one. */
    const bool usable =
        row == DOCONV_ISA_DEFAULT || dc_isa_usable((enum dc_isa)row, (enum dc_isa)isa);
    double logs = 0.0;
    for (int i = 0; i < on->count; i++) {
        const struct cache_entry *entry = on->items[i];
        const struct cache_entry *theirs = from != NULL ? dc_entries_find(from, entry->key) : entry;
        if (theirs != NULL) {
            const char *variant =
                from != NULL ? theirs->variant : choose_of_all(entries, entry->key, isa, group);
            add(&regret, &logs, entry->key, usable ? dc_entries_slowdown(entry, variant) : 0.0);
        }
    }
    regret.loss = regret.known > 0 ? 1.0 - exp(-logs / regret.known) : 0.0;
    return regret;
}

doconv_status doconv_entries_regret(const doconv_entries *entries, const char *from, const char *on,
                                    doconv_regret *regret)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const struct entries_environment *source = find_environment(entries, from),
                                     *target = find_environment(entries, on);
    if (regret == NULL || target == NULL || (from != NULL && source == NULL)) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT,
                       regret == NULL ? "regret: NULL" : "from, on: no environment of the set");
    }
    struct entries_choice *group = dc_alloc(entries->ctx, (size_t)entries->count * sizeof *group);
    if (group == NULL) {
        return dc_fail(entries->ctx, DOCONV_OUT_OF_MEMORY, "regret: out of memory");
    }
    const doconv_regret result = compare(entries, source, target, group);
    dc_free(entries->ctx, group);
    return DC_WRITE_STRUCT(entries->ctx, doconv_regret, &result, regret);
}

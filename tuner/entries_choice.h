/* SPDX-License-Identifier: MIT */
/* What entries say about one another's choices. For the sets of entries. */
#ifndef DOCONV_ENTRIES_CHOICE_H
#define DOCONV_ENTRIES_CHOICE_H

#include "entries.h"

/* An entry with the ISA of its environment. */
struct entries_choice {
    const struct cache_entry *entry;
    doconv_isa isa;
};

/* By the manifest; DOCONV_ISA_DEFAULT: none that is known. */
doconv_isa dc_entries_isa(const struct entries_environment *environment);

/*
 * The time of a variant by that of the entry's winner, 1 at least; 0 if it was not measured, or
 * told nothing.
 */
double dc_entries_slowdown(const struct cache_entry *entry, const char *variant);

/*
 * Of the entries of one key on machines with one ISA: the winner that all of them together lose
 * least with, as far as they measured it.
 */
const char *dc_entries_choose(const struct entries_choice *group, int count);

#endif

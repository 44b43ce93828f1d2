/* SPDX-License-Identifier: MIT */
/* What the actions of doconv cache share. */
#ifndef DOCONV_COMMAND_CACHE_H
#define DOCONV_COMMAND_CACHE_H

#include <doconv/doconv_tune.h>

#include "command_shared.h"

struct cache_command {
    char **words; /* after what to do */
    int count;
    bool all;
    const char *environment, *output, *name; /* NULL: not given */
    doconv_context *context;
    doconv_entries *entries; /* empty at first */
};

/* ---- command_cache_show.c ---- */

int cache_list(struct cache_command *c);
int cache_show(struct cache_command *c);
int cache_forget(struct cache_command *c);

/* Two lines: the name; CPU, ISA and build. */
void cache_print_environment(const doconv_entry_info *info);

/* ---- command_cache_regret.c ---- */

int cache_regret(struct cache_command *c);

/* ---- command_cache_files.c ---- */

int cache_export(struct cache_command *c);
int cache_import(struct cache_command *c);
int cache_merge(struct cache_command *c);
int cache_to_c(struct cache_command *c);

/* Adds what the cache has of the environments asked for. */
int cache_read(struct cache_command *c);
/* Adds the entries of every export that is named. */
int cache_parse(struct cache_command *c);

/* The number of environments among the entries. */
int cache_environments(const struct cache_command *c);

#endif

/* SPDX-License-Identifier: MIT */
/* What the choices of one machine lose on another. */
#include <stdlib.h>
#include <string.h>

#include "command_cache.h"

/* Prints the environments with their numbers, from 1 on; names: room for them. */
static void list_environments(const struct cache_command *c, const char **names)
{
    int count = 0;
    for (int i = 0; i < doconv_entries_count(c->entries); i++) {
        doconv_entry_info info = {.size = sizeof info};
        if (doconv_entries_get(c->entries, i, &info) == DOCONV_OK &&
            (count == 0 || names[count - 1] != info.environment)) {
            names[count++] = info.environment;
            printf("%d: ", count);
            cache_print_environment(&info);
        }
    }
    printf("\n");
}

/* from: 0 for the table of all. */
static void add_row(struct command_table *table, int from, int on, const doconv_regret *regret)
{
    if (from == 0) {
        command_table_add(table, "all");
    } else {
        command_table_add(table, "%d", from);
    }
    command_table_add(table, "%d", on);
    command_table_add(table, "%d", regret->problems);
    command_table_add(table, "%d", regret->known);
    if (regret->known > 0) {
        command_table_add(table, "%.1f%%", 100 * regret->loss);
        command_table_add(table, "%.1f%%", 100 * regret->worst);
    } else {
        command_table_add(table, "-");
        command_table_add(table, "-");
    }
    command_table_add(table, "%s", regret->worst > 0 ? regret->worst_key : "");
}

static int print_regrets(const struct cache_command *c, const char *const *names, int count)
{
    static const char *const heads[] = {"choices", "on",    "problems", "measured",
                                        "loss",    "worst", "where"};
    struct command_table table = {.align = "rrrrrrl"};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&table, "%s", heads[i]);
    }
    for (int on = 1; on <= count; on++) {
        for (int f = 1; f <= count + 1; f++) {
            const int from = f <= count ? f : 0;
            doconv_regret regret = {.size = sizeof regret};
            if (from == on) {
                continue;
            }
            const doconv_status status = doconv_entries_regret(
                c->entries, from > 0 ? names[from - 1] : NULL, names[on - 1], &regret);
            if (status != DOCONV_OK) {
                command_table_free(&table);
                return command_library_error(c->context, status, "the loss on %s", names[on - 1]);
            }
            add_row(&table, from, on, &regret);
        }
    }
    command_table_print(&table, 0);
    return COMMAND_OK;
}

int cache_regret(struct cache_command *c)
{
    int result = cache_parse(c);
    if (result != COMMAND_OK) {
        return result;
    }
    const int count = cache_environments(c);
    if (count < 2) {
        return command_error("cache: regret needs entries of two environments, not of %d", count);
    }
    const char **names = malloc((size_t)count * sizeof *names);
    if (names == NULL) {
        return command_error("cache: out of memory");
    }
    list_environments(c, names);
    result = print_regrets(c, names, count);
    free(names);
    return result;
}

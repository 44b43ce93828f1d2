/* SPDX-License-Identifier: MIT */
/* The tuner's cache: what is in it, and its ways in and out. */
#include <inttypes.h>
#include <string.h>

#include "command_cache.h"

/* ---- clean ---- */

struct removals {
    int count;
    uint64_t bytes;
};

static void print_removal(void *user, const char *path, uint64_t bytes)
{
    struct removals *removals = user;
    removals->count++;
    removals->bytes += bytes;
    printf("removed   %s\n", path);
}

static int cache_clean(struct cache_command *c)
{
    doconv_context_info info = {.size = sizeof info};
    struct removals removals = {0};
    const doconv_cache_clean_options clean = {
        .size = sizeof clean, .all = c->all, .report = print_removal, .report_user = &removals};
    doconv_status status = doconv_context_get_info(c->context, &info);
    if (status == DOCONV_OK) {
        printf("cache     %s\n", info.cache_directory[0] != '\0' ? info.cache_directory : "none");
        status = doconv_cache_clean(c->context, &clean);
        printf("%d removed, %" PRIu64 " bytes\n", removals.count, removals.bytes);
    }
    return status == DOCONV_OK ? COMMAND_OK
                               : command_library_error(c->context, status, "cleaning the cache");
}

/* ---- the verb ---- */

/* Options that an action may have. */
enum { WITH_ALL = 1, WITH_ENVIRONMENT = 2, WITH_OUTPUT = 4, WITH_NAME = 8 };

static const struct action {
    const char *name, *argument; /* NULL: none; ends in "...": any number from one on */
    int options;
    int (*run)(struct cache_command *c);
} actions[] = {
    {"list", NULL, WITH_ENVIRONMENT, cache_list},
    {"show", "PROBLEM or pattern", WITH_ENVIRONMENT, cache_show},
    {"export", "FILE", WITH_ENVIRONMENT, cache_export},
    {"import", "FILE", WITH_ENVIRONMENT, cache_import},
    {"merge", "FILE ...", WITH_ENVIRONMENT | WITH_OUTPUT, cache_merge},
    {"forget", "PROBLEM or pattern", WITH_ENVIRONMENT, cache_forget},
    {"clean", NULL, WITH_ALL, cache_clean},
    {"regret", "FILE ...", WITH_ENVIRONMENT, cache_regret},
    {"to-c", "FILE.c ...", WITH_ENVIRONMENT | WITH_NAME, cache_to_c},
};
#define ACTIONS (sizeof actions / sizeof actions[0])
#define ACTION_NAMES "list, show, export, import, merge, forget, clean, regret, to-c"

static int check_words(const struct cache_command *c, const struct action *action)
{
    const bool many = action->argument != NULL && strstr(action->argument, "...") != NULL;
    if (action->argument != NULL && c->count == 0) {
        return command_usage_error("cache", "%s: %s is missing", action->name, action->argument);
    }
    const int most = action->argument != NULL;
    if (c->count > most && !many) {
        return command_usage_error("cache", "%s: one word too many: \"%.80s\"", action->name,
                                   c->words[most]);
    }
    return COMMAND_OK;
}

static int check_options(const struct cache_command *c, const struct action *action)
{
    const struct {
        const char *name;
        bool given;
        int option;
    } options[] = {{"all", c->all, WITH_ALL},
                   {"environment", c->environment != NULL, WITH_ENVIRONMENT},
                   {"output", c->output != NULL, WITH_OUTPUT},
                   {"name", c->name != NULL, WITH_NAME}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        if (options[i].given && (action->options & options[i].option) == 0) {
            return command_usage_error("cache", "%s has no option --%s", action->name,
                                       options[i].name);
        }
    }
    return COMMAND_OK;
}

static int run_action(struct cache_command *c, const struct action *action)
{
    int result = check_words(c, action);
    if (result == COMMAND_OK) {
        result = check_options(c, action);
    }
    if (result == COMMAND_OK) {
        result =
            command_context_create("cache", DOCONV_ISA_DEFAULT, 0, DOCONV_TUNE_OFF, &c->context);
    }
    if (result != COMMAND_OK) {
        return result;
    }
    const doconv_status status = doconv_entries_create(c->context, &c->entries);
    if (status == DOCONV_OK) {
        result = action->run(c);
    } else {
        result = command_library_error(c->context, status, "a set of entries");
    }
    doconv_entries_destroy(c->entries);
    doconv_context_destroy(c->context);
    return result;
}

static int run_cache(int count, char **words)
{
    struct cache_command c = {.all = false};
    const struct command_option options[] = {
        {"all", COMMAND_OPTION_FLAG, &c.all, 0, 0},
        {"environment", COMMAND_OPTION_TEXT, &c.environment, 0, 0},
        {"output", COMMAND_OPTION_TEXT, &c.output, 0, 0},
        {"name", COMMAND_OPTION_TEXT, &c.name, 0, 0},
        {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    count = command_parse_options(&command_cache, count, words, options);
    if (count < 0) {
        return COMMAND_USAGE;
    }
    if (count == 0) {
        return command_usage_error("cache", "what to do is missing: " ACTION_NAMES);
    }
    c.words = words + 1;
    c.count = count - 1;
    for (size_t i = 0; i < ACTIONS; i++) {
        if (strcmp(words[0], actions[i].name) == 0) {
            return run_action(&c, &actions[i]);
        }
    }
    return command_usage_error("cache", "nothing is called \"%.80s\" (" ACTION_NAMES ")", words[0]);
}

const struct command_verb command_cache = {
    .name = "cache",
    .summary = "the tuner's cache: what is in it, its ways in and out",
    .help =
        "usage: doconv cache list\n"
        "       doconv cache show PROBLEM|PATTERN\n"
        "       doconv cache export FILE\n"
        "       doconv cache import FILE\n"
        "       doconv cache merge FILE ... [--output=FILE]\n"
        "       doconv cache forget PROBLEM|PATTERN\n"
        "       doconv cache clean [--all]\n"
        "       doconv cache regret FILE ...\n"
        "       doconv cache to-c FILE.c [FILE ...] [--name=NAME]\n"
        "\n"
        "The cache has an entry for each problem that was tuned, in an environment for each CPU, "
        "instruction set and\n"
        "build of the library.\n"
        "\n"
        "  list     prints the entries\n"
        "  show     prints entries with every candidate that was measured\n"
        "  export   writes the entries to one text file, sorted; -: standard output\n"
        "  import   stores the entries of an export, other machines' too; the cache's own stay "
        "where they have as\n"
        "           many samples, and are no more doubtful; nothing is stored from a file that is "
        "damaged anywhere\n"
        "  merge    writes the entries of several exports as one: of two for one problem and "
        "environment, that of\n"
        "           more samples\n"
        "  forget   removes entries\n"
        "  clean    removes what nothing uses any more, and prints what it removes: temporary "
        "files that a killed\n"
        "           process left, and environments that were not used for a week\n"
        "  regret   what share of the speed the choices of each environment lose on each other one "
        "of the exports, by\n"
        "           what was measured there, and what to-c's table of all of them loses\n"
        "  to-c     writes the choices as a table in C that a program hands to its context, for "
        "the "
        "same plans\n"
        "           everywhere without a cache: of this CPU and build in the cache, or all of the "
        "exports named\n"
        "\n"
        "PATTERN is one of the shell, for the whole problem: 'mb1_ic64*' (mind the quotes).\n"
        "\n"
        "  --environment=NAME  own (that of this CPU and build), all, or 16 digits that list "
        "prints (default: all)\n"
        "  --output=FILE       of merge; -: standard output, the default\n"
        "  --name=NAME         the table's name in C (default: tuned_table)\n"
        "  --all               of clean: removes all winners, whatever their age\n",
    .run = run_cache,
};

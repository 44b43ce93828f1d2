/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include <doconv/doconv_tune.h>

#include "command_shared.h"

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

static int run_cache(int count, char **words)
{
    bool all = false;
    const struct command_option options[] = {{"all", COMMAND_OPTION_FLAG, &all, 0, 0},
                                             {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    count = command_parse_options(&command_cache, count, words, options);
    if (count < 0) {
        return COMMAND_USAGE;
    }
    if (count == 0) {
        return command_usage_error("cache", "what to do is missing: clean");
    }
    if (count > 1 || strcmp(words[0], "clean") != 0) {
        return command_usage_error("cache", "one word is expected, clean, not \"%.80s\"",
                                   words[count - 1]);
    }
    doconv_context *context;
    int result = command_context_create("cache", DOCONV_ISA_DEFAULT, 0, DOCONV_TUNE_OFF, &context);
    if (result != COMMAND_OK) {
        return result;
    }
    doconv_context_info info = {.size = sizeof info};
    struct removals removals = {0};
    const doconv_cache_clean_options clean = {
        .size = sizeof clean, .all = all, .report = print_removal, .report_user = &removals};
    doconv_status status = doconv_context_get_info(context, &info);
    if (status == DOCONV_OK) {
        printf("cache     %s\n", info.cache_directory[0] != '\0' ? info.cache_directory : "none");
        status = doconv_cache_clean(context, &clean);
        printf("%d removed, %" PRIu64 " bytes\n", removals.count, removals.bytes);
    }
    if (status != DOCONV_OK) {
        result = command_library_error(context, status, "cleaning the cache");
    }
    doconv_context_destroy(context);
    return result;
}

const struct command_verb command_cache = {
    .name = "cache",
    .summary = "cleans the tuner's cache",
    .help =
        "usage: doconv cache clean [--all]\n"
        "\n"
        "Removes from the tuner's cache what nothing uses any more, and prints what it removes: "
        "temporary files\n"
        "that a killed process left, and winners for another CPU, instruction set or build of "
        "the library, once\n"
        "they were not used for a week.\n"
        "\n"
        "  --all         removes all winners, whatever their age\n",
    .run = run_cache,
};

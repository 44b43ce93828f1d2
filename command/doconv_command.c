/* SPDX-License-Identifier: MIT */
/* The doconv command: looks at the library, tunes it, verifies it, and folds checkpoints. */
#include <errno.h>
#include <string.h>

#include "command_shared.h"

static const struct command_verb *const verbs[] = {
    &command_info, &command_explain, &command_tune, &command_verify, &command_fold, &command_cache};
#define VERBS (sizeof verbs / sizeof verbs[0])

static const struct command_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < VERBS; i++) {
        if (strcmp(verbs[i]->name, name) == 0) {
            return verbs[i];
        }
    }
    return NULL;
}

static int unknown_verb(const char *name)
{
    return command_usage_error(NULL,
                               "no verb is called \"%.80s\" (verbs: info, explain, tune, verify, "
                               "fold, cache, help, version)",
                               name);
}

static int print_help(void)
{
    printf("usage: doconv VERB [ARGUMENT ...] [--OPTION=VALUE ...]\n\n");
    for (size_t i = 0; i < VERBS; i++) {
        printf("  %-8s  %s\n", verbs[i]->name, verbs[i]->summary);
    }
    printf("  help      this text, or that of a verb: doconv help VERB\n"
           "  version   the library's version\n"
           "\n"
           "Environment: DOCONV_CACHE (the tuner's directory), DOCONV_MAX_ISA, DOCONV_TUNE, "
           "DOCONV_VERBOSE, DOCONV_NETWORKS.\n"
           "Exit status: 0 success, 1 something failed, 2 bad usage or a malformed file.\n");
    return COMMAND_OK;
}

static int run_help(int count, char **words)
{
    if (count == 0) {
        return print_help();
    }
    const struct command_verb *verb = find_verb(words[0]);
    if (count > 1) {
        return command_usage_error(NULL, "help: one word too many: \"%.80s\"", words[1]);
    }
    if (verb == NULL) {
        return strcmp(words[0], "help") == 0 || strcmp(words[0], "version") == 0
                   ? print_help()
                   : unknown_verb(words[0]);
    }
    fputs(verb->help, stdout);
    return COMMAND_OK;
}

static int run_version(int count, char **words)
{
    if (count > 0) {
        return command_usage_error(NULL, "version: one word too many: \"%.80s\"", words[0]);
    }
    printf("doconv %s\n", doconv_version_string());
    return COMMAND_OK;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        return command_usage_error(
            NULL,
            "a verb is missing (verbs: info, explain, tune, verify, fold, cache, help, version)");
    }
    const char *name = argv[1];
    const int count = argc - 2;
    char **words = argv + 2;
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        return run_help(count, words);
    }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        return run_version(count, words);
    }
    const struct command_verb *verb = find_verb(name);
    if (verb == NULL) {
        return unknown_verb(name);
    }
    for (int i = 0; i < count && strcmp(words[i], "--") != 0; i++) {
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            fputs(verb->help, stdout);
            return COMMAND_OK;
        }
    }
    return verb->run(count, words);
}

int main(int argc, char **argv)
{
    const int result = run(argc, argv);
    command_progress(NULL);
    /* A full disk or a closed pipe must not look like success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "doconv: standard output: %s\n", strerror(errno));
        return result != COMMAND_OK ? result : COMMAND_FAILED;
    }
    return result;
}

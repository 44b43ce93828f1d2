/* SPDX-License-Identifier: MIT */
/* Looking at the cache's entries, and forgetting some. */
#include <inttypes.h>
#include <string.h>

#include "command_cache.h"

/* The value of a line "NAME VALUE", and its length, for "%.*s"; "?" where there is none. */
static const char *manifest_value(const char *manifest, const char *name, int *length)
{
    const size_t size = strlen(name);
    for (const char *line = manifest; *line != '\0'; line += strcspn(line, "\n") + 1) {
        if (strncmp(line, name, size) == 0 && line[size] == ' ') {
            *length = (int)strcspn(line + size + 1, "\n");
            return line + size + 1;
        }
    }
    *length = 1;
    return "?";
}

static doconv_entry_info get(const struct cache_command *c, int index)
{
    doconv_entry_info info = {.size = sizeof info};
    (void)doconv_entries_get(c->entries, index, &info); /* there is one: index is below the count */
    return info;
}

void cache_print_environment(const doconv_entry_info *info)
{
    static const char *const names[] = {"cpu", "isa", "library", "kernels"};
    printf("environment %s%s\n ", info->environment, info->own ? " (own)" : "");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int length;
        const char *value = manifest_value(info->manifest, names[i], &length);
        printf("%s %s %.*s", i > 0 ? "," : "", names[i], length, value);
    }
    printf("\n");
}

/* What a key has beside the problem and what most keys have. */
static void format_rest(const char *key, char *text, size_t size)
{
    static const char *const usual[] = {"runner=default", "workspace=0", "weights=warm"};
    size_t used = 0;
    text[0] = '\0';
    const char *word = key + strcspn(key, " ");
    while (*word == ' ') {
        const size_t length = strcspn(++word, " ");
        bool shown = true;
        for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
            shown = shown && !(strlen(usual[i]) == length && memcmp(word, usual[i], length) == 0);
        }
        if (shown && used < size) {
            const int n = snprintf(text + used, size - used, "%s%.*s", used > 0 ? " " : "",
                                   (int)length, word);
            used += n > 0 ? (size_t)n : 0;
        }
        word += length;
    }
}

static void start_table(struct command_table *table)
{
    static const char *const heads[] = {"problem", "for", "variant", "ms", "samples"};
    table->align = "lllrr";
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(table, "%s", heads[i]);
    }
}

static void add_row(struct command_table *table, const doconv_entry_info *info)
{
    char rest[256];
    format_rest(info->key, rest, sizeof rest);
    command_table_add(table, "%.*s", (int)strcspn(info->key, " "), info->key);
    command_table_add(table, "%s", rest);
    command_table_add(table, "%s", info->variant);
    command_table_add(table, "%.4f", 1e3 * info->seconds);
    command_table_add(table, "%" PRId64, info->samples);
}

int cache_list(struct cache_command *c)
{
    const int result = cache_read(c);
    if (result != COMMAND_OK) {
        return result;
    }
    const int count = doconv_entries_count(c->entries);
    const char *last = NULL;
    struct command_table table = {0};
    for (int i = 0; i < count; i++) {
        const doconv_entry_info info = get(c, i);
        if (info.environment != last) {
            if (last != NULL) {
                command_table_print(&table, 0);
                printf("\n");
            }
            cache_print_environment(&info);
            start_table(&table);
            last = info.environment;
        }
        add_row(&table, &info);
    }
    if (count > 0) {
        command_table_print(&table, 0);
        printf("\n");
    }
    const int environments = cache_environments(c);
    printf("%d entr%s of %d environment%s\n", count, count == 1 ? "y" : "ies", environments,
           environments == 1 ? "" : "s");
    return COMMAND_OK;
}

/*
 * Keeps the entries that words[0] asks for: a pattern of the shell, or a problem as any text that
 * is one. Fails if there are none.
 */
static int select_entries(struct cache_command *c)
{
    const char *pattern = c->words[0];
    char problem[DOCONV_PROBLEM_TEXT_SIZE];
    int result = COMMAND_OK;
    if (strpbrk(pattern, "*?[") == NULL) {
        doconv_conv_desc desc;
        doconv_status status = doconv_conv_desc_parse(c->context, pattern, &desc);
        if (status == DOCONV_OK) {
            status = doconv_conv_desc_format(c->context, &desc, problem, sizeof problem);
        }
        if (status != DOCONV_OK) {
            command_library_error(c->context, status, "\"%s\" is no problem, nor a pattern",
                                  pattern);
            return COMMAND_USAGE;
        }
        pattern = problem;
    }
    result = cache_read(c);
    if (result != COMMAND_OK) {
        return result;
    }
    const doconv_status status = doconv_entries_keep(c->entries, NULL, pattern);
    if (status != DOCONV_OK) {
        return command_library_error(c->context, status, "choosing entries");
    }
    return doconv_entries_count(c->entries) > 0
               ? COMMAND_OK
               : command_error("cache: no entry's problem is or matches \"%s\"", pattern);
}

static void print_measured(const struct cache_command *c, int index, int count)
{
    static const char *const heads[] = {"candidate", "ms",    "of the best", "spread",
                                        "samples",   "clean", "retaken",     ""};
    struct command_table table = {.align = "lrrrrrrl"};
    double best = 0;
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&table, "%s", heads[i]);
    }
    for (int i = 0; i < count; i++) {
        doconv_tune_entry m = {.size = sizeof m};
        if (doconv_entries_get_measured(c->entries, index, i, &m) != DOCONV_OK) {
            break;
        }
        best = i == 0 ? m.median_seconds : best;
        command_table_add(&table, "%s", m.variant);
        command_table_add(&table, "%.4f", 1e3 * m.median_seconds);
        if (m.median_seconds > 0) {
            command_table_add(&table, "%.1f%%", 100 * best / m.median_seconds);
        } else {
            command_table_add(&table, "-");
        }
        command_table_add(&table, "%.1f%%", 100 * m.spread);
        command_table_add(&table, "%d", m.rounds);
        command_table_add(&table, "%d", m.clean);
        command_table_add(&table, "%d", m.retaken);
        command_table_add(&table, "%s", m.why);
    }
    command_table_print(&table, 0);
}

int cache_show(struct cache_command *c)
{
    const int result = select_entries(c);
    if (result != COMMAND_OK) {
        return result;
    }
    for (int i = 0; i < doconv_entries_count(c->entries); i++) {
        const doconv_entry_info info = get(c, i);
        printf("%sproblem   %.*s\n", i > 0 ? "\n" : "", (int)strcspn(info.key, " "), info.key);
        printf("for      %s\n", info.key + strcspn(info.key, " "));
        cache_print_environment(&info);
        printf("variant   %s\n", info.variant);
        printf("measured  %.4f ms, error %.2g of max|y|, workspace %.1f KiB\n", 1e3 * info.seconds,
               info.max_rel_error, (double)info.workspace_bytes / 1024);
        printf("when      %s\n", info.when);
        printf("against   %s: %.4f ms\n", info.against, 1e3 * info.against_seconds);
        printf("sure      to %.1f%%%s\n\n", 100 * info.confidence,
               info.doubtful ? " (doubtful: measured again when tuning)" : "");
        if (info.measured > 0) {
            print_measured(c, i, info.measured);
        }
    }
    return COMMAND_OK;
}

int cache_forget(struct cache_command *c)
{
    const int result = select_entries(c);
    if (result != COMMAND_OK) {
        return result;
    }
    for (int i = 0; i < doconv_entries_count(c->entries); i++) {
        const doconv_entry_info info = get(c, i);
        printf("%s  %s\n", info.environment, info.key);
    }
    int removed;
    const doconv_status status = doconv_entries_forget(c->entries, &removed);
    printf("%d entr%s forgotten\n", removed, removed == 1 ? "y" : "ies");
    return status == DOCONV_OK ? COMMAND_OK
                               : command_library_error(c->context, status, "forgetting entries");
}

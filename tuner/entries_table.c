/* SPDX-License-Identifier: MIT */
/*
 * A set of entries as a doconv_table in C. A key has a row for each ISA that it was tuned for, the
 * best ISA first, which is how a context looks them up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "entries_choice.h"

#define NAME_SIZE 64 /* most bytes of the table's name, its NUL included */
#define TEXT_SIZE (4 * (DC_KEY_SIZE + DC_VARIANT_SIZE) + ENTRIES_MANIFEST)

static int compare(const void *a, const void *b)
{
    const struct entries_choice *x = a, *y = b;
    const int order = strcmp(x->entry->key, y->entry->key);
    return order != 0 ? order : (x->isa < y->isa) - (x->isa > y->isa);
}

/* Every entry, sorted. NULL if out of memory. */
static struct entries_choice *collect(const struct doconv_entries *entries, int count)
{
    struct entries_choice *choices = dc_alloc(entries->ctx, (size_t)count * sizeof *choices);
    int c = 0;
    for (int e = 0; choices != NULL && e < entries->count; e++) {
        const struct entries_environment *environment = &entries->environments[e];
        const doconv_isa isa = dc_entries_isa(environment);
        for (int i = 0; i < environment->count; i++) {
            choices[c++] = (struct entries_choice){environment->items[i], isa};
        }
    }
    if (choices != NULL) {
        qsort(choices, (size_t)count, sizeof *choices, compare);
    }
    return choices;
}

/* ---- C ---- */

static bool is_identifier(const char *name)
{
    static const char characters[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    const size_t length = strlen(name);
    return length > 0 && length < NAME_SIZE && strspn(name, characters) == length &&
           !(name[0] >= '0' && name[0] <= '9');
}

struct writer {
    doconv_write_fn write;
    void *user;
    bool ok;
    char *text; /* TEXT_SIZE bytes: the next chunk */
    size_t length;
};

static void add(struct writer *w, const char *text)
{
    const size_t length = strlen(text);
    memcpy(w->text + w->length, text, length + 1);
    w->length += length;
}

static void add_character(struct writer *w, char c)
{
    w->text[w->length++] = c;
    w->text[w->length] = '\0';
}

/* A string of printable characters; question marks could be trigraphs. */
static void add_string(struct writer *w, const char *text)
{
    add_character(w, '"');
    for (; *text != '\0'; text++) {
        if (strchr("\"\\?", *text) != NULL) {
            add_character(w, '\\');
        }
        add_character(w, *text);
    }
    add_character(w, '"');
}

static void flush(struct writer *w)
{
    w->ok = w->ok && w->write(w->user, w->text, w->length) == 0;
    w->length = 0;
}

/* A manifest in a comment, which nothing in it may end. */
static void put_manifest(struct writer *w, const struct entries_environment *environment)
{
    add(w, " * ");
    add(w, environment->name);
    add(w, ": ");
    for (const char *c = environment->manifest; c[0] != '\0'; c++) {
        if (c[0] == '\n') {
            add(w, c[1] != '\0' ? ", " : "\n");
        } else {
            /* A slash could end the comment, a backslash or a trigraph a line of it. */
            const bool plain = c[0] >= ' ' && c[0] <= '~' && strchr("/\\?", c[0]) == NULL;
            add_character(w, plain ? c[0] : '.');
        }
    }
    flush(w);
}

static const char *isa_word(doconv_isa isa)
{
    switch (isa) {
    case DOCONV_ISA_NONE:
        return "DOCONV_ISA_NONE";
    case DOCONV_ISA_AVX2:
        return "DOCONV_ISA_AVX2";
    case DOCONV_ISA_AVX512:
        return "DOCONV_ISA_AVX512";
    case DOCONV_ISA_NEON:
        return "DOCONV_ISA_NEON";
    case DOCONV_ISA_DEFAULT:
        break;
    }
    return "DOCONV_ISA_DEFAULT";
}

static void put_rows(struct writer *w, const struct entries_choice *choices, int count)
{
    for (int i = 0; i < count && w->ok;) {
        int end = i + 1;
        while (end < count && compare(&choices[i], &choices[end]) == 0) {
            end++;
        }
        add(w, "    {");
        add_string(w, choices[i].entry->key);
        add(w, ",\n     ");
        add_string(w, dc_entries_choose(choices + i, end - i));
        add(w, ", ");
        add(w, isa_word(choices[i].isa));
        add(w, "},\n");
        flush(w);
        i = end;
    }
}

static void put_table(struct writer *w, const struct doconv_entries *entries,
                      const struct entries_choice *choices, int count, const char *name)
{
    add(w, "/*\n * Choices for doconv_context_options.table, made by doconv ");
    add(w, doconv_version_string());
    add(w, ": do not edit. Tuned for\n");
    flush(w);
    for (int e = 0; e < entries->count && w->ok; e++) {
        put_manifest(w, &entries->environments[e]);
    }
    add(w, " */\n#include <doconv/doconv.h>\n\nstatic const doconv_table_row rows[] = {\n");
    flush(w);
    put_rows(w, choices, count);
    add(w, "};\n\nextern const doconv_table ");
    add(w, name);
    add(w, ";\nconst doconv_table ");
    add(w, name);
    add(w, " = {sizeof(doconv_table), rows, sizeof rows / sizeof rows[0]};\n");
    flush(w);
}

doconv_status doconv_entries_write_table(const doconv_entries *entries, const char *name,
                                         doconv_write_fn write, void *user)
{
    if (entries == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    name = name != NULL ? name : "tuned_table";
    if (write == NULL || !is_identifier(name)) {
        return dc_fail(entries->ctx, DOCONV_INVALID_ARGUMENT, "%s",
                       write == NULL ? "write: NULL" : "name: it is no identifier in C");
    }
    const int count = doconv_entries_count(entries);
    if (count == 0) {
        return dc_fail(entries->ctx, DOCONV_NOT_FOUND, "table: there are no entries");
    }
    struct writer w = {.write = write, .user = user, .ok = true};
    w.text = dc_alloc(entries->ctx, TEXT_SIZE);
    struct entries_choice *choices = collect(entries, count);
    doconv_status status = DOCONV_OK;
    if (w.text == NULL || choices == NULL) {
        status = dc_fail(entries->ctx, DOCONV_OUT_OF_MEMORY, "table: out of memory");
    } else {
        put_table(&w, entries, choices, count, name);
        if (!w.ok) {
            status = dc_fail(entries->ctx, DOCONV_IO_ERROR, "table: the text can't be written");
        }
    }
    dc_free(entries->ctx, choices);
    dc_free(entries->ctx, w.text);
    return status;
}

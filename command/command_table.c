/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* struct winsize */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "command_shared.h"

#define GAP 2
#define MAX_COLUMNS 16
#define FILE_WIDTH 120   /* where standard output is no terminal */
#define LEAST_WIDTH 16   /* of a column that is made narrower */
#define FURTHER_INDENT 2 /* of the further lines of a cell */
#define BREAKS_AFTER ",:/_@ "

static _Noreturn void give_up(void)
{
    fputs("doconv: out of memory\n", stderr);
    exit(COMMAND_FAILED);
}

void command_table_add(struct command_table *table, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (table->cells == table->capacity) {
        table->capacity = table->capacity == 0 ? 64 : table->capacity * 2;
        char **grown = realloc(table->cell, (size_t)table->capacity * sizeof *grown);
        if (grown == NULL) {
            give_up();
        }
        table->cell = grown;
    }
    char *copy = malloc(strlen(text) + 1);
    if (copy == NULL) {
        give_up();
    }
    strcpy(copy, text);
    table->cell[table->cells++] = copy;
}

static int output_width(void)
{
    struct winsize size;
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0
               ? size.ws_col
               : FILE_WIDTH;
}

/* Bytes of the character at text: the bytes of UTF-8 that go on with it are part of it. */
static size_t character(const char *text)
{
    size_t bytes = 1;
    while (((unsigned char)text[bytes] & 0xc0) == 0x80) {
        bytes++;
    }
    return bytes;
}

static int count_characters(const char *text)
{
    int count = 0;
    for (; *text != '\0'; text += character(text)) {
        count++;
    }
    return count;
}

/*
 * Bytes of text that go on a line of at most width characters: all, or up to the last place where
 * names and numbers end, or as many as there is room for.
 */
static size_t line_bytes(const char *text, int width)
{
    size_t bytes = 0, best = 0;
    int count = 0;
    while (text[bytes] != '\0' && count < width) {
        const bool good = strchr(BREAKS_AFTER, text[bytes]) != NULL;
        bytes += character(text + bytes);
        count++;
        best = good && count > width / 2 ? bytes : best;
    }
    return text[bytes] == '\0' || best == 0 ? bytes : best;
}

/* Characters of the longest word of a head. */
static int longest_word(const char *text)
{
    int longest = 0, count = 0;
    for (; *text != '\0'; text += character(text)) {
        count = *text == ' ' ? 0 : count + 1;
        longest = count > longest ? count : longest;
    }
    return longest;
}

/*
 * Makes columns narrower until lines fit the output: first those of numbers, down to what the
 * numbers need (then their heads have several lines), then those of text, the widest first.
 */
static void fit_columns(const struct command_table *table, int indent, int width[MAX_COLUMNS])
{
    const int columns = (int)strlen(table->align), most = output_width();
    int least[MAX_COLUMNS], total = indent + GAP * (columns - 1);
    for (int c = 0; c < columns; c++) {
        total += width[c];
        least[c] = table->align[c] == 'l' ? LEAST_WIDTH : longest_word(table->cell[c]);
        for (int i = columns + c; i < table->cells && table->align[c] == 'r'; i += columns) {
            const int length = count_characters(table->cell[i]);
            least[c] = length > least[c] ? length : least[c];
        }
    }
    for (int c = 0; c < columns && total > most; c++) {
        if (table->align[c] == 'r') {
            total -= width[c] - least[c];
            width[c] = least[c];
        }
    }
    while (total > most) {
        int widest = -1;
        for (int c = 0; c < columns; c++) {
            if (width[c] > least[c] && (widest < 0 || width[c] > width[widest])) {
                widest = c;
            }
        }
        if (widest < 0) {
            return;
        }
        width[widest]--;
        total--;
    }
}

/* A row: its cells go on in further lines where they are longer than their columns are wide. */
static void print_row(const struct command_table *table, const char *const *cells, int indent,
                      const int width[MAX_COLUMNS])
{
    const int columns = (int)strlen(table->align);
    const char *rest[MAX_COLUMNS];
    memcpy(rest, cells, (size_t)columns * sizeof *cells);
    bool more = true;
    for (int line = 0; more; line++) {
        int blanks = indent; /* printed only before text: none end a line */
        more = false;
        for (int c = 0; c < columns; c++) {
            const int inside = line > 0 && table->align[c] == 'l' ? FURTHER_INDENT : 0;
            rest[c] += line > 0 && rest[c][0] == ' '; /* a line was broken before it */
            const size_t bytes = line_bytes(rest[c], width[c] - inside);
            const char *next = rest[c] + bytes;
            int count = 0;
            for (const char *at = rest[c]; at < next; at += character(at)) {
                count++;
            }
            const int before = table->align[c] == 'r' ? width[c] - count : inside;
            if (bytes > 0) {
                /* The blank that a line is broken at ends it. */
                const bool blank = bytes > 1 && next[0] != '\0' && next[-1] == ' ';
                count -= blank;
                printf("%*s%.*s", blanks + before, "", (int)bytes - blank, rest[c]);
                blanks = width[c] - before - count + GAP;
            } else {
                blanks += width[c] + GAP;
            }
            rest[c] = next;
            more = more || *next != '\0';
        }
        putchar('\n');
    }
}

void command_table_print(struct command_table *table, int indent)
{
    const int columns = (int)strlen(table->align);
    int width[MAX_COLUMNS] = {0};
    for (int i = 0; i < table->cells; i++) {
        const int length = count_characters(table->cell[i]);
        width[i % columns] = length > width[i % columns] ? length : width[i % columns];
    }
    if (table->cells >= columns) {
        fit_columns(table, indent, width);
    }
    for (int i = 0; i + columns <= table->cells; i += columns) {
        print_row(table, (const char *const *)table->cell + i, indent, width);
    }
    command_table_free(table);
}

void command_table_free(struct command_table *table)
{
    for (int i = 0; i < table->cells; i++) {
        free(table->cell[i]);
    }
    free(table->cell);
    table->cell = NULL;
    table->cells = table->capacity = 0;
}

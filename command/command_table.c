/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command_shared.h"

#define GAP 2
#define MAX_COLUMNS 16

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

void command_table_print(struct command_table *table, int indent)
{
    const int columns = (int)strlen(table->align);
    int width[MAX_COLUMNS] = {0};
    for (int i = 0; i < table->cells; i++) {
        const int length = (int)strlen(table->cell[i]);
        width[i % columns] = length > width[i % columns] ? length : width[i % columns];
    }
    for (int i = 0; i < table->cells; i++) {
        const int column = i % columns;
        const bool last = column == columns - 1;
        printf("%*s", column == 0 ? indent : GAP, "");
        if (table->align[column] == 'r') {
            printf("%*s", width[column], table->cell[i]);
        } else {
            /* no blanks at the end of a line */
            printf("%-*s", last ? 0 : width[column], table->cell[i]);
        }
        if (last) {
            putchar('\n');
        }
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

/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* strsep */
#include "network_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Far above any real network, far below what could exhaust memory. */
#define MAX_FILE_BYTES ((size_t)1 << 20)
#define MAX_LAYERS 4096
#define MAX_COUNT 1000000

enum column {
    CI,
    H,
    W,
    CO,
    KH,
    KW,
    SH,
    SW,
    PT,
    PL,
    PB,
    PR,
    DH,
    DW,
    GROUPS,
    COUNT,
    BIAS,
    NUMBERS,
    NAME = NUMBERS,
    INPUT,
    RESIDUAL,
    POST,
    COLUMNS
};

/* NAMED: goes with names of layers. */
enum need { REQUIRED, UNNAMED, NAMED };

static const struct {
    const char *name;
    enum need need;
    int64_t least, most, absent; /* of numbers: their range, and what they are where not given */
} columns[COLUMNS] = {
    [CI] = {"ci", REQUIRED, 1, INT32_MAX, 0},
    [H] = {"h", REQUIRED, 1, INT32_MAX, 0},
    [W] = {"w", REQUIRED, 1, INT32_MAX, 0},
    [CO] = {"co", REQUIRED, 1, INT32_MAX, 0},
    [KH] = {"kh", REQUIRED, 1, INT32_MAX, 0},
    [KW] = {"kw", REQUIRED, 1, INT32_MAX, 0},
    [SH] = {"sh", REQUIRED, 1, INT32_MAX, 0},
    [SW] = {"sw", REQUIRED, 1, INT32_MAX, 0},
    [PT] = {"pt", REQUIRED, 0, INT32_MAX, 0},
    [PL] = {"pl", REQUIRED, 0, INT32_MAX, 0},
    [PB] = {"pb", REQUIRED, 0, INT32_MAX, 0},
    [PR] = {"pr", REQUIRED, 0, INT32_MAX, 0},
    [DH] = {"dh", REQUIRED, 1, INT32_MAX, 0},
    [DW] = {"dw", REQUIRED, 1, INT32_MAX, 0},
    [GROUPS] = {"groups", REQUIRED, 1, INT32_MAX, 0},
    [COUNT] = {"count", UNNAMED, 1, MAX_COUNT, 1},
    [BIAS] = {"bias", NAMED, 0, 1, 0},
    [NAME] = {"name", NAMED, 0, 0, 0},
    [INPUT] = {"input", NAMED, 0, 0, 0},
    [RESIDUAL] = {"residual", NAMED, 0, 0, 0},
    [POST] = {"post", NAMED, 0, 0, 0},
};

/* The columns of a file, in its order. */
struct header {
    int cells;
    enum column order[COLUMNS];
};

int network_fail(struct network_message error, const char *format, ...)
{
    if (error.text != NULL && error.size > 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(error.text, error.size, format, args);
        va_end(args);
    }
    return -1;
}

/*
 * The whole file with a NUL at its end, or NULL with a message. Bounded while reading: a file may
 * grow, a pipe has no size.
 */
static char *read_text(const char *path, struct network_message error)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        network_fail(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    struct stat status;
    char *text = NULL;
    if (fstat(fileno(file), &status) == 0 && !S_ISREG(status.st_mode)) {
        network_fail(error, "%s: not a regular file", path);
    } else if ((text = malloc(MAX_FILE_BYTES + 2)) == NULL) {
        network_fail(error, "%s: out of memory", path);
    } else {
        const size_t size = fread(text, 1, MAX_FILE_BYTES + 1, file);
        const char *problem = NULL;
        if (ferror(file)) {
            problem = "cannot be read";
        } else if (size > MAX_FILE_BYTES) {
            problem = "larger than 1 MiB: not a network";
        } else if (memchr(text, '\0', size) != NULL) {
            problem = "has a zero byte: not text";
        }
        text[size] = '\0';
        if (problem != NULL) {
            network_fail(error, "%s: %s", path, problem);
            free(text);
            text = NULL;
        }
    }
    fclose(file);
    return text;
}

static char *cut_line(char **at)
{
    char *line = strsep(at, "\n");
    const size_t length = line != NULL ? strlen(line) : 0;
    if (length > 0 && line[length - 1] == '\r') {
        line[length - 1] = '\0';
    }
    return line;
}

/* ---- the header ---- */

/* Are all columns there that a file with names, or one without, must have, and no others? */
static int check_header(const char *path, const bool seen[COLUMNS], struct network_message error)
{
    const bool named = seen[NAME] || seen[INPUT];
    for (int column = 0; column < COLUMNS; column++) {
        const bool required = columns[column].need == REQUIRED ||
                              (named ? column == NAME || column == INPUT : column == COUNT);
        if (required && !seen[column]) {
            return network_fail(error, "%s: line 1: column \"%s\" is missing", path,
                                columns[column].name);
        }
        if (seen[column] && columns[column].need == (named ? UNNAMED : NAMED)) {
            return network_fail(error,
                                named ? "%s: line 1: column \"%s\" can't be beside \"name\", which "
                                        "makes a line one layer"
                                      : "%s: line 1: column \"%s\" needs \"name\" and \"input\"",
                                path, columns[column].name);
        }
    }
    return 0;
}

static int read_header(const char *path, char *line, struct header *header, bool *has_edges,
                       struct network_message error)
{
    bool seen[COLUMNS] = {false};
    header->cells = 0;
    for (char *cell; (cell = strsep(&line, "\t")) != NULL;) {
        int column = 0;
        while (column < COLUMNS && strcmp(cell, columns[column].name) != 0) {
            column++;
        }
        if (column == COLUMNS) {
            return network_fail(error, "%s: line 1, column %d: no column is called \"%.40s\"", path,
                                header->cells + 1, cell);
        }
        if (seen[column]) {
            return network_fail(error, "%s: line 1, column %d: \"%s\" is there twice", path,
                                header->cells + 1, cell);
        }
        seen[column] = true; /* no column twice: at most COLUMNS cells get here */
        header->order[header->cells++] = (enum column)column;
    }
    *has_edges = seen[NAME];
    return check_header(path, seen, error);
}

/* ---- a line ---- */

/* The cells of a line. Numbers and texts that the file has no column of have their defaults. */
struct cells {
    int64_t number[NUMBERS];
    char *text[COLUMNS];
};

/* Decimal digits only, no sign, no blank; false too if the number is over 2^31-1. */
static bool read_number(const char *text, int64_t *value)
{
    *value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        *value = *value * 10 + (*at - '0');
        if (*value > INT32_MAX) {
            return false;
        }
    }
    return at != text && *at == '\0';
}

static int read_cells(const char *path, int line_number, char *line, const struct header *header,
                      struct cells *cells, struct network_message error)
{
    for (int i = 0; i < header->cells; i++) {
        const enum column column = header->order[i];
        char *cell = strsep(&line, "\t");
        if (cell == NULL) {
            return network_fail(error, "%s: line %d: column \"%s\" is missing", path, line_number,
                                columns[column].name);
        }
        cells->text[column] = cell;
        if (column < NUMBERS && (!read_number(cell, &cells->number[column]) ||
                                 cells->number[column] < columns[column].least ||
                                 cells->number[column] > columns[column].most)) {
            return network_fail(
                error,
                "%s: line %d, column \"%s\": \"%.40s\" is no whole number in %" PRId64 "..%" PRId64,
                path, line_number, columns[column].name, cell, columns[column].least,
                columns[column].most);
        }
    }
    return line == NULL ? 0
                        : network_fail(error, "%s: line %d: more than %d columns", path,
                                       line_number, header->cells);
}

static int read_layer(const char *path, const int64_t *number, struct network_row *row,
                      struct network_message error)
{
    doconv_conv_desc *d = &row->desc;
    doconv_conv_desc_init(d);
    d->cin = number[CI];
    d->h = number[H];
    d->w = number[W];
    d->cout = number[CO];
    d->kh = number[KH];
    d->kw = number[KW];
    d->stride_h = number[SH];
    d->stride_w = number[SW];
    d->pad_top = number[PT];
    d->pad_left = number[PL];
    d->pad_bottom = number[PB];
    d->pad_right = number[PR];
    d->dilation_h = number[DH];
    d->dilation_w = number[DW];
    d->groups = number[GROUPS];
    row->count = (int)number[COUNT];
    if (d->cin % d->groups != 0 || d->cout % d->groups != 0) {
        return network_fail(error,
                            "%s: line %d, column \"groups\": %" PRId64
                            " does not divide ci %" PRId64 " and co %" PRId64,
                            path, row->line, d->groups, d->cin, d->cout);
    }
    int64_t shape[4];
    const doconv_status status = doconv_conv_dst_shape(NULL, d, shape);
    if (status != DOCONV_OK) {
        return network_fail(error, "%s: line %d: no convolution: %s", path, row->line,
                            doconv_status_string(status));
    }
    return 0;
}

/* Of printable characters that are neither blank nor comma; "-" means none. */
static bool valid_layer_name(const char *name)
{
    const char *at = name;
    while (*at > ' ' && *at <= '~' && *at != ',') {
        at++;
    }
    return at != name && *at == '\0' && strcmp(name, "-") != 0;
}

static int read_edges(const char *path, const struct cells *cells, struct network_row *row,
                      struct network_message error)
{
    row->name = cells->text[NAME];
    row->input = cells->text[INPUT];
    row->residual = cells->text[RESIDUAL] != NULL ? cells->text[RESIDUAL] : "-";
    row->has_bias = (int)cells->number[BIAS];
    const char *post = cells->text[POST] != NULL ? cells->text[POST] : "none";
    row->relu = strcmp(post, "relu") == 0;
    row->relu6 = strcmp(post, "relu6") == 0;
    if (!valid_layer_name(row->name)) {
        return network_fail(error, "%s: line %d, column \"name\": \"%.40s\" is no name", path,
                            row->line, row->name);
    }
    if (!row->relu && !row->relu6 && strcmp(post, "none") != 0) {
        return network_fail(error,
                            "%s: line %d, column \"post\": \"%.40s\" is none of none, relu, relu6",
                            path, row->line, post);
    }
    return 0;
}

static int read_row(const char *path, char *line, const struct header *header,
                    struct network_row *row, struct network_message error)
{
    struct cells cells = {0};
    for (int column = 0; column < NUMBERS; column++) {
        cells.number[column] = columns[column].absent;
    }
    if (read_cells(path, row->line, line, header, &cells, error) != 0 ||
        read_layer(path, cells.number, row, error) != 0) {
        return -1;
    }
    return cells.text[NAME] == NULL ? 0 : read_edges(path, &cells, row, error);
}

/* ---- all lines ---- */

static int read_rows(const char *path, struct network_file *file, struct network_message error)
{
    char *rest = file->text, *line = cut_line(&rest);
    struct header header;
    if (read_header(path, line, &header, &file->has_edges, error) != 0) {
        return -1;
    }
    int capacity = 0;
    for (int line_number = 2; (line = cut_line(&rest)) != NULL; line_number++) {
        if (*line == '\0') {
            continue;
        }
        if (file->rows == MAX_LAYERS) {
            return network_fail(error, "%s: line %d: more than %d layers", path, line_number,
                                MAX_LAYERS);
        }
        if (file->rows == capacity) {
            capacity = capacity == 0 ? 32 : capacity * 2;
            struct network_row *grown = realloc(file->row, (size_t)capacity * sizeof *grown);
            if (grown == NULL) {
                return network_fail(error, "%s: out of memory", path);
            }
            file->row = grown;
        }
        struct network_row *row = &file->row[file->rows];
        *row = (struct network_row){.line = line_number};
        if (read_row(path, line, &header, row, error) != 0) {
            return -1;
        }
        file->rows++;
    }
    return file->rows > 0 ? 0 : network_fail(error, "%s: no layer follows the header", path);
}

int network_file_read(const char *path, struct network_file *file, struct network_message error)
{
    memset(file, 0, sizeof *file);
    file->text = read_text(path, error);
    if (file->text == NULL) {
        return -1;
    }
    const int result = read_rows(path, file, error);
    if (result != 0) {
        network_file_free(file);
    }
    return result;
}

void network_file_free(struct network_file *file)
{
    free(file->text);
    free(file->row);
    memset(file, 0, sizeof *file);
}

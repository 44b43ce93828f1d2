/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* strsep */
#include "network_list.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Far above any real network, far below what could exhaust memory. */
#define MAX_FILE_BYTES ((size_t)1 << 20)
#define MAX_LAYERS 4096
#define MAX_COUNT 1000000
#define MAX_PATH 4096
#define SUFFIX ".tsv"

enum column { COUNT, CI, H, W, CO, KH, KW, SH, SW, PT, PL, PB, PR, DH, DW, GROUPS, COLUMNS };

static const struct {
    const char *name;
    int64_t least, most;
} columns[COLUMNS] = {
    [COUNT] = {"count", 1, MAX_COUNT},   [CI] = {"ci", 1, INT32_MAX}, [H] = {"h", 1, INT32_MAX},
    [W] = {"w", 1, INT32_MAX},           [CO] = {"co", 1, INT32_MAX}, [KH] = {"kh", 1, INT32_MAX},
    [KW] = {"kw", 1, INT32_MAX},         [SH] = {"sh", 1, INT32_MAX}, [SW] = {"sw", 1, INT32_MAX},
    [PT] = {"pt", 0, INT32_MAX},         [PL] = {"pl", 0, INT32_MAX}, [PB] = {"pb", 0, INT32_MAX},
    [PR] = {"pr", 0, INT32_MAX},         [DH] = {"dh", 1, INT32_MAX}, [DW] = {"dw", 1, INT32_MAX},
    [GROUPS] = {"groups", 1, INT32_MAX},
};

struct message {
    char *text;
    size_t size;
};

__attribute__((format(printf, 2, 3))) static int fail(struct message error, const char *format, ...)
{
    if (error.text != NULL && error.size > 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(error.text, error.size, format, args);
        va_end(args);
    }
    return -1;
}

static bool has_suffix(const char *name)
{
    const size_t length = strlen(name), suffix = strlen(SUFFIX);
    return length > suffix && strcmp(name + length - suffix, SUFFIX) == 0;
}

/* ---- the file ---- */

/*
 * The whole file with a NUL at its end, or NULL with a message. Bounded while reading: a file may
 * grow, a pipe has no size.
 */
static char *read_text(const char *path, struct message error)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    struct stat status;
    char *text = NULL;
    if (fstat(fileno(file), &status) == 0 && !S_ISREG(status.st_mode)) {
        fail(error, "%s: not a regular file", path);
    } else if ((text = malloc(MAX_FILE_BYTES + 2)) == NULL) {
        fail(error, "%s: out of memory", path);
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
            fail(error, "%s: %s", path, problem);
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

/* ---- its lines ---- */

/* order[i] becomes the column that the i-th cell of a line holds. */
static int read_header(const char *path, char *line, enum column order[COLUMNS],
                       struct message error)
{
    bool seen[COLUMNS] = {false};
    int cells = 0;
    for (char *cell; (cell = strsep(&line, "\t")) != NULL; cells++) {
        int column = 0;
        while (column < COLUMNS && strcmp(cell, columns[column].name) != 0) {
            column++;
        }
        if (column == COLUMNS) {
            return fail(error, "%s: line 1, column %d: no column is called \"%.40s\"", path,
                        cells + 1, cell);
        }
        if (seen[column]) {
            return fail(error, "%s: line 1, column %d: \"%s\" is there twice", path, cells + 1,
                        cell);
        }
        seen[column] = true;
        order[cells] = (enum column)column; /* no column twice: at most COLUMNS cells get here */
    }
    for (int column = 0; column < COLUMNS; column++) {
        if (!seen[column]) {
            return fail(error, "%s: line 1: column \"%s\" is missing", path, columns[column].name);
        }
    }
    return 0;
}

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

static int read_layer(const char *path, int line_number, char *line,
                      const enum column order[COLUMNS], struct network_layer *layer,
                      struct message error)
{
    int64_t value[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
        const enum column column = order[i];
        const char *cell = strsep(&line, "\t");
        if (cell == NULL) {
            return fail(error, "%s: line %d: column \"%s\" is missing", path, line_number,
                        columns[column].name);
        }
        if (!read_number(cell, &value[column]) || value[column] < columns[column].least ||
            value[column] > columns[column].most) {
            return fail(error,
                        "%s: line %d, column \"%s\": \"%.40s\" is no whole number in %" PRId64
                        "..%" PRId64,
                        path, line_number, columns[column].name, cell, columns[column].least,
                        columns[column].most);
        }
    }
    if (line != NULL) {
        return fail(error, "%s: line %d: more than %d columns", path, line_number, COLUMNS);
    }
    doconv_conv_desc *d = &layer->desc;
    doconv_conv_desc_init(d);
    d->cin = value[CI];
    d->h = value[H];
    d->w = value[W];
    d->cout = value[CO];
    d->kh = value[KH];
    d->kw = value[KW];
    d->stride_h = value[SH];
    d->stride_w = value[SW];
    d->pad_top = value[PT];
    d->pad_left = value[PL];
    d->pad_bottom = value[PB];
    d->pad_right = value[PR];
    d->dilation_h = value[DH];
    d->dilation_w = value[DW];
    d->groups = value[GROUPS];
    layer->count = (int)value[COUNT];
    if (d->cin % d->groups != 0 || d->cout % d->groups != 0) {
        return fail(error,
                    "%s: line %d, column \"groups\": %" PRId64 " does not divide ci %" PRId64
                    " and co %" PRId64,
                    path, line_number, d->groups, d->cin, d->cout);
    }
    int64_t shape[4];
    const doconv_status status = doconv_conv_dst_shape(NULL, d, shape);
    if (status != DOCONV_OK) {
        return fail(error, "%s: line %d: no convolution: %s", path, line_number,
                    doconv_status_string(status));
    }
    return 0;
}

static int read_layers(const char *path, char *text, struct network *net, struct message error)
{
    char *line = cut_line(&text);
    enum column order[COLUMNS];
    if (read_header(path, line, order, error) != 0) {
        return -1;
    }
    int capacity = 0;
    for (int line_number = 2; (line = cut_line(&text)) != NULL; line_number++) {
        if (*line == '\0') {
            continue;
        }
        if (net->layers == MAX_LAYERS) {
            return fail(error, "%s: line %d: more than %d layers", path, line_number, MAX_LAYERS);
        }
        if (net->layers == capacity) {
            capacity = capacity == 0 ? 32 : capacity * 2;
            struct network_layer *grown = realloc(net->layer, (size_t)capacity * sizeof *grown);
            if (grown == NULL) {
                return fail(error, "%s: out of memory", path);
            }
            net->layer = grown;
        }
        if (read_layer(path, line_number, line, order, &net->layer[net->layers], error) != 0) {
            return -1;
        }
        net->layers++;
    }
    return net->layers > 0 ? 0 : fail(error, "%s: no layer follows the header", path);
}

/* ---- where networks are ---- */

/* The i-th directory of networks; NULL past the last; "" for one that isn't set. */
static const char *directory(int i)
{
    switch (i) {
    case 0: {
        const char *own = getenv("DOCONV_NETWORKS");
        return own != NULL ? own : "";
    }
    case 1:
        return NETWORKS_INSTALLED;
    case 2:
        return NETWORKS_SOURCE;
    default:
        return NULL;
    }
}

static bool valid_name(const char *name)
{
    return *name != '\0' && *name != '.' && strlen(name) < NETWORK_NAME_SIZE &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
               strlen(name);
}

int network_names(char (*names)[NETWORK_NAME_SIZE], int max)
{
    int count = 0;
    const char *path;
    for (int i = 0; (path = directory(i)) != NULL; i++) {
        DIR *entries = *path != '\0' ? opendir(path) : NULL;
        if (entries == NULL) {
            continue;
        }
        for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
            char name[sizeof entry->d_name];
            if (!has_suffix(entry->d_name)) {
                continue;
            }
            const size_t length = strlen(entry->d_name) - strlen(SUFFIX);
            memcpy(name, entry->d_name, length);
            name[length] = '\0';
            int place = 0;
            while (place < count && strcmp(names[place], name) < 0) {
                place++;
            }
            if (!valid_name(name) || count == max ||
                (place < count && strcmp(names[place], name) == 0)) {
                continue;
            }
            memmove(&names[place + 1], &names[place], (size_t)(count - place) * sizeof names[0]);
            memcpy(names[place], name, length + 1);
            count++;
        }
        closedir(entries);
    }
    return count;
}

/* The path of a network that is given by name. */
static int find_path(const char *name, char *path, size_t size, struct message error)
{
    if (!valid_name(name)) {
        return fail(error, "\"%.80s\" is no network's name", name);
    }
    const char *folder;
    for (int i = 0; (folder = directory(i)) != NULL; i++) {
        const int length = snprintf(path, size, "%s/%s%s", folder, name, SUFFIX);
        struct stat status;
        if (*folder != '\0' && length > 0 && (size_t)length < size && stat(path, &status) == 0) {
            return 0;
        }
    }
    char names[64][NETWORK_NAME_SIZE];
    const int count = network_names(names, 64);
    char known[512] = "none found: DOCONV_NETWORKS names their directory";
    for (int i = 0, used = 0; i < count && used < (int)sizeof known; i++) {
        used += snprintf(known + used, sizeof known - (size_t)used, "%s%s", i > 0 ? ", " : "",
                         names[i]);
    }
    return fail(error, "no network is called \"%s\" (networks: %s)", name, known);
}

int network_load(const char *name_or_path, struct network *net, char *error_text, size_t error_size)
{
    const struct message error = {error_text, error_size};
    memset(net, 0, sizeof *net);
    if (name_or_path == NULL || *name_or_path == '\0') {
        return fail(error, "a network's name is empty");
    }
    char path[MAX_PATH];
    if (strchr(name_or_path, '/') == NULL && !has_suffix(name_or_path)) {
        if (find_path(name_or_path, path, sizeof path, error) != 0) {
            return -1;
        }
    } else if (strlen(name_or_path) < sizeof path) {
        memcpy(path, name_or_path, strlen(name_or_path) + 1);
    } else {
        return fail(error, "the path of a network is longer than %zu bytes", sizeof path - 1);
    }
    char *text = read_text(path, error);
    if (text == NULL) {
        return -1;
    }
    const int result = read_layers(path, text, net, error);
    free(text);
    if (result != 0) {
        network_free(net);
        return -1;
    }
    const char *base = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    const size_t length = strlen(base) - (has_suffix(base) ? strlen(SUFFIX) : 0);
    snprintf(net->name, sizeof net->name, "%.*s",
             (int)(length < sizeof net->name ? length : sizeof net->name - 1), base);
    return 0;
}

void network_free(struct network *net)
{
    if (net != NULL) {
        free(net->layer);
        memset(net, 0, sizeof *net);
    }
}

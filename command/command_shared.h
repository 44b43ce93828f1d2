/* SPDX-License-Identifier: MIT */
/*
 * What the verbs of the doconv command share: options, contexts, messages, tables. It sees the
 * library's public headers only.
 */
#ifndef DOCONV_COMMAND_SHARED_H
#define DOCONV_COMMAND_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <doconv/doconv.h>

enum command_exit { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2 };

/* A verb: run gets the words after the verb and returns an exit status. */
struct command_verb {
    const char *name;
    const char *summary; /* one line */
    const char *help;    /* usage, options, exit status; ends with a newline */
    int (*run)(int count, char **words);
};

extern const struct command_verb command_info, command_explain, command_tune, command_verify,
    command_fold, command_cache;

/* ---- command_options.c ---- */

#define COMMAND_MAX_LAYOUTS 8
/* --layout=blocked: the block that suits the ISA, known once there is a context. */
#define COMMAND_LAYOUT_BLOCKED (-1)

/* --d-mul=mn: as many as the layer's kernel has taps. */
#define COMMAND_D_MUL_TAPS (-1)

/* Values of --layout; repeated options add to the list. */
struct command_layouts {
    int count;
    int item[COMMAND_MAX_LAYOUTS]; /* a doconv_layout, or COMMAND_LAYOUT_BLOCKED; no value twice */
};

/* Values of --kernel=NAME=KHxKW; repeated options add to the list. */
struct command_kernels {
    size_t count;
    /* room for as many as there are words; the names are the caller's to free */
    doconv_fold_kernel *item;
};

/* What is done to sums: values of --post. */
enum command_post { COMMAND_POST_NONE, COMMAND_POST_RELU, COMMAND_POST_RELU6 };

/* Texts; repeated options add to the list. */
struct command_texts {
    size_t count;
    const char **item; /* room for as many as there are words */
};

enum command_option_kind {
    COMMAND_OPTION_FLAG,     /* bool: --name without a value */
    COMMAND_OPTION_INT,      /* int: min..max */
    COMMAND_OPTION_BYTES,    /* size_t: at least 1 */
    COMMAND_OPTION_SECONDS,  /* double: over 0, at most max */
    COMMAND_OPTION_TEXT,     /* const char *: not empty */
    COMMAND_OPTION_TEXTS,    /* struct command_texts: none empty */
    COMMAND_OPTION_PREFIX,   /* const char *: "" for --name without a value */
    COMMAND_OPTION_IDENTITY, /* int: a doconv_fold_identity, ADD or NONE */
    COMMAND_OPTION_DTYPE,    /* int: a doconv_fold_type */
    COMMAND_OPTION_ISA,      /* doconv_isa */
    COMMAND_OPTION_ACCURACY, /* doconv_accuracy */
    COMMAND_OPTION_LAYOUTS,  /* struct command_layouts */
    COMMAND_OPTION_MAPPING,  /* doconv_mapping */
    COMMAND_OPTION_POST,     /* enum command_post */
    COMMAND_OPTION_RUNNER,   /* bool: caller, as against own */
    /* doconv_composition: kernel, feature or auto */
    COMMAND_OPTION_COMPOSITION,
    /* int: at least 1, or COMMAND_D_MUL_TAPS */
    COMMAND_OPTION_D_MUL,
    COMMAND_OPTION_KERNELS /* struct command_kernels */
};

struct command_option {
    const char *name; /* without "--"; NULL ends a list */
    enum command_option_kind kind;
    void *value;
    int min, max;
};

/*
 * Reads the options among the words ("--name=value" or "--name"; "--" ends them) and moves the
 * other words to the front, in order. Returns how many those are; -1 after a message on stderr.
 */
int command_parse_options(const struct command_verb *verb, int count, char **words,
                          const struct command_option *options);

/* ---- command_messages.c ---- */

/* Prints "doconv VERB: message" and where help is; returns COMMAND_USAGE. */
int command_usage_error(const char *verb, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints "doconv: message"; returns COMMAND_FAILED. */
int command_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Prints "doconv: WHAT: the status in words: the detail"; context may be NULL. Returns
 * COMMAND_FAILED.
 */
int command_library_error(const doconv_context *context, doconv_status status, const char *format,
                          ...) __attribute__((format(printf, 3, 4)));

/*
 * Shows a line of progress on stderr that the next one replaces; only if stderr is a terminal. NULL
 * removes it.
 */
void command_progress(const char *line);

/* Whether command_progress() shows anything. */
bool command_has_progress(void);

/* ---- command_context.c ---- */

/*
 * Creates a context whose warnings go to stderr. isa and threads: 0 for the defaults. Returns an
 * exit status; prints what went wrong.
 */
int command_context_create(const char *verb, doconv_isa isa, int threads, doconv_tune_mode tune,
                           doconv_context **context);
/*
 * The same for a program's context, which may be deterministic, and may have its tasks run by the
 * program (own_runner; on one thread unless told of more): command_runner_end() after it is
 * destroyed.
 */
int command_context_create_for(const char *verb, doconv_isa isa, int threads, doconv_tune_mode tune,
                               bool deterministic, bool own_runner, doconv_context **context);

/* "off", "read", ...; "unknown" otherwise. */
const char *command_tune_mode_string(doconv_tune_mode mode);

/* The block that --layout=blocked stands for: as wide as the ISA's vectors. */
doconv_layout command_blocked_layout(doconv_isa isa);

/* ---- command_runner.c ---- */

/*
 * A parallel_for on threads of the command's, the calling one among them: task i runs on thread i
 * modulo their number, user is an int *. One call at a time.
 */
void command_runner_run(void *user, int count, void (*task)(void *arg, int index), void *arg);
/* Ends the threads that calls have started. */
void command_runner_end(void);

/* ---- command_files.c ---- */

/*
 * The whole of a regular file; the caller frees *data. Returns an exit status, after a message that
 * begins with the verb.
 */
int command_read_file(const char *verb, const char *path, unsigned char **data, size_t *size);

/* Likewise. All or nothing: the file has its name once it is whole and on the disk. */
int command_write_file(const char *verb, const char *path, const unsigned char *data, size_t size);

/* ---- command_table.c ---- */

/* Text in columns. The first row is the head. */
struct command_table {
    const char *align; /* a letter a column, 'l' or 'r'; at most 16 */
    char **cell;
    int cells, capacity;
};

/* Adds the next cell, row by row. */
void command_table_add(struct command_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * Prints the rows, each after indent blanks, and frees the cells. Lines are no longer than the
 * terminal is wide (120 characters where standard output is none): longer texts go on in further
 * lines of their column.
 */
void command_table_print(struct command_table *table, int indent);

/* Frees the cells unprinted. */
void command_table_free(struct command_table *table);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Values of options on a command line, for doconv-bench, doconv-study and doconv-compare: what is
 * wrong with one is said in the same words.
 */
#ifndef DOCONV_BENCH_OPTION_VALUES_H
#define DOCONV_BENCH_OPTION_VALUES_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OPTION_WHY_SIZE 256

struct option_choice {
    const char *name; /* NULL ends a list */
    int value;
};

extern const struct option_choice option_isas[];       /* doconv_isa */
extern const struct option_choice option_layouts[];    /* doconv_layout */
extern const struct option_choice option_tunes[];      /* doconv_tune_mode */
extern const struct option_choice option_accuracies[]; /* doconv_accuracy */

/* The name of a value that is in the list. */
const char *option_name(const struct option_choice *choices, int value);

/*
 * Each returns 0; or -1 with a message that names flag and value in why, of OPTION_WHY_SIZE
 * characters.
 */

int option_choose(const char *flag, const char *value, const struct option_choice *choices,
                  int *chosen, char *why);

/* A whole number from 1 on. */
int option_count(const char *flag, const char *value, int most, int *count, char *why);

/* A number of so many units; zero: 0 is one. */
int option_amount(const char *flag, const char *value, const char *unit, bool zero, double most,
                  double *amount, char *why);

/* Cuts a list at its commas, in place; most: the room in parts, which lead into value. */
int option_split(const char *flag, char *value, char **parts, int most, int *count, char *why);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* strsep */
#include "option_values.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <doconv/doconv.h>

const struct option_choice option_isas[] = {
    {"default", DOCONV_ISA_DEFAULT}, {"none", DOCONV_ISA_NONE}, {"avx2", DOCONV_ISA_AVX2},
    {"avx512", DOCONV_ISA_AVX512},   {"neon", DOCONV_ISA_NEON}, {NULL, 0}};
const struct option_choice option_layouts[] = {{"nchw", DOCONV_NCHW},
                                               {"nhwc", DOCONV_NHWC},
                                               {"nChw8c", DOCONV_NCHW8C},
                                               {"nChw16c", DOCONV_NCHW16C},
                                               {NULL, 0}};
const struct option_choice option_tunes[] = {{"off", DOCONV_TUNE_OFF},
                                             {"read", DOCONV_TUNE_READ},
                                             {"tune", DOCONV_TUNE_TUNE},
                                             {"force", DOCONV_TUNE_FORCE},
                                             {NULL, 0}};
const struct option_choice option_accuracies[] = {{"strict", DOCONV_ACCURACY_STRICT},
                                                  {"default", DOCONV_ACCURACY_DEFAULT},
                                                  {"fast", DOCONV_ACCURACY_FAST},
                                                  {NULL, 0}};

static int refuse(const char *flag, const char *value, const char *what, char *why)
{
    snprintf(why, OPTION_WHY_SIZE, "%s: \"%.100s\" %s", flag, value, what);
    return -1;
}

const char *option_name(const struct option_choice *choices, int value)
{
    while (choices->name != NULL && choices->value != value) {
        choices++;
    }
    return choices->name;
}

int option_choose(const char *flag, const char *value, const struct option_choice *choices,
                  int *chosen, char *why)
{
    char names[128] = "is not one of ";
    for (const struct option_choice *c = choices; c->name != NULL; c++) {
        if (strcmp(value, c->name) == 0) {
            *chosen = c->value;
            return 0;
        }
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", c == choices ? "" : ", ", c->name);
    }
    return refuse(flag, value, names, why);
}

int option_count(const char *flag, const char *value, int most, int *count, char *why)
{
    char *end = NULL;
    const long number =
        isdigit((unsigned char)*value) && strlen(value) <= 9 ? strtol(value, &end, 10) : 0;
    if (number < 1 || number > most || *end != '\0') {
        char what[64];
        snprintf(what, sizeof what, "is not a number from 1 to %d", most);
        return refuse(flag, value, what, why);
    }
    *count = (int)number;
    return 0;
}

int option_amount(const char *flag, const char *value, const char *unit, bool zero, double most,
                  double *amount, char *why)
{
    char *end = NULL;
    const double number = strtod(value, &end);
    if (*value == '\0' || *end != '\0' || !isfinite(number) || number > most || number < 0 ||
        (number == 0 && !zero)) {
        char what[96];
        snprintf(what, sizeof what, "is not a number of %s%s up to %g", unit,
                 zero ? "" : " above 0,", most);
        return refuse(flag, value, what, why);
    }
    *amount = number;
    return 0;
}

int option_split(const char *flag, char *value, char **parts, int most, int *count, char *why)
{
    const size_t length = strlen(value);
    if (length == 0 || *value == ',' || value[length - 1] == ',' || strstr(value, ",,") != NULL) {
        return refuse(flag, value, "has an empty entry", why);
    }
    *count = 0;
    for (char *part; (part = strsep(&value, ",")) != NULL;) {
        if (*count == most) {
            return refuse(flag, part, "is one too many", why);
        }
        parts[(*count)++] = part;
    }
    return 0;
}

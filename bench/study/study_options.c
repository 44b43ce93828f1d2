/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <stdlib.h>
#include <string.h>

static char *default_networks[] = {"resnet18", "resnet50", "mobilenet_v2", "restoration"};

static int refuse(const char *why)
{
    fprintf(stderr, "doconv-study: %s\n", why);
    return -1;
}

static int read_counts(const char *flag, char *value, bool taps, int most, int *counts, int *count,
                       char *why)
{
    char *parts[MOST_VALUES];
    int result = option_split(flag, value, parts, MOST_VALUES, count, why);
    for (int i = 0; i < *count && result == 0; i++) {
        if (taps && strcmp(parts[i], "mn") == 0) {
            counts[i] = D_MUL_TAPS;
        } else {
            result = option_count(flag, parts[i], most, &counts[i], why);
        }
    }
    return result;
}

/* Returns 0, or -1 with a message in why. */
static int read_value(struct options *o, const char *flag, char *value, char *why)
{
    int chosen = 0, result = 0;
    if (strcmp(flag, "--networks") == 0) {
        result = option_split(flag, value, o->networks, MOST_NETWORKS, &o->network_count, why);
    } else if (strcmp(flag, "--layers") == 0) {
        o->layers = value;
    } else if (strcmp(flag, "--batch") == 0) {
        result = read_counts(flag, value, false, 65536, o->batches, &o->batch_count, why);
    } else if (strcmp(flag, "--d-mul") == 0) {
        result = read_counts(flag, value, true, 4096, o->d_muls, &o->d_mul_count, why);
    } else if (strcmp(flag, "--threads") == 0) {
        result = option_count(flag, value, 1024, &o->threads, why);
    } else if (strcmp(flag, "--isa") == 0) {
        result = option_choose(flag, value, option_isas, &chosen, why);
        o->isa = (doconv_isa)chosen;
    } else if (strcmp(flag, "--layout") == 0) {
        result = option_choose(flag, value, option_layouts, &chosen, why);
        o->layout = (doconv_layout)chosen;
    } else if (strcmp(flag, "--accuracy") == 0) {
        result = option_choose(flag, value, option_accuracies, &chosen, why);
        o->accuracy = (doconv_accuracy)chosen;
    } else if (strcmp(flag, "--tune") == 0) {
        result = option_choose(flag, value, option_tunes, &chosen, why);
        o->tune = (doconv_tune_mode)chosen;
    } else if (strcmp(flag, "--seconds") == 0) {
        result = option_amount(flag, value, "seconds", false, 3600, &o->seconds, why);
    } else if (strcmp(flag, "--memory") == 0) {
        result = option_amount(flag, value, "GiB", false, 65536, &o->memory, why);
        o->memory *= 1073741824.0;
    } else if (strcmp(flag, "--pytorch") == 0) {
        o->pytorch = value;
    } else {
        o->json = value;
    }
    return result;
}

/* Options without a value. */
static bool read_switch(struct options *o, const char *argument)
{
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
        o->help = true;
    } else if (strcmp(argument, "--list") == 0) {
        o->list = true;
    } else if (strcmp(argument, "--pytorch") == 0) {
        o->pytorch = "python3";
    } else {
        return false;
    }
    return true;
}

/* Returns 0, or -1 after a message on stderr. */
static int read_argument(struct options *o, const char *argument)
{
    static const char *const takers[] = {
        "--networks", "--layers",  "--batch",  "--d-mul",   "--threads", "--isa",     "--layout",
        "--tune",     "--seconds", "--memory", "--pytorch", "--json",    "--accuracy"};
    const size_t length = strcspn(argument, "=");
    const char *flag = NULL;
    for (size_t t = 0; t < sizeof takers / sizeof takers[0]; t++) {
        if (strlen(takers[t]) == length && strncmp(argument, takers[t], length) == 0) {
            flag = takers[t];
        }
    }
    if (flag == NULL) {
        fprintf(stderr, "doconv-study: unknown option \"%s\" (see --help)\n", argument);
        return -1;
    }
    if (argument[length] == '\0' || argument[length + 1] == '\0') {
        fprintf(stderr, "doconv-study: %s: a value is missing, as in %s=VALUE (see --help)\n", flag,
                flag);
        return -1;
    }
    /* The program may start itself anew with its arguments: lists are cut in a copy. */
    char *value = malloc(strlen(argument + length + 1) + 1);
    if (value == NULL) {
        return refuse("out of memory");
    }
    strcpy(value, argument + length + 1);
    o->texts[o->text_count++] = value;
    char why[OPTION_WHY_SIZE];
    return read_value(o, flag, value, why) == 0 ? 0 : refuse(why);
}

int read_options(int argc, char **argv, struct options *o)
{
    *o = (struct options){.network_count = sizeof default_networks / sizeof default_networks[0],
                          .batches = {1, 8, 32},
                          .batch_count = 3,
                          .d_muls = {D_MUL_TAPS, 12, 18},
                          .d_mul_count = 3,
                          .threads = 1,
                          .layout = DOCONV_NHWC,
                          .tune = DOCONV_TUNE_TUNE,
                          .seconds = 1};
    memcpy(o->networks, default_networks, sizeof default_networks);
    o->texts = calloc((size_t)argc, sizeof *o->texts);
    if (o->texts == NULL) {
        return refuse("out of memory");
    }
    for (int i = 1; i < argc && !o->help; i++) {
        if (!read_switch(o, argv[i]) && read_argument(o, argv[i]) != 0) {
            return -1;
        }
    }
    return 0;
}

void free_options(struct options *o)
{
    for (int i = 0; i < o->text_count; i++) {
        free(o->texts[i]);
    }
    free(o->texts);
}

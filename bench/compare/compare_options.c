/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char default_networks[] = "resnet50,mobilenet_v2,resnext50_32x4d";
/* Small, middle and large weights beside their images. */
static const char *const default_steps[] = {"mb8_ic64ih56oc64kh3ph1", "mb8_ic256ih14oc256kh3ph1",
                                            "mb1_ic512ih7oc512kh3ph1"};

static int refuse(const char *why)
{
    fprintf(stderr, "doconv-compare: %s\n", why);
    return -1;
}

static int read_networks(struct options *o, const char *value)
{
    o->network_count = 0;
    free(o->network_text);
    o->network_text = NULL;
    if (strcmp(value, "none") == 0) {
        return 0;
    }
    o->network_text = malloc(strlen(value) + 1);
    if (o->network_text == NULL) {
        fprintf(stderr, "doconv-compare: out of memory\n");
        return -1;
    }
    strcpy(o->network_text, value);
    char why[OPTION_WHY_SIZE];
    return option_split("--networks", o->network_text, o->networks, MOST_NETWORKS,
                        &o->network_count, why) == 0
               ? 0
               : refuse(why);
}

static int read_step(struct options *o, const char *value, bool *given)
{
    if (!*given || strcmp(value, "none") == 0) {
        o->step_count = 0;
    }
    *given = true;
    if (strcmp(value, "none") == 0) {
        return 0;
    }
    if (o->step_count == MOST_STEPS) {
        fprintf(stderr, "doconv-compare: --steps: \"%s\" is one too many\n", value);
        return -1;
    }
    o->steps[o->step_count++] = value;
    return 0;
}

static int read_value(struct options *o, const char *flag, const char *value, bool *steps_given)
{
    char why[OPTION_WHY_SIZE];
    int chosen = 0, result = 0;
    if (strcmp(flag, "--networks") == 0) {
        return read_networks(o, value);
    } else if (strcmp(flag, "--steps") == 0) {
        return read_step(o, value, steps_given);
    } else if (strcmp(flag, "--layout") == 0) {
        result = option_choose(flag, value, option_layouts, &chosen, why);
        o->layout = (doconv_layout)chosen;
    } else if (strcmp(flag, "--isa") == 0) {
        result = option_choose(flag, value, option_isas, &chosen, why);
        o->isa = (doconv_isa)chosen;
    } else if (strcmp(flag, "--cache") == 0) {
        o->cache = value;
    } else if (strcmp(flag, "--seconds") == 0) {
        result = option_amount(flag, value, "seconds", false, 3600, &o->seconds, why);
    } else if (strcmp(flag, "--tsv") == 0) {
        o->tsv = value;
    } else if (strcmp(flag, "--name") == 0) {
        o->name = value;
    }
    return result == 0 ? 0 : refuse(why);
}

/* Options without a value. */
static bool read_switch(struct options *o, const char *argument)
{
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
        o->help = true;
    } else if (strcmp(argument, "--list") == 0) {
        o->list = true;
    } else if (strcmp(argument, "--estimate") == 0) {
        o->tuned = false;
    } else if (strcmp(argument, "--tuned") == 0) {
        o->tuned = true;
    } else {
        return false;
    }
    return true;
}

static int read_argument(struct options *o, const char *argument, bool *steps_given)
{
    static const char *const takers[] = {"--networks", "--steps",   "--layout", "--isa",
                                         "--cache",    "--seconds", "--tsv",    "--name"};
    const size_t length = strcspn(argument, "=");
    for (size_t t = 0; t < sizeof takers / sizeof takers[0]; t++) {
        if (strlen(takers[t]) != length || strncmp(argument, takers[t], length) != 0) {
            continue;
        }
        if (argument[length] == '\0' || argument[length + 1] == '\0') {
            fprintf(stderr, "doconv-compare: %s: a value is missing, as in %s=VALUE (see --help)\n",
                    takers[t], takers[t]);
            return -1;
        }
        return read_value(o, takers[t], argument + length + 1, steps_given);
    }
    fprintf(stderr, "doconv-compare: unknown option \"%s\" (see --help)\n", argument);
    return -1;
}

int read_options(int argc, char **argv, struct options *o)
{
    *o = (struct options){.name = "REV",
                          .step_count = sizeof default_steps / sizeof default_steps[0],
                          .layout = DOCONV_NHWC,
                          .seconds = 0.4};
    memcpy(o->steps, default_steps, sizeof default_steps);
    bool steps_given = false;
    int libraries = 0;
    if (read_networks(o, default_networks) != 0) {
        return -1;
    }
    for (int i = 1; i < argc && !o->help; i++) {
        if (read_switch(o, argv[i])) {
            continue;
        }
        if (argv[i][0] != '-' && libraries < SIDES) {
            o->library[libraries++] = argv[i];
        } else if (read_argument(o, argv[i], &steps_given) != 0) {
            return -1;
        }
    }
    if (o->help) {
        return 0;
    }
    if (libraries < SIDES && !o->list) {
        fprintf(stderr, "doconv-compare: two libraries are needed (see --help)\n");
        return -1;
    }
    if (o->tuned && o->cache == NULL && !o->list) {
        fprintf(stderr, "doconv-compare: --tuned needs --cache=DIR (see --help)\n");
        return -1;
    }
    if (o->network_count == 0 && o->step_count == 0) {
        fprintf(stderr, "doconv-compare: no network and no step: nothing to compare\n");
        return -1;
    }
    return 0;
}

void free_options(struct options *o)
{
    free(o->network_text);
}

/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *default_networks[] = {"resnet18", "resnet50", "mobilenet_v2", "restoration"};

struct choice {
    const char *name;
    int value;
};

static const struct choice isas[] = {{"default", DOCONV_ISA_DEFAULT}, {"none", DOCONV_ISA_NONE},
                                     {"avx2", DOCONV_ISA_AVX2},       {"avx512", DOCONV_ISA_AVX512},
                                     {"neon", DOCONV_ISA_NEON},       {NULL, 0}};
static const struct choice layouts[] = {{"nchw", DOCONV_NCHW},
                                        {"nhwc", DOCONV_NHWC},
                                        {"nChw8c", DOCONV_NCHW8C},
                                        {"nChw16c", DOCONV_NCHW16C},
                                        {NULL, 0}};
static const struct choice tunes[] = {{"off", DOCONV_TUNE_OFF},
                                      {"read", DOCONV_TUNE_READ},
                                      {"tune", DOCONV_TUNE_TUNE},
                                      {"force", DOCONV_TUNE_FORCE},
                                      {NULL, 0}};

void print_help(void)
{
    printf(
        "usage: doconv-study [OPTION=VALUE ...]\n"
        "\n"
        "What DO-Conv costs while it trains: a plain convolution, kernel composition (fold, then "
        "convolve) and feature composition (depthwise, then\n"
        "1x1) of real layers, by the formula's MACs and measured, forward and forward + backward. "
        "Every result is checked.\n"
        "\n"
        "  --networks=NAME,...   networks by name or TSV files by path (default: "
        "resnet18,resnet50,mobilenet_v2,restoration); 1x1 layers, which\n"
        "                        have no D, are left out\n"
        "  --layers=PATTERN      only layers whose name (\"64->64 56x56 3x3\"), or NETWORK/NAME, "
        "has this text or matches this shell pattern\n"
        "  --batch=N,...         images (default: 1,8,32)\n"
        "  --d-mul=N,...         D_mul; mn stands for M*N, the kernel's taps (default: mn,12,18)\n"
        "  --threads=N           threads of both engines (default: 1, pinned to a core)\n"
        "  --isa=NAME            cap for doconv: none, avx2, avx512, neon (default: the best of "
        "this CPU)\n"
        "  --layout=NAME         of doconv's tensors: nchw, nhwc (default), nChw8c, nChw16c\n"
        "  --tune=NAME           of doconv's convolutions. off: the estimate chooses; read: the "
        "cache; tune (default): measure what the cache\n"
        "                        lacks; force: measure all anew\n"
        "  --seconds=S           of the samples of an engine in a case and pass (default: 1)\n"
        "  --memory=GIB          cases that would hold more are skipped (default: 60 %% of what is "
        "available)\n"
        "  --pytorch[=PYTHON]    PyTorch beside doconv, from this Python (default: python3); the "
        "faster of its memory formats for each case\n"
        "  --json=FILE           results as a list of objects, one for each case, pass and engine\n"
        "  --list                the cases with their MACs, nothing measured\n"
        "\n"
        "A time is the median of rounds in which plain, kernel, feature and PyTorch's three take "
        "turns. PyTorch's feature composition is skipped\n"
        "where it would take more than 20 s a call, or more memory than there is.\n"
        "\n"
        "exit status: 0 done; 1 a wrong result, nothing measured, or PyTorch was lost; 2 bad "
        "usage\n");
}

static int refuse(const char *flag, const char *value, const char *what)
{
    fprintf(stderr, "doconv-study: %s: \"%s\" %s\n", flag, value, what);
    return -1;
}

static int choose(const char *flag, const char *value, const struct choice *choices, int *chosen)
{
    char names[128] = "is not one of ";
    for (const struct choice *c = choices; c->name != NULL; c++) {
        if (strcmp(value, c->name) == 0) {
            *chosen = c->value;
            return 0;
        }
        strcat(strcat(names, c == choices ? "" : ", "), c->name);
    }
    return refuse(flag, value, names);
}

static int read_count(const char *flag, const char *value, int most, int *count)
{
    char *end = NULL;
    const long number =
        isdigit((unsigned char)*value) && strlen(value) <= 9 ? strtol(value, &end, 10) : 0;
    if (number < 1 || number > most || *end != '\0') {
        char text[64];
        snprintf(text, sizeof text, "is not a number from 1 to %d", most);
        return refuse(flag, value, text);
    }
    *count = (int)number;
    return 0;
}

/* A number of so many units, more than none. */
static int read_amount(const char *flag, const char *value, const char *unit, double most,
                       double *amount)
{
    char *end = NULL;
    const double number = strtod(value, &end);
    if (*end != '\0' || !isfinite(number) || number <= 0 || number > most) {
        char text[96];
        snprintf(text, sizeof text, "is not a number of %s up to %g", unit, most);
        return refuse(flag, value, text);
    }
    *amount = number;
    return 0;
}

/* Cuts a list in place. */
static int split(const char *flag, char *value, char **parts, int most, int *count)
{
    *count = 0;
    for (char *at = value; at != NULL;) {
        char *comma = strchr(at, ',');
        if (comma != NULL) {
            *comma = '\0';
        }
        if (*at == '\0') {
            return refuse(flag, value, "has an empty entry");
        }
        if (*count == most) {
            return refuse(flag, at, "is one too many");
        }
        parts[(*count)++] = at;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return 0;
}

static int read_counts(const char *flag, char *value, bool taps, int most, int *counts, int *count)
{
    char *parts[MOST_VALUES];
    if (split(flag, value, parts, MOST_VALUES, count) != 0) {
        return -1;
    }
    for (int i = 0; i < *count; i++) {
        if (taps && strcmp(parts[i], "mn") == 0) {
            counts[i] = D_MUL_TAPS;
        } else if (read_count(flag, parts[i], most, &counts[i]) != 0) {
            return -1;
        }
    }
    return 0;
}

static int read_value(struct options *o, const char *flag, char *value)
{
    int chosen = 0, result;
    if (strcmp(flag, "--networks") == 0) {
        return split(flag, value, o->networks, MOST_NETWORKS, &o->network_count);
    } else if (strcmp(flag, "--layers") == 0) {
        o->layers = value;
        return 0;
    } else if (strcmp(flag, "--batch") == 0) {
        return read_counts(flag, value, false, 65536, o->batches, &o->batch_count);
    } else if (strcmp(flag, "--d-mul") == 0) {
        return read_counts(flag, value, true, 4096, o->d_muls, &o->d_mul_count);
    } else if (strcmp(flag, "--threads") == 0) {
        return read_count(flag, value, 1024, &o->threads);
    } else if (strcmp(flag, "--isa") == 0) {
        result = choose(flag, value, isas, &chosen);
        o->isa = (doconv_isa)chosen;
        return result;
    } else if (strcmp(flag, "--layout") == 0) {
        result = choose(flag, value, layouts, &chosen);
        o->layout = (doconv_layout)chosen;
        return result;
    } else if (strcmp(flag, "--tune") == 0) {
        result = choose(flag, value, tunes, &chosen);
        o->tune = (doconv_tune_mode)chosen;
        return result;
    } else if (strcmp(flag, "--seconds") == 0) {
        return read_amount(flag, value, "seconds", 3600, &o->seconds);
    } else if (strcmp(flag, "--memory") == 0) {
        result = read_amount(flag, value, "GiB", 65536, &o->memory);
        o->memory *= 1073741824.0;
        return result;
    } else if (strcmp(flag, "--pytorch") == 0) {
        o->pytorch = value;
        return 0;
    } else if (strcmp(flag, "--json") == 0) {
        o->json = value;
        return 0;
    }
    fprintf(stderr, "doconv-study: unknown option \"%s\" (see --help)\n", flag);
    return -1;
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
        fprintf(stderr, "doconv-study: out of memory\n");
        return -1;
    }
    for (int i = 1; i < argc; i++) {
        char *argument = argv[i];
        if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            o->help = true;
            return 0;
        }
        if (strcmp(argument, "--list") == 0) {
            o->list = true;
            continue;
        }
        if (strcmp(argument, "--pytorch") == 0) {
            o->pytorch = "python3";
            continue;
        }
        char *equal = strchr(argument, '=');
        char flag[32];
        const size_t length = equal != NULL ? (size_t)(equal - argument) : strlen(argument);
        if (strncmp(argument, "--", 2) != 0 || length >= sizeof flag) {
            fprintf(stderr, "doconv-study: unknown option \"%s\" (see --help)\n", argument);
            return -1;
        }
        memcpy(flag, argument, length);
        flag[length] = '\0';
        static const char *const takers[] = {"--networks", "--layers", "--batch",   "--d-mul",
                                             "--threads",  "--isa",    "--layout",  "--tune",
                                             "--seconds",  "--memory", "--pytorch", "--json"};
        bool takes_value = false;
        for (size_t t = 0; t < sizeof takers / sizeof takers[0]; t++) {
            takes_value = takes_value || strcmp(flag, takers[t]) == 0;
        }
        if (!takes_value) {
            fprintf(stderr, "doconv-study: unknown option \"%s\" (see --help)\n", argument);
            return -1;
        }
        if (equal == NULL || equal[1] == '\0') {
            fprintf(stderr, "doconv-study: %s: a value is missing, as in %s=VALUE (see --help)\n",
                    flag, flag);
            return -1;
        }
        /* The program may start itself anew with its arguments: lists are cut in a copy. */
        char *value = malloc(strlen(equal + 1) + 1);
        if (value == NULL) {
            fprintf(stderr, "doconv-study: out of memory\n");
            return -1;
        }
        strcpy(value, equal + 1);
        o->texts[o->text_count++] = value;
        if (read_value(o, flag, value) != 0) {
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

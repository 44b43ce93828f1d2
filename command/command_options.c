/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "command_shared.h"

/* A whole number in decimal digits; false if it is anything else or over most. */
static bool read_whole(const char *text, uint64_t most, uint64_t *value)
{
    *value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        const uint64_t digit = (uint64_t)(*at - '0');
        if (*value > (most - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return at != text && *at == '\0';
}

static bool read_layouts(const char *text, struct command_layouts *layouts)
{
    static const struct {
        const char *name;
        int layout;
    } names[] = {{"nchw", DOCONV_NCHW},
                 {"nhwc", DOCONV_NHWC},
                 {"blocked", COMMAND_LAYOUT_BLOCKED},
                 {"nChw8c", DOCONV_NCHW8C},
                 {"nChw16c", DOCONV_NCHW16C}};
    const size_t known = sizeof names / sizeof names[0];
    for (;;) {
        const size_t length = strcspn(text, ",");
        size_t i = 0;
        while (i < known &&
               (strlen(names[i].name) != length || strncmp(text, names[i].name, length) != 0)) {
            i++;
        }
        if (i == known) {
            return false;
        }
        int place = 0;
        while (place < layouts->count && layouts->item[place] != names[i].layout) {
            place++;
        }
        if (place == layouts->count) {
            /* as many as there are names, at most */
            layouts->item[layouts->count++] = names[i].layout;
        }
        if (text[length] == '\0') {
            return true;
        }
        text += length + 1;
    }
}

/* "NAME=KHxKW"; NAME may have '=' itself. */
static bool read_kernel(const char *text, struct command_kernels *kernels)
{
    const char *sizes = strrchr(text, '=');
    const size_t most = sizeof "2147483647";
    char height[sizeof "2147483647"];
    uint64_t kh, kw;
    if (sizes == NULL || strcspn(++sizes, "x") >= most || strchr(sizes, 'x') == NULL) {
        return false;
    }
    const size_t length = strcspn(sizes, "x");
    memcpy(height, sizes, length);
    height[length] = '\0';
    if (!read_whole(height, INT32_MAX, &kh) || !read_whole(sizes + length + 1, INT32_MAX, &kw) ||
        kh == 0 || kw == 0) {
        return false;
    }
    char *name = strndup(text, (size_t)(sizes - 1 - text));
    if (name == NULL) {
        return false;
    }
    kernels->item[kernels->count++] = (doconv_fold_kernel){name, (int64_t)kh, (int64_t)kw};
    return true;
}

/* The place of a text among names; false if it is none. */
static bool read_name(const char *text, const char *const *names, int count, int *value)
{
    for (int i = 0; i < count; i++) {
        if (names[i] != NULL && strcmp(text, names[i]) == 0) {
            *value = i;
            return true;
        }
    }
    return false;
}

/* Stores a value; on failure returns what it should have been, in text. */
static bool read_value(const struct command_option *option, const char *text, char *expected,
                       size_t size)
{
    uint64_t whole;
    switch (option->kind) {
    case COMMAND_OPTION_INT:
        snprintf(expected, size, "a whole number in %d..%d", option->min, option->max);
        if (!read_whole(text, (uint64_t)option->max, &whole) || whole < (uint64_t)option->min) {
            return false;
        }
        *(int *)option->value = (int)whole;
        return true;
    case COMMAND_OPTION_BYTES:
        snprintf(expected, size, "a whole number of bytes, at least 1");
        if (!read_whole(text, SIZE_MAX, &whole) || whole == 0) {
            return false;
        }
        *(size_t *)option->value = (size_t)whole;
        return true;
    case COMMAND_OPTION_SECONDS: {
        snprintf(expected, size, "a number of seconds over 0 and up to %d", option->max);
        char *end;
        const double seconds = strtod(text, &end);
        if (strspn(text, "0123456789.") != strlen(text) || end == text || *end != '\0' ||
            !(seconds > 0) || seconds > option->max) {
            return false;
        }
        *(double *)option->value = seconds;
        return true;
    }
    case COMMAND_OPTION_TEXT:
        snprintf(expected, size, "a text");
        *(const char **)option->value = text;
        return *text != '\0';
    case COMMAND_OPTION_TEXTS: {
        struct command_texts *texts = option->value;
        snprintf(expected, size, "a text");
        texts->item[texts->count++] = text;
        return *text != '\0';
    }
    case COMMAND_OPTION_PREFIX:
        snprintf(expected, size, "a text");
        *(const char **)option->value = text;
        return *text != '\0';
    case COMMAND_OPTION_IDENTITY: {
        static const char *const names[] = {
            [DOCONV_FOLD_IDENTITY_ADD] = "add", [DOCONV_FOLD_IDENTITY_NONE] = "none"};
        snprintf(expected, size, "add or none");
        return read_name(text, names, 3, option->value);
    }
    case COMMAND_OPTION_DTYPE: {
        static const char *const names[] = {[DOCONV_FOLD_KEEP] = "keep",
                                            [DOCONV_FOLD_F32] = "f32",
                                            [DOCONV_FOLD_F16] = "f16",
                                            [DOCONV_FOLD_BF16] = "bf16",
                                            [DOCONV_FOLD_F64] = "f64"};
        snprintf(expected, size, "f32, f16, bf16, f64 or keep");
        return read_name(text, names, 5, option->value);
    }
    case COMMAND_OPTION_ISA:
        snprintf(expected, size, "none, avx2, avx512 or neon");
        for (int isa = DOCONV_ISA_NONE; isa <= DOCONV_ISA_NEON; isa++) {
            if (strcmp(text, doconv_isa_string((doconv_isa)isa)) == 0) {
                *(doconv_isa *)option->value = (doconv_isa)isa;
                return true;
            }
        }
        return false;
    case COMMAND_OPTION_ACCURACY: {
        static const char *const names[] = {[DOCONV_ACCURACY_DEFAULT] = "default",
                                            [DOCONV_ACCURACY_STRICT] = "strict",
                                            [DOCONV_ACCURACY_FAST] = "fast"};
        snprintf(expected, size, "strict, default or fast");
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (strcmp(text, names[i]) == 0) {
                *(doconv_accuracy *)option->value = (doconv_accuracy)i;
                return true;
            }
        }
        return false;
    }
    case COMMAND_OPTION_LAYOUTS:
        snprintf(expected, size, "nchw, nhwc, blocked, nChw8c, nChw16c, or several with commas");
        return read_layouts(text, option->value);
    case COMMAND_OPTION_MAPPING: {
        static const char *const names[] = {[DOCONV_MAPPING_PAPER] = "paper",
                                            [DOCONV_MAPPING_PYTORCH] = "pytorch",
                                            [DOCONV_MAPPING_TENSORFLOW] = "tensorflow"};
        snprintf(expected, size, "paper, pytorch or tensorflow");
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (strcmp(text, names[i]) == 0) {
                *(doconv_mapping *)option->value = (doconv_mapping)i;
                return true;
            }
        }
        return false;
    }
    case COMMAND_OPTION_POST: {
        static const char *const names[] = {[COMMAND_POST_NONE] = "none",
                                            [COMMAND_POST_RELU] = "relu",
                                            [COMMAND_POST_RELU6] = "relu6"};
        snprintf(expected, size, "none, relu or relu6");
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (strcmp(text, names[i]) == 0) {
                *(enum command_post *)option->value = (enum command_post)i;
                return true;
            }
        }
        return false;
    }
    case COMMAND_OPTION_RUNNER:
        snprintf(expected, size, "own or caller");
        *(bool *)option->value = strcmp(text, "caller") == 0;
        return strcmp(text, "caller") == 0 || strcmp(text, "own") == 0;
    case COMMAND_OPTION_COMPOSITION:
        snprintf(expected, size, "kernel, feature or auto");
        *(doconv_composition *)option->value =
            strcmp(text, "kernel") == 0    ? DOCONV_COMPOSITION_KERNEL
            : strcmp(text, "feature") == 0 ? DOCONV_COMPOSITION_FEATURE
                                           : DOCONV_COMPOSITION_AUTO;
        return strcmp(text, "kernel") == 0 || strcmp(text, "feature") == 0 ||
               strcmp(text, "auto") == 0;
    case COMMAND_OPTION_D_MUL:
        snprintf(expected, size, "mn or a whole number, 1 at least");
        if (strcmp(text, "mn") == 0) {
            *(int *)option->value = COMMAND_D_MUL_TAPS;
            return true;
        }
        if (!read_whole(text, INT32_MAX, &whole) || whole == 0) {
            return false;
        }
        *(int *)option->value = (int)whole;
        return true;
    case COMMAND_OPTION_KERNELS:
        snprintf(expected, size, "a layer's NAME=KHxKW");
        return read_kernel(text, option->value);
    case COMMAND_OPTION_FLAG:
        break;
    }
    return false;
}

static bool read_option(const struct command_verb *verb, const char *word,
                        const struct command_option *options)
{
    const size_t length = strcspn(word + 2, "=");
    const char *value = word[2 + length] == '=' ? word + 3 + length : NULL;
    const struct command_option *option = options;
    while (option->name != NULL &&
           (strlen(option->name) != length || strncmp(option->name, word + 2, length) != 0)) {
        option++;
    }
    if (option->name == NULL) {
        command_usage_error(verb->name, "no option is called \"%.*s\"",
                            (int)(length < 80 ? length + 2 : 82), word);
        return false;
    }
    if (option->kind == COMMAND_OPTION_FLAG) {
        if (value != NULL) {
            command_usage_error(verb->name, "--%s takes no value: \"%.80s\"", option->name, value);
            return false;
        }
        *(bool *)option->value = true;
        return true;
    }
    char expected[96] = "";
    if (value == NULL && option->kind == COMMAND_OPTION_PREFIX) {
        *(const char **)option->value = "";
        return true;
    }
    if (value == NULL) {
        command_usage_error(verb->name, "--%s needs a value: --%s=...", option->name, option->name);
        return false;
    }
    if (!read_value(option, value, expected, sizeof expected)) {
        command_usage_error(verb->name, "--%s: \"%.80s\" is not %s", option->name, value, expected);
        return false;
    }
    return true;
}

int command_parse_options(const struct command_verb *verb, int count, char **words,
                          const struct command_option *options)
{
    int kept = 0;
    bool more = true;
    for (int i = 0; i < count; i++) {
        char *word = words[i];
        if (!more || word[0] != '-' || word[1] == '\0') {
            words[kept++] = word;
        } else if (strcmp(word, "--") == 0) {
            more = false;
        } else if (word[1] != '-') {
            command_usage_error(verb->name, "no option is called \"%.80s\"", word);
            return -1;
        } else if (!read_option(verb, word, options)) {
            return -1;
        }
    }
    return kept;
}

/* SPDX-License-Identifier: MIT */
/* Keys read back: the text that dc_plan_key() writes. */
#include <string.h>

#include "nearest.h"
#include "plan/plan.h"
#include "plan/problem.h"

/* Steps over a word that text begins with. */
static bool take(const char **text, const char *word)
{
    const size_t length = strlen(word);
    if (strncmp(*text, word, length) != 0) {
        return false;
    }
    *text += length;
    return true;
}

static bool take_number(const char **text, size_t *value)
{
    const char *start = *text;
    *value = 0;
    for (; **text >= '0' && **text <= '9'; ++*text) {
        const size_t digit = (size_t)(**text - '0');
        if (*value > (SIZE_MAX - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return *text != start;
}

static bool take_operation(const char **text, doconv_operation *operation)
{
    *operation = DOCONV_OPERATION_CONVOLUTION;
    if (!take(text, " operation=")) {
        return true;
    }
    for (int o = 0; o < DC_OPERATIONS; o++) {
        const char *name = dc_operation_name((enum dc_operation)o);
        const size_t length = strlen(name);
        if (strncmp(*text, name, length) == 0 && (*text)[length] == ' ') {
            *text += length;
            *operation = (doconv_operation)o;
            return true;
        }
    }
    return false;
}

/* What follows the problem. */
static bool take_options(const char **text, struct nearest_key *k, size_t *threads)
{
    doconv_plan_options *o = &k->options;
    if (!take_operation(text, &o->operation) || !take(text, " threads=") ||
        !take_number(text, threads) || *threads == 0 || *threads > 4096) {
        return false;
    }
    k->caller = take(text, " runner=caller");
    if ((!k->caller && !take(text, " runner=default")) || !take(text, " workspace=") ||
        !take_number(text, &o->workspace_limit)) {
        return false;
    }
    o->cold_weights = take(text, " weights=cold");
    if (!o->cold_weights && !take(text, " weights=warm")) {
        return false;
    }
    o->fresh_weights = take(text, ",fresh");
    k->kept = take(text, " order=kept");
    return !take(text, " packed=") || take_number(text, &o->packed_limit);
}

bool dc_nearest_parse(const char *key, struct nearest_key *parsed)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    const size_t length = strcspn(key, " ");
    const char *rest = key + length;
    doconv_conv_desc desc;
    size_t threads;
    *parsed = (struct nearest_key){.options.size = sizeof parsed->options};
    if (length >= sizeof text || !take_options(&rest, parsed, &threads) || *rest != '\0') {
        return false;
    }
    memcpy(text, key, length);
    text[length] = '\0';
    if (doconv_conv_desc_parse(NULL, text, &desc) != DOCONV_OK ||
        dc_plan_problem(NULL, &desc, &parsed->options, &parsed->problem) != DOCONV_OK) {
        return false;
    }
    parsed->problem.threads = (int)threads;
    return true;
}

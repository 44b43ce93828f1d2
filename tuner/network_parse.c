/* SPDX-License-Identifier: MIT */
/*
 * Reading a network's plan. The parser takes what the printer writes and nothing else: it prints
 * what it has read, and the texts must be the same.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/versioned.h"
#include "network_plan.h"

#define LINE 1024 /* more than any line that is written */

struct parser {
    struct doconv_network_plan *plan;
    const char *at, *end;
    int number;       /* of the line that was read last, from 1 on */
    char line[LINE];  /* without its newline */
    const char *rest; /* of the line: what is not yet taken */
};

static doconv_status refuse(const struct parser *p, const char *reason)
{
    return dc_fail(p->plan->ctx, DOCONV_INVALID_FILE, "line %d: %s", p->number, reason);
}

/* The next line. */
static doconv_status next_line(struct parser *p)
{
    size_t length = 0;
    p->number++;
    while (p->at < p->end && *p->at != '\n') {
        if (length + 1 >= sizeof p->line || *p->at == '\0') {
            return refuse(p, "too long, or no text");
        }
        p->line[length++] = *p->at++;
    }
    p->line[length] = '\0';
    p->rest = p->line;
    if (p->at == p->end) {
        return refuse(p, "the text ends here, before its checksum");
    }
    p->at++;
    return DOCONV_OK;
}

/* Takes a word of the line, with the blank before or after it. */
static bool take(struct parser *p, const char *word)
{
    const size_t length = strlen(word);
    if (strncmp(p->rest, word, length) != 0) {
        return false;
    }
    p->rest += length;
    return true;
}

static bool take_int(struct parser *p, int64_t most, int64_t *value)
{
    const char *start = p->rest;
    *value = 0;
    while (*p->rest >= '0' && *p->rest <= '9') {
        const int digit = *p->rest++ - '0';
        if (digit > most || *value > (most - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return p->rest > start;
}

static bool take_layout(struct parser *p, doconv_layout *layout)
{
    /* The longest first: none begins with another that is before it. */
    for (int i = SELECT_LAYOUTS - 1; i >= 0; i--) {
        if (take(p, doconv_layout_string((doconv_layout)i))) {
            *layout = (doconv_layout)i;
            return true;
        }
    }
    return false;
}

/* The next line: a name, then a number to its end. */
static doconv_status read_int(struct parser *p, const char *name, int64_t most, int64_t *value)
{
    const doconv_status status = next_line(p);
    if (status != DOCONV_OK) {
        return status;
    }
    if (!take(p, name) || !take(p, " ") || !take_int(p, most, value) || *p->rest != '\0') {
        char reason[80];
        snprintf(reason, sizeof reason, "it must be \"%s\" and a whole number in range", name);
        return refuse(p, reason);
    }
    return DOCONV_OK;
}

/* The next line: a name, then at least one character, to its end. */
static doconv_status read_text(struct parser *p, const char *name, char *text, size_t size)
{
    const doconv_status status = next_line(p);
    if (status != DOCONV_OK) {
        return status;
    }
    if (!take(p, name) || !take(p, " ") || *p->rest == '\0' || strlen(p->rest) >= size) {
        char reason[80];
        snprintf(reason, sizeof reason, "it must be \"%s\" and a text that is not too long", name);
        return refuse(p, reason);
    }
    memcpy(text, p->rest, strlen(p->rest) + 1);
    return DOCONV_OK;
}

static doconv_status read_head(struct parser *p)
{
    const doconv_status status = next_line(p);
    int64_t version;
    if (status != DOCONV_OK) {
        return status;
    }
    if (!take(p, NETWORK_HEAD) || !take_int(p, INT32_MAX, &version) || *p->rest != '\0') {
        return refuse(p, "it is no plan of a network");
    }
    return version == NETWORK_VERSION ? DOCONV_OK : refuse(p, "it is of another version");
}

static doconv_status read_caps(struct parser *p)
{
    struct network_caps *caps = &p->plan->caps;
    int64_t threads = 0, deterministic = 0, workspace = 0, packed = 0, exact = 0;
    char runner[16];
    doconv_status status = read_head(p);
    if (status == DOCONV_OK) {
        status = read_text(p, "environment", caps->environment, sizeof caps->environment);
    }
    if (status == DOCONV_OK && !dc_entries_is_name(caps->environment, strlen(caps->environment))) {
        return refuse(p, "the environment is not 16 hexadecimal digits");
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "threads", INT32_MAX, &threads);
    }
    if (status == DOCONV_OK) {
        status = read_text(p, "runner", runner, sizeof runner);
    }
    if (status == DOCONV_OK && strcmp(runner, "caller") != 0 && strcmp(runner, "default") != 0) {
        return refuse(p, "the runner is neither default nor caller");
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "deterministic", 1, &deterministic);
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "workspace_limit", INT64_MAX, &workspace);
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "packed_limit", INT64_MAX, &packed);
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "exact", 1, &exact);
    }
    if (status == DOCONV_OK) {
        caps->threads = (int)threads;
        caps->own_threads = strcmp(runner, "caller") == 0;
        caps->deterministic = deterministic != 0;
        caps->workspace_limit = (size_t)workspace;
        caps->packed_limit = (size_t)packed;
        p->plan->exact = exact != 0;
    }
    return status;
}

/* Lines of single layouts, up to an empty one. */
static doconv_status read_singles(struct parser *p)
{
    doconv_status status;
    while ((status = next_line(p)) == DOCONV_OK && *p->line != '\0') {
        doconv_layout layout;
        int64_t value;
        if (!take(p, "single ") || !take_layout(p, &layout) || !take(p, " ") ||
            !take_int(p, INT64_MAX, &value) || *p->rest != '\0' || value == 0) {
            return refuse(p, "it must be \"single\", a layout and picoseconds, or empty");
        }
        p->plan->single[layout] = value;
    }
    return status;
}

/* The layer of this name; DOCONV_NETWORK_INPUT for what the network is given, else below it. */
static int find_producer(const struct doconv_network_plan *plan, const char *name)
{
    for (int i = 0; i < plan->count; i++) {
        if (strcmp(plan->choices[i].name, name) == 0) {
            return i;
        }
    }
    return strcmp(name, NETWORK_GIVEN) == 0 ? DOCONV_NETWORK_INPUT : DOCONV_NETWORK_INPUT - 1;
}

static bool take_copy(struct parser *p, struct network_reorder *copy)
{
    int64_t input = -1;
    if (!take(p, "copy ") ||
        !(take(p, "residual") || (take(p, "src") && take_int(p, NETWORK_LAYERS, &input)))) {
        return false;
    }
    copy->input = (int)input;
    int64_t *const shape[] = {&copy->n, &copy->c, &copy->h, &copy->w};
    bool ok = take(p, " ") && take_layout(p, &copy->from) && take(p, " ") &&
              take_layout(p, &copy->to) && take(p, " ");
    for (int i = 0; i < 4; i++) {
        ok = ok && (i == 0 || take(p, "x")) && take_int(p, INT32_MAX, shape[i]);
    }
    copy->reused = ok && take(p, " reused ");
    copy->estimated = ok && !copy->reused && take(p, " estimate ");
    return ok && (copy->reused || copy->estimated || take(p, " measured ")) &&
           take_int(p, copy->reused ? 0 : INT64_MAX, &copy->picoseconds) && take(p, " ") &&
           copy->from != copy->to;
}

/* Lines of copies, up to an empty one. */
static doconv_status read_copies(struct parser *p, int consumer)
{
    doconv_status status;
    while ((status = next_line(p)) == DOCONV_OK && *p->line != '\0') {
        struct network_reorder copy = {.consumer = consumer};
        const struct network_choice *reader =
            consumer < p->plan->count ? &p->plan->choices[consumer] : NULL;
        if (!take_copy(p, &copy)) {
            return refuse(p, "neither a copy nor empty");
        }
        copy.producer = find_producer(p->plan, p->rest);
        if (copy.producer < DOCONV_NETWORK_INPUT || copy.producer >= consumer) {
            return refuse(p, "the copy is not of a layer before it");
        }
        if ((copy.producer >= 0 && copy.from != p->plan->choices[copy.producer].desc.dst_layout) ||
            (reader != NULL &&
             copy.to != (copy.input >= 0 ? reader->desc.src_layout : reader->desc.dst_layout))) {
            return refuse(p, "the copy's layouts are not those of the layers");
        }
        struct network_reorder *added = dc_network_plan_add_reorder(p->plan);
        if (added == NULL) {
            return dc_fail(p->plan->ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
        }
        *added = copy;
    }
    return status;
}

static doconv_status read_problem(struct parser *p, struct network_choice *choice)
{
    doconv_status status = read_text(p, "problem", choice->problem, sizeof choice->problem);
    if (status == DOCONV_OK) {
        status = doconv_conv_desc_parse(p->plan->ctx, choice->problem, &choice->desc);
        if (status != DOCONV_OK) {
            char detail[128];
            snprintf(detail, sizeof detail, "the problem: %.100s", dc_last_failure(p->plan->ctx));
            return refuse(p, detail);
        }
        /* As it is written: what is printed again is compared with the text. */
        status = doconv_conv_desc_format(p->plan->ctx, &choice->desc, choice->problem,
                                         sizeof choice->problem);
    }
    return status;
}

/* A layer whose first line has been read. */
static doconv_status read_layer(struct parser *p)
{
    if (p->plan->count >= NETWORK_LAYERS || !dc_network_is_name(p->rest) ||
        find_producer(p->plan, p->rest) >= 0) {
        return refuse(p, "too many layers, or the name is none, or that of another layer");
    }
    struct network_choice *choice = dc_network_plan_add(p->plan);
    if (choice == NULL) {
        return dc_fail(p->plan->ctx, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    }
    memcpy(choice->name, p->rest, strlen(p->rest) + 1);
    doconv_status status = read_problem(p, choice);
    if (status == DOCONV_OK) {
        status = read_text(p, "variant", choice->variant, sizeof choice->variant);
    }
    if (status == DOCONV_OK) {
        status = read_text(p, "origin", choice->origin, sizeof choice->origin);
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "picoseconds", INT64_MAX, &choice->picoseconds);
    }
    if (status == DOCONV_OK) {
        status = read_int(p, "workspace", INT64_MAX, &choice->workspace);
    }
    return status == DOCONV_OK ? read_copies(p, p->plan->count - 1) : status;
}

/* What is printed, against what was read. */
struct comparison {
    const char *at, *end;
    int line; /* of at, from 1 on */
};

static int compare(void *user, const char *text, size_t length)
{
    struct comparison *c = user;
    for (size_t i = 0; i < length; i++) {
        if (c->at == c->end || *c->at != text[i]) {
            return 1;
        }
        c->line += *c->at++ == '\n';
    }
    return 0;
}

/* The layers, and the line of the checksum, which is the last. */
static doconv_status read_blocks(struct parser *p, const char *text)
{
    bool ended = false;
    doconv_status status;
    while ((status = next_line(p)) == DOCONV_OK && !take(p, "checksum ")) {
        if (ended || (!take(p, "layer ") && strcmp(p->rest, "outputs") != 0)) {
            return refuse(p, "no layer begins here, and the text does not end");
        }
        ended = strcmp(p->line, "outputs") == 0;
        status = ended ? read_copies(p, p->plan->count) : read_layer(p);
        if (status != DOCONV_OK) {
            return status;
        }
    }
    if (status == DOCONV_OK && (p->at != p->end || p->plan->count == 0)) {
        return refuse(p, "there is no layer, or something follows the checksum");
    }
    if (status != DOCONV_OK) {
        return status;
    }
    struct comparison same = {text, p->end, 1};
    if (!dc_network_plan_print(p->plan, compare, &same)) {
        const bool last = same.line == p->number;
        p->number = same.line;
        return refuse(p, last ? "the checksum is not that of the lines before it"
                              : "not as it is written");
    }
    return DOCONV_OK;
}

/* ---- for whom it is ---- */

static doconv_status check_caps(const struct doconv_network_plan *plan,
                                const doconv_network_parse_options *options)
{
    const struct network_caps own = dc_network_caps(plan->ctx);
    if (options->any_environment == 0 && strcmp(plan->caps.environment, own.environment) != 0) {
        return dc_fail(plan->ctx, DOCONV_MISMATCH,
                       "network: the plan is of environment %s; this one is %s",
                       plan->caps.environment, own.environment);
    }
    if (options->any_threads == 0 && plan->caps.threads != own.threads) {
        return dc_fail(plan->ctx, DOCONV_MISMATCH,
                       "network: the plan is for %d threads; the context has %d",
                       plan->caps.threads, own.threads);
    }
    if (own.deterministic && !plan->caps.deterministic) {
        return dc_fail(plan->ctx, DOCONV_MISMATCH,
                       "network: the context is deterministic, and the plan is not");
    }
    return DOCONV_OK;
}

static doconv_status read_parse_options(doconv_context *ctx,
                                        const doconv_network_parse_options *from,
                                        doconv_network_parse_options *options)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_network_parse_options, from, options);
    if (status != DOCONV_OK) {
        return status;
    }
    if ((options->any_environment | options->any_threads) >> 1 != 0) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "options.any_environment and any_threads must be in 0..1");
    }
    return DOCONV_OK;
}

doconv_status doconv_network_plan_parse(doconv_context *context, const char *text, size_t size,
                                        const doconv_network_parse_options *options,
                                        doconv_network_plan **plan)
{
    if (plan != NULL) {
        *plan = NULL;
    }
    if (context == NULL || text == NULL || plan == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context"
                       : text == NULL  ? "text"
                                       : "plan");
    }
    doconv_network_parse_options own;
    doconv_status status = read_parse_options(context, options, &own);
    if (status != DOCONV_OK) {
        return status;
    }
    struct parser *p = dc_alloc(context, sizeof *p);
    struct doconv_network_plan *result = dc_network_plan_create(context);
    if (p == NULL || result == NULL) {
        status = dc_fail(context, DOCONV_OUT_OF_MEMORY, "network: out of memory");
    } else {
        *p = (struct parser){.plan = result, .at = text, .end = text + size};
        status = read_caps(p);
        status = status == DOCONV_OK ? read_singles(p) : status;
        status = status == DOCONV_OK ? read_blocks(p, text) : status;
        status = status == DOCONV_OK ? check_caps(result, &own) : status;
    }
    dc_free(context, p);
    if (status != DOCONV_OK) {
        doconv_network_plan_destroy(result);
        return status;
    }
    *plan = result;
    return DOCONV_OK;
}

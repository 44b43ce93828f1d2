/* SPDX-License-Identifier: MIT */
/*
 * A network's plan as text, lines of "name value", whole numbers in decimal:
 *
 *   doconv-network-plan 1
 *   environment HASH          for whom it is
 *   threads 1
 *   runner default            default or caller, as in the cache's keys
 *   deterministic 0
 *   workspace_limit 0
 *   packed_limit 0
 *   exact 1
 *   single nhwc PICOSECONDS   for each layout that there is
 *
 *   layer NAME
 *   problem TEXT              with its layouts
 *   variant TEXT
 *   origin measured
 *   picoseconds 123
 *   workspace 0
 *   copy src0 nhwc nChw16c 1x64x56x56 measured PICOSECONDS PRODUCER
 *   copy residual nhwc nChw16c 1x64x56x56 reused 0 PRODUCER
 *
 *   outputs                   if the network's caller has copies
 *   copy src0 nhwc nchw 1x64x56x56 estimate PICOSECONDS PRODUCER
 *
 *   checksum HASH             of all before it
 *
 * network_parse.c reads it.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/registry.h"
#include "network_plan.h"

#define LINE 1024 /* more than any line that is written */

/* ---- writing ---- */

struct printer {
    doconv_write_fn write;
    void *user;
    uint64_t checksum;
    bool ok;
};

static void print(struct printer *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void print(struct printer *p, const char *format, ...)
{
    char line[LINE];
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    p->checksum = dc_hash(p->checksum, line, (size_t)length);
    p->ok = p->ok && p->write(p->user, line, (size_t)length) == 0;
}

static void print_caps(struct printer *p, const struct doconv_network_plan *plan)
{
    const struct network_caps *caps = &plan->caps;
    print(p, NETWORK_HEAD "%d\n", NETWORK_VERSION);
    print(p, "environment %s\n", caps->environment);
    print(p, "threads %d\n", caps->threads);
    print(p, "runner %s\n", caps->own_threads ? "caller" : "default");
    print(p, "deterministic %d\n", caps->deterministic);
    print(p, "workspace_limit %zu\n", caps->workspace_limit);
    print(p, "packed_limit %zu\n", caps->packed_limit);
    print(p, "exact %d\n", plan->exact);
    for (int layout = 0; layout < SELECT_LAYOUTS; layout++) {
        if (plan->single[layout] != 0) {
            print(p, "single %s %" PRId64 "\n", doconv_layout_string((doconv_layout)layout),
                  plan->single[layout]);
        }
    }
    print(p, "\n");
}

static void print_copy(struct printer *p, const struct doconv_network_plan *plan,
                       const struct network_reorder *copy)
{
    char input[24] = "residual";
    if (copy->input >= 0) {
        snprintf(input, sizeof input, "src%d", copy->input);
    }
    print(p, "copy %s %s %s %" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64 " %s %" PRId64 " %s\n",
          input, doconv_layout_string(copy->from), doconv_layout_string(copy->to), copy->n, copy->c,
          copy->h, copy->w,
          copy->reused      ? "reused"
          : copy->estimated ? "estimate"
                            : "measured",
          copy->picoseconds,
          copy->producer >= 0 ? plan->choices[copy->producer].name : NETWORK_GIVEN);
}

/* The copies of a consumer; *next: the first that is not printed yet. */
static void print_copies(struct printer *p, const struct doconv_network_plan *plan, int consumer,
                         int *next)
{
    while (*next < plan->reorder_count && plan->reorders[*next].consumer == consumer) {
        print_copy(p, plan, &plan->reorders[(*next)++]);
    }
}

bool dc_network_plan_print(const struct doconv_network_plan *plan, doconv_write_fn write,
                           void *user)
{
    struct printer p = {.write = write, .user = user, .ok = true};
    int next = 0;
    print_caps(&p, plan);
    for (int i = 0; i < plan->count && p.ok; i++) {
        const struct network_choice *c = &plan->choices[i];
        print(&p, "layer %s\n", c->name);
        print(&p, "problem %s\n", c->problem);
        print(&p, "variant %s\n", c->variant);
        print(&p, "origin %s\n", c->origin);
        print(&p, "picoseconds %" PRId64 "\n", c->picoseconds);
        print(&p, "workspace %" PRId64 "\n", c->workspace);
        print_copies(&p, plan, i, &next);
        print(&p, "\n");
    }
    if (next < plan->reorder_count) {
        print(&p, "outputs\n");
        print_copies(&p, plan, plan->count, &next);
        print(&p, "\n");
    }
    print(&p, "checksum %016" PRIx64 "\n", p.checksum);
    return p.ok;
}

doconv_status doconv_network_plan_write(const doconv_network_plan *plan, doconv_write_fn write,
                                        void *user)
{
    if (plan == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (write == NULL) {
        return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "write: NULL");
    }
    return dc_network_plan_print(plan, write, user)
               ? DOCONV_OK
               : dc_fail(plan->ctx, DOCONV_IO_ERROR, "network: the text can't be written");
}

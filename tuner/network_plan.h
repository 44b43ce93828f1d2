/* SPDX-License-Identifier: MIT */
/* What was chosen for a network, in memory and as text. For the tuner. */
#ifndef DOCONV_NETWORK_PLAN_H
#define DOCONV_NETWORK_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include <doconv/doconv_tune.h>

#include "base/context.h"
#include "entries.h"
#include "network_select.h"

#define NETWORK_LAYERS 4096 /* most of a network */
#define NETWORK_NAME DOCONV_NETWORK_NAME_SIZE
#define NETWORK_ORIGIN 16
#define NETWORK_HEAD "doconv-network-plan " /* and the version of the text */
#define NETWORK_VERSION 1
#define NETWORK_GIVEN "-" /* for a name: what the network is given */

struct network_choice {
    char name[NETWORK_NAME];
    doconv_conv_desc desc;
    char problem[DOCONV_PROBLEM_TEXT_SIZE];
    char variant[DC_VARIANT_SIZE];
    char origin[NETWORK_ORIGIN];
    int64_t picoseconds;
    int64_t workspace;
};

struct network_reorder {
    int producer, consumer, input; /* as in doconv_network_reorder */
    doconv_layout from, to;
    int64_t n, c, h, w;
    int64_t picoseconds;
    bool reused, estimated;
};

/* For whom the choices are. */
struct network_caps {
    char environment[ENTRIES_NAME];
    int threads;
    bool own_threads, deterministic;
    size_t workspace_limit, packed_limit;
};

struct doconv_network_plan {
    doconv_context *ctx;
    struct network_caps caps;
    bool exact;
    int measured;
    int64_t single[SELECT_LAYOUTS]; /* picoseconds; 0: none */
    int count, reorder_count;
    int capacity, reorder_capacity;
    struct network_choice *choices;
    struct network_reorder *reorders; /* in the order of consumers, then of inputs */
};

/* Those of a context, without limits. */
struct network_caps dc_network_caps(const doconv_context *ctx);

/* An empty plan, and room at its end for a choice or a copy; NULL: out of memory. */
struct doconv_network_plan *dc_network_plan_create(doconv_context *ctx);
struct network_choice *dc_network_plan_add(struct doconv_network_plan *plan);
struct network_reorder *dc_network_plan_add_reorder(struct doconv_network_plan *plan);

/* Writes the text; false: write asked to end. */
bool dc_network_plan_print(const struct doconv_network_plan *plan, doconv_write_fn write,
                           void *user);

/* Is it a name that a layer may have? */
bool dc_network_is_name(const char *name);

#endif

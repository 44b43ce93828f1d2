/* SPDX-License-Identifier: MIT */
/* Tuning a network whole: doconv tune NETWORK --chain. For command_tune.c. */
#ifndef DOCONV_COMMAND_CHAIN_H
#define DOCONV_COMMAND_CHAIN_H

#include "command_shared.h"

struct command_chain {
    const char *network; /* a name or a path */
    const char *output;  /* NULL: no file */
    int batch;
    bool force;
    double budget, deadline; /* seconds for a problem, and for all; 0: the defaults */
    doconv_accuracy accuracy;
    struct command_layouts layouts; /* that may be chosen; none: the default ones */
};

/* Returns an exit status. */
int command_chain(doconv_context *context, const struct command_chain *chain);

#endif

/* SPDX-License-Identifier: MIT */
/* What a cached choice is founded on. */
#ifndef DOCONV_COMMAND_FOUNDING_H
#define DOCONV_COMMAND_FOUNDING_H

#include <stdbool.h>

#include <doconv/doconv.h>

struct command_founding {
    const char *variant; /* the winner, */
    double seconds;      /* its time, and its largest error by max|y|; */
    double error;
    const char *when;    /* it was measured; */
    const char *against; /* what was the default, and its time; */
    double against_seconds;
    double confidence; /* in the winner, 0..1 */
    bool doubtful;
};

/* Against what, and how sure. */
void command_print_confidence(const struct command_founding *founding);
/* That of an entry of the cache, and the entry's own: the winner and when it was measured. */
void command_print_founding(const struct command_founding *founding);

/*
 * Likewise of the cache's entry for a key, in the context's environment; nothing if the user's
 * directory has none. Returns an exit status.
 */
int command_print_entry(doconv_context *context, const char *key);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Removing what nothing uses any more from a cache's directory: temporary files of writers that
 * died, and environments (directories of other builds and machines).
 */
#ifndef DOCONV_COLLECT_H
#define DOCONV_COLLECT_H

#include <stdbool.h>

#include <doconv/doconv_tune.h>

/* Whose environments go, once nothing used them for a week. */
enum collect_scope {
    COLLECT_BUILDS, /* other builds of the library on this CPU: what a store cleans up */
    COLLECT_OLD,    /* all but the own one */
    COLLECT_ALL     /* every one, the own too, whatever its age */
};

struct collect {
    const char *root;        /* the cache's directory */
    const char *own;         /* name of the own environment in it: 16 hex digits */
    const char *environment; /* the own one's MANIFEST */
    enum collect_scope scope;
    doconv_cache_report_fn report; /* NULL: none */
    void *report_user;
};

/*
 * Removes temporary files that are a week old and the environments in scope. Only files and
 * directories of the names that the cache gives are touched; symbolic links are neither followed
 * nor removed; a directory that has anything else in it stays. 0, or the errno of the first file or
 * directory that could not be read or removed; a root that does not exist is clean.
 */
int dc_collect(const struct collect *collect);

#endif

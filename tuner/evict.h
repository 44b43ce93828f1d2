/* SPDX-License-Identifier: MIT */
/* Taking some memory out of the caches, and nothing else. For the tuner. */
#ifndef DOCONV_EVICT_H
#define DOCONV_EVICT_H

#include <stddef.h>

/*
 * Writes the lines that memory lies in back and drops them from all caches of all cores; the memory
 * stays as it is. When it returns they are out.
 */
typedef void dc_evict_fn(const void *memory, size_t bytes);

/* NULL: this CPU has no quick way that a process may use. */
dc_evict_fn *dc_find_evict(void);

#endif

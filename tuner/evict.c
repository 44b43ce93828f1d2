/* SPDX-License-Identifier: MIT */
#include "evict.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

/* CLFLUSH, which every x86-64 CPU has, waits for the line before: a full flush is as quick. */
__attribute__((target("clflushopt"))) static void evict(const void *memory, size_t bytes)
{
    enum { LINE = 64 };
    const char *end = (const char *)memory + bytes;
    const char *line = (const char *)memory - (uintptr_t)memory % LINE;
    for (; bytes > 0 && line < end; line += LINE) {
        _mm_clflushopt((void *)(uintptr_t)line);
    }
    _mm_mfence();
}

dc_evict_fn *dc_find_evict(void)
{
    unsigned a, b, c, d;
    const unsigned clflushopt = 1u << 23;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & clflushopt) != 0 ? evict : NULL;
}
#else
/* ARM's DC CIVAC is one that the operating system may refuse: the process would be killed. */
dc_evict_fn *dc_find_evict(void)
{
    return NULL;
}
#endif

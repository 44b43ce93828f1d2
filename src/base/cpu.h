/* SPDX-License-Identifier: MIT */
/*
 * What the machine is. Any file of src and tuner may include this.
 */
#ifndef DOCONV_CPU_H
#define DOCONV_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel.h"

struct dc_cpu {
    char name[64];
    enum dc_isa isa; /* best bundle */
    int64_t l1d_bytes, l2_bytes, l3_bytes;
    /* 512-bit FMAs that start in a cycle: 2, or 1 where two 256-bit units share one */
    double fma512_per_cycle;
};
const struct dc_cpu *dc_cpu_probe(void); /* probed once; the library's only global state */
int dc_usable_cpus(void); /* that the calling thread may run on, as it is now; at least 1 */
bool dc_isa_usable(enum dc_isa isa, enum dc_isa best);
const char *dc_isa_name(enum dc_isa isa);

#endif

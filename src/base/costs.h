/* SPDX-License-Identifier: MIT */
/*
 * What the estimates of all solvers take for granted of a machine: rates of current x86 cores, a
 * little under their best, by a clock of DC_NOMINAL_HERTZ. Any file of src may include this.
 */
#ifndef DOCONV_COSTS_H
#define DOCONV_COSTS_H

#include "base/cpu.h"

#define DC_NOMINAL_HERTZ 3e9
/* Bytes a cycle of a stream from memory. */
#define DC_MEMORY_RATE 7.5

/* Bytes a cycle that a core gets from where a working set of so many bytes lives. */
static inline double dc_rate(double working_set)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    return working_set <= 0.5 * (double)cpu->l1d_bytes   ? 96.0
           : working_set <= 0.75 * (double)cpu->l2_bytes ? 40.0
           : working_set <= 0.75 * (double)cpu->l3_bytes ? 14.0
                                                         : DC_MEMORY_RATE;
}

#endif

/* SPDX-License-Identifier: MIT */
/* A convolution in short, as tables of doconv-bench, doconv-study and doconv-compare have it. */
#ifndef DOCONV_BENCH_PROBLEM_NAME_H
#define DOCONV_BENCH_PROBLEM_NAME_H

#include <doconv/doconv.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PROBLEM_NAME_SIZE 128

/*
 * Writes "mb8 64->64 56x56 3x3 s2x1 d2 g64": batch, channels, source and kernel, then what isn't 1:
 * strides, dilations and groups. name: PROBLEM_NAME_SIZE characters.
 */
void problem_name(const doconv_conv_desc *desc, char *name);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Choices that a program brings along: doconv_table. Any file of src and tuner may include this.
 */
#ifndef DOCONV_TABLE_H
#define DOCONV_TABLE_H

#include <stddef.h>

#include <doconv/doconv.h>

/* A caller's table (NULL: one without rows) as a checked one of this version. */
doconv_status dc_table_read(const doconv_context *ctx, const doconv_table *from,
                            doconv_table *table);

/* The first row of a key, and how many there are; NULL: none. */
const doconv_table_row *dc_table_find(const doconv_table *table, const char *key, size_t *count);

#endif

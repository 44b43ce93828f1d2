/* SPDX-License-Identifier: MIT */
#include "base/table.h"

#include <string.h>

#include "base/log.h"
#include "base/versioned.h"

static doconv_status check_row(const doconv_context *ctx, const doconv_table *table, size_t index)
{
    const doconv_table_row *row = &table->rows[index];
    const char *reason = NULL;
    if (row->key == NULL || row->variant == NULL) {
        reason = "lacks its key or variant";
    } else if ((int)row->isa < 0 || row->isa > DOCONV_ISA_NEON) {
        reason = "has no known ISA";
    } else if (index > 0 && strcmp(row[-1].key, row->key) > 0) {
        reason = "is not in the order of the keys";
    }
    return reason == NULL
               ? DOCONV_OK
               : dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "table.rows: row %zu %s", index, reason);
}

doconv_status dc_table_read(const doconv_context *ctx, const doconv_table *from,
                            doconv_table *table)
{
    doconv_status status = DC_READ_STRUCT(ctx, doconv_table, from, table);
    if (status == DOCONV_OK && table->rows == NULL && table->count > 0) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "table.rows: NULL");
    }
    for (size_t i = 0; status == DOCONV_OK && i < table->count; i++) {
        status = check_row(ctx, table, i);
    }
    return status;
}

const doconv_table_row *dc_table_find(const doconv_table *table, const char *key, size_t *count)
{
    size_t from = 0, to = table->count;
    while (from < to) {
        const size_t middle = from + (to - from) / 2;
        if (strcmp(table->rows[middle].key, key) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    for (to = from; to < table->count && strcmp(table->rows[to].key, key) == 0; to++) {
    }
    *count = to - from;
    return *count > 0 ? &table->rows[from] : NULL;
}

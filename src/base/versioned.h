/* SPDX-License-Identifier: MIT */
/*
 * Public structs of programs that were compiled against an older or a newer header: in and out
 * through the library's own copy, whose fields are all there. Any file of src and tuner may
 * include this.
 */
#ifndef DOCONV_VERSIONED_H
#define DOCONV_VERSIONED_H

#include <stdalign.h>
#include <stddef.h>

#include <doconv/doconv.h>
#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

/* A public struct as the library knows it. */
struct dc_struct {
    const char *name;
    size_t size;     /* in this version */
    size_t smallest; /* in the first one */
};

/*
 * The size of each public struct in version 0.1, the smallest that is accepted, by its last field
 * there. It never changes. A field that is added begins at or past the sizeof of the version
 * before, never in its padding: older programs leave anything in there.
 */
#define DC_SIZE_THROUGH(type, field)                                                               \
    ((offsetof(type, field) + sizeof(((type *)0)->field) + alignof(type) - 1) / alignof(type) *    \
     alignof(type))
enum {
    dc_smallest_doconv_context_options = DC_SIZE_THROUGH(doconv_context_options, cache_directory),
    dc_smallest_doconv_table = DC_SIZE_THROUGH(doconv_table, count),
    dc_smallest_doconv_context_info = DC_SIZE_THROUGH(doconv_context_info, registry),
    dc_smallest_doconv_kernel_info = DC_SIZE_THROUGH(doconv_kernel_info, usable),
    dc_smallest_doconv_conv_desc = DC_SIZE_THROUGH(doconv_conv_desc, add_identity),
    dc_smallest_doconv_plan_options = DC_SIZE_THROUGH(doconv_plan_options, fresh_weights),
    dc_smallest_doconv_candidate_info = DC_SIZE_THROUGH(doconv_candidate_info, packed_size),
    dc_smallest_doconv_fold_desc = DC_SIZE_THROUGH(doconv_fold_desc, add_identity),
    dc_smallest_doconv_fold_checkpoint_options =
        DC_SIZE_THROUGH(doconv_fold_checkpoint_options, report_user),
    dc_smallest_doconv_training_options = DC_SIZE_THROUGH(doconv_training_options, rigor),
    dc_smallest_doconv_training_operation = DC_SIZE_THROUGH(doconv_training_operation, origin),
    dc_smallest_doconv_parameters = DC_SIZE_THROUGH(doconv_parameters, bias),
    dc_smallest_doconv_gradients = DC_SIZE_THROUGH(doconv_gradients, bias),
    dc_smallest_doconv_tune_options = DC_SIZE_THROUGH(doconv_tune_options, progress_user),
    dc_smallest_doconv_cache_clean_options =
        DC_SIZE_THROUGH(doconv_cache_clean_options, report_user),
    dc_smallest_doconv_tune_summary = DC_SIZE_THROUGH(doconv_tune_summary, measured),
    dc_smallest_doconv_tune_entry = DC_SIZE_THROUGH(doconv_tune_entry, dropped),
    dc_smallest_doconv_entry_info = DC_SIZE_THROUGH(doconv_entry_info, own),
    dc_smallest_doconv_regret = DC_SIZE_THROUGH(doconv_regret, worst_key),
    dc_smallest_doconv_network_layer = DC_SIZE_THROUGH(doconv_network_layer, fixed_dst),
    dc_smallest_doconv_network_options = DC_SIZE_THROUGH(doconv_network_options, most_states),
    dc_smallest_doconv_network_choice = DC_SIZE_THROUGH(doconv_network_choice, workspace_size),
    dc_smallest_doconv_network_reorder = DC_SIZE_THROUGH(doconv_network_reorder, estimated),
    dc_smallest_doconv_network_total = DC_SIZE_THROUGH(doconv_network_total, measured),
    dc_smallest_doconv_network_parse_options =
        DC_SIZE_THROUGH(doconv_network_parse_options, any_threads)
};
#define DC_STRUCT(type) (&(const struct dc_struct){#type, sizeof(type), dc_smallest_##type})

/* Larger than any struct will be: a size past it is none, and nothing is read there. */
#define DC_LARGEST_STRUCT 4096

/*
 * Copies a caller's struct, which begins with its size, to the library's own: fields that its
 * header has not are zero, size is this version's. All zero for from NULL. MISMATCH, with a detail
 * that names the struct: no version has that size, or fields are set that this version has not.
 */
doconv_status dc_read_struct(const doconv_context *ctx, const struct dc_struct *known,
                             const void *from, void *to);
/*
 * Copies the library's struct to a caller's of `size` bytes: as many of them as it has, then zeros;
 * its own size stays. MISMATCH likewise; nothing is written then.
 */
doconv_status dc_write_struct(const doconv_context *ctx, const struct dc_struct *known,
                              const void *from, void *to, size_t size);

/* The same with pointers to `type`. */
#define DC_READ_STRUCT(ctx, type, from, to)                                                        \
    dc_read_struct((ctx), DC_STRUCT(type), (const type *){from}, (type *){to})
#define DC_WRITE_STRUCT(ctx, type, from, to)                                                       \
    dc_write_struct((ctx), DC_STRUCT(type), (const type *){from}, (type *){to}, (to)->size)

#define DC_MOST_SECONDS 86400.0 /* of a budget */

/* A field of a caller's options that is a number in 0..most. */
struct dc_number {
    const char *name;
    double value, most;
};
/* INVALID_ARGUMENT with the first one that is out of its range, as "options.NAME". */
doconv_status dc_check_numbers(const doconv_context *ctx, const struct dc_number *numbers,
                               size_t count);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Reader and writer of safetensors files in memory: eight bytes with the header's length
 * (little-endian), the header (JSON: each tensor's dtype, shape and place), the tensors one after
 * another. Nothing that a file says is trusted; a file that dc_safetensors_read() took is whole:
 * its tensors lie inside it, without overlap or hole, each as long as its dtype and shape say.
 *
 * For src/checkpoint.
 */
#ifndef DOCONV_SAFETENSORS_H
#define DOCONV_SAFETENSORS_H

#include "base/context.h"

#define DC_TENSOR_RANK 4

struct dc_tensor {
    const char *name, *dtype;
    size_t rank;
    /* the first dimensions; of any rank that is no more than these, all */
    int64_t shape[DC_TENSOR_RANK];
    size_t begin, size; /* bytes in its file's data */
    const unsigned char *bytes;
    size_t element_bytes; /* 1 for types that are unknown, or are no whole bytes */
    const void *json;     /* its description */
    /* What becomes of it, for dc_safetensors_write(); all zero: it stays. */
    bool dropped;
    const char *new_name; /* NULL: as it was */
    bool replaced;        /* another tensor, of four dimensions, takes its place */
    const char *new_dtype;
    size_t new_element_bytes;
    int64_t new_shape[DC_TENSOR_RANK];
    size_t new_begin, new_size; /* bytes in the written data; the writer places it */
};

struct dc_safetensors {
    void *json;     /* the header, or an array of several files' */
    void *metadata; /* of json; NULL: none */
    const unsigned char *data;
    size_t data_size;
    size_t count;
    struct dc_tensor *tensors;    /* in the header's order */
    struct dc_tensor **by_name;   /* sorted */
    struct dc_tensor **by_offset; /* sorted, file by file */
};

/*
 * Reads a file; it must outlive what is read. On failure file is empty and the context has the
 * detail.
 */
doconv_status dc_safetensors_read(doconv_context *ctx, const void *bytes, size_t size,
                                  struct dc_safetensors *file);
/*
 * The same for what may be an index of shards; those that it names are given by open, and become
 * one in file. open may be NULL: an index is refused.
 */
doconv_status dc_safetensors_read_all(doconv_context *ctx, const void *bytes, size_t size,
                                      doconv_fold_open_fn open, void *open_user,
                                      struct dc_safetensors *file);
void dc_safetensors_free(doconv_context *ctx, struct dc_safetensors *file);

/* Moves the tensors of another file to the end of file's; false if out of memory. */
bool dc_safetensors_take(doconv_context *ctx, struct dc_safetensors *file,
                         struct dc_safetensors *other);

/* A JSON text that nests no deeper than a header does; what: its name for a message. */
doconv_status dc_json_read(doconv_context *ctx, const char *text, size_t size, const char *what,
                           void **json);

/* NULL if no tensor has the name. */
struct dc_tensor *dc_safetensors_find(const struct dc_safetensors *file, const char *name);

/*
 * Writes the file with its changes: size is what it takes; unless result is NULL, *result, from
 * dc_alloc(), is the file with every tensor that stays, and *data the place in it of the new ones
 * (at new_begin), 8-byte aligned, still to be filled.
 */
doconv_status dc_safetensors_write(doconv_context *ctx, struct dc_safetensors *file, void **result,
                                   size_t *size, unsigned char **data);

#endif

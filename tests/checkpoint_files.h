/* SPDX-License-Identifier: MIT */
/* Safetensors files for the tests: made in memory, a tensor at a time, and looked into. */
#ifndef DOCONV_TEST_CHECKPOINT_FILES_H
#define DOCONV_TEST_CHECKPOINT_FILES_H

#include "api_support.h"

/*
 * A file, exactly as long as its block of memory, so that a sanitizer sees a byte too many. The
 * caller frees data.
 */
struct bytes {
    unsigned char *data;
    size_t size;
};

/* data: size bytes after the header; NULL: zeros. */
struct bytes make_file(const char *header, const void *data, size_t size);

/* A file that grows by a tensor at a time, filled with values that differ. */
struct builder {
    char header[8192];
    size_t length;
    unsigned char data[65536];
    size_t size;
    uint32_t seed;
};

/* metadata: "", or the header's first members. */
void begin_file(struct builder *builder, const char *metadata);
/* shape: "[4,3,9]". Returns its data: floats for F32, else any bytes. */
void *add_tensor(struct builder *builder, const char *name, const char *dtype, const char *shape,
                 size_t bytes);
struct bytes end_file(struct builder *builder);

/* Empty ones, with their size. */
doconv_fold_checkpoint_options fold_options(void);

/* The header's text and the data of a result. The caller frees header. */
struct view {
    char *header;
    const unsigned char *data;
    size_t size;
};

struct view look(const void *result, size_t size);
/* The data of a tensor that must be there, of this type, shape and size. */
const unsigned char *expect_tensor(const struct view *view, const char *name, const char *dtype,
                                   const char *shape, size_t bytes);

/* The i-th float of data of any alignment. */
float float_at(const void *data, size_t i);

#endif

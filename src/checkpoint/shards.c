/* SPDX-License-Identifier: MIT */
/* A checkpoint in shards: the index that names them, and their tensors as one file's. */
#include "base/log.h"
#include "checkpoint/safetensors.h"

#include <string.h>

#include <jansson.h>

#define FAIL(ctx, ...) dc_fail(ctx, DOCONV_INVALID_FILE, "checkpoint: " __VA_ARGS__)

/*
 * An index is a JSON object. As a safetensors file's, its first eight bytes are a length of more
 * bytes than any memory has; a text that is shorter is no such file either.
 */
static bool is_index(const unsigned char *bytes, size_t size)
{
    return size > 0 && bytes[0] == '{' && (size < 8 || bytes[7] != 0);
}

/* A file beside the index: nothing in a file may choose a directory. */
static bool is_plain_name(const json_t *name)
{
    const char *text = json_string_value(name);
    return text != NULL && strlen(text) == json_string_length(name) && text[0] != '\0' &&
           strchr(text, '/') == NULL && strchr(text, '\\') == NULL && strcmp(text, ".") != 0 &&
           strcmp(text, "..") != 0;
}

/* The files that the index names, each once, as an object's keys. NULL: names is no such map. */
static json_t *list_files(json_t *names)
{
    json_t *files = json_object();
    const char *tensor;
    json_t *name;
    json_object_foreach(names, tensor, name)
    {
        if (!is_plain_name(name) ||
            json_object_set_new(files, json_string_value(name), json_true()) != 0) {
            json_decref(files);
            return NULL;
        }
    }
    return files;
}

static doconv_status take_shard(doconv_context *ctx, const char *name, doconv_fold_open_fn open,
                                void *open_user, struct dc_safetensors *file)
{
    const void *data = NULL;
    size_t size = 0;
    struct dc_safetensors shard;
    doconv_status status = open(open_user, name, &data, &size);
    if (status != DOCONV_OK || data == NULL) {
        return dc_fail(ctx, status != DOCONV_OK ? status : DOCONV_INVALID_FILE,
                       "checkpoint: shard %s: it can't be read", dc_show(name).text);
    }
    status = dc_safetensors_read(ctx, data, size, &shard);
    if (status != DOCONV_OK) {
        char detail[600];
        const char *last = dc_last_failure(ctx), *text = strchr(last, ':');
        strncpy(detail, text != NULL ? text + 1 : last, sizeof detail - 1);
        detail[sizeof detail - 1] = '\0';
        return dc_fail(ctx, status, "checkpoint: shard %s:%s", dc_show(name).text, detail);
    }
    if (!dc_safetensors_take(ctx, file, &shard)) {
        dc_safetensors_free(ctx, &shard);
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "checkpoint: out of memory for the shards");
    }
    return DOCONV_OK;
}

/* Each tensor once, and all that the index has. */
static doconv_status check_tensors(doconv_context *ctx, const struct dc_safetensors *file,
                                   json_t *names)
{
    for (size_t i = 1; i < file->count; i++) {
        if (strcmp(file->by_name[i - 1]->name, file->by_name[i]->name) == 0) {
            return FAIL(ctx, "tensor %s: two shards have it", dc_show(file->by_name[i]->name).text);
        }
    }
    const char *tensor;
    json_t *name;
    json_object_foreach(names, tensor, name)
    {
        if (dc_safetensors_find(file, tensor) == NULL) {
            return FAIL(ctx, "tensor %s: the index has it in %s, which hasn't",
                        dc_show(tensor).text, dc_show(json_string_value(name)).text);
        }
    }
    return DOCONV_OK;
}

static doconv_status read_shards(doconv_context *ctx, json_t *names, doconv_fold_open_fn open,
                                 void *open_user, struct dc_safetensors *file)
{
    json_t *files = json_is_object(names) ? list_files(names) : NULL;
    if (files == NULL) {
        return FAIL(ctx,
                    "the index: its weight_map does not name a file beside it for each tensor");
    }
    doconv_status status = DOCONV_OK;
    const char *name;
    json_t *unused;
    json_object_foreach(files, name, unused)
    {
        status = take_shard(ctx, name, open, open_user, file);
        if (status != DOCONV_OK) {
            break;
        }
    }
    json_decref(files);
    return status == DOCONV_OK ? check_tensors(ctx, file, names) : status;
}

doconv_status dc_safetensors_read_all(doconv_context *ctx, const void *bytes, size_t size,
                                      doconv_fold_open_fn open, void *open_user,
                                      struct dc_safetensors *file)
{
    if (!is_index(bytes, size)) {
        return dc_safetensors_read(ctx, bytes, size, file);
    }
    *file = (struct dc_safetensors){.json = NULL};
    void *index = NULL;
    doconv_status status = dc_json_read(ctx, bytes, size, "index", &index);
    if (status != DOCONV_OK) {
        return status;
    }
    if (open == NULL) {
        status =
            FAIL(ctx, "it is the index of a checkpoint in shards, and there is no way to them");
    } else {
        status = read_shards(ctx, json_object_get(index, "weight_map"), open, open_user, file);
    }
    json_decref(index);
    if (status != DOCONV_OK) {
        dc_safetensors_free(ctx, file);
    }
    return status;
}

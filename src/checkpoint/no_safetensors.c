/* SPDX-License-Identifier: MIT */
/* Stands for safetensors.c in a build without Jansson. */
#include "base/log.h"
#include "checkpoint/safetensors.h"

doconv_status dc_safetensors_read_all(doconv_context *ctx, const void *bytes, size_t size,
                                      doconv_fold_open_fn open, void *open_user,
                                      struct dc_safetensors *file)
{
    (void)bytes;
    (void)size;
    (void)open;
    (void)open_user;
    *file = (struct dc_safetensors){.json = NULL};
    return dc_fail(ctx, DOCONV_UNSUPPORTED,
                   "checkpoint: this build has no safetensors (it was made without Jansson)");
}

/* Nothing was ever read: what follows is not called. */
void dc_safetensors_free(doconv_context *ctx, struct dc_safetensors *file)
{
    (void)ctx;
    (void)file;
}

struct dc_tensor *dc_safetensors_find(const struct dc_safetensors *file, const char *name)
{
    (void)file;
    (void)name;
    return NULL;
}

doconv_status dc_safetensors_write(doconv_context *ctx, struct dc_safetensors *file, void **result,
                                   size_t *size, unsigned char **data)
{
    (void)file;
    (void)result;
    (void)size;
    (void)data;
    return dc_fail(ctx, DOCONV_UNSUPPORTED,
                   "checkpoint: this build has no safetensors (it was made without Jansson)");
}

/* SPDX-License-Identifier: MIT */
/* The empty twin of the tuner, for a build without it: contexts get no advisor. */
#include "core.h"

doconv_status dc_tuner_attach(doconv_context *ctx)
{
    ctx->advisor = (struct dc_advisor){0};
    return DOCONV_OK;
}

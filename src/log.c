/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core.h"

void dc_log(const doconv_context *ctx, doconv_log_level level, const char *format, ...)
{
    /* Without a callback only somebody who asked for text through the environment gets any. */
    if (ctx->log == NULL || (level == DOCONV_LOG_VERBOSE && ctx->verbose == 0)) {
        return;
    }
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->log(ctx->log_user, level, line);
}

doconv_status dc_fail(doconv_context *ctx, doconv_status status, const char *format, ...)
{
    if (ctx != NULL) {
        char text[sizeof ctx->error];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        pthread_mutex_lock(&ctx->error_lock);
        memcpy(ctx->error, text, sizeof text);
        pthread_mutex_unlock(&ctx->error_lock);
    }
    return status;
}

double dc_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

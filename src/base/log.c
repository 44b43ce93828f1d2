/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"

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

/*
 * The detail of the thread's last failure, whatever the context: a thread's own, so it needs no
 * lock, and no failure of another thread can come between a call and the question about it.
 */
static _Thread_local struct {
    uint64_t context; /* its serial number; 0: nothing failed yet */
    char text[256];
} last_failure;

doconv_status dc_fail(const doconv_context *ctx, doconv_status status, const char *format, ...)
{
    if (ctx != NULL) {
        /* Not straight into place: an argument may be the detail that it replaces. */
        char text[sizeof last_failure.text];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        memcpy(last_failure.text, text, sizeof text);
        last_failure.context = ctx->serial;
    }
    return status;
}

const char *dc_last_failure(const doconv_context *ctx)
{
    return last_failure.context == ctx->serial ? last_failure.text : "";
}

struct dc_shown dc_show(const char *text)
{
    struct dc_shown shown = {""};
    size_t length = strlen(text);
    const bool cut = length >= sizeof shown.text;
    if (cut) {
        length = sizeof shown.text - sizeof "...";
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
            length--; /* not within a character */
        }
    }
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)text[i];
        shown.text[i] = c < 0x20 || c == 0x7f ? '?' : text[i];
        if (c >= 0x80 && c < 0xa0 && i > 0 && (unsigned char)text[i - 1] == 0xc2) {
            shown.text[i - 1] = shown.text[i] = '?'; /* U+0080..U+009F, control characters too */
        }
    }
    memcpy(shown.text + length, cut ? "..." : "", cut ? sizeof "..." : 1);
    return shown;
}

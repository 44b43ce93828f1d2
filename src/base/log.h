/* SPDX-License-Identifier: MIT */
/*
 * Messages: the log, the detail of an error, text from outside. Any file of src and tuner may
 * include this.
 */
#ifndef DOCONV_LOG_H
#define DOCONV_LOG_H

#include <stddef.h>

#include <doconv/doconv.h>

/* Formats and logs a line if somebody listens. */
void dc_log(const doconv_context *ctx, doconv_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/*
 * Keeps the detail for the calling thread's doconv_context_last_error() and returns status: called
 * on the thread that called the library, never in a task. ctx NULL: no detail is kept.
 */
doconv_status dc_fail(const doconv_context *ctx, doconv_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* That detail; "" if the calling thread's last failure was not on this context. */
const char *dc_last_failure(const doconv_context *ctx);
/*
 * UTF-8 text from outside for a message: its first bytes, "..." if there are more, '?' for control
 * characters.
 */
struct dc_shown {
    char text[84];
};
struct dc_shown dc_show(const char *text);

#endif

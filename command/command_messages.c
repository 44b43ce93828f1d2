/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <unistd.h>

#include "command_shared.h"

/*
 * The line of progress that stands on the terminal: whatever else is printed must remove it first.
 */
static bool progress_shown;

bool command_has_progress(void)
{
    return isatty(STDERR_FILENO) == 1;
}

void command_progress(const char *line)
{
    if (line == NULL ? !progress_shown : !command_has_progress()) {
        return;
    }
    /*
     * Carriage return, erase to the end of the line; a wrapped line could not be erased, so it is
     * kept under 80 columns.
     */
    fprintf(stderr, "\r\033[K%.79s", line != NULL ? line : "");
    fflush(stderr);
    progress_shown = line != NULL;
}

/* Makes the place for a message: progress removed, and what stdout holds printed first. */
static void begin_message(void)
{
    command_progress(NULL);
    fflush(stdout);
    fputs("doconv: ", stderr);
}

int command_usage_error(const char *verb, const char *format, ...)
{
    begin_message();
    if (verb != NULL) {
        fprintf(stderr, "%s: ", verb);
    }
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry \"doconv help%s%s\".\n", verb != NULL ? " " : "",
            verb != NULL ? verb : "");
    return COMMAND_USAGE;
}

int command_error(const char *format, ...)
{
    begin_message();
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return COMMAND_FAILED;
}

int command_library_error(const doconv_context *context, doconv_status status, const char *format,
                          ...)
{
    begin_message();
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    char detail[256] = "";
    if (context != NULL && doconv_context_last_error(context, detail, sizeof detail) != DOCONV_OK) {
        detail[0] = '\0';
    }
    fprintf(stderr, ": %s%s%s\n", doconv_status_string(status), detail[0] != '\0' ? ": " : "",
            detail);
    return COMMAND_FAILED;
}

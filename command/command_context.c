/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "command_shared.h"

static void print_log(void *user, doconv_log_level level, const char *line)
{
    static const char *const levels[] = {"error: ", "warning: ", ""};
    (void)user;
    /* One call prints the line, so that lines of several threads don't mix. */
    command_progress(NULL);
    fprintf(stderr, "doconv: %s%s\n", (unsigned)level < 3 ? levels[level] : "", line);
}

int command_context_create(const char *verb, doconv_isa isa, int threads, doconv_tune_mode tune,
                           doconv_context **context)
{
    return command_context_create_for(verb, isa, threads, tune, false, false, context);
}

int command_context_create_for(const char *verb, doconv_isa isa, int threads, doconv_tune_mode tune,
                               bool deterministic, bool own_runner, doconv_context **context)
{
    static int runner_threads;
    runner_threads = threads > 0 ? threads : 1;
    const doconv_context_options options = {
        .size = sizeof options,
        .threads = threads,
        .log = print_log,
        .max_isa = isa,
        .tune = tune,
        .deterministic = deterministic,
        .parallel_for = own_runner ? command_runner_run : NULL,
        .parallel_for_user = &runner_threads,
    };
    const doconv_status status = doconv_context_create(&options, context);
    if (status == DOCONV_OK) {
        return COMMAND_OK;
    }
    if (status == DOCONV_INVALID_ARGUMENT && isa != DOCONV_ISA_DEFAULT) {
        return command_usage_error(verb,
                                   "--isa: %s belongs to another architecture than this build",
                                   doconv_isa_string(isa));
    }
    return command_library_error(NULL, status, "a context cannot be created");
}

const char *command_tune_mode_string(doconv_tune_mode mode)
{
    static const char *const names[] = {"default", "off", "read", "tune", "force", "only"};
    return (unsigned)mode < sizeof names / sizeof names[0] ? names[mode] : "unknown";
}

doconv_layout command_blocked_layout(doconv_isa isa)
{
    return isa == DOCONV_ISA_AVX512 ? DOCONV_NCHW16C : DOCONV_NCHW8C;
}

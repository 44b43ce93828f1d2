/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_SECONDS 180  /* PyTorch may come from a slow disk */
#define ANSWER_SECONDS 900 /* far above the slowest call that isn't skipped */
#define MOST_ANSWER ((size_t)64 << 20)

const char *const composition_names[COMPOSITIONS] = {"plain", "kernel", "feature", "auto"};
const char *const pass_names[PASSES] = {"forward", "step"};
const char *const engine_names[ENGINES] = {"doconv", "pytorch"};
const char *const format_names[3] = {"", "contiguous", "channels_last"};

struct pytorch {
    pid_t pid; /* 0: gone */
    int to, from;
    char version[64];
    char *answer;
    size_t held, room; /* of answer: bytes read, bytes allocated */
};

__attribute__((format(printf, 2, 3))) static int explain(char *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, WHY_SIZE, format, args);
    va_end(args);
    return -1;
}

/* Ends the process if it still runs, and tells how it went. */
static void bury(struct pytorch *p, bool by_force, char *why)
{
    if (p->pid == 0) {
        return;
    }
    close(p->to);
    close(p->from);
    if (by_force) {
        kill(p->pid, SIGKILL);
    }
    int status = 0;
    pid_t waited;
    do {
        waited = waitpid(p->pid, &status, 0);
    } while (waited < 0 && errno == EINTR);
    p->pid = 0;
    if (why == NULL || by_force) {
        return;
    }
    if (waited > 0 && WIFSIGNALED(status)) {
        explain(why, "PyTorch's process was ended by signal %d%s", WTERMSIG(status),
                WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
    } else {
        explain(why, "PyTorch's process ended with exit status %d",
                waited > 0 ? WEXITSTATUS(status) : -1);
    }
}

/* Sends a line. SIGPIPE is ignored by then. */
static int say(struct pytorch *p, const char *line, char *why)
{
    if (p->pid == 0) {
        return explain(why, "PyTorch's process is gone");
    }
    for (size_t sent = 0, length = strlen(line); sent < length;) {
        const ssize_t done = write(p->to, line + sent, length - sent);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            bury(p, false, why);
            return -1;
        }
        sent += (size_t)done;
    }
    return 0;
}

/*
 * Reads a line into p->answer, without its end. A line is all that the other side has to say before
 * it is asked again.
 */
static int hear(struct pytorch *p, double patience, char *why)
{
    const double end = wall_seconds() + patience;
    p->held = 0;
    while (true) {
        struct pollfd wait = {.fd = p->from, .events = POLLIN};
        const double left = end - wall_seconds();
        const int ready = left > 0 ? poll(&wait, 1, (int)(left * 1000) + 1) : 0;
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        if (ready <= 0) {
            bury(p, true, NULL);
            return explain(why, "PyTorch did not answer for %.0f s", patience);
        }
        if (p->room - p->held < 65536) {
            char *grown = p->room < MOST_ANSWER ? realloc(p->answer, p->room + 262144) : NULL;
            if (grown == NULL) {
                bury(p, true, NULL);
                return explain(why, "PyTorch's answer is too long");
            }
            p->answer = grown;
            p->room += 262144;
        }
        const ssize_t got = read(p->from, p->answer + p->held, p->room - p->held - 1);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            bury(p, false, why);
            return -1;
        }
        p->held += (size_t)got;
        if (p->answer[p->held - 1] == '\n') {
            p->answer[p->held - 1] = '\0';
            return 0;
        }
    }
}

/* Asks, and takes an answer that begins as it must; what follows is in *rest. */
static int ask(struct pytorch *p, const char *question, double patience, const char *expected,
               const char **rest, char *why)
{
    if ((*question != '\0' && say(p, question, why) != 0) || hear(p, patience, why) != 0) {
        return -1;
    }
    const size_t length = strlen(expected);
    if (strncmp(p->answer, "no ", 3) == 0) {
        return explain(why, "%.250s", p->answer + 3);
    }
    if (strncmp(p->answer, expected, length) != 0) {
        bury(p, true, NULL);
        return explain(why, "PyTorch's process gave no answer to understand: \"%.100s\"",
                       p->answer);
    }
    *rest = p->answer + length;
    return 0;
}

/* The script, installed or in the source tree. */
static const char *script(void)
{
    return access(SCRIPT_INSTALLED, R_OK) == 0 ? SCRIPT_INSTALLED : SCRIPT_SOURCE;
}

struct pytorch *pytorch_start(const char *python, int threads, char *why)
{
    signal(SIGPIPE, SIG_IGN);
    struct pytorch *p = calloc(1, sizeof *p);
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    if (p == NULL || pipe(to) != 0 || pipe(from) != 0) {
        explain(why, "no pipes to PyTorch: %s", strerror(errno));
        if (to[0] >= 0) {
            close(to[0]);
            close(to[1]);
        }
        free(p);
        return NULL;
    }
    fcntl(to[1], F_SETFD, FD_CLOEXEC);
    fcntl(from[0], F_SETFD, FD_CLOEXEC);
    fflush(NULL);
    p->pid = fork();
    if (p->pid == 0) {
        char count[16];
        snprintf(count, sizeof count, "%d", threads);
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[0]);
        close(from[1]);
        signal(SIGPIPE, SIG_DFL);
        if (threads > 1) {
            unbind_thread();
        }
        execlp(python, python, script(), count, (char *)NULL);
        printf("no %s can't be started: %s\n", python, strerror(errno));
        fflush(stdout);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p->to = to[1];
    p->from = from[0];
    const char *version;
    if (p->pid < 0) {
        explain(why, "PyTorch can't be started: %s", strerror(errno));
        p->pid = 0;
        close(p->to);
        close(p->from);
        free(p);
        return NULL;
    }
    if (ask(p, "", START_SECONDS, "doconv-study-pytorch 1 ", &version, why) != 0) {
        pytorch_stop(p);
        return NULL;
    }
    snprintf(p->version, sizeof p->version, "%s", version);
    return p;
}

void pytorch_stop(struct pytorch *p)
{
    if (p != NULL) {
        bury(p, false, NULL); /* the end of its input ends it */
        free(p->answer);
        free(p);
    }
}

const char *pytorch_version(const struct pytorch *p)
{
    return p->version;
}

bool pytorch_alive(const struct pytorch *p)
{
    return p != NULL && p->pid != 0;
}

int pytorch_case(struct pytorch *p, const struct study_case *c, char *why)
{
    const doconv_conv_desc *d = &c->desc;
    if (d->pad_top != d->pad_bottom || d->pad_left != d->pad_right) {
        return explain(why, "PyTorch's convolution has no unequal paddings");
    }
    char line[400];
    const char *rest;
    snprintf(line, sizeof line,
             "case %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64
             " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64
             " %" PRId64 "\n",
             d->n, d->cin, d->h, d->w, d->cout, d->kh, d->kw, d->stride_h, d->stride_w, d->pad_top,
             d->pad_left, d->dilation_h, d->dilation_w, d->groups, c->d_mul);
    return ask(p, line, ANSWER_SECONDS, "ok", &rest, why);
}

int pytorch_time(struct pytorch *p, enum composition composition, enum pass pass,
                 enum format format, int calls, bool warm, double *seconds, char *why)
{
    char line[100];
    const char *rest;
    snprintf(line, sizeof line, "time %s %s %s %d%s\n", composition_names[composition],
             pass_names[pass], format_names[format], calls, warm ? " warm" : "");
    if (ask(p, line, ANSWER_SECONDS, "ms ", &rest, why) != 0) {
        return -1;
    }
    *seconds = 1e-3 * strtod(rest, NULL);
    return *seconds > 0 ? 0 : explain(why, "PyTorch's process measured nothing");
}

int pytorch_sums(struct pytorch *p, const char *name, double *sums, size_t count, char *why)
{
    char line[40];
    const char *rest;
    snprintf(line, sizeof line, "sums %s\n", name);
    if (ask(p, line, ANSWER_SECONDS, "sums", &rest, why) != 0) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        char *end;
        sums[i] = strtod(rest, &end);
        if (end == rest) {
            return explain(why, "PyTorch's %s has %zu sums, not %zu", name, i, count);
        }
        rest = end;
    }
    return *rest == '\0' ? 0 : explain(why, "PyTorch's %s has more than %zu sums", name, count);
}

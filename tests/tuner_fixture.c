/* SPDX-License-Identifier: MIT */
#include "tuner_fixture.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void count_line(void *user, doconv_log_level level, const char *line)
{
    struct fixture_log *log = user;
    pthread_mutex_lock(&log->lock);
    log->lines++;
    log->errors += level == DOCONV_LOG_ERROR;
    log->warnings += level == DOCONV_LOG_WARNING;
    log->executes += strncmp(line, "execute,", 8) == 0;
    snprintf(log->last, sizeof log->last, "%s", line);
    pthread_mutex_unlock(&log->lock);
}

int fixture_setup(void **state)
{
    static const char *const variables[] = {"DOCONV_MAX_ISA", "DOCONV_TUNE", "DOCONV_CACHE", "DOCONV_VERBOSE", "DOCONV_SYSTEM_CACHE"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        unsetenv(variables[i]);
    }
    struct fixture *f = calloc(1, sizeof *f);
    const char *base = getenv("TMPDIR");
    if (f == NULL || pthread_mutex_init(&f->log.lock, NULL) != 0) {
        return -1;
    }
    snprintf(f->root, sizeof f->root, "%s/doconv-test-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp");
    *state = f;
    return mkdtemp(f->root) != NULL ? 0 : -1;
}

static void remove_all(const char *path)
{
    struct stat info;
    if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        DIR *directory = opendir(path);
        for (struct dirent *item; directory != NULL && (item = readdir(directory)) != NULL;) {
            if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0) {
                char below[FIXTURE_PATH];
                snprintf(below, sizeof below, "%.600s/%.300s", path, item->d_name);
                remove_all(below);
            }
        }
        if (directory != NULL) {
            closedir(directory);
        }
    }
    remove(path);
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    remove_all(f->root);
    pthread_mutex_destroy(&f->log.lock);
    free(f);
    return 0;
}

void fixture_path(const struct fixture *f, const char *name, char path[FIXTURE_PATH])
{
    assert_true((size_t)snprintf(path, FIXTURE_PATH, "%.600s/%.300s", f->root, name) < FIXTURE_PATH);
}

doconv_context_options fixture_options(struct fixture *f, const char *name, char path[FIXTURE_PATH])
{
    fixture_path(f, name, path);
    return (doconv_context_options){
        .size = sizeof(doconv_context_options),
        .threads = 1,
        .log = count_line,
        .log_user = &f->log,
        .cache_directory = path,
    };
}

doconv_context *fixture_context(struct fixture *f, const char *name, doconv_tune_mode tune)
{
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, name, path);
    options.tune = tune;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    return ctx;
}

void fixture_log_clear(struct fixture *f)
{
    f->log.errors = f->log.warnings = f->log.lines = f->log.executes = 0;
    f->log.last[0] = '\0';
}

void fixture_reattach(doconv_context *ctx, const struct dc_kernel *const *kernels)
{
    ctx->advisor.destroy(ctx->advisor.self);
    ctx->kernels = kernels;
    assert_int_equal(dc_tuner_attach(ctx), DOCONV_OK);
}

static int count_below(const char *path, const char *ending, char found[FIXTURE_PATH])
{
    int count = 0;
    DIR *directory = opendir(path);
    for (struct dirent *item; directory != NULL && (item = readdir(directory)) != NULL;) {
        char below[FIXTURE_PATH];
        struct stat info;
        const size_t length = strlen(item->d_name);
        snprintf(below, sizeof below, "%.600s/%.300s", path, item->d_name);
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0 || lstat(below, &info) != 0) {
            continue;
        }
        if (S_ISDIR(info.st_mode)) {
            count += count_below(below, ending, found);
        } else if (length >= strlen(ending) && strcmp(item->d_name + length - strlen(ending), ending) == 0) {
            count++;
            if (found != NULL) {
                memcpy(found, below, sizeof below);
            }
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
    return count;
}

int fixture_count(const struct fixture *f, const char *name, const char *ending, char path[FIXTURE_PATH])
{
    char start[FIXTURE_PATH];
    fixture_path(f, name, start);
    return count_below(start, ending, path);
}

size_t fixture_read(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    const size_t length = fread(text, 1, size - 1, file);
    assert_true(length < size - 1);
    text[length] = '\0';
    fclose(file);
    return length;
}

void fixture_write(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* SPDX-License-Identifier: MIT */
#include "tuner_fixture.h"

#include <dirent.h>
#include <inttypes.h>
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
    static const char *const variables[] = {"DOCONV_MAX_ISA", "DOCONV_TUNE", "DOCONV_CACHE",
                                            "DOCONV_VERBOSE", "DOCONV_SYSTEM_CACHE"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        unsetenv(variables[i]);
    }
    struct fixture *f = calloc(1, sizeof *f);
    const char *base = getenv("TMPDIR");
    if (f == NULL || pthread_mutex_init(&f->log.lock, NULL) != 0) {
        return -1;
    }
    snprintf(f->root, sizeof f->root, "%s/doconv-test-XXXXXX",
             base != NULL && *base != '\0' ? base : "/tmp");
    *state = f;
    return mkdtemp(f->root) != NULL ? 0 : -1;
}

void fixture_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        DIR *directory = opendir(path);
        for (struct dirent *item; directory != NULL && (item = readdir(directory)) != NULL;) {
            if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0) {
                char below[FIXTURE_PATH];
                snprintf(below, sizeof below, "%.600s/%.300s", path, item->d_name);
                fixture_remove(below);
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
    fixture_remove(f->root);
    pthread_mutex_destroy(&f->log.lock);
    free(f);
    return 0;
}

void fixture_path(const struct fixture *f, const char *name, char path[FIXTURE_PATH])
{
    assert_true((size_t)snprintf(path, FIXTURE_PATH, "%.600s/%.300s", f->root, name) <
                FIXTURE_PATH);
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

static void *failing_allocate(void *user, size_t size, size_t alignment)
{
    struct fixture_failing *f = user;
    if (f->calls++ == f->fail_at) {
        return NULL;
    }
    void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    f->live += memory != NULL;
    return memory;
}

static void failing_release(void *user, void *memory)
{
    struct fixture_failing *f = user;
    f->live -= memory != NULL;
    free(memory);
}

void fixture_fail(doconv_context_options *options, struct fixture_failing *failing)
{
    *failing = (struct fixture_failing){.fail_at = -1};
    options->allocate = failing_allocate;
    options->release = failing_release;
    options->allocate_user = failing;
}

void fixture_log_clear(struct fixture *f)
{
    f->log.errors = f->log.warnings = f->log.lines = f->log.executes = 0;
    f->log.last[0] = '\0';
}

void fixture_reattach(doconv_context *ctx, const struct dc_kernel *const *kernels)
{
    struct dc_kept *memo = atomic_exchange(&ctx->memo, NULL);
    if (memo != NULL) {
        memo->destroy(memo);
    }
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
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0 ||
            lstat(below, &info) != 0) {
            continue;
        }
        if (S_ISDIR(info.st_mode)) {
            count += count_below(below, ending, found);
        } else if (length >= strlen(ending) &&
                   strcmp(item->d_name + length - strlen(ending), ending) == 0) {
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

int fixture_count(const struct fixture *f, const char *name, const char *ending,
                  char path[FIXTURE_PATH])
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

/* ---- entries ---- */

void fixture_environment(const doconv_context *ctx, char path[FIXTURE_PATH])
{
    const char *manifest = dc_cache_manifest(ctx->advisor.self);
    snprintf(path, FIXTURE_PATH, "%.900s/%016" PRIx64, ctx->cache_directory,
             dc_hash(0, manifest, strlen(manifest)));
}

void fixture_entry_path(const doconv_context *ctx, const char *key, char path[FIXTURE_PATH])
{
    fixture_environment(ctx, path);
    const size_t length = strlen(path);
    snprintf(path + length, FIXTURE_PATH - length, "/%016" PRIx64 ".txt",
             dc_hash(0, key, strlen(key)));
}

size_t fixture_seal(char *text, size_t body)
{
    return body + (size_t)sprintf(text + body, "checksum %016" PRIx64 "\n", dc_hash(0, text, body));
}

const struct dc_kernel *fixture_kernel(const doconv_context *ctx)
{
    return ctx->kernels[doconv_kernel_count(ctx) - 1];
}

struct cache_entry fixture_entry_of(const char *kernel, unsigned revision, const char *key)
{
    struct cache_entry e = {.revision = revision,
                            .workspace = 4096,
                            .picoseconds = 123456789,
                            .max_rel_error_e12 = 98765,
                            .when = FIXTURE_WHEN,
                            .against = "reference:reference_f32@none",
                            .against_picoseconds = 223456789,
                            .confidence_ppm = 987654,
                            .count = 3};
    snprintf(e.key, sizeof e.key, "%s", key);
    snprintf(e.variant, sizeof e.variant, "reference:%s", kernel);
    for (int i = 0; i < e.count; i++) {
        snprintf(e.measured[i].variant, sizeof e.measured[i].variant,
                 "direct:kernel_%d@none:rows=%d", i, 7 * i);
        e.measured[i].picoseconds = 123456789 * (i + 1);
        e.measured[i].rounds = 5 + i;
        e.measured[i].clean = 4 + i;
        e.measured[i].retaken = 2 * i;
        e.measured[i].spread_ppm = 1000 * i;
        e.measured[i].fate = i == 2 ? CACHE_SLOWER : CACHE_KEPT;
    }
    return e;
}

struct cache_entry fixture_entry(const doconv_context *ctx, const char *key)
{
    const struct dc_kernel *kernel = fixture_kernel(ctx);
    return fixture_entry_of(kernel->name, kernel->revision, key);
}

/* ---- problems and plans ---- */

const doconv_tune_options fixture_quick = {.size = sizeof fixture_quick, .budget_seconds = 1e-3};

doconv_conv_desc fixture_problem(const char *text)
{
    doconv_conv_desc desc;
    assert_int_equal(doconv_conv_desc_parse(NULL, text, &desc), DOCONV_OK);
    return desc;
}

doconv_tune_report *fixture_tune(doconv_context *ctx, const doconv_conv_desc *desc,
                                 const doconv_plan_options *plan_options, bool force)
{
    doconv_tune_options options = fixture_quick;
    options.force = force;
    doconv_tune_report *report;
    assert_int_equal(doconv_tune(ctx, desc, plan_options, &options, &report), DOCONV_OK);
    assert_non_null(report);
    return report;
}

doconv_tune_summary fixture_summary(const doconv_tune_report *report)
{
    doconv_tune_summary summary = {.size = sizeof summary};
    assert_int_equal(doconv_tune_report_summary(report, &summary), DOCONV_OK);
    return summary;
}

struct dc_candidate fixture_candidate(doconv_context *ctx, const doconv_conv_desc *desc)
{
    struct dc_problem p;
    struct dc_candidate_list list;
    assert_int_equal(dc_problem_create(ctx, desc, &p), DOCONV_OK);
    assert_int_equal(dc_enumerate(ctx, &p, NULL, &list), DOCONV_OK);
    int i = 0;
    while (i + 1 < list.count && list.items[i + 1].refused == NULL) {
        i++;
    }
    const struct dc_candidate found = list.items[i];
    assert_null(found.refused);
    dc_free(ctx, list.items);
    return found;
}

void fixture_plant(doconv_context *ctx, const doconv_conv_desc *desc,
                   const doconv_plan_options *options, char variant[DC_VARIANT_SIZE])
{
    const struct dc_candidate c = fixture_candidate(ctx, desc);
    struct dc_problem p;
    struct cache_entry entry = {.revision = c.kernel->revision,
                                .picoseconds = 5000000,
                                .max_rel_error_e12 = 1000,
                                .when = FIXTURE_WHEN,
                                .against_picoseconds = 6000000,
                                .confidence_ppm = 1000000};
    assert_int_equal(dc_problem_create(ctx, desc, &p), DOCONV_OK);
    dc_plan_key(ctx, &p, options, entry.key, sizeof entry.key);
    snprintf(entry.variant, sizeof entry.variant, "%s", c.text);
    snprintf(entry.against, sizeof entry.against, "%s", c.text);
    assert_int_equal(dc_cache_store(ctx->advisor.self, &entry), CACHE_STORED);
    if (variant != NULL) {
        memcpy(variant, c.text, DC_VARIANT_SIZE);
    }
}

void fixture_assert_origin(doconv_context *ctx, const doconv_conv_desc *desc,
                           const doconv_plan_options *options, const char *origin)
{
    doconv_plan *plan;
    const doconv_status status = doconv_plan_create(ctx, desc, options, &plan);
    assert_int_equal(status, *origin == '\0' ? DOCONV_NOT_FOUND : DOCONV_OK);
    assert_string_equal(doconv_plan_origin(plan), origin);
    doconv_plan_destroy(plan);
}

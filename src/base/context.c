/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* madvise */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>

#include "base/arithmetic.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/registry.h"
#include "base/table.h"
#include "base/versioned.h"
#include "base/runner.h"
#include "kernel.h"

#define ALIGNMENT 64
#define MOST_THREADS 4096
#define HUGE_PAGE ((size_t)2 << 20)
#define DC_QUOTE(x) #x
#define DC_STRING(x) DC_QUOTE(x)

static void *default_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    /*
     * Large packed weights are streamed: with pages of 4 KiB the hardware's prefetch stops every 32
     * rows of them. Only pages that are whole in the block are asked for: one that it fills in part
     * would be resident in whole.
     */
    const bool huge = size >= HUGE_PAGE;
    void *memory;
    if (posix_memalign(&memory, huge && alignment < HUGE_PAGE ? HUGE_PAGE : alignment, size) != 0) {
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    if (huge) {
        /* a wish: failing costs nothing but speed */
        madvise(memory, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    }
#endif
    return memory;
}

static void default_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void default_log(void *user, doconv_log_level level, const char *line)
{
    (void)user;
    (void)level;
    fprintf(stderr, "doconv: %s\n", line);
}

void *dc_alloc(doconv_context *ctx, size_t size)
{
    return ctx->allocate(ctx->allocate_user, size != 0 ? size : 1, ALIGNMENT);
}

void dc_free(doconv_context *ctx, void *memory)
{
    if (memory != NULL) {
        ctx->release(ctx->allocate_user, memory);
    }
}

void dc_parallel(const doconv_context *ctx, int count, void (*task)(void *arg, int index),
                 void *arg)
{
    if (count == 1) {
        task(arg, 0);
    } else {
        ctx->parallel_for(ctx->parallel_for_user, count, task, arg);
    }
}

/* ---- environment ---- */

enum variable { MAX_ISA, TUNE, VERBOSE, XDG_CACHE_HOME, HOME };
static const char *const variable_names[] = {
    [MAX_ISA] = "DOCONV_MAX_ISA",        [TUNE] = "DOCONV_TUNE", [VERBOSE] = "DOCONV_VERBOSE",
    [XDG_CACHE_HOME] = "XDG_CACHE_HOME", [HOME] = "HOME",
};

/* NULL if unset or empty. */
static const char *value_of(enum variable variable)
{
    const char *value = getenv(variable_names[variable]);
    return value != NULL && *value != '\0' ? value : NULL;
}

/*
 * Somebody set this variable to have an effect, and it has none: that is always told. Where no log
 * listens stderr is, but once for a variable, however many contexts there are.
 */
static void warn_ignored(const doconv_context *ctx, enum variable variable, const char *reason)
{
    static atomic_uint told;
    const char *name = variable_names[variable];
    const struct dc_shown value = dc_show(value_of(variable));
    if (ctx->log != NULL) {
        dc_log(ctx, DOCONV_LOG_WARNING, "%s=%s %s and ignored", name, value.text, reason);
    } else if ((atomic_fetch_or(&told, 1u << variable) & 1u << variable) == 0) {
        fprintf(stderr, "doconv: %s=%s %s and ignored\n", name, value.text, reason);
    }
}

/*
 * Index of the variable's value in words, in any case; -1 if unset or empty, or (with a warning) if
 * it is none of them.
 */
static int read_choice(const doconv_context *ctx, enum variable variable, const char *const *words,
                       int count)
{
    const char *value = value_of(variable);
    if (value == NULL) {
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (strcasecmp(value, words[i]) == 0) {
            return i;
        }
    }
    warn_ignored(ctx, variable, "is not understood");
    return -1;
}

/* An absolute path; NULL if unset or empty, or (with a warning) if it is a relative one. */
static const char *read_path(const doconv_context *ctx, enum variable variable)
{
    const char *value = value_of(variable);
    if (value != NULL && *value != '/') {
        warn_ignored(ctx, variable, "is no absolute path");
        return NULL;
    }
    return value;
}

/* OMP_NUM_THREADS is where users look for the number of threads; a list is for nested teams. */
static int default_threads(const doconv_context *ctx)
{
    const char *value = getenv("OMP_NUM_THREADS");
    if (value != NULL && *value != '\0') {
        char *end;
        const long threads = strtol(value, &end, 10);
        end += strspn(end, " \t");
        if (end != value && (*end == '\0' || *end == ',') && threads > 0 &&
            threads <= MOST_THREADS) {
            return (int)threads;
        }
        dc_log(ctx, DOCONV_LOG_WARNING, "OMP_NUM_THREADS=%.64s is not understood and ignored",
               value);
    }
    return (int)least(dc_usable_cpus(), MOST_THREADS);
}

static doconv_status set_threads(doconv_context *ctx, const doconv_context_options *o)
{
    if (o->threads < 0 || o->threads > MOST_THREADS) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.threads: %d is not in 0..%d",
                       o->threads, MOST_THREADS);
    }
    ctx->own_threads = o->parallel_for != NULL;
    ctx->threads = o->threads;
    if (ctx->threads == 0) {
        ctx->threads = ctx->own_threads ? 1 : default_threads(ctx);
    }
    ctx->parallel_for = o->parallel_for;
    ctx->parallel_for_user = o->parallel_for_user;
    if (!ctx->own_threads) {
        ctx->runner = dc_runner_create(ctx, ctx->threads);
        ctx->parallel_for = dc_runner_run;
        ctx->parallel_for_user = ctx->runner;
    }
    return ctx->own_threads || ctx->runner != NULL ? DOCONV_OK : DOCONV_OUT_OF_MEMORY;
}

static bool is_foreign(int isa)
{
#if defined(__aarch64__)
    return isa == DOCONV_ISA_AVX2 || isa == DOCONV_ISA_AVX512;
#else
    return isa == DOCONV_ISA_NEON;
#endif
}

static doconv_status set_isa(doconv_context *ctx, const doconv_context_options *o)
{
    static const char *const words[] = {"none", "avx2", "avx512", "neon"};
    const enum dc_isa best = dc_cpu_probe()->isa;
    int cap = (int)o->max_isa;
    if (cap < 0 || cap > DOCONV_ISA_NEON) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.max_isa: %d is not in 0..%d", cap,
                       DOCONV_ISA_NEON);
    }
    if (is_foreign(cap)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "options.max_isa: %s is a bundle of another architecture",
                       dc_isa_name((enum dc_isa)cap));
    }
    if (cap == DOCONV_ISA_DEFAULT) {
        const int word = read_choice(ctx, MAX_ISA, words, 4);
        cap = word < 0 ? DOCONV_ISA_DEFAULT : word + DOCONV_ISA_NONE;
        if (is_foreign(cap)) {
            warn_ignored(ctx, MAX_ISA, "is a bundle of another architecture");
            cap = DOCONV_ISA_DEFAULT;
        }
    }
    ctx->isa = cap != DOCONV_ISA_DEFAULT && (enum dc_isa)cap < best ? (enum dc_isa)cap : best;
    return DOCONV_OK;
}

static doconv_status set_cache(doconv_context *ctx, const doconv_context_options *o)
{
    static const char *const words[] = {"off", "read", "tune", "force", "only"};
    if ((int)o->tune < 0 || (int)o->tune > DOCONV_TUNE_ONLY) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.tune: %d is not in 0..%d",
                       (int)o->tune, DOCONV_TUNE_ONLY);
    }
    ctx->tune = o->tune;
    if (ctx->tune == DOCONV_TUNE_DEFAULT) {
        const int word = read_choice(ctx, TUNE, words, 5);
        ctx->tune = word < 0 ? DOCONV_TUNE_READ : (doconv_tune_mode)(word + DOCONV_TUNE_OFF);
    }
    ctx->memory_only = o->cache_directory != NULL && *o->cache_directory == '\0';
    const char *base = o->cache_directory, *below = "";
    if (base == NULL) {
        base = getenv("DOCONV_CACHE");
        base = base != NULL && *base != '\0' ? base : NULL;
    }
    if (base == NULL) {
        base = read_path(ctx, XDG_CACHE_HOME);
        below = "/doconv";
    }
    if (base == NULL) {
        base = read_path(ctx, HOME);
        below = "/.cache/doconv";
    }
    if (base == NULL) {
        base = below = "";
    }
    const size_t size = strlen(base) + strlen(below) + 1;
    ctx->cache_directory = dc_alloc(ctx, size);
    if (ctx->cache_directory == NULL) {
        return DOCONV_OUT_OF_MEMORY;
    }
    snprintf(ctx->cache_directory, size, "%s%s", base, below);
    return DOCONV_OK;
}

static _Atomic uint64_t contexts_created;

doconv_status dc_context_create(const doconv_context_options *options, const struct dc_parts *parts,
                                doconv_context **context)
{
    if (context == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    *context = NULL;
    doconv_context_options own;
    const doconv_context_options *o = &own;
    doconv_status status = DC_READ_STRUCT(NULL, doconv_context_options, options, &own);
    if (status != DOCONV_OK) {
        return status;
    }
    if ((o->allocate == NULL) != (o->release == NULL) || o->verbose < 0 || o->verbose > 2 ||
        (o->deterministic != 0 && o->deterministic != 1)) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const doconv_allocate_fn allocate = o->allocate != NULL ? o->allocate : default_allocate;
    doconv_context *ctx = allocate(o->allocate_user, sizeof *ctx, ALIGNMENT);
    if (ctx == NULL) {
        return DOCONV_OUT_OF_MEMORY;
    }
    *ctx = (doconv_context){
        .allocate = allocate,
        .release = o->release != NULL ? o->release : default_release,
        .allocate_user = o->allocate_user,
        .log = o->log,
        .log_user = o->log_user,
        .verbose = o->verbose,
        .deterministic = o->deterministic != 0,
        .kernels = parts->kernels,
        .solvers = parts->solvers,
        .clock = &dc_system_clock,
        .serial = atomic_fetch_add(&contexts_created, 1) + 1,
    };
    static const char *const levels[] = {"0", "1", "2"};
    const int level = read_choice(ctx, VERBOSE, levels, 3);
    if (ctx->verbose == 0 && level > 0) {
        ctx->verbose = level;
    }
    if (ctx->log == NULL && level > 0) {
        ctx->log = default_log;
    }
    status = dc_table_read(ctx, o->table, &ctx->table);
    if (status == DOCONV_OK) {
        status = set_threads(ctx, o);
    }
    if (status == DOCONV_OK) {
        status = set_isa(ctx, o);
    }
    if (status == DOCONV_OK) {
        status = set_cache(ctx, o);
    }
    if (status == DOCONV_OK) {
        snprintf(ctx->fingerprint, sizeof ctx->fingerprint, "%016llx",
                 (unsigned long long)dc_registry_fingerprint(ctx));
        status = parts->attach_advisor(ctx);
    }
    if (status != DOCONV_OK) {
        const char *detail = dc_last_failure(ctx);
        dc_log(ctx, DOCONV_LOG_ERROR, "context: %s",
               detail[0] != '\0' ? detail : doconv_status_string(status));
        doconv_context_destroy(ctx);
        return status;
    }
    *context = ctx;
    return DOCONV_OK;
}

void doconv_context_destroy(doconv_context *context)
{
    if (context == NULL) {
        return;
    }
    for (int i = 0; i < DC_KEPT; i++) {
        struct dc_kept *const kept = atomic_load(&context->kept[i]);
        if (kept != NULL) {
            kept->destroy(kept);
        }
    }
    struct dc_kept *const memo = atomic_load(&context->memo);
    if (memo != NULL) {
        memo->destroy(memo);
    }
    if (context->advisor.destroy != NULL) {
        context->advisor.destroy(context->advisor.self);
    }
    dc_runner_destroy(context, context->runner);
    dc_free(context, context->cache_directory);
    context->release(context->allocate_user, context);
}

doconv_status doconv_context_last_error(const doconv_context *context, char *text, size_t size)
{
    if (context == NULL || text == NULL || size == 0) {
        return DOCONV_INVALID_ARGUMENT;
    }
    snprintf(text, size, "%s", dc_last_failure(context));
    return DOCONV_OK;
}

doconv_status doconv_context_get_info(const doconv_context *context, doconv_context_info *info)
{
    if (context == NULL || info == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "info: NULL");
    }
    const struct dc_cpu *cpu = dc_cpu_probe();
    const doconv_context_info result = {
        .size = sizeof result,
        .cpu = cpu->name,
        .cpu_isa = (doconv_isa)cpu->isa,
        .isa = (doconv_isa)context->isa,
        .threads = context->threads,
        .l1d_bytes = cpu->l1d_bytes,
        .l2_bytes = cpu->l2_bytes,
        .l3_bytes = cpu->l3_bytes,
        .cache_directory = context->cache_directory,
        .tune = context->tune,
        .registry = context->fingerprint,
    };
    return DC_WRITE_STRUCT(context, doconv_context_info, &result, info);
}

int doconv_kernel_count(const doconv_context *context)
{
    int count = 0;
    while (context != NULL && context->kernels[count] != NULL) {
        count++;
    }
    return count;
}

doconv_status doconv_kernel_get(const doconv_context *context, int index, doconv_kernel_info *info)
{
    static const char *const operations[] = {
        [DC_FAMILY_REFERENCE] = "reference", [DC_FAMILY_DIRECT] = "direct",
        [DC_FAMILY_DEPTHWISE] = "depthwise", [DC_FAMILY_GROUPED] = "grouped",
        [DC_FAMILY_PLANES] = "planes",       [DC_FAMILY_PIXEL] = "pixel",
        [DC_FAMILY_WINOGRAD] = "winograd",   [DC_FAMILY_COMPOSE] = "compose",
        [DC_FAMILY_PRODUCT] = "product",     [DC_FAMILY_CORRELATE] = "correlate"};
    if (context == NULL || info == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "info: NULL");
    }
    const int count = doconv_kernel_count(context);
    if (index < 0 || index >= count) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "index: %d is not below the %d kernels",
                       index, count);
    }
    const struct dc_kernel *kernel = context->kernels[index];
    const doconv_kernel_info result = {
        .size = sizeof result,
        .name = kernel->name,
        .operation = operations[kernel->family],
        .isa = (doconv_isa)kernel->isa,
        .revision = kernel->revision,
        .error_amplification = (double)kernel->error_amplification,
        .tile_pixels = kernel->tile_pixels,
        .tile_channels = kernel->tile_channels,
        .usable = dc_isa_usable(kernel->isa, context->isa),
    };
    return DC_WRITE_STRUCT(context, doconv_kernel_info, &result, info);
}

const char *doconv_isa_string(doconv_isa isa)
{
    return isa == DOCONV_ISA_DEFAULT ? "default" : dc_isa_name((enum dc_isa)isa);
}

const char *doconv_version_string(void)
{
    return DC_STRING(DOCONV_VERSION_MAJOR) "." DC_STRING(DOCONV_VERSION_MINOR) "." DC_STRING(
        DOCONV_VERSION_PATCH);
}

unsigned doconv_version_number(void)
{
    return DOCONV_VERSION_MAJOR * 10000u + DOCONV_VERSION_MINOR * 100u + DOCONV_VERSION_PATCH;
}

const char *doconv_status_string(doconv_status status)
{
    switch (status) {
    case DOCONV_OK:
        return "success";
    case DOCONV_INVALID_ARGUMENT:
        return "invalid argument";
    case DOCONV_INVALID_PROBLEM:
        return "the descriptor describes no convolution";
    case DOCONV_UNSUPPORTED:
        return "valid, but not supported";
    case DOCONV_OVERFLOW:
        return "a size is too large";
    case DOCONV_OUT_OF_MEMORY:
        return "out of memory";
    case DOCONV_NOT_FOUND:
        return "not found";
    case DOCONV_MISMATCH:
        return "made for another plan or version";
    case DOCONV_WORKSPACE_TOO_SMALL:
        return "the workspace is too small";
    case DOCONV_IO_ERROR:
        return "a cache directory or file can't be used";
    case DOCONV_INVALID_FILE:
        return "malformed or inconsistent file";
    }
    return "unknown status";
}

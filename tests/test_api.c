/* SPDX-License-Identifier: MIT */
/*
 * The context: statuses, versions, options, environment, log, errors, the list of kernels; and NULL
 * for every pointer of every function.
 */
#include <ctype.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api_support.h"

static const char *const variables[] = {"DOCONV_MAX_ISA", "DOCONV_TUNE", "DOCONV_CACHE",
                                        "DOCONV_VERBOSE", "XDG_CACHE_HOME"};
#define VARIABLES (sizeof variables / sizeof variables[0])

/* Each test starts without the variables that contexts read, and leaves them as they were. */
static char *saved[VARIABLES];

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < VARIABLES; i++) {
        const char *value = getenv(variables[i]);
        saved[i] = value != NULL ? strdup(value) : NULL;
        unsetenv(variables[i]);
    }
    return 0;
}

static int restore_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < VARIABLES; i++) {
        if (saved[i] != NULL) {
            setenv(variables[i], saved[i], 1);
        } else {
            unsetenv(variables[i]);
        }
        free(saved[i]);
    }
    return 0;
}

static doconv_context *create(doconv_context_options options)
{
    options.size = sizeof options;
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    assert_non_null(context);
    return context;
}

static doconv_context_info info_of(const doconv_context *context)
{
    doconv_context_info info = {.size = sizeof info};
    expect_ok(doconv_context_get_info(context, &info));
    return info;
}

static void test_statuses(void **state)
{
    (void)state;
    const doconv_status all[] = {
        DOCONV_OK,          DOCONV_INVALID_ARGUMENT, DOCONV_INVALID_PROBLEM,
        DOCONV_UNSUPPORTED, DOCONV_OVERFLOW,         DOCONV_OUT_OF_MEMORY,
        DOCONV_NOT_FOUND,   DOCONV_MISMATCH,         DOCONV_WORKSPACE_TOO_SMALL,
        DOCONV_IO_ERROR,    DOCONV_INVALID_FILE};
    const size_t count = sizeof all / sizeof all[0];
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(all[i], i); /* stable: programs log them as numbers */
        const char *text = doconv_status_string(all[i]);
        assert_non_null(text);
        assert_true(strlen(text) > 3);
        assert_string_not_equal(text, "unknown status");
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(text, doconv_status_string(all[j]));
        }
    }
    assert_string_equal(doconv_status_string((doconv_status)count), "unknown status");
    assert_string_equal(doconv_status_string((doconv_status)-1), "unknown status");
}

static void test_version(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", DOCONV_VERSION_MAJOR, DOCONV_VERSION_MINOR,
             DOCONV_VERSION_PATCH);
    assert_string_equal(doconv_version_string(), text);
    assert_int_equal(doconv_version_number(), DOCONV_VERSION_MAJOR * 10000 +
                                                  DOCONV_VERSION_MINOR * 100 +
                                                  DOCONV_VERSION_PATCH);
    assert_string_equal(doconv_version_string(), PROJECT_VERSION);
}

static void test_isa_names(void **state)
{
    (void)state;
    static const char *const names[] = {"default", "none", "avx2", "avx512", "neon", "unknown"};
    for (int i = 0; i < 6; i++) {
        assert_string_equal(doconv_isa_string((doconv_isa)i), names[i]);
    }
    assert_string_equal(doconv_isa_string((doconv_isa)-1), "unknown");
}

static void test_bad_options(void **state)
{
    (void)state;
#if defined(__aarch64__)
    const doconv_isa foreign = DOCONV_ISA_AVX2;
#else
    const doconv_isa foreign = DOCONV_ISA_NEON;
#endif
    const doconv_context_options good = {.size = sizeof good, .tune = DOCONV_TUNE_OFF};
    doconv_context_options rows[] = {good, good, good, good, good, good, good, good, good, good};
    rows[0].threads = -1;
    rows[1].threads = 1000000000;
    rows[2].verbose = -1;
    rows[3].verbose = 3;
    rows[4].max_isa = (doconv_isa)-1;
    rows[5].max_isa = (doconv_isa)5;
    rows[6].max_isa = foreign;
    rows[7].tune = (doconv_tune_mode)6;
    rows[8].tune = (doconv_tune_mode)-1;
    rows[9].allocate = (doconv_allocate_fn)(uintptr_t)1; /* without release */
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_context *context = (doconv_context *)rows;
        const doconv_status status = doconv_context_create(&rows[i], &context);
        if (status != DOCONV_INVALID_ARGUMENT) {
            fail_msg("row %zu: %s", i, doconv_status_string(status));
        }
        assert_null(context);
    }
    struct {
        doconv_context_options options;
        int64_t unknown;
    } newer = {good, 1};
    static const size_t sizes[] = {0, 1, sizeof newer.options - 1, sizeof newer};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        newer.options.size = sizes[i];
        doconv_context *context = (doconv_context *)rows;
        expect_status(doconv_context_create(&newer.options, &context), DOCONV_MISMATCH);
        assert_null(context);
    }
    expect_status(doconv_context_create(&good, NULL), DOCONV_INVALID_ARGUMENT);
}

static void test_info(void **state)
{
    (void)state;
    char directory[] = "/somewhere/of/the/caller";
    doconv_context *context = create((doconv_context_options){
        .threads = 3, .tune = DOCONV_TUNE_OFF, .cache_directory = directory});
    directory[1] = 'X'; /* it was copied */
    const doconv_context_info info = info_of(context);
    assert_int_equal(info.threads, 3);
    assert_int_equal(info.tune, DOCONV_TUNE_OFF);
    assert_string_equal(info.cache_directory, "/somewhere/of/the/caller");
    assert_true(info.cpu != NULL && info.cpu[0] != '\0');
    assert_true(info.isa == info.cpu_isa && info.isa >= DOCONV_ISA_NONE &&
                info.isa <= DOCONV_ISA_NEON);
    assert_true(info.l1d_bytes >= 0 && info.l2_bytes >= 0 && info.l3_bytes >= 0);
    assert_int_equal(strlen(info.registry), 16);
    assert_int_equal(strspn(info.registry, "0123456789abcdef"), 16);
    doconv_context_info small = {.size = sizeof small - 1};
    expect_status(doconv_context_get_info(context, &small), DOCONV_MISMATCH);
    expect_status(doconv_context_get_info(context, NULL), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_context_get_info(NULL, &small), DOCONV_INVALID_ARGUMENT);
    doconv_context_destroy(context);
    /* All defaults. */
    context = NULL;
    expect_ok(doconv_context_create(NULL, &context));
    assert_true(info_of(context).threads >= 1);
    assert_int_equal(info_of(context).tune, DOCONV_TUNE_READ);
    doconv_context_destroy(context);
    doconv_context_destroy(NULL);
}

static void test_kernels(void **state)
{
    (void)state;
    assert_int_equal(doconv_kernel_count(NULL), 0);
    doconv_context *context = open_context();
    const int count = doconv_kernel_count(context);
    assert_true(count >= 1);
    doconv_kernel_info info = {.size = sizeof info};
    for (int i = 0; i < count; i++) {
        info.size = sizeof info;
        expect_ok(doconv_kernel_get(context, i, &info));
        assert_true(strlen(info.operation) > 3 && isalpha((unsigned char)info.name[0]));
        assert_true(info.usable == 0 || info.usable == 1);
    }
    assert_string_equal(info.operation, "reference");
    assert_int_equal(info.usable, 1);
    expect_status(doconv_kernel_get(context, -1, &info), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_kernel_get(context, count, &info), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_kernel_get(context, 0, NULL), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_kernel_get(NULL, 0, &info), DOCONV_INVALID_ARGUMENT);
    info.size = 3;
    expect_status(doconv_kernel_get(context, 0, &info), DOCONV_MISMATCH);
    doconv_context_destroy(context);
}

/* ---- environment ---- */

static void test_isa_cap(void **state)
{
    (void)state;
    doconv_context *context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
    const doconv_isa best = info_of(context).isa;
    doconv_context_destroy(context);
    setenv("DOCONV_MAX_ISA", "none", 1);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
    assert_int_equal(info_of(context).isa, DOCONV_ISA_NONE);
    assert_int_equal(info_of(context).cpu_isa, best);
    for (int i = 0; i < doconv_kernel_count(context); i++) {
        doconv_kernel_info info = {.size = sizeof info};
        expect_ok(doconv_kernel_get(context, i, &info));
        assert_int_equal(info.usable, info.isa == DOCONV_ISA_NONE);
    }
    /* Read at creation only. */
    unsetenv("DOCONV_MAX_ISA");
    assert_int_equal(info_of(context).isa, DOCONV_ISA_NONE);
    doconv_context_destroy(context);
    /* The option wins. */
    setenv("DOCONV_MAX_ISA", "none", 1);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF, .max_isa = best});
    assert_int_equal(info_of(context).isa, best);
    doconv_context_destroy(context);
    setenv("DOCONV_MAX_ISA", doconv_isa_string(best), 1);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF, .max_isa = DOCONV_ISA_NONE});
    assert_int_equal(info_of(context).isa, DOCONV_ISA_NONE);
    doconv_context_destroy(context);
    /* In any case. */
    static const char *const portable[] = {"NONE", "None", "nOnE"};
    for (int i = 0; i < 3; i++) {
        setenv("DOCONV_MAX_ISA", portable[i], 1);
        context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
        assert_int_equal(info_of(context).isa, DOCONV_ISA_NONE);
        doconv_context_destroy(context);
    }
#if defined(__x86_64__)
    static const char *const avx2[] = {"avx2", "AVX2", "Avx2"};
    for (int i = 0; i < 3 && best >= DOCONV_ISA_AVX2; i++) {
        setenv("DOCONV_MAX_ISA", avx2[i], 1);
        context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
        assert_int_equal(info_of(context).isa, DOCONV_ISA_AVX2);
        doconv_context_destroy(context);
    }
#endif
}

static void test_tune_and_cache(void **state)
{
    (void)state;
    static const char *const words[] = {"off", "read", "tune", "force", "only"};
    for (int i = 0; i < 5; i++) {
        setenv("DOCONV_TUNE", words[i], 1);
        doconv_context *context =
            create((doconv_context_options){.cache_directory = "/nowhere/at/all"});
        assert_int_equal(info_of(context).tune, DOCONV_TUNE_OFF + i);
        doconv_context_destroy(context);
        char upper[8];
        for (size_t c = 0; c <= strlen(words[i]); c++) {
            upper[c] = (char)toupper((unsigned char)words[i][c]);
        }
        setenv("DOCONV_TUNE", upper, 1);
        context = create((doconv_context_options){.cache_directory = "/nowhere/at/all"});
        assert_int_equal(info_of(context).tune, DOCONV_TUNE_OFF + i);
        doconv_context_destroy(context);
    }
    setenv("DOCONV_TUNE", "force", 1);
    doconv_context *context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
    assert_int_equal(info_of(context).tune, DOCONV_TUNE_OFF);
    doconv_context_destroy(context);
    setenv("XDG_CACHE_HOME", "/xdg/cache", 1);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
    assert_string_equal(info_of(context).cache_directory, "/xdg/cache/doconv");
    doconv_context_destroy(context);
    setenv("DOCONV_CACHE", "/from/the/environment", 1);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF});
    assert_string_equal(info_of(context).cache_directory, "/from/the/environment");
    doconv_context_destroy(context);
    context = create(
        (doconv_context_options){.tune = DOCONV_TUNE_OFF, .cache_directory = "/from/the/option"});
    assert_string_equal(info_of(context).cache_directory, "/from/the/option");
    doconv_context_destroy(context);
    context = create((doconv_context_options){.tune = DOCONV_TUNE_OFF, .cache_directory = ""});
    assert_string_equal(info_of(context).cache_directory, "");
    doconv_context_destroy(context);
}

/* ---- log ---- */

struct lines {
    pthread_mutex_t lock;
    int count[3]; /* by level */
    char last[2048];
};

static void keep_line(void *user, doconv_log_level level, const char *line)
{
    struct lines *lines = user;
    pthread_mutex_lock(&lines->lock);
    if ((int)level >= 0 && (int)level <= DOCONV_LOG_VERBOSE) {
        lines->count[level]++;
    }
    snprintf(lines->last, sizeof lines->last, "%s", line);
    pthread_mutex_unlock(&lines->lock);
}

/* A relative path in a variable that names a base directory counts as unset. */
static void test_relative_paths(void **state)
{
    (void)state;
    struct lines lines = {.lock = PTHREAD_MUTEX_INITIALIZER};
    const doconv_context_options options = {
        .tune = DOCONV_TUNE_OFF, .log = keep_line, .log_user = &lines};
    char *const home = strdup(getenv("HOME") != NULL ? getenv("HOME") : "");
    setenv("HOME", "/home/of/somebody", 1);
    setenv("XDG_CACHE_HOME", "relative/cache", 1);
    doconv_context *context = create(options);
    assert_string_equal(info_of(context).cache_directory, "/home/of/somebody/.cache/doconv");
    assert_int_equal(lines.count[DOCONV_LOG_WARNING], 1);
    doconv_context_destroy(context);
    setenv("HOME", "./home", 1);
    context = create(options);
    assert_string_equal(info_of(context).cache_directory, "");
    assert_int_equal(lines.count[DOCONV_LOG_WARNING], 3);
    doconv_context_destroy(context);
    setenv("HOME", home, 1);
    free(home);
}

static void test_unknown_values(void **state)
{
    (void)state;
    static const char *const settings[][2] = {
        {"DOCONV_MAX_ISA", "sse9"},
        {"DOCONV_MAX_ISA", "avx-2"},
        {"DOCONV_TUNE", "always"},
        {"DOCONV_VERBOSE", "3"},
        {"DOCONV_VERBOSE", "yes"},
        {"XDG_CACHE_HOME", "./here"},
#if defined(__aarch64__)
        {"DOCONV_MAX_ISA", "avx2"},
        {"DOCONV_MAX_ISA", "AVX512"},
#else
        {"DOCONV_MAX_ISA", "neon"},
        {"DOCONV_MAX_ISA", "NEON"},
#endif
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        struct lines lines = {.lock = PTHREAD_MUTEX_INITIALIZER};
        setenv(settings[i][0], settings[i][1], 1);
        doconv_context *context =
            create((doconv_context_options){.log = keep_line, .log_user = &lines});
        assert_int_equal(lines.count[DOCONV_LOG_WARNING], 1);
        assert_non_null(strstr(lines.last, settings[i][0]));
        assert_non_null(strstr(lines.last, settings[i][1]));
        assert_int_equal(info_of(context).isa, info_of(context).cpu_isa);
        assert_int_equal(info_of(context).tune, DOCONV_TUNE_READ);
        doconv_context_destroy(context);
        unsetenv(settings[i][0]);
    }
}

/* One plan and two executes. */
static void plan_and_run(doconv_context *context)
{
    const doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1:bias");
    doconv_plan *plan;
    doconv_weights *weights;
    struct tensors t = tensors_for(&desc);
    expect_ok(doconv_plan_create(context, &desc, NULL, &plan));
    expect_ok(doconv_weights_create(plan, t.weight, t.bias, &weights));
    void *workspace = malloc(doconv_plan_workspace_size(plan) + 1);
    for (int i = 0; i < 2; i++) {
        expect_ok(doconv_execute(plan, weights, t.src, NULL, t.dst, workspace,
                                 doconv_plan_workspace_size(plan)));
    }
    free(workspace);
    free_tensors(&t);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
}

static void test_verbose(void **state)
{
    (void)state;
    static const int lines_for[] = {0, 1, 3};
    for (int verbose = 0; verbose <= 2; verbose++) {
        for (int by_environment = 0; by_environment < 2; by_environment++) {
            struct lines lines = {.lock = PTHREAD_MUTEX_INITIALIZER};
            char digit[2] = {(char)('0' + verbose), '\0'};
            setenv("DOCONV_VERBOSE", by_environment ? digit : "0", 1);
            doconv_context *context =
                create((doconv_context_options){.threads = 1,
                                                .tune = DOCONV_TUNE_OFF,
                                                .log = keep_line,
                                                .log_user = &lines,
                                                .verbose = by_environment ? 0 : verbose});
            plan_and_run(context);
            assert_int_equal(lines.count[DOCONV_LOG_VERBOSE], lines_for[verbose]);
            assert_int_equal(lines.count[DOCONV_LOG_ERROR] + lines.count[DOCONV_LOG_WARNING], 0);
            if (verbose > 0) {
                assert_non_null(strstr(lines.last, verbose == 1 ? "plan," : "execute,"));
                assert_non_null(
                    strstr(lines.last, "mb1_ic5ih6iw6oc7oh6ow6kh3kw3sh1sw1ph1pw1dh0dw0:bias"));
                assert_null(strchr(lines.last, '\n'));
            }
            doconv_context_destroy(context);
        }
    }
}

static void use_quietly(void *arg)
{
    doconv_context *context = create((doconv_context_options){
        .threads = 1, .tune = DOCONV_TUNE_OFF, .verbose = *(const int *)arg});
    plan_and_run(context);
    doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1");
    desc.stride_h = 0;
    doconv_plan *plan;
    expect_status(doconv_plan_create(context, &desc, NULL, &plan), DOCONV_INVALID_PROBLEM);
    doconv_context_destroy(context);
}

static void test_stderr(void **state)
{
    (void)state;
    char text[4096];
    int verbose = 0;
    /*
     * Without a callback and the variable nothing is printed, failures included, whatever the
     * option says.
     */
    assert_int_equal(capture_stderr(use_quietly, &verbose, text, sizeof text), 0);
    verbose = 2;
    assert_int_equal(capture_stderr(use_quietly, &verbose, text, sizeof text), 0);
    verbose = 0;
    setenv("DOCONV_VERBOSE", "2", 1);
    assert_true(capture_stderr(use_quietly, &verbose, text, sizeof text) > 0);
    int lines = 0;
    for (const char *c = text; *c != '\0'; c++) {
        lines += *c == '\n';
    }
    assert_int_equal(lines, 3);
    /* A callback has it all to itself. */
    setenv("DOCONV_VERBOSE", "0", 1);
    assert_int_equal(capture_stderr(use_quietly, &verbose, text, sizeof text), 0);
}

static void use_twice(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2; i++) {
        doconv_context_destroy(create((doconv_context_options){0}));
    }
}

/* Without a log a variable that is ignored is told on stderr, once in the process. */
static void test_ignored_on_stderr(void **state)
{
    (void)state;
    static const char *const settings[][2] = {
        {"DOCONV_MAX_ISA", "sse9"},
        {"DOCONV_TUNE", "always"},
        {"DOCONV_VERBOSE", "loud"},
        {"XDG_CACHE_HOME", "cache\x1b[1m"},
    };
    /* In a process of its own, where nothing was told yet. */
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool right = true;
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            char text[1024];
            setenv(settings[i][0], settings[i][1], 1);
            capture_stderr(use_twice, NULL, text, sizeof text);
            const char *end = strchr(text, '\n');
            right = right && strncmp(text, "doconv: ", 8) == 0 && end != NULL && end[1] == '\0' &&
                    strstr(text, settings[i][0]) != NULL && strchr(text, '\x1b') == NULL;
            unsetenv(settings[i][0]);
        }
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- errors ---- */

static void test_last_error(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    char text[256] = "x";
    expect_ok(doconv_context_last_error(context, text, sizeof text));
    assert_string_equal(text, "");
    doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1");
    desc.stride_w = -5;
    int64_t shape[4];
    expect_status(doconv_conv_dst_shape(context, &desc, shape), DOCONV_INVALID_PROBLEM);
    expect_ok(doconv_context_last_error(context, text, sizeof text));
    assert_string_equal(text, "stride_w: -5 is not in 1..2147483647");
    /* Cut, with its NUL. */
    char small[9];
    memset(small, 'x', sizeof small);
    expect_ok(doconv_context_last_error(context, small, 8));
    assert_string_equal(small, "stride_");
    assert_int_equal(small[8], 'x');
    expect_status(doconv_context_last_error(context, NULL, 8), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_context_last_error(context, text, 0), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_context_last_error(NULL, text, sizeof text), DOCONV_INVALID_ARGUMENT);
    /* A later failure replaces it; a success does not. */
    desc.stride_w = 1;
    expect_ok(doconv_conv_dst_shape(context, &desc, shape));
    expect_error(context, "stride_w: -5", NULL);
    desc.kh = 0;
    expect_status(doconv_conv_dst_shape(context, &desc, shape), DOCONV_INVALID_PROBLEM);
    expect_error(context, "kh: 0", NULL);
    doconv_context_destroy(context);
}

/* A thread that fails again and again in its own way, and always reads its own detail. */
#define FAILING_THREADS 8
struct failing {
    doconv_context *context;
    pthread_barrier_t *all_failed;
    int number;
    bool empty_at_first, own;
};

static void *fail_often(void *arg)
{
    struct failing *f = arg;
    char text[256] = "x", expected[64];
    doconv_context_last_error(f->context, text, sizeof text);
    f->empty_at_first = text[0] == '\0';
    f->own = true;
    for (int i = 0; i < 2000; i++) {
        doconv_conv_desc desc;
        doconv_conv_desc_init(&desc);
        desc.kh = -(1 + i * FAILING_THREADS + f->number);
        int64_t shape[4];
        f->own =
            f->own && doconv_conv_dst_shape(f->context, &desc, shape) == DOCONV_INVALID_PROBLEM;
        if (i == 0) {
            pthread_barrier_wait(f->all_failed); /* between the failure and the question */
        }
        snprintf(expected, sizeof expected, "kh: %d is not in 1..2147483647", (int)desc.kh);
        doconv_context_last_error(f->context, text, sizeof text);
        f->own = f->own && strcmp(text, expected) == 0;
    }
    return NULL;
}

static void test_last_error_of_threads(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1");
    desc.stride_w = -5;
    int64_t shape[4];
    expect_status(doconv_conv_dst_shape(context, &desc, shape), DOCONV_INVALID_PROBLEM);
    pthread_barrier_t all_failed;
    assert_int_equal(pthread_barrier_init(&all_failed, NULL, FAILING_THREADS), 0);
    pthread_t threads[FAILING_THREADS];
    struct failing failing[FAILING_THREADS];
    for (int i = 0; i < FAILING_THREADS; i++) {
        failing[i] = (struct failing){context, &all_failed, i, false, false};
        assert_int_equal(pthread_create(&threads[i], NULL, fail_often, &failing[i]), 0);
    }
    for (int i = 0; i < FAILING_THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(failing[i].empty_at_first && failing[i].own);
    }
    pthread_barrier_destroy(&all_failed);
    expect_error(context, "stride_w: -5", NULL);
    doconv_context_destroy(context);
}

/* An allocator whose first block, a context's, is always at the same place. */
struct place {
    void *first;
    bool used;
};

static void *allocate_same(void *user, size_t size, size_t alignment)
{
    struct place *const place = user;
    if (place->used) {
        return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    }
    place->used = true;
    assert_true(size <= 4096);
    return place->first;
}

static void release_same(void *user, void *memory)
{
    struct place *const place = user;
    if (memory != place->first) {
        free(memory);
    }
}

static void test_last_error_of_contexts(void **state)
{
    (void)state;
    struct place place = {aligned_alloc(64, 4096), false};
    assert_non_null(place.first);
    const doconv_context_options options = {.allocate = allocate_same,
                                            .release = release_same,
                                            .allocate_user = &place,
                                            .tune = DOCONV_TUNE_OFF};
    doconv_context *first = create(options), *other = open_context();
    doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1");
    desc.kw = 0;
    int64_t shape[4];
    char text[256];
    expect_status(doconv_conv_dst_shape(first, &desc, shape), DOCONV_INVALID_PROBLEM);
    expect_error(first, "kw: 0", NULL);
    expect_ok(doconv_context_last_error(other, text, sizeof text));
    assert_string_equal(text, "");
    /* Neither does a context inherit the detail of one whose memory it has. */
    doconv_context_destroy(first);
    place.used = false;
    doconv_context *second = create(options);
    assert_ptr_equal(second, first);
    expect_ok(doconv_context_last_error(second, text, sizeof text));
    assert_string_equal(text, "");
    /* A thread's detail is that of its last failure. */
    expect_status(doconv_conv_dst_shape(second, &desc, shape), DOCONV_INVALID_PROBLEM);
    expect_status(doconv_kernel_get(other, -1, NULL), DOCONV_INVALID_ARGUMENT);
    expect_ok(doconv_context_last_error(second, text, sizeof text));
    assert_string_equal(text, "");
    expect_error(other, "info: NULL", NULL);
    doconv_context_destroy(second);
    doconv_context_destroy(other);
    free(place.first);
}

static void test_null_pointers(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem("ic5ih6oc7kh3ph1:bias,residual");
    const doconv_plan_options options = plan_options();
    doconv_plan *plan = (doconv_plan *)context;
    expect_status(doconv_plan_create(NULL, &desc, &options, &plan), DOCONV_INVALID_ARGUMENT);
    assert_null(plan);
    plan = (doconv_plan *)context;
    expect_status(doconv_plan_create(context, NULL, &options, &plan), DOCONV_INVALID_ARGUMENT);
    assert_null(plan);
    expect_error(context, "desc", "NULL");
    expect_status(doconv_plan_create(context, &desc, &options, NULL), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "plan", "NULL");
    doconv_candidates *list = (doconv_candidates *)context;
    expect_status(doconv_candidates_create(NULL, &desc, &options, &list), DOCONV_INVALID_ARGUMENT);
    assert_null(list);
    expect_status(doconv_candidates_create(context, NULL, &options, &list),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_candidates_create(context, &desc, &options, NULL),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "list", "NULL");
    expect_ok(doconv_candidates_create(context, &desc, NULL, &list));
    doconv_candidate_info candidate = {.size = sizeof candidate};
    expect_status(doconv_candidates_get(NULL, 0, &candidate), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_candidates_get(list, 0, NULL), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_candidates_get(list, -1, &candidate), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_candidates_get(list, doconv_candidates_count(list), &candidate),
                  DOCONV_INVALID_ARGUMENT);
    candidate.size = 1;
    expect_status(doconv_candidates_get(list, 0, &candidate), DOCONV_MISMATCH);
    doconv_candidates_destroy(list);
    doconv_candidates_destroy(NULL);
    assert_int_equal(doconv_candidates_count(NULL), 0);

    expect_status(doconv_conv_dst_shape(context, &desc, NULL), DOCONV_INVALID_ARGUMENT);
    int64_t shape[4];
    expect_status(doconv_conv_dst_shape(context, NULL, shape), DOCONV_INVALID_ARGUMENT);

    assert_string_equal(doconv_plan_variant(NULL), "");
    assert_string_equal(doconv_plan_origin(NULL), "");
    assert_int_equal(doconv_plan_workspace_size(NULL), 0);
    assert_int_equal(doconv_plan_packed_size(NULL), 0);
    doconv_plan_destroy(NULL);
    doconv_weights_destroy(NULL);

    expect_ok(doconv_plan_create(context, &desc, &options, &plan));
    struct tensors t = tensors_for(&desc);
    doconv_weights *weights = (doconv_weights *)context;
    expect_status(doconv_weights_create(NULL, t.weight, t.bias, &weights), DOCONV_INVALID_ARGUMENT);
    assert_null(weights);
    expect_status(doconv_weights_create(plan, NULL, t.bias, &weights), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "weight", "NULL");
    expect_status(doconv_weights_create(plan, t.weight, NULL, &weights), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "bias", "NULL");
    expect_status(doconv_weights_create(plan, t.weight, t.bias, NULL), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "weights", "NULL");
    expect_ok(doconv_weights_create(plan, t.weight, t.bias, &weights));

    void *workspace = malloc(doconv_plan_workspace_size(plan) + 1);
    const size_t size = doconv_plan_workspace_size(plan);
    expect_status(doconv_execute(NULL, weights, t.src, t.residual, t.dst, workspace, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_execute(plan, NULL, t.src, t.residual, t.dst, workspace, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "weights", "NULL");
    expect_status(doconv_execute(plan, weights, NULL, t.residual, t.dst, workspace, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "src", "NULL");
    expect_status(doconv_execute(plan, weights, t.src, NULL, t.dst, workspace, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "residual", "NULL");
    expect_status(doconv_execute(plan, weights, t.src, t.residual, NULL, workspace, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "dst", "NULL");
    expect_ok(doconv_execute(plan, weights, t.src, t.residual, t.dst, workspace, size));
    free(workspace);
    free_tensors(&t);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
}

#define WITH_ENVIRONMENT(test)                                                                     \
    cmocka_unit_test_setup_teardown(test, clear_environment, restore_environment)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_isa_names),
        WITH_ENVIRONMENT(test_bad_options),
        WITH_ENVIRONMENT(test_info),
        WITH_ENVIRONMENT(test_kernels),
        WITH_ENVIRONMENT(test_isa_cap),
        WITH_ENVIRONMENT(test_tune_and_cache),
        WITH_ENVIRONMENT(test_relative_paths),
        WITH_ENVIRONMENT(test_unknown_values),
        WITH_ENVIRONMENT(test_verbose),
        WITH_ENVIRONMENT(test_stderr),
        WITH_ENVIRONMENT(test_ignored_on_stderr),
        WITH_ENVIRONMENT(test_last_error),
        WITH_ENVIRONMENT(test_null_pointers),
        WITH_ENVIRONMENT(test_last_error_of_threads),
        WITH_ENVIRONMENT(test_last_error_of_contexts),
    };
    return cmocka_run_group_tests_name("api", tests, NULL, NULL) != 0;
}

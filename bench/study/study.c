/* SPDX-License-Identifier: MIT */
#include "study.h"
#include "help_texts.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define OTHER_SECONDS                                                                              \
    0.8 /* of a case and engine beside its samples: data, checks, PyTorch's formats */

static void log_line(void *user, doconv_log_level level, const char *line)
{
    (void)user;
    if (level != DOCONV_LOG_VERBOSE) {
        progress_end();
        fprintf(stderr, "doconv-study: %s\n", line);
    }
}

static doconv_context *make_context(const struct options *o)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = o->threads,
                                            .log = log_line,
                                            .max_isa = o->isa,
                                            .tune = o->tune};
    doconv_context *context;
    const doconv_status status = doconv_context_create(&options, &context);
    if (status != DOCONV_OK) {
        fprintf(stderr, "doconv-study: %s\n",
                o->isa != DOCONV_ISA_DEFAULT ? "--isa: not of this architecture"
                                             : doconv_status_string(status));
        return NULL;
    }
    return context;
}

/* Files are written after every case too, so that a run that is stopped leaves what it has. */
static bool is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Tells in advance what will be done and how long it takes. */
static void announce(const struct study *study, const struct options *o,
                     const doconv_context_info *info, const struct pytorch *pytorch)
{
    const double minutes = study->case_count * PASSES * (pytorch != NULL ? 2 : 1) *
                           (o->seconds + OTHER_SECONDS / 2) / 60;
    fprintf(stderr, "doconv-study: %d layers, %d cases; %s, %s, %s, accuracy %s, %d thread%s%s%s\n",
            study->layer_count, study->case_count, info->cpu, doconv_isa_string(info->isa),
            doconv_layout_string(o->layout), option_name(option_accuracies, (int)o->accuracy),
            o->threads, o->threads == 1 ? "" : "s", pytorch != NULL ? "; PyTorch " : "",
            pytorch != NULL ? pytorch_version(pytorch) : "");
    fprintf(stderr, "doconv-study: expected: about %.0f minutes, more where a case is large%s\n",
            ceil(minutes),
            o->tune == DOCONV_TUNE_TUNE || o->tune == DOCONV_TUNE_FORCE
                ? ", and about a second for each convolution that the tuner's cache lacks"
                : "");
}

/* Every result right, and something measured? */
static bool all_good(const struct study *study, const struct result *results)
{
    bool any = false;
    for (int i = 0; i < study->case_count; i++) {
        for (int f = 0; f < PASSES * ENGINES * COMPOSITIONS; f++) {
            const struct figure *figure =
                &results[i].figure[f / (ENGINES * COMPOSITIONS)][f / COMPOSITIONS % ENGINES]
                                  [f % COMPOSITIONS];
            if (figure->wrong) {
                return false;
            }
            any = any || figure->seconds > 0;
        }
    }
    return any;
}

/* All that there is to know of a run, beside its results. */
struct run {
    const struct study *study;
    const struct options *options;
    doconv_context_info info;
    bool pytorch;
    char version[64]; /* PyTorch's */
};

/* Returns 0, or -1 after a message on stderr. */
static int save(const struct run *run, const struct result *results)
{
    const char *path = run->options->json;
    if (path == NULL || write_json(path, run->study, results, run->options, &run->info,
                                   run->pytorch ? run->version : NULL) == 0) {
        return 0;
    }
    fprintf(stderr, "doconv-study: --json: \"%s\" can't be written: %s\n", path, strerror(errno));
    return -1;
}

/* Figures that are missing, and why. */
static void report_missing(const struct run *run, const struct result *result)
{
    for (int f = 0; f < PASSES * ENGINES * COMPOSITIONS && result->done; f++) {
        const int p = f / (ENGINES * COMPOSITIONS), e = f / COMPOSITIONS % ENGINES,
                  k = f % COMPOSITIONS;
        const struct figure *figure = &result->figure[p][e][k];
        if (figure->why[0] != '\0' && (e == DOCONV || run->pytorch)) {
            fprintf(stderr, "study       %s, %s, %s: %s\n", engine_names[e], composition_names[k],
                    pass_names[p], figure->why);
        }
    }
}

static void measure_cases(const struct run *run, struct bench *bench, struct result *results)
{
    const struct study *study = run->study;
    const bool each_time = run->options->json != NULL && is_file(run->options->json);
    char line[600], why[WHY_SIZE];
    progress_begin(study->case_count);
    for (int i = 0; i < study->case_count; i++) {
        const struct study_case *c = &study->cases[i];
        progress_step(c->layer->name);
        if (bench_case(bench, c, &results[i], why) == 0) {
            describe(c, &results[i], run->pytorch, line, sizeof line);
        } else {
            snprintf(line, sizeof line, "%s, batch %lld, D_mul %lld: skipped: %s", c->layer->name,
                     (long long)c->desc.n, (long long)c->d_mul, why);
        }
        progress_line(line);
        report_missing(run, &results[i]);
        if (each_time) {
            save(run, results);
        }
    }
    progress_end();
}

/* Returns the exit status. */
static int run_study(const struct study *study, const struct options *o, doconv_context *context,
                     struct pytorch *pytorch)
{
    struct run run = {.study = study,
                      .options = o,
                      .info = {.size = sizeof run.info},
                      .pytorch = pytorch != NULL};
    doconv_context_get_info(context, &run.info);
    announce(study, o, &run.info, pytorch);
    if (pytorch != NULL) {
        snprintf(run.version, sizeof run.version, "%s", pytorch_version(pytorch));
    }
    struct result *results = calloc((size_t)study->case_count, sizeof *results);
    struct bench *bench = bench_create(context, o, pytorch);
    int status = 1;
    if (results == NULL || bench == NULL || make_numbers() != 0) {
        fprintf(stderr, "doconv-study: out of memory\n");
    } else if (save(&run, results) != 0) {
        status = 2;
    } else {
        measure_cases(&run, bench, results);
        print_table(study, results, run.pytorch);
        status = save(&run, results) == 0 && all_good(study, results) ? 0 : 1;
        if (bench_lost(bench) != NULL) {
            fprintf(stderr, "doconv-study: %s\n", bench_lost(bench));
            status = 1;
        }
    }
    bench_destroy(bench); /* and PyTorch with it */
    free_numbers();
    free(results);
    return status;
}

/* The command line is read: does what it says. */
static int do_study(const struct options *o)
{
    struct study study;
    doconv_context *context = NULL;
    struct pytorch *pytorch = NULL;
    char why[WHY_SIZE];
    int status = 2;
    if (make_study(o, &study) != 0) {
        /* told already, as is what binding and the context have against it */
    } else if (o->list) {
        print_cases(&study);
        status = 0;
    } else if (bind_threads(o->threads) != 0 || (context = make_context(o)) == NULL) {
        status = 2;
    } else if (o->pytorch != NULL &&
               (pytorch = pytorch_start(o->pytorch, o->threads, why)) == NULL) {
        fprintf(stderr, "doconv-study: --pytorch: %s\n", why);
    } else {
        status = run_study(&study, o, context, pytorch);
    }
    doconv_context_destroy(context);
    free_study(&study);
    return status;
}

int main(int argc, char **argv)
{
    struct options o;
    int status = 2;
    if (read_options(argc, argv, &o) == 0) {
        status = o.help ? 0 : do_study(&o);
        if (o.help) {
            fputs(STUDY_HELP, stdout);
        }
    }
    free_options(&o);
    return status;
}

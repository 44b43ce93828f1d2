/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the table ---- */

/* "1.234", or what there is instead. */
static void time_cell(const struct figure *f, char *cell, size_t size)
{
    if (f->seconds > 0) {
        snprintf(cell, size, "%.3f", 1e3 * f->seconds);
    } else {
        snprintf(cell, size, "%s", f->wrong ? "WRONG" : "-");
    }
}

/* "1.234 x1.05": with the ratio to the plain one. */
static void overhead_cell(const struct figure *f, const struct figure *plain, char *cell,
                          size_t size)
{
    time_cell(f, cell, size);
    if (f->seconds > 0 && plain->seconds > 0) {
        const size_t used = strlen(cell);
        snprintf(cell + used, size - used, " x%-5.2f", f->seconds / plain->seconds);
    }
}

void print_cases(const struct study *study)
{
    printf("%-34s %5s %9s %5s %9s | %12s %8s %8s | %s\n", "layer", "batch", "P", "D_mul", "P equal",
           "plain MMAC", "kernel", "feature", "networks");
    for (int i = 0; i < study->case_count; i++) {
        const struct study_case *c = &study->cases[i];
        printf("%-34s %5" PRId64 " %9" PRId64 " %5" PRId64 " %9.1f | %12.3f %8.3f %8.3f | %s\n",
               c->layer->name, c->desc.n, c->pixels, c->d_mul, c->crossover, 1e-6 * c->macs[PLAIN],
               c->macs[KERNEL] / c->macs[PLAIN], c->macs[FEATURE] / c->macs[PLAIN],
               c->layer->networks);
    }
    printf("kernel, feature: MACs over the plain convolution's. P equal: the pixels at which both "
           "compositions have as many\n");
}

struct tally {
    /*
     * cases with both compositions; those where feature composition is faster; where MACs tell
     * which
     */
    int both, feature_faster, agree;
    /*
     * cases with AUTO; those where it takes the faster one, or one within 1 % of that; the most
     * that what it takes is behind
     */
    int open, open_right;
    double open_worst;
    int kernels;
    double log_overhead, worst;
    const struct study_case *worst_case;
};

static void add_to_tally(struct tally *t, const struct study_case *c, const struct figure *f)
{
    if (f[PLAIN].seconds > 0 && f[KERNEL].seconds > 0) {
        const double overhead = f[KERNEL].seconds / f[PLAIN].seconds;
        t->kernels++;
        t->log_overhead += log(overhead);
        if (overhead > t->worst) {
            t->worst = overhead;
            t->worst_case = c;
        }
    }
    if (f[KERNEL].seconds > 0 && f[FEATURE].seconds > 0) {
        const bool faster = f[FEATURE].seconds < f[KERNEL].seconds;
        t->both++;
        t->feature_faster += faster;
        t->agree += faster == (c->macs[FEATURE] < c->macs[KERNEL]);
        if (f[AUTO].seconds > 0) {
            const bool feature = strcmp(f[AUTO].choice, "feature") == 0;
            const double behind =
                f[feature ? FEATURE : KERNEL].seconds / fmin(f[KERNEL].seconds, f[FEATURE].seconds);
            t->open++;
            t->open_right += behind <= 1.01;
            t->open_worst = fmax(t->open_worst, behind);
        }
    }
}

static void print_tally(const struct study *study, const struct result *results, enum engine engine)
{
    for (int p = 0; p < PASSES; p++) {
        struct tally t = {0};
        for (int i = 0; i < study->case_count; i++) {
            if (results[i].done) {
                add_to_tally(&t, &study->cases[i], results[i].figure[p][engine]);
            }
        }
        if (t.kernels > 0) {
            printf("%s, %s: kernel composition takes %.3f times as long as plain (geometric mean), "
                   "at most %.2f (%s, batch %" PRId64 ", D_mul %" PRId64 ")",
                   engine_names[engine], pass_names[p], exp(t.log_overhead / t.kernels), t.worst,
                   t.worst_case->layer->name, t.worst_case->desc.n, t.worst_case->d_mul);
            printf("; feature composition is faster in %d of %d cases; MACs tell which in %d\n",
                   t.feature_faster, t.both, t.agree);
            if (t.open > 0) {
                printf("%s, %s: auto takes the faster one, or one within 1 %% of it, in %d of %d "
                       "cases; at most x%.3f\n",
                       engine_names[engine], pass_names[p], t.open_right, t.open, t.open_worst);
            }
        }
    }
}

void print_table(const struct study *study, const struct result *results, bool pytorch)
{
    const int engines = pytorch ? 2 : 1;
    printf("\n%-34s %5s %9s %5s %-7s | %7s %7s", "layer", "batch", "P", "D_mul", "pass", "kernel",
           "feature");
    for (int e = 0; e < engines; e++) {
        printf(" | %9s %16s %17s", e == DOCONV ? "ms plain" : "PT plain", "kernel", "feature");
        printf(e == DOCONV ? " %17s  %-17s" : "", "auto", "chosen");
    }
    printf("%s\n", pytorch ? " | formats" : "");
    for (int i = 0; i < study->case_count; i++) {
        const struct study_case *c = &study->cases[i];
        for (int p = 0; p < PASSES && results[i].done; p++) {
            printf("%-34s %5" PRId64 " %9" PRId64 " %5" PRId64 " %-7s | x%6.3f x%6.3f",
                   c->layer->name, c->desc.n, c->pixels, c->d_mul, pass_names[p],
                   c->macs[KERNEL] / c->macs[PLAIN], c->macs[FEATURE] / c->macs[PLAIN]);
            for (int e = 0; e < engines; e++) {
                const struct figure *f = results[i].figure[p][e];
                char plain[40], kernel[40], feature[40];
                time_cell(&f[PLAIN], plain, sizeof plain);
                overhead_cell(&f[KERNEL], &f[PLAIN], kernel, sizeof kernel);
                overhead_cell(&f[FEATURE], &f[PLAIN], feature, sizeof feature);
                printf(" | %9s %16s %17s", plain, kernel, feature);
                if (e == DOCONV) {
                    char open[40];
                    overhead_cell(&f[AUTO], &f[PLAIN], open, sizeof open);
                    printf(" %17s  %-17s", open, f[AUTO].choice);
                }
            }
            const struct figure *theirs = results[i].figure[p][PYTORCH];
            for (int k = 0; k < AUTO && pytorch; k++) {
                printf("%s%s", k == 0 ? " | " : "/",
                       theirs[k].format == CONTIGUOUS      ? "nchw"
                       : theirs[k].format == CHANNELS_LAST ? "nhwc"
                                                           : "-");
            }
            printf("\n");
        }
    }
    for (int i = 0; i < study->case_count; i++) {
        for (int p = 0; p < PASSES; p++) {
            for (int e = 0; e < engines; e++) {
                for (int k = 0; k < COMPOSITIONS; k++) {
                    const struct figure *f = &results[i].figure[p][e][k];
                    const struct study_case *c = &study->cases[i];
                    if (f->why[0] != '\0' && results[i].done) {
                        printf("%s, %s, %s: %s, batch %" PRId64 ", D_mul %" PRId64 ": %s\n",
                               engine_names[e], composition_names[k], pass_names[p], c->layer->name,
                               c->desc.n, c->d_mul, f->why);
                    }
                }
            }
        }
    }
    printf("MACs (the first pair) and times, xR: over the plain convolution's\n");
    for (int e = 0; e < engines; e++) {
        print_tally(study, results, (enum engine)e);
    }
    fflush(stdout);
}

void describe(const struct study_case *c, const struct result *r, bool pytorch, char *text,
              size_t size)
{
    int used = snprintf(text, size, "%s, batch %" PRId64 ", D_mul %" PRId64 ":", c->layer->name,
                        c->desc.n, c->d_mul);
    for (int p = 0; p < PASSES; p++) {
        for (int e = 0; e < (pytorch ? 2 : 1); e++) {
            used += snprintf(text + used, size - (size_t)used, "%s%s",
                             e > 0   ? ", PyTorch"
                             : p > 0 ? "; "
                                     : " ",
                             e > 0 ? "" : pass_names[p]);
            for (int k = 0; k < (e == DOCONV ? COMPOSITIONS : AUTO); k++) {
                char cell[40];
                time_cell(&r->figure[p][e][k], cell, sizeof cell);
                used +=
                    snprintf(text + used, size - (size_t)used, "%s%s", k > 0 ? " / " : " ", cell);
            }
        }
    }
    snprintf(text + used, size - (size_t)used, " ms");
}

/* ---- JSON ---- */

/* The C locale's numbers: the program sets no other. */
static void put_text(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            fprintf(file, "\\%c", *text);
        } else if ((unsigned char)*text < 0x20 || (unsigned char)*text == 0x7f) {
            fprintf(file, "\\u%04x", (unsigned char)*text);
        } else {
            fputc(*text, file);
        }
    }
    fputc('"', file);
}

static void put_field(FILE *file, const char *name, const char *text)
{
    fprintf(file, ", \"%s\": ", name);
    put_text(file, text);
}

static void put_object(FILE *file, const struct study_case *c, enum pass pass, enum engine engine,
                       const struct figure *f, const struct options *o,
                       const doconv_context_info *info, const char *version)
{
    const doconv_conv_desc *d = &c->desc;
    const int compositions = engine == DOCONV ? COMPOSITIONS : AUTO;
    fprintf(file, "  {\"layer\": ");
    put_text(file, c->layer->name);
    put_field(file, "networks", c->layer->networks);
    put_field(file, "problem", c->problem);
    fprintf(file, ", \"batch\": %" PRId64 ", \"d_mul\": %" PRId64, d->n, c->d_mul);
    put_field(file, "pass", pass_names[pass]);
    put_field(file, "engine", engine_names[engine]);
    for (int k = 0; k < compositions; k++) {
        fprintf(file, ", \"%s_ms\": ", composition_names[k]);
        fprintf(file, f[k].seconds > 0 ? "%.9g" : "null", 1e3 * f[k].seconds);
    }
    for (int k = 0; k < AUTO; k++) {
        fprintf(file, ", \"%s_macs\": %.17g", composition_names[k],
                c->macs[k] * (pass == STEP ? 3 : 1));
    }
    fprintf(file,
            ", \"pixels\": %" PRId64 ", \"cin\": %" PRId64 ", \"cout\": %" PRId64
            ", \"taps\": %" PRId64 ", \"groups\": %" PRId64,
            c->pixels, d->cin, d->cout, d->kh * d->kw, d->groups);
    fprintf(file,
            isfinite(c->crossover) ? ", \"crossover_pixels\": %.9g"
                                   : ", \"crossover_pixels\": null",
            c->crossover);
    fprintf(file, ", \"threads\": %d", o->threads);
    put_field(file, "cpu", info->cpu);
    put_field(file, "isa",
              engine == DOCONV ? doconv_isa_string(info->isa) : doconv_isa_string(info->cpu_isa));
    put_field(file, "version", engine == DOCONV ? doconv_version_string() : version);
    if (engine == DOCONV) {
        put_field(file, "auto_choice", f[AUTO].choice);
        put_field(file, "layout", doconv_layout_string(o->layout));
        put_field(file, "accuracy", option_name(option_accuracies, (int)o->accuracy));
    }
    for (int k = 0; k < compositions; k++) {
        char name[40];
        snprintf(name, sizeof name, "%s_rounds", composition_names[k]);
        fprintf(file, ", \"%s\": %d", name, f[k].rounds);
        if (f[k].format != NO_FORMAT) {
            snprintf(name, sizeof name, "%s_format", composition_names[k]);
            put_field(file, name, format_names[f[k].format]);
        }
        if (f[k].why[0] != '\0') {
            snprintf(name, sizeof name, "%s_missing", composition_names[k]);
            put_field(file, name, f[k].why);
        }
    }
    fputc('}', file);
}

int write_json(const char *path, const struct study *study, const struct result *results,
               const struct options *o, const doconv_context_info *info,
               const char *pytorch_version_text)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return -1;
    }
    bool first = true;
    fprintf(file, "[");
    for (int i = 0; i < study->case_count; i++) {
        for (int p = 0; p < PASSES && results[i].done; p++) {
            for (int e = 0; e < (pytorch_version_text != NULL ? 2 : 1); e++) {
                fprintf(file, "%s\n", first ? "" : ",");
                put_object(file, &study->cases[i], (enum pass)p, (enum engine)e,
                           results[i].figure[p][e], o, info, pytorch_version_text);
                first = false;
            }
        }
    }
    fprintf(file, "\n]\n");
    const bool bad = ferror(file) != 0;
    return fclose(file) != 0 || bad ? -1 : 0;
}

/* ---- progress, on stderr: a bar that is redrawn on a terminal, plain lines elsewhere ---- */

static struct {
    int steps, done;
    bool terminal, drawn;
    double start;
} progress;

static void clear_bar(void)
{
    if (progress.drawn) {
        fprintf(stderr, "\r\033[K");
        progress.drawn = false;
    }
}

void progress_begin(int steps)
{
    const char *term = getenv("TERM");
    progress.steps = steps;
    progress.done = 0;
    progress.terminal = isatty(STDERR_FILENO) == 1 && (term == NULL || strcmp(term, "dumb") != 0);
    progress.start = wall_seconds();
}

void progress_step(const char *what)
{
    if (!progress.terminal) {
        return;
    }
    enum { WIDTH = 30 };
    char bar[WIDTH + 1], left[32] = "";
    const int filled = progress.done * WIDTH / progress.steps;
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[WIDTH] = '\0';
    if (progress.done > 0) {
        const double seconds =
            (wall_seconds() - progress.start) / progress.done * (progress.steps - progress.done);
        snprintf(left, sizeof left, ", %.0f min left", ceil(seconds / 60));
    }
    clear_bar();
    fprintf(stderr, "study [%s] %d/%d%s  %.40s", bar, progress.done, progress.steps, left, what);
    fflush(stderr);
    progress.drawn = true;
}

void progress_line(const char *line)
{
    progress.done++;
    clear_bar();
    fprintf(stderr, "study %d/%d  %s\n", progress.done, progress.steps, line);
}

void progress_end(void)
{
    clear_bar();
}

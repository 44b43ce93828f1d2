/* SPDX-License-Identifier: MIT */
/*
 * doconv-study: what DO-Conv's two compositions cost beside a plain convolution, by the formula and
 * measured. The program uses the public API alone.
 *
 *   study_options.c   the command line
 *   study_layers.c    cases: layers of networks x batch x D_mul; MACs
 *   study_data.c      numbers, tensors, references in double, comparisons
 *   study_pytorch.c   PyTorch as a coprocess (study_pytorch.py)
 *   study_bench.c     what a case needs: tensors, parameters, layers of doconv's training API
 *   study_check.c     results against sums in double and against each other
 *   study_measure.c   a case: doconv and PyTorch, checked, then timed in rounds
 *   study_report.c    table, JSON, progress
 *   study_threads.c   cores and clocks
 */
#ifndef DOCONV_STUDY_H
#define DOCONV_STUDY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <doconv/doconv_train.h>

#include "network_list.h"
#include "option_values.h"
#include "problem_name.h"

/* AUTO: doconv's choice between KERNEL and FEATURE, which PyTorch has not. */
enum composition { PLAIN, KERNEL, FEATURE, AUTO, COMPOSITIONS };
enum pass { FORWARD, STEP, PASSES };
enum engine { DOCONV, PYTORCH, ENGINES };
enum format { NO_FORMAT, CONTIGUOUS, CHANNELS_LAST }; /* PyTorch's memory format */

extern const char *const composition_names[COMPOSITIONS];
extern const char *const pass_names[PASSES];
extern const char *const engine_names[ENGINES];
extern const char *const format_names[3];

/* ---- study_options.c ---- */

#define MOST_VALUES 16
#define MOST_NETWORKS 16
#define D_MUL_TAPS 0 /* a D_mul that stands for M*N */

struct options {
    char *networks[MOST_NETWORKS];
    int network_count;
    const char *layers; /* a pattern; NULL: all */
    int batches[MOST_VALUES], batch_count;
    int d_muls[MOST_VALUES], d_mul_count;
    int threads;
    doconv_isa isa;
    doconv_layout layout;
    doconv_accuracy accuracy;
    doconv_tune_mode tune;
    double seconds;      /* of the samples of an engine in a case and pass */
    double memory;       /* bytes that both processes may hold; 0: most of what is available */
    const char *pytorch; /* the Python that has it; NULL: doconv alone */
    const char *json;    /* NULL: none */
    bool list, help;
    char **texts; /* copies of the arguments' values, which the pointers above lead into */
    int text_count;
};

/* Returns 0, or -1 after a message on stderr; free_options() in both cases. */
int read_options(int argc, char **argv, struct options *o);
void free_options(struct options *o);

/* ---- study_layers.c ---- */

struct layer {
    char name[PROBLEM_NAME_SIZE]; /* "64->64 56x56 3x3 s2 g64" */
    char networks[128];           /* that have it, separated by commas */
    doconv_conv_desc desc;        /* plain, batch 1 */
};

struct study_case {
    const struct layer *layer;
    doconv_conv_desc desc; /* plain, with batch and layout */
    char problem[DOCONV_PROBLEM_TEXT_SIZE];
    int64_t hout, wout, d_mul;
    int64_t pixels; /* P */
    /* of a forward pass; a step is three times as many. AUTO's are kernel composition's */
    double macs[COMPOSITIONS];
    /*
     * the P at which both compositions have as many; INFINITY: feature composition has fewer for
     * any
     */
    double crossover;
};

struct study {
    struct layer *layers;
    int layer_count;
    struct study_case *cases; /* a layer's and batch's follow each other */
    int case_count;
};

/* The cases of the options. Returns 0, or -1 after a message on stderr. */
int make_study(const struct options *o, struct study *study);
void free_study(struct study *study);

/* ---- study_data.c ---- */

enum tensor { SRC, GRAD_DST, WEIGHT, D }; /* each has numbers of its own */
#define CHUNK 65536                       /* elements of a projection */

float *allocate_floats(size_t count);

/* A tensor in a layout. */
struct shape {
    doconv_layout layout;
    int64_t n, c, h, w;
};
struct shape src_shape(const struct study_case *c);
struct shape dst_shape(const struct study_case *c);
size_t shape_floats(const struct shape *s); /* with the padding of blocked layouts */

int make_numbers(void); /* once, before all below; -1: out of memory */
void free_numbers(void);
void fill(enum tensor which, const struct shape *s, float *to);
void fill_flat(enum tensor which, size_t count, float *to);

/* The parameters' sizes in floats. */
size_t composed_floats(const struct study_case *c);
size_t d_floats(const struct study_case *c);
size_t weight_floats(const struct study_case *c);

/* In double: the folded weight by D + I, and the gradients of W and D from the folded weight's. */
void fold_reference(const struct study_case *c, const float *w, const float *d, float *weight);
void fold_gradient_reference(const struct study_case *c, const float *w, const float *d,
                             const float *grad_weight, float *grad_w, float *grad_d);

/*
 * The largest difference, over the root mean square of what is right, of some elements from sums in
 * double.
 */
double sample_dst(const struct study_case *c, const float *src, const float *weight,
                  const float *dst);
double sample_grad_src(const struct study_case *c, const float *grad_dst, const float *weight,
                       const float *grad_src);
double sample_grad_weight(const struct study_case *c, const float *src, const float *grad_dst,
                          const float *grad_weight);

double root_mean_square(const float *right, size_t count);
/* The largest difference of all elements, over the root mean square of right. */
double difference(const float *right, const float *got, size_t count);
/* What a difference may be where an element is a sum of so many terms. */
double tolerance(double terms);

/*
 * Sums of each CHUNK elements, in the order N, C, H, W, by numbers: any element that is off moves
 * its chunk's. shape NULL: the tensor is flat.
 */
size_t chunk_count(size_t elements);
void project(const struct shape *s, size_t elements, const float *tensor, double *sums);

/* ---- study_pytorch.c ---- */

#define WHY_SIZE 300

struct pytorch;
/* Starts it; NULL with a reason in why. */
struct pytorch *pytorch_start(const char *python, int threads, char *why);
void pytorch_stop(struct pytorch *p); /* NULL is allowed */
const char *pytorch_version(const struct pytorch *p);
bool pytorch_alive(const struct pytorch *p);
/* All return 0, or -1 with a reason in why. */
int pytorch_case(struct pytorch *p, const struct study_case *c, char *why);
int pytorch_time(struct pytorch *p, enum composition composition, enum pass pass,
                 enum format format, int calls, bool warm, double *seconds, char *why);
int pytorch_sums(struct pytorch *p, const char *name, double *sums, size_t count, char *why);

/* ---- study_bench.c and study_measure.c ---- */

struct figure {
    double seconds; /* a call's median; 0: there is none */
    bool wrong;
    /* the largest difference found by the check, over what is allowed: right up to 1 */
    double error;
    enum format format;
    int rounds;
    char choice[DOCONV_VARIANT_TEXT_SIZE]; /* of AUTO: the variant */
    char why[WHY_SIZE];                    /* there is none */
};

struct result {
    struct figure figure[PASSES][ENGINES][COMPOSITIONS];
    bool done;
};

struct bench; /* what stays from case to case */
struct bench *bench_create(doconv_context *context, const struct options *o,
                           struct pytorch *pytorch);
void bench_destroy(struct bench *b);
/* Checks and times a case. Returns 0, or -1 with a reason in why if nothing of it could be. */
int bench_case(struct bench *b, const struct study_case *c, struct result *r, char *why);
/* PyTorch's reason to be gone, or NULL. */
const char *bench_lost(const struct bench *b);

/* ---- study_report.c ---- */

void print_cases(const struct study *study);
void print_table(const struct study *study, const struct result *results, bool pytorch);
/* Returns 0, or -1 (errno). */
int write_json(const char *path, const struct study *study, const struct result *results,
               const struct options *o, const doconv_context_info *info,
               const char *pytorch_version);
void progress_begin(int steps);
void progress_step(const char *what);
void progress_line(const char *line); /* the step is done */
void progress_end(void);
/* A case's line. */
void describe(const struct study_case *c, const struct result *r, bool pytorch, char *text,
              size_t size);

/* ---- study_threads.c ---- */

/*
 * Before all else: binds one thread to its core, or sees to it that there are CPUs for more.
 * Returns 0, or -1 after a message on stderr.
 */
int bind_threads(int count);
/* Binds each thread of the library's team to a core, once its first call has started them. */
void bind_team(int count);
/* Gives a child that brings threads of its own the CPUs that the process had before. */
void unbind_thread(void);
double wall_seconds(void);
double cpu_seconds(void);
double available_memory(void); /* bytes; 0: unknown */

#endif

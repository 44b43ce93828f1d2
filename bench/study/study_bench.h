/* SPDX-License-Identifier: MIT */
/*
 * What a study holds while it goes from case to case: tensors, parameters, doconv's layers and
 * PyTorch. Shared by the files that make it (study_bench.c), check results (study_check.c) and time
 * (study_measure.c); no others include it.
 */
#ifndef DOCONV_STUDY_BENCH_H
#define DOCONV_STUDY_BENCH_H

#include "study.h"

/*
 * What the cases of a layer and batch share. ref_ is what plain convolution with the folded weight
 * gives, once it is checked.
 */
struct tensors {
    const struct layer *layer;
    int64_t n;
    float *src, *grad_dst, *dst, *grad_src, *ref_dst, *ref_grad_src;
};

struct parameters {
    float *w, *d, *weight; /* weight: W folded with D + I */
    float *grad_w, *grad_d;
    float *ref_grad_weight, *ref_grad_w, *ref_grad_d;
};

struct layer_engine {
    doconv_training *training;
    void *workspace, *saved;
    size_t workspace_size;
};

struct bench {
    doconv_context *context;
    const struct options *options;
    struct pytorch *pytorch;
    double memory;
    int deaths;
    char lost[WHY_SIZE];
    struct tensors tensors;
    struct layer_engine ours[COMPOSITIONS][PASSES]; /* that of a step runs both, but for AUTO */
    struct parameters parameters;
    const struct layer *timed;                  /* the layer that rate is of */
    double rate[ENGINES][COMPOSITIONS][PASSES]; /* seconds a MAC; 0: unknown */
};

/* Writes a reason into why, of WHY_SIZE characters; returns -1. */
__attribute__((format(printf, 2, 3))) int explain(char *why, const char *format, ...);

/* ---- study_bench.c ---- */

double gib(double bytes);
/* Bytes of the study's own tensors and parameters. */
double own_bytes(const struct study_case *c);

/* All return 0, or -1 with a reason in why; free_case() in both cases. */
int make_tensors(struct bench *b, const struct study_case *c, char *why);
int make_parameters(struct bench *b, const struct study_case *c, char *why);
/* The layer that runs a pass; one that runs both is made once. */
int make_ours(struct bench *b, const struct study_case *c, enum composition composition,
              enum pass pass, char *why);
/* What AUTO's layer for a pass has chosen; "": there is none. */
const char *choice_of(struct bench *b, enum pass pass);
void free_case(struct bench *b); /* tensors stay, for the layer's next case */

doconv_status run_ours(struct bench *b, enum composition composition, enum pass pass);

/* ---- study_check.c ---- */

/*
 * The plain convolution against sums in double; then its results are the reference of the others,
 * its weight's gradient handed back to W and D in double.
 */
void check_plain(struct bench *b, const struct study_case *c, struct figure *forward,
                 struct figure *step);
void check_dst(struct bench *b, const struct study_case *c, struct figure *f);
void check_composed(struct bench *b, const struct study_case *c, struct figure *step);
/* Returns 0, or -1 with a reason in the figure if PyTorch is lost. */
int check_pytorch(struct bench *b, const struct study_case *c, enum composition composition,
                  enum pass pass, struct figure *f);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * doconv-compare: is one build of the library faster or slower than another? Both shared libraries
 * are loaded beside each other and run the same problems in turns. Only files of bench/compare may
 * include this header.
 *
 *   doconv_compare.c     the program
 *   compare_options.c    the command line
 *   compare_problems.c   what is run: layers of networks, training steps; no library is needed
 *   compare_library.c    a loaded library: its functions, the sizes of its structs, its context
 *   compare_engine.c     a problem in one library: plan and weights, or a layer to train
 *   compare_buffers.c    tensors that both libraries work on, and memory for a library's own
 *   compare_samples.c    samples in turns; medians and quartiles
 *   compare_report.c     table, TSV, progress
 *
 * Of the library that this program is linked with, only the texts and shapes of problems are used.
 * It is linked statically: a shared one would lend its functions to the loaded libraries' own calls
 * of public functions.
 */
#ifndef DOCONV_COMPARE_H
#define DOCONV_COMPARE_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "network_list.h"
#include "option_values.h"
#include "problem_name.h"

enum side { REV, THIS, SIDES };

#define WHY_SIZE 300

/* ---- compare_options.c ---- */

#define MOST_NETWORKS 16
#define MOST_STEPS 16

struct options {
    const char *library[SIDES]; /* paths; NULL with list or help */
    const char *name;           /* what the report calls the first library */
    char *networks[MOST_NETWORKS];
    int network_count;
    const char *steps[MOST_STEPS];
    int step_count;
    doconv_layout layout;
    doconv_isa isa;
    bool tuned;
    const char *cache; /* directory; NULL unless tuned */
    double seconds;    /* of a problem's samples, where the fewest take less */
    const char *tsv;   /* NULL: none */
    bool list, help;
    char *network_text; /* what the networks lead into */
};

/* Returns 0, or -1 after a message on stderr; free_options() in both cases. */
int read_options(int argc, char **argv, struct options *o);
void free_options(struct options *o);

/* ---- compare_problems.c ---- */

enum kind { LAYER, PLAIN_STEP, KERNEL_STEP };

extern const char *const kind_names[];

struct problem {
    enum kind kind;
    char text[DOCONV_PROBLEM_TEXT_SIZE]; /* canonical, of the plain convolution */
    char name[PROBLEM_NAME_SIZE];        /* for people: "64->64 56x56 3x3 s2 g64" */
    doconv_conv_desc desc;               /* the same by this program's header */
    size_t d_mul;                        /* of KERNEL_STEP: KH*KW */
};

/* A network, or the steps: problems and how often each counts in the sum. */
struct group {
    char name[NETWORK_NAME_SIZE];
    int size;
    int *problem, *count;
};

struct problems {
    struct problem *problem; /* each once, however many groups have it */
    int count;
    struct group group[MOST_NETWORKS + 1];
    int group_count;
};

/* Returns 0, or -1 after a message on stderr; free_problems() in both cases. */
int make_problems(const struct options *o, struct problems *p);
void free_problems(struct problems *p);

/* ---- compare_library.c ---- */

/*
 * Another version's struct may have more fields at its end than this program's header knows, and
 * the library may take its own header's size only. So there is room for more, all zero (every
 * struct's defaults), and the size is found by trying. Fields are set one by one: what a whole
 * struct leaves in its padding may be a field of another version's.
 */
#define STRUCT_ROOM 512

enum sized_struct {
    CONTEXT_OPTIONS,
    CONTEXT_INFO,
    PLAN_OPTIONS,
    TUNE_OPTIONS,
    TUNE_SUMMARY,
    TRAINING_OPTIONS,
    PARAMETERS,
    GRADIENTS,
    SIZED_STRUCTS
};

union sized {
    unsigned char room[STRUCT_ROOM]; /* first: an initializer of zeros sets all of it */
    size_t size;
    doconv_context_options context_options;
    doconv_context_info context_info;
    doconv_plan_options plan_options;
    doconv_tune_options tune_options;
    doconv_tune_summary tune_summary;
    doconv_training_options training_options;
    doconv_parameters parameters;
    doconv_gradients gradients;
};

/* A descriptor of a library's own version: only that library knows what is in it. */
union descriptor {
    unsigned char room[STRUCT_ROOM];
    size_t size;
};

struct library {
    const char *name;
    int file; /* the descriptor that it is loaded from */
    void *handle;
    doconv_context *context;
    size_t size[SIZED_STRUCTS];
    bool size_known[SIZED_STRUCTS];

    doconv_status (*context_create)(const union sized *options, doconv_context **context);
    void (*context_destroy)(doconv_context *context);
    doconv_status (*context_last_error)(const doconv_context *context, char *text, size_t size);
    doconv_status (*context_get_info)(const doconv_context *context, union sized *info);
    const char *(*version_string)(void);
    doconv_status (*conv_desc_parse)(doconv_context *context, const char *text,
                                     union descriptor *desc);
    doconv_status (*conv_desc_parse_sized)(doconv_context *context, const char *text,
                                           union descriptor *desc, size_t size);
    doconv_status (*plan_create)(doconv_context *context, const union descriptor *desc,
                                 const union sized *options, doconv_plan **plan);
    void (*plan_destroy)(doconv_plan *plan);
    const char *(*plan_variant)(const doconv_plan *plan);
    size_t (*plan_workspace_size)(const doconv_plan *plan);
    doconv_status (*weights_create)(const doconv_plan *plan, const float *weight, const float *bias,
                                    doconv_weights **weights);
    void (*weights_destroy)(doconv_weights *weights);
    doconv_status (*execute)(const doconv_plan *plan, const doconv_weights *weights,
                             const float *src, const float *residual, float *dst, void *workspace,
                             size_t workspace_size);
    /* NULL in a build without the tuner */
    doconv_status (*tune)(doconv_context *context, const union descriptor *desc,
                          const union sized *plan_options, const union sized *options,
                          doconv_tune_report **report);
    doconv_status (*tune_report_summary)(const doconv_tune_report *report, union sized *summary);
    void (*tune_report_destroy)(doconv_tune_report *report);
    /* NULL in a version that can't train */
    doconv_status (*training_create)(doconv_context *context, const union descriptor *desc,
                                     const union sized *options, doconv_training **training);
    void (*training_destroy)(doconv_training *training);
    size_t (*training_workspace_size)(const doconv_training *training);
    size_t (*training_saved_size)(const doconv_training *training);
    doconv_status (*training_forward)(const doconv_training *training,
                                      const union sized *parameters, const float *src, float *dst,
                                      void *saved, void *workspace, size_t workspace_size);
    doconv_status (*training_backward)(const doconv_training *training,
                                       const union sized *parameters, const float *src,
                                       const float *grad_dst, const void *saved,
                                       const union sized *gradients, void *workspace,
                                       size_t workspace_size);
};

/*
 * Short calls take some per cent more or less by where their code lies: branches of different
 * places meet in the predictors' tables, in another way for each problem and run. So libraries are
 * loaded several times, and the samples of short calls go round the copies.
 */
#define COPIES 16

/*
 * Loads the copies of a library, each with a context of one thread. Returns 0, or -1 after a
 * message on stderr; close_library() in both cases.
 */
int open_library(const struct options *o, enum side side, struct library copies[COPIES]);
void close_library(struct library copies[COPIES]);
/* Is the code of each copy of both its own, and not one that the loader gave out twice? */
bool all_apart(struct library libraries[SIDES][COPIES]);
/* The ISA of the context's plans; DOCONV_ISA_DEFAULT if it won't tell. */
doconv_isa library_isa(struct library *library);

/*
 * The size to begin a call's trials with, and whether to try once more after the call gave status:
 *
 *     s.size = size_to_try(library, WHICH);
 *     do {
 *         status = library->call(..., &s);
 *     } while (try_smaller(library, WHICH, status, &s.size));
 */
size_t size_to_try(const struct library *library, enum sized_struct which);
bool try_smaller(struct library *library, enum sized_struct which, doconv_status status,
                 size_t *size);

/* A failed call's reason. Returns -1. */
int explain_failure(const struct library *library, const char *what, doconv_status status,
                    char *why);

/* Fills a descriptor of the library's own. Returns 0, or -1 with a reason in why. */
int describe_problem(struct library *library, const struct problem *p, union descriptor *desc,
                     char *why);

/* ---- compare_buffers.c ---- */

enum tensor { SRC, DST, WEIGHT, D, GRAD_DST, GRAD_SRC, GRAD_WEIGHT, GRAD_D, TENSORS };

/*
 * What both libraries read and write, in the same places: where memory lies is nobody's advantage.
 */
struct buffers {
    void *memory;
    float *tensor[TENSORS]; /* NULL where the problem has none */
    size_t floats[TENSORS];
    void *workspace, *saved;
    float *expected[TENSORS]; /* copies of the first library's results */
};

/* Returns 0, or -1 if out of memory; free_buffers() in both cases. */
int make_buffers(const struct problem *p, size_t workspace_size, size_t saved_size,
                 struct buffers *b);
void free_buffers(struct buffers *b);
bool is_result(const struct problem *p, enum tensor tensor);
/* Makes every result NaN, so that what a library doesn't write shows. */
void spoil_results(const struct problem *p, struct buffers *b);

/* Memory that begins where a page does, a large one if possible; free() frees it. */
void *allocate_pages(size_t size);

/* ---- compare_engine.c ---- */

struct engine {
    struct library *library;
    doconv_plan *plan; /* of LAYER */
    doconv_weights *weights;
    doconv_training *training; /* of steps */
    size_t workspace_size, saved_size;
    char variant[DOCONV_VARIANT_TEXT_SIZE]; /* "" for steps, which choose several */
    union sized parameters, gradients;
};

/* Does the version have what steps need? */
bool can_train(const struct library *library);

/*
 * A problem's plan or training layer in a library. variant: what the plan has to use; NULL: the
 * library's choice, tuned or estimated. Returns 0, -1 with a reason in why, or 1 if the library
 * doesn't know this variant; destroy_engine() always.
 */
int create_engine(struct library *library, const struct problem *p, bool tuned, const char *variant,
                  struct engine *e, char *why);
/* Packs the weights of a plan, or readies the structs of a step. Returns 0, or -1 with a reason. */
int ready_engine(struct engine *e, const struct problem *p, const struct buffers *b, char *why);
void destroy_engine(struct engine *e);
/* An execute, or a forward and a backward pass. */
doconv_status run_engine(const struct engine *e, const struct buffers *b);

/* ---- compare_samples.c ---- */

struct figures {
    double seconds[SIDES];   /* a call's medians */
    double ratio, low, high; /* REV's time over this one's: the pairs' median and quartiles */
    int pairs;
};

/* A problem in the copies of both libraries; the first copies are there always. */
struct engines {
    struct engine copy[COPIES][SIDES];
    int copies;
};

/* Seconds of a call, the faster library's; 0 if it fails. */
double quick_look(const struct engines *e, const struct buffers *b);
/* How many copies are worth their packing for a problem whose calls take so long. */
int copies_for(const struct problem *p, double call);
/*
 * Times both libraries in turns. call: what quick_look() found. seconds: the limit where figures
 * scatter. Returns 0, or -1 if memory or a call failed.
 */
int take_samples(const struct engines *e, const struct buffers *b, double call, double seconds,
                 struct figures *f);

/* ---- compare_report.c ---- */

struct result {
    struct figures figures; /* pairs 0: there are none */
    char variant[SIDES][DOCONV_VARIANT_TEXT_SIZE];
    bool own_choice; /* this tree doesn't know REV's variant, and chose itself */
    double difference;
    bool same_bits, wrong;
    char why[WHY_SIZE]; /* there are none */
};

void print_problems(const struct problems *p);
void print_table(const struct problems *p, const struct result *results, const char *name);
/* Returns 0, or -1 (errno). */
int write_tsv(const char *path, const struct problems *p, const struct result *results);
/* One line on stderr: a problem is done. */
void print_progress(int done, int count, const struct problem *p, const struct result *r);

#endif

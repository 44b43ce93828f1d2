/* SPDX-License-Identifier: MIT */
/*
 * The one internal header: every type and function that more than one file of src uses, file by
 * file.
 */
#ifndef DOCONV_CORE_H
#define DOCONV_CORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

/* -------------------------------------------------------------------------------------------- arithmetic */
static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ------------------------------------------------------------------------------------------------- cpu.c */
struct dc_cpu {
    char name[64];
    enum dc_isa isa; /* best bundle */
    int64_t l1d_bytes, l2_bytes, l3_bytes;
    /* 512-bit FMAs that start in a cycle: 2, or 1 where two 256-bit units share one */
    double fma512_per_cycle;
};
const struct dc_cpu *dc_cpu_probe(void); /* probed once; the library's only global state */
bool dc_isa_usable(enum dc_isa isa, enum dc_isa best);
const char *dc_isa_name(enum dc_isa isa);

/* -------------------------------------------------------------------------------------------- registry.c */
/* best first, NULL at the end, the reference last */
extern const struct dc_kernel *const dc_builtin_kernels[];
const struct dc_kernel *dc_kernel_find(const doconv_context *ctx, const char *name, size_t length);
uint64_t dc_registry_fingerprint(const doconv_context *ctx);
uint64_t dc_hash(uint64_t seed, const void *data, size_t size); /* FNV-1a; seed 0 starts */

/* -------------------------------------------------------------------------------------------- advisor */
#define DC_KEY_SIZE (DOCONV_PROBLEM_TEXT_SIZE + 128)
#define DC_VARIANT_SIZE DOCONV_VARIANT_TEXT_SIZE

/*
 * What the planner asks the tuner. src never includes tuner: a context gets its advisor from
 * dc_tuner_attach(), which the tuner (or, in a build without it, its empty twin) defines.
 * Thread-safe.
 */
struct dc_advisor {
    void *self;
    /* Writes the cached variant for a key; false on a miss. */
    bool (*lookup)(void *self, const char *key, char *variant, size_t size);
    /*
     * The cache has no (or no valid) winner and the mode asks to measure: measures, stores, writes
     * the winner.
     */
    doconv_status (*measure)(void *self, const doconv_conv_desc *desc,
                             const doconv_plan_options *options, char *variant, size_t size);
    void (*destroy)(void *self);
};
/* called last by doconv_context_create(); fills ctx->advisor */
doconv_status dc_tuner_attach(doconv_context *ctx);

/* --------------------------------------------------------------------------------------------- context.c */
struct doconv_context {
    int threads;
    doconv_parallel_for_fn parallel_for;
    void *parallel_for_user;
    bool own_threads; /* parallel_for is the caller's */
    doconv_allocate_fn allocate;
    doconv_release_fn release;
    void *allocate_user;
    doconv_log_fn log;
    void *log_user;
    int verbose;
    enum dc_isa isa;       /* best that plans may use */
    doconv_tune_mode tune; /* never DEFAULT */
    char *cache_directory; /* "" if none */
    char fingerprint[17];
    struct dc_advisor advisor;              /* lookup is NULL in a build without tuner */
    const struct dc_kernel *const *kernels; /* dc_builtin_kernels; tests put their own list here */
    pthread_mutex_t error_lock;             /* guards error */
    char error[256];
};
void *dc_alloc(doconv_context *ctx, size_t size); /* 64-byte aligned; NULL if out of memory */
void dc_free(doconv_context *ctx, void *memory);
/* task(arg, i) for each i in [0, count) on the context's threads; a single one on the caller's. */
void dc_parallel(const doconv_context *ctx, int count, void (*task)(void *arg, int index),
                 void *arg);

/* ------------------------------------------------------------------------------------------------- log.c */
/* Formats and logs a line if somebody listens. */
void dc_log(const doconv_context *ctx, doconv_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Keeps the detail for doconv_context_last_error() and returns status. ctx may be NULL. */
doconv_status dc_fail(doconv_context *ctx, doconv_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
double dc_now(void); /* monotonic seconds */
/*
 * UTF-8 text from outside for a message: its first bytes, "..." if there are more, '?' for control
 * characters.
 */
struct dc_shown {
    char text[84];
};
struct dc_shown dc_show(const char *text);

/* --------------------------------------------------------------------------------------------- problem.c */
/*
 * A validated descriptor with what follows from it. Paddings are the effective ones: what no output
 * reads is left out.
 */
struct dc_problem {
    doconv_conv_desc desc;
    int64_t hout, wout;
    int64_t group_cin, group_cout;
    float lo, hi; /* ReLU and clamp in one */
    double macs;
    bool fresh_weights; /* they are packed in each call: only candidates depend on it */
    size_t src_bytes, dst_bytes, weight_bytes;
};
doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem);
/* Canonical text; size >= DOCONV_PROBLEM_TEXT_SIZE. */
void dc_problem_format(const struct dc_problem *problem, char *text, size_t size);

/* ---------------------------------------------------------------------------------------------- layout.c */
/*
 * Strides of a tensor in a layout. Blocked: channel c is at c / block_channels * block + c %
 * block_channels * channel.
 */
struct dc_tensor_map dc_tensor_map(doconv_layout layout, int64_t c, int64_t h, int64_t w);
int64_t dc_layout_block(doconv_layout layout); /* 8, 16, or 1 */
static inline ptrdiff_t channel_at(const struct dc_tensor_map *map, int64_t channel)
{
    return channel / map->block_channels * map->block +
           channel % map->block_channels * map->channel;
}

/* ------------------------------------------------------------------------------------- solvers, planner.c */
/* Where a direct run finds its input. */
enum dc_source {
    DC_SOURCE_INPLACE, /* src itself; padded taps are skipped by cutting rows into runs */
    DC_SOURCE_ROWS,    /* strip of zero-bordered rows */
    /* strip with a copy for each kernel column, so that pixels run on across rows */
    DC_SOURCE_FLAT
};

/* What a direct plan goes over first. */
enum dc_order {
    DC_ORDER_PIXELS,  /* all weights for some pixels, then the next pixels */
    DC_ORDER_WEIGHTS, /* all pixels for a block of weights, then the next block */
    DC_ORDER_PACK     /* the same, where dc_fresh_run() makes each block just before its use */
};

/* A kernel with its parameters; text and struct are one to one. */
struct dc_candidate {
    const struct dc_kernel *kernel;
    enum dc_source source;
    enum dc_order order;
    int rows;    /* output rows of a task */
    int k_block; /* input channels of a pass over the reduction; 0: all */
    int pixels;  /* planes: output pixels of a unit */
    double estimated_seconds;
    size_t workspace_size, packed_size;
    const char *refused; /* NULL: accepted; else the reason, a constant string */
    char text[DC_VARIANT_SIZE];
};

struct dc_candidate_list {
    struct dc_candidate *items;
    int count, capacity;
    bool out_of_memory;
};
bool dc_candidate_append(const doconv_context *ctx, struct dc_candidate_list *list,
                         const struct dc_candidate *candidate);

/*
 * Where the weight of a plan's convolution lies: output o and input c of group g meet at kernel row
 * y and column x by data[g * group + o * out + c * in + y * row + x * column]. Strides may be
 * negative.
 */
struct dc_weight_view {
    const float *data;
    ptrdiff_t group, out, in, row, column;
};
/* OIHW */
struct dc_weight_view dc_weight_view(const struct dc_problem *problem, const float *weight);

/* Weights that change with each call: where they lie, or what they are folded from. */
struct dc_weight_source {
    struct dc_weight_view view;
    const float *bias; /* or NULL */
    /* fold NULL: the weight is there. Else it is folded into `folded`, which is what view sees. */
    const doconv_fold_desc *fold;
    const float *w, *d;
    float *folded;
};

struct dc_solver {
    const char *name;
    /* solvers that add in the same order, and so to the same bits, have the same number */
    int order_of_sums;
    enum dc_op op;
    /*
     * Appends the candidates of a kernel and returns NULL, or the reason why there is none (a
     * constant string).
     */
    const char *(*enumerate)(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list);
    /*
     * Fixes everything that execute needs in plan->state, and adds to packed_layout what pack
     * depends on beside what is in it.
     */
    doconv_status (*prepare)(doconv_plan *plan);
    /* On the context's threads. bias: or NULL. */
    void (*pack)(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed);
    /* workspace: 64-byte aligned. */
    void (*execute)(const doconv_plan *plan, const float *packed, const float *src,
                    const float *residual, float *dst, char *workspace);
    /*
     * For DC_ORDER_PACK, then not NULL: execute, weights made on the way. Bytes of workspace in
     * all.
     */
    void (*execute_fresh)(const doconv_plan *plan, const struct dc_weight_source *source,
                          const float *src, const float *residual, float *dst, char *workspace);
    size_t (*fresh_workspace_size)(const doconv_plan *plan, const doconv_fold_desc *fold);
};

extern const struct dc_solver dc_solver_direct, dc_solver_depthwise, dc_solver_grouped,
    dc_solver_planes, dc_solver_reference;
extern const struct dc_solver *const dc_solvers[]; /* NULL at the end */
/* NULL: the kernel does no convolution */
const struct dc_solver *dc_solver_of(const struct dc_kernel *kernel);

/*
 * Everything of a dc_reference_args but the image and the output channel. weight: OIHW; bias,
 * residual: or NULL.
 */
struct dc_reference_args dc_reference_args(const struct dc_problem *problem, const float *src,
                                           const float *weight, const float *bias,
                                           const float *residual, float *dst);

/*
 * Output blocks of a unit of work, where `units` units with all blocks are there already: outputs
 * are cut only where these leave threads idle, for each cut reads the input once more.
 */
int64_t dc_cut_outputs(const doconv_context *ctx, int64_t units, int64_t blocks);

/*
 * Every candidate, accepted ones first, best estimate first. The caller frees list->items with
 * dc_free(). With fresh_weights, those accepted have one order of sums, whatever the number of
 * threads: training promises the same bits.
 */
doconv_status dc_enumerate(doconv_context *ctx, const struct dc_problem *problem,
                           const doconv_plan_options *options, struct dc_candidate_list *list);

/* ------------------------------------------------------------------------------------------------ plan.c */
struct doconv_plan {
    doconv_context *ctx;
    struct dc_problem problem;
    struct dc_candidate candidate;
    const struct dc_solver *solver;
    const char *origin;
    char problem_text[DOCONV_PROBLEM_TEXT_SIZE];
    uint64_t packed_layout; /* plans with the same one share weights */
    void *state;            /* the solver's; one block from dc_alloc() */
};

struct doconv_weights {
    doconv_context *ctx;
    uint64_t packed_layout;
    float *data; /* 64-byte aligned */
};

/* doconv_plan_create() without its verbose line, for plans that nobody asked for: the tuner's. */
doconv_status dc_plan_create(doconv_context *ctx, const doconv_conv_desc *desc,
                             const doconv_plan_options *options, doconv_plan **plan);
/* NULL is fine */
doconv_status dc_plan_options_check(doconv_context *ctx, const doconv_plan_options *options);

/*
 * The cache's key: the problem and everything else that the best choice depends on. size >=
 * DC_KEY_SIZE.
 */
void dc_plan_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, char *key, size_t size);

/* ----------------------------------------------------------------------------------------------- fresh.c */
/*
 * Executes a plan with weights that are made in the call: packed, and folded first if they have a
 * fold (NULL: none). workspace: 64-byte aligned.
 */
size_t dc_fresh_workspace_size(const doconv_plan *plan, const doconv_fold_desc *fold);
void dc_fresh_run(const doconv_plan *plan, const struct dc_weight_source *source, const float *src,
                  const float *residual, float *dst, char *workspace);

/* --------------------------------------------------------------------------------------- input_gradient.c */
struct dc_input_gradient;
/* problem: the forward convolution. options: of choosing its kernels, or NULL. */
doconv_status dc_input_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                       const doconv_plan_options *options,
                                       struct dc_input_gradient **gradient);
void dc_input_gradient_destroy(struct dc_input_gradient *gradient);
size_t dc_input_gradient_workspace_size(const struct dc_input_gradient *gradient);
/*
 * grad_src, in src_layout, from grad_dst, in dst_layout, and the forward weight (OIHW). workspace:
 * 64-byte aligned.
 */
void dc_input_gradient_run(const struct dc_input_gradient *gradient, const float *weight,
                           const float *grad_dst, float *grad_src, char *workspace);

/* ------------------------------------------------------------- weight_gradient_plan.c, weight_gradient.c */
struct dc_weight_gradient;
/* problem: the forward convolution. */
doconv_status dc_weight_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                        struct dc_weight_gradient **gradient);
void dc_weight_gradient_destroy(struct dc_weight_gradient *gradient);
size_t dc_weight_gradient_workspace_size(const struct dc_weight_gradient *gradient);
/* OIHW, and Cout sums; NULL: not wanted. workspace: 64-byte aligned. */
void dc_weight_gradient_run(const struct dc_weight_gradient *gradient, const float *src,
                            const float *grad_dst, float *grad_weight, float *grad_bias,
                            char *workspace);
/*
 * The weight's gradient of a layer that is composed by kernel, handed back to W and D as it comes,
 * a part that stays in L2 at a time; bitwise what dc_weight_gradient_run() and
 * dc_fold_gradient_run() give. Its workspace's bytes, 0: not for this layer.
 */
size_t dc_weight_gradient_fold_workspace_size(const struct dc_weight_gradient *gradient,
                                              const doconv_fold_desc *fold);
void dc_weight_gradient_fold(const struct dc_weight_gradient *gradient,
                             const doconv_fold_desc *fold, const float *w, const float *d,
                             const float *src, const float *grad_dst, float *grad_w, float *grad_d,
                             char *workspace);

/* ------------------------------------------------------------------------------------------------ fold.c */
doconv_status dc_fold_check(doconv_context *ctx, const doconv_fold_desc *desc);
/* Of both calls below, whose workspace is 64-byte aligned. */
size_t dc_fold_workspace_size(const doconv_context *ctx, const doconv_fold_desc *desc);
/* doconv_fold() of a valid descriptor whose layer has a D. */
void dc_fold_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                 const float *d, float *weight, char *workspace);
/*
 * Outputs [out, out + outs) and inputs [in, in + ins) of a layer of one group; `in` is a multiple
 * of DC_CHANNEL_BLOCK.
 */
struct dc_fold_part {
    int64_t out, outs, in, ins;
};
/* A part of dc_fold_run(), bitwise, on the calling thread. scratch: 64-byte aligned. */
size_t dc_fold_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc);
void dc_fold_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                  const struct dc_fold_part *part, const float *w, const float *d, float *weight,
                  float *scratch);
/* doconv_fold_gradient() likewise. */
void dc_fold_gradient_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                          const float *d, const float *grad_weight, float *grad_w, float *grad_d,
                          char *workspace);

/*
 * The same a part at a time, on the calling thread: for some inputs, all outputs in order,
 * DC_COMPOSE_CHUNK or a multiple of them (the last may be fewer) in each call, with the same
 * scratch, 64-byte aligned. grad_weight has the part alone: outs x ins x taps. grad_w or grad_d
 * NULL: not wanted. Bitwise what dc_fold_gradient_run() gives.
 */
/* most that a part has; 0: no parts */
int64_t dc_fold_gradient_part_inputs(const doconv_context *ctx, const doconv_fold_desc *desc);
size_t dc_fold_gradient_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc);
void dc_fold_gradient_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                           const struct dc_fold_part *part, const float *w, const float *d,
                           const float *grad_weight, float *grad_w, float *grad_d, float *scratch);

/* --------------------------------------------------------------------------------------------- feature.c */
struct dc_feature;
/* problem: the plain convolution, without post-operations. The mapping is the paper's. */
doconv_status dc_feature_create(doconv_context *ctx, const struct dc_problem *problem,
                                int64_t d_mul, int add_identity, struct dc_feature **feature);
void dc_feature_destroy(struct dc_feature *feature);
/* Of both passes, whose workspace is 64-byte aligned. */
size_t dc_feature_workspace_size(const struct dc_feature *feature);
/* w: Cout x Cin/groups x D_mul; d: Cin x KH*KW x D_mul; bias: or NULL. */
void dc_feature_forward(const struct dc_feature *feature, const float *w, const float *d,
                        const float *bias, const float *src, float *dst, char *workspace);
/* Gradients that are NULL are not wanted. That of the bias is dc_weight_gradient_run()'s. */
void dc_feature_backward(const struct dc_feature *feature, const float *w, const float *d,
                         const float *src, const float *grad_dst, float *grad_src, float *grad_w,
                         float *grad_d, char *workspace);

#endif

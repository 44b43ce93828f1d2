/* SPDX-License-Identifier: MIT */
/**
 * @file doconv.h @brief Convolution on CPUs, and DO-Conv (depthwise over-parameterized
 * convolution).
 *
 * The flow is one way: descriptor -> plan -> packed weights -> execute.
 *
 *   doconv_context_create()   threads, allocator, log, ISA cap, tuner's cache
 *   doconv_plan_create()      validates a descriptor, chooses a variant; only this fails on shapes
 *   doconv_weights_create()   packs OIHW weights for a plan
 *   doconv_execute()          runs: re-entrant, allocates nothing, locks nothing
 *
 * Conventions of every function here:
 * - It returns a doconv_status; outputs are written on DOCONV_OK only (a handle output is set to
 *   NULL on failure).
 * - It never aborts or exits, and never prints but for one line, once, about an environment
 *   variable that is ignored; text goes to the context's log callback (see doconv_context_options).
 * - A struct that begins with its size may grow at its end from version to version; the caller sets
 *   size to its sizeof, which says what header it was compiled against, and zeroes the rest before
 *   it sets fields. Input: fields that an older header doesn't have are taken as zero, which means
 *   what their absence did; bytes of a newer header's struct that this library doesn't know must be
 *   zero, else DOCONV_MISMATCH. Output: size bytes are written, those that this library doesn't
 *   know as zeros; size stays. A struct that a callback is given ends where its size says. A size
 *   that no version has is a DOCONV_MISMATCH whose detail names the struct.
 * - Tensors are float (fp32), contiguous in the stated layout, 4-byte aligned at least (64 is
 *   faster), never written past their end and never read past it.
 * - Thread safety: contexts, plans and weights may be shared by any number of threads; creating and
 *   destroying one object is the business of one thread. A context must outlive the plans and
 *   weights made with it.
 */
#ifndef DOCONV_DOCONV_H
#define DOCONV_DOCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DOCONV_VERSION_MAJOR 0
#define DOCONV_VERSION_MINOR 1
#define DOCONV_VERSION_PATCH 0

#if defined(__GNUC__)
#define DOCONV_API __attribute__((visibility("default")))
#else
#define DOCONV_API
#endif

/** Outcome of a call. Values are unique and stable. */
typedef enum doconv_status {
    DOCONV_OK = 0,
    DOCONV_INVALID_ARGUMENT = 1, /**< a pointer, size or option that no problem could make right */
    /** a descriptor that describes no convolution (zero stride, empty output, ...) */
    DOCONV_INVALID_PROBLEM = 2,
    /** valid, but this build, CPU or option set has no variant for it */
    DOCONV_UNSUPPORTED = 3,
    /** a size that does not fit: tensors of more than 2^62 bytes, dimensions over 2^31-1 */
    DOCONV_OVERFLOW = 4,
    DOCONV_OUT_OF_MEMORY = 5, /**< the allocator returned NULL */
    /** a variant name that no candidate has; no cache entry in mode "only" */
    DOCONV_NOT_FOUND = 6,
    /** weights packed for another plan; a struct of another version's header that can't be taken */
    DOCONV_MISMATCH = 7,
    DOCONV_WORKSPACE_TOO_SMALL = 8,
    /** a cache directory or file, or a shard of a checkpoint, that can't be used */
    DOCONV_IO_ERROR = 9,
    /** bytes that are not what their format says, or tensors in them that do not fit together */
    DOCONV_INVALID_FILE = 10
} doconv_status;

/** A constant English phrase for a status; "unknown status" for other values. Never NULL. */
DOCONV_API const char *doconv_status_string(doconv_status status);

/** "MAJOR.MINOR.PATCH" of the library that is linked (the macros are those of this header). */
DOCONV_API const char *doconv_version_string(void);

/** MAJOR * 10000 + MINOR * 100 + PATCH of the library that is linked. */
DOCONV_API unsigned doconv_version_number(void);

/* -------------------------------------------------------------------------------------- context */

typedef struct doconv_context doconv_context;
typedef struct doconv_plan doconv_plan;
typedef struct doconv_weights doconv_weights;
typedef struct doconv_candidates doconv_candidates;

/** Instruction-set bundles, in rising order on one architecture. NEON stands alone (aarch64). */
typedef enum doconv_isa {
    DOCONV_ISA_DEFAULT = 0, /**< as a cap: no cap */
    DOCONV_ISA_NONE = 1,    /**< portable C only */
    DOCONV_ISA_AVX2 = 2,    /**< AVX2 + FMA */
    DOCONV_ISA_AVX512 = 3,  /**< AVX-512 F, BW, DQ, VL, and an OS that saves zmm registers */
    DOCONV_ISA_NEON = 4
} doconv_isa;

/** What a plan may do with the tuner's cache. */
typedef enum doconv_tune_mode {
    DOCONV_TUNE_DEFAULT = 0, /**< READ, unless DOCONV_TUNE says otherwise */
    DOCONV_TUNE_OFF = 1,     /**< neither read nor measure: the analytic estimate chooses */
    DOCONV_TUNE_READ = 2,    /**< use a cached choice; estimate where there is none */
    /**
     * use a cached choice; measure and store where there is none, or a doubtful one of another
     * context
     */
    DOCONV_TUNE_TUNE = 3,
    DOCONV_TUNE_FORCE = 4, /**< measure and store always */
    /** use a cached choice; fail with DOCONV_NOT_FOUND where there is none */
    DOCONV_TUNE_ONLY = 5
} doconv_tune_mode;

typedef enum doconv_log_level {
    DOCONV_LOG_ERROR = 0,
    DOCONV_LOG_WARNING = 1,
    DOCONV_LOG_VERBOSE = 2
} doconv_log_level;

/** One line of text without a newline. May be called from several threads at once. */
typedef void (*doconv_log_fn)(void *user, doconv_log_level level, const char *line);

/**
 * Runs task(arg, i) once for each i in [0, count), in any order, on any threads, and returns when
 * all are done.
 */
typedef void (*doconv_parallel_for_fn)(void *user, int count, void (*task)(void *arg, int index),
                                       void *arg);

/**
 * Returns size bytes aligned to alignment (a power of two; the library asks for 64), or NULL.
 * Called by any function of the library but doconv_execute() and the passes of training, on its
 * caller's thread and never under a lock: an allocator may use the context itself. Packed weights
 * are read faster from huge pages. The library gives the system no hint about an application's
 * memory; its own allocator aligns blocks of 2 MiB or more to 2 MiB and asks for huge pages where
 * they lie whole in the block, so that nothing beyond what is asked for becomes resident, and
 * another allocator may do the same.
 */
typedef void *(*doconv_allocate_fn)(void *user, size_t size, size_t alignment);
typedef void (*doconv_release_fn)(void *user, void *memory);

/** A choice of a table. It has no size: it never grows. */
typedef struct doconv_table_row {
    const char *key;     /**< whom it is for, as the cache's entries have it (doconv_entry_info) */
    const char *variant; /**< the full text */
    /** for contexts that may use this bundle; DOCONV_ISA_DEFAULT: for all */
    doconv_isa isa;
} doconv_table_row;

/**
 * Choices that a program brings along, for the same plans wherever it runs: nothing is read and
 * nothing measured for what is in it. doconv_entries_write_table() and `doconv cache to-c` write
 * one in C.
 */
typedef struct doconv_table {
    size_t size; /**< sizeof(doconv_table) */
    /**
     * sorted by key, as strcmp() does; of several with one key the first counts that the context's
     * ISA allows and whose variant is a candidate
     */
    const doconv_table_row *rows;
    size_t count; /**< of rows */
} doconv_table;

/**
 * Options of a context. Set size and zero the rest for the defaults. Environment variables are read
 * once, at creation, and only where the field here is zero or NULL: DOCONV_MAX_ISA (none, avx2,
 * avx512, neon), DOCONV_TUNE (off, read, tune, force, only), DOCONV_CACHE (a directory),
 * DOCONV_SYSTEM_CACHE (a directory that is looked up after the cache and never written),
 * DOCONV_VERBOSE (0, 1 = a line for each plan, 2 = and one for each execute), OMP_NUM_THREADS
 * (1..4096, or a list that starts so). Names are taken in any case; an empty value is none. What is
 * not allowed (another value, a bundle of another architecture, a relative XDG_CACHE_HOME or HOME)
 * is ignored with a warning: to the log; where there is none, to stderr, one line for each variable
 * in the life of the process.
 */
typedef struct doconv_context_options {
    size_t size;
    /**
     * How many tasks a call is cut into at most. 0 with a parallel_for: 1. 0 without: the number in
     * OMP_NUM_THREADS (of a list, the first), else the CPUs that the creating thread may run on.
     */
    int threads;
    /**
     * Runs the tasks, in the floating-point modes of whatever threads it runs them on. NULL: the
     * calling thread and threads of the context, threads in all, in the calling thread's modes
     * (rounding, flush to zero). The first call with more than one task starts the context's
     * threads, with all signals blocked, the calling thread's CPU affinity and names like
     * "doconv-1"; where fewer can be started, fewer run. They belong to one call at a time: a call
     * that comes from another thread meanwhile runs all its tasks itself. A child of fork() starts
     * its own when it first calls.
     */
    doconv_parallel_for_fn parallel_for;
    void *parallel_for_user;
    doconv_allocate_fn allocate; /**< NULL: posix_memalign; set both or neither */
    doconv_release_fn release;
    void *allocate_user;
    /** NULL: stderr, and only if DOCONV_VERBOSE is 1 or 2 (and for variables that are ignored) */
    doconv_log_fn log;
    void *log_user;
    int verbose;        /**< as DOCONV_VERBOSE, 1 or 2; 0: the variable decides */
    doconv_isa max_isa; /**< cap; a bundle of another architecture is an invalid argument */
    doconv_tune_mode tune;
    /**
     * NULL: DOCONV_CACHE, else XDG_CACHE_HOME/doconv, else HOME/.cache/doconv; "": none, winners
     * are kept in this context's memory only. Copied. What is made in it has the permissions that
     * the umask leaves.
     */
    const char *cache_directory;
    /**
     * 0 or 1: plans of a problem give the same bits for any number of threads, and whatever the
     * tuner finds or its cache has, as doconv_execute() says. It costs speed where another
     * algorithm suits the threads better. The cache keeps its winners apart.
     */
    int deterministic;
    /**
     * NULL: none. It is not copied: it and its rows stay as they are while the context lives. A
     * plan's choice is a forced variant, else the table's, else the cache's, else a measured one,
     * else the estimate's: `tune` says which of the last three there are where the table has none.
     * So with TUNE_OFF, plans of a table's keys have its choices and all others the estimate's; for
     * TUNE_ONLY a table's choice is a choice; with TUNE_FORCE only what it lacks is measured. A row
     * for this ISA whose variant is no candidate (its kernel is not in this build, ...) is passed
     * over with a warning to the log. DOCONV_RIGOR_ESTIMATE takes no table; doconv_tune() measures
     * and stores as if there were none.
     */
    const doconv_table *table;
} doconv_context_options;

/**
 * Creates a context. options may be NULL (all defaults). The caller owns it:
 * doconv_context_destroy().
 */
DOCONV_API doconv_status doconv_context_create(const doconv_context_options *options,
                                               doconv_context **context);

/**
 * Destroys a context and ends its threads; NULL is allowed. No call on it, or on what was made with
 * it, may be running.
 */
DOCONV_API void doconv_context_destroy(doconv_context *context);

/**
 * Copies the detail of the calling thread's last failed call ("stride_h: 0 is not in
 * 1..2147483647") into text, cut to size bytes with its NUL. A call counts that was made with a
 * context, or with what was made with one, other than this function; calls that succeed, and those
 * of other threads, change nothing. Each thread keeps one detail for all contexts: the text is
 * empty if nothing failed on the thread yet, or if its last failed call was on another context.
 */
DOCONV_API doconv_status doconv_context_last_error(const doconv_context *context, char *text,
                                                   size_t size);

/** What a context found and decided. Strings live as long as the context. */
typedef struct doconv_context_info {
    size_t size;        /**< in: sizeof(doconv_context_info) */
    const char *cpu;    /**< the CPU's name as it gives it */
    doconv_isa cpu_isa; /**< best bundle of the CPU and OS */
    doconv_isa isa;     /**< best bundle that plans may use (cpu_isa under the cap) */
    int threads;
    int64_t l1d_bytes, l2_bytes, l3_bytes; /**< of one core (L3: as seen); 0 if unknown */
    const char *cache_directory;           /**< "" if there is none */
    doconv_tune_mode tune;
    /** fingerprint of the set of kernels, names and revisions: 16 hex digits */
    const char *registry;
} doconv_context_info;

DOCONV_API doconv_status doconv_context_get_info(const doconv_context *context,
                                                 doconv_context_info *info);

/**
 * Lower-case name: "none", "avx2", "avx512", "neon"; "default" for DOCONV_ISA_DEFAULT, "unknown"
 * otherwise.
 */
DOCONV_API const char *doconv_isa_string(doconv_isa isa);

/** One kernel of the build. Strings are constant. */
typedef struct doconv_kernel_info {
    size_t size;      /**< in: sizeof(doconv_kernel_info) */
    const char *name; /**< unique, e.g. "direct_f32_14x32@avx512" */
    /**
     * its family: "reference", "direct", "depthwise", "grouped", "planes", "pixel" and "winograd"
     * convolve; "compose", "product" and "correlate" serve training
     */
    const char *operation;
    doconv_isa isa;
    unsigned revision;
    int tile_pixels, tile_channels;
    int usable; /**< 1 if the context's CPU and cap allow it */
    /** of the bound of a dot product's rounding; 1: products are summed directly */
    double error_amplification;
} doconv_kernel_info;

/** Number of kernels in the build, usable or not; 0 for NULL. */
DOCONV_API int doconv_kernel_count(const doconv_context *context);
DOCONV_API doconv_status doconv_kernel_get(const doconv_context *context, int index,
                                           doconv_kernel_info *info);

/* ----------------------------------------------------------------------------------- descriptor */

/**
 * Memory order of an activation tensor of logical shape N x C x H x W, slowest first. Blocked:
 * [N][ceil(C/B)][H][W][B]; the library writes zeros into the channels past C and never lets what it
 * reads there reach a result.
 */
typedef enum doconv_layout {
    DOCONV_NCHW = 0,
    DOCONV_NHWC = 1,
    DOCONV_NCHW8C = 2, /**< B = 8 */
    DOCONV_NCHW16C = 3 /**< B = 16 */
} doconv_layout;

/**
 * How far a variant's rounding may be from a direct convolution's in fp32.
 *
 * DEFAULT and FAST take Winograd's algorithms for kernels of 3, 5 or 7 taps along an axis, which
 * compute outputs by tiles (of up to 4x4; FAST: 6x6) from all inputs that any output of the tile
 * reads. Beside rounding by the largest of these inputs, that shows in two ways:
 *  - A NaN or an infinity in src may come out as NaN, and may reach all outputs of the tiles that
 *    read it, in every channel of its group: not only those whose own window it lies in. One in a
 *    weight may turn all outputs of its output channel to NaN.
 *  - Sums in between may overflow where a direct convolution's would not. They don't as long as for
 *    each output the sum over its input channels of the largest |src| times the largest |weight| of
 *    its filter stays below 2^116 (FAST: 2^107).
 * STRICT keeps each output to its own window.
 */
typedef enum doconv_accuracy {
    DOCONV_ACCURACY_DEFAULT = 0, /**< direct, or algorithms with a few times its error */
    DOCONV_ACCURACY_STRICT = 1,  /**< direct only */
    DOCONV_ACCURACY_FAST = 2     /**< algorithms with about ten times its error too */
} doconv_accuracy;

/** How a DO-Conv layer (d_mul > 0) is computed. */
typedef enum doconv_composition {
    DOCONV_COMPOSITION_NONE = 0,    /**< a plain convolution: d_mul must be 0 */
    DOCONV_COMPOSITION_KERNEL = 1,  /**< fold D and W, then convolve (doconv_train.h) */
    DOCONV_COMPOSITION_FEATURE = 2, /**< depthwise by D, then contract with W (doconv_train.h) */
    /** the faster of these for the layer, chosen by doconv_training_create() (doconv_train.h) */
    DOCONV_COMPOSITION_AUTO = 3
} doconv_composition;

/**
 * Which channel of D the in-group input i of output o meets (Cig = Cin/groups, Cog = Cout/groups).
 * All the same for groups = 1.
 */
typedef enum doconv_mapping {
    /** o / Cog * Cig + i: the channel that the filter reads, the formula of the paper */
    DOCONV_MAPPING_PAPER = 0,
    /** (o * Cig + i) % Cin: the official PyTorch and Gluon modules */
    DOCONV_MAPPING_PYTORCH = 1,
    DOCONV_MAPPING_TENSORFLOW = 2 /**< (i * Cout + o) / Cog: the official TensorFlow layer */
} doconv_mapping;

/**
 * A convolution of n images, which may be 0: dst[n][o][p][q] = post(bias[o] + sum over i, y, x of
 *     src[n][g*Cin/groups + i][p*stride_h + y*dilation_h - pad_top]
 *        [q*stride_w + x*dilation_w - pad_left] * weight[o][i][y][x])
 * with g = o / (Cout/groups), zeros outside src (cross-correlation, as every framework), and
 * post(v) = clamp(relu(v + residual)), each part only if asked for, in that order. Hout = (H +
 * pad_top + pad_bottom - ((KH-1)*dilation_h + 1)) / stride_h + 1, rounded down; Wout likewise.
 */
typedef struct doconv_conv_desc {
    size_t size; /**< sizeof(doconv_conv_desc) */
    int64_t n, cin, h, w;
    int64_t cout, kh, kw;
    int64_t stride_h, stride_w;
    int64_t pad_top, pad_left, pad_bottom, pad_right;
    int64_t dilation_h, dilation_w; /**< 1: none */
    int64_t groups;                 /**< divides cin and cout */
    doconv_layout src_layout, dst_layout;
    int has_bias;             /**< 0 or 1, as every flag here */
    int residual;             /**< add a tensor of dst's shape and layout */
    int relu;                 /**< max(v, 0) */
    int clamp;                /**< min(max(v, clamp_lo), clamp_hi) */
    float clamp_lo, clamp_hi; /**< not NaN, clamp_lo <= clamp_hi; ignored if clamp is 0 */
    doconv_accuracy accuracy;
    int64_t d_mul; /**< 0: a plain convolution; else a DO-Conv layer of W and D */
    doconv_composition composition;
    /**
     * of a DO-Conv layer; PAPER for a plain convolution. Zeroed it is PAPER: layers of several
     * groups from or for the official PyTorch module need DOCONV_MAPPING_PYTORCH.
     */
    doconv_mapping mapping;
    int add_identity;       /**< of a DO-Conv layer, as in doconv_fold_desc; else 0 */
} doconv_conv_desc;

/**
 * Sets size and defaults: every dimension, stride, dilation and groups 1, paddings 0, NCHW, no
 * bias, no post-op. desc: size bytes, as the caller's header has it.
 */
DOCONV_API doconv_status doconv_conv_desc_init_sized(doconv_conv_desc *desc, size_t size);
static inline doconv_status doconv_conv_desc_init(doconv_conv_desc *desc)
{
    return doconv_conv_desc_init_sized(desc, sizeof *desc);
}

/**
 * Reads a problem as benchdnn writes it, then attributes after a colon, separated by commas:
 *   [g#][mb#]ic#[ih#][iw#]oc#[oh#][ow#][kh#][kw#][sh#][sw#][ph#][pw#][dh#][dw#][nNAME]
 * Fields stand in any order, with '_' between them or not; # is 0..2^31-1. What is left out:
 * - If no width (iw, ow, kw, sw, pw, dw) is given, each is its height. If no height is given, the
 *   problem is one-dimensional: H = KH = 1. Else each axis needs its own ih/iw and kh/kw.
 * - g 1; sh/sw 1; ph/pw 0; dh/dw, which count the skipped inputs, 0; mb 1 (2 in benchdnn); kh and
 *   kw, both left out, 1.
 * - oh/ow follow from the rest. Given, they decide the padding after the image, and where ph/pw is
 *   left out that before it too: half of what the output needs, ((oh-1)*sh + (kh-1)*(dh+1) + 1 -
 *   ih) / 2, rounded down, 0 at least. An output that the problem doesn't have is refused.
 * The name, which may be "NAME" or "NAME"*# (# times in its network), comes last and is ignored;
 * without quotes it ends at a colon.
 * In benchdnn a missing mb is 2 and kh and kw are never missing. Refused here, but not there: a
 * field given twice (the last counts), an output of 0 (it is missing), a width of its default
 * alone, as pw0 (there is no width), an output that is smaller than the input gives.
 * Attributes: src=LAYOUT, dst=LAYOUT (nchw, nhwc, nChw8c, nChw16c), bias, residual, relu,
 * clamp=LO/HI, accuracy=strict|default|fast; of a DO-Conv layer dmul=#,
 * composition=kernel|feature|auto (kernel if it is left out), mapping=paper|pytorch|tensorflow,
 * identity (add_identity). Examples:
 * "mb1_ic64ih56oc64kh3ph1:dmul=9,mapping=pytorch,identity" and
 * "mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu".
 * On failure DOCONV_INVALID_ARGUMENT, DOCONV_UNSUPPORTED for a problem of three dimensions (id,
 * od, kd, sd, pd, dd), or what validation says; the detail names the field. context may be NULL (no
 * detail). desc: size bytes, as the caller's header has it; its size is set.
 */
DOCONV_API doconv_status doconv_conv_desc_parse_sized(doconv_context *context, const char *text,
                                                      doconv_conv_desc *desc, size_t size);
static inline doconv_status doconv_conv_desc_parse(doconv_context *context, const char *text,
                                                   doconv_conv_desc *desc)
{
    return doconv_conv_desc_parse_sized(context, text, desc, sizeof *desc);
}

/** The longest text that doconv_conv_desc_format() writes, with its NUL. */
#define DOCONV_PROBLEM_TEXT_SIZE 512

/**
 * Writes a descriptor in the form that doconv_conv_desc_parse() reads, canonically: equal problems
 * give equal text (padding that no output reads is left out, and so are a mapping that is the
 * paper's for this layer and an identity that d_mul < KH*KW has no room for). It is the cache's
 * key, the verbose line's and the benchmark's name. Validates first.
 */
DOCONV_API doconv_status doconv_conv_desc_format(doconv_context *context,
                                                 const doconv_conv_desc *desc, char *text,
                                                 size_t size);

/**
 * Validates a descriptor and gives dst's logical shape N, Cout, Hout, Wout. context may be NULL (no
 * detail).
 */
DOCONV_API doconv_status doconv_conv_dst_shape(doconv_context *context,
                                               const doconv_conv_desc *desc, int64_t shape[4]);

/**
 * Bytes of a tensor of logical shape N x C x H x W, padding of blocked layouts included; 0 if n is.
 */
DOCONV_API doconv_status doconv_tensor_bytes(doconv_layout layout, int64_t n, int64_t c, int64_t h,
                                             int64_t w, size_t *bytes);

/**
 * Copies a tensor from one layout to another (zeros into the channels past C of a blocked dst).
 * INVALID_ARGUMENT if src and dst overlap. With n = 0 it does nothing, and both may be NULL.
 */
DOCONV_API doconv_status doconv_reorder(doconv_layout src_layout, doconv_layout dst_layout,
                                        int64_t n, int64_t c, int64_t h, int64_t w,
                                        const float *src, float *dst);

/** "nchw", "nhwc", "nChw8c", "nChw16c"; "unknown" otherwise. */
DOCONV_API const char *doconv_layout_string(doconv_layout layout);

/* ----------------------------------------------------------------------------------------- plan */

/** How much work choosing a variant may be. */
typedef enum doconv_rigor {
    DOCONV_RIGOR_DEFAULT = 0,  /**< as the context's tune mode says */
    DOCONV_RIGOR_ESTIMATE = 1, /**< the analytic estimate alone */
    DOCONV_RIGOR_READ = 2,     /**< the cache, else the estimate */
    DOCONV_RIGOR_MEASURE = 3   /**< as with TUNE_TUNE, whatever the mode */
} doconv_rigor;

/**
 * What is computed on the tensors of a layer. Programs plan and execute convolutions; the others
 * are what doconv_training_create(), doconv_fold() and the like are made of: each is chosen among
 * candidates, explained and tuned in the same way.
 */
typedef enum doconv_operation {
    DOCONV_OPERATION_CONVOLUTION = 0,      /**< src, weight, bias, residual -> dst */
    DOCONV_OPERATION_FOLD = 1,             /**< W, D -> weight */
    DOCONV_OPERATION_FOLD_GRADIENT = 2,    /**< W, D, weight's gradient -> those of W and D */
    DOCONV_OPERATION_FEATURE_FORWARD = 3,  /**< src, W, D, bias -> dst, by feature composition */
    DOCONV_OPERATION_FEATURE_BACKWARD = 4, /**< and the gradients of src, W and D */
    /** src, dst's gradient -> weight's gradient, or (kernel composition) those of W and D */
    DOCONV_OPERATION_WEIGHT_GRADIENT = 5,
    /**
     * src, W, D, bias -> dst, by the faster composition: a DO-Conv layer with composition AUTO as a
     * whole, whose candidates are made of the operations above
     */
    DOCONV_OPERATION_LAYER_FORWARD = 6,
    DOCONV_OPERATION_LAYER_STEP = 7 /**< likewise, and the gradients of src, W and D */
} doconv_operation;

/** "convolution", "fold", "fold_gradient", ...; "unknown" otherwise. */
DOCONV_API const char *doconv_operation_string(doconv_operation operation);

/**
 * Called before each round of a measurement, on the calling thread, and at its end: done of total
 * parts of the budget.
 */
typedef void (*doconv_progress_fn)(void *user, int done, int total);

/**
 * Called likewise, after the first calls of each candidate and after each round. 0: go on; anything
 * else ends the measurement.
 */
typedef int (*doconv_cancel_fn)(void *user);

/** Set size and zero the rest for the defaults. */
typedef struct doconv_plan_options {
    size_t size;
    doconv_rigor rigor;
    /** a full variant text, or a kernel's name: only such candidates; NULL: all */
    const char *variant;
    /**
     * bytes; candidates that need more are refused. SIZE_MAX: no limit. 0: the larger of 64 MiB and
     * four times L3, or what the most frugal kernel other than the reference needs, if that is more
     * (training layers have this limit too)
     */
    size_t workspace_limit;
    int cold_weights; /**< 1: choose for weights that no cache holds when execute starts */
    /**
     * 1: tune for weights that change with each call, so that packing them counts, and folding
     * them, for a descriptor with d_mul > 0; doconv_training_create() does
     */
    int fresh_weights;
    /** of doconv_candidates_create() and doconv_tune(); doconv_plan_create() takes convolutions */
    doconv_operation operation;
    /**
     * bytes of packed weights (doconv_plan_packed_size()); candidates whose weights take more are
     * refused: Winograd's transformed filters are up to four times as large as a direct kernel's,
     * but it has variants that pack filters as they are and transform them in the call. 0: no limit
     */
    size_t packed_limit;
    /** for measuring, if it comes to that: as in doconv_tune_options; 0: its default */
    double budget_seconds;
    doconv_progress_fn progress; /**< told of a measurement; NULL: nobody is */
    void *progress_user;
    /**
     * NULL: nobody ends a measurement. One that is ended chooses the best so far, or what the
     * estimate says where nothing has run yet. Its result is stored as a doubtful one: the next
     * context that tunes measures again
     */
    doconv_cancel_fn cancel;
    void *cancel_user;
    /**
     * 1: with TUNE_ONLY too, a plan whose key the cache lacks may have a choice "nearest" or
     * "neighbour" (doconv_plan_origin()), as it may with TUNE_READ in any case
     */
    int fallback;
} doconv_plan_options;

/** The longest variant text, with its NUL. */
#define DOCONV_VARIANT_TEXT_SIZE 128

/**
 * Validates desc, chooses a variant and fixes everything that execute needs. options may be NULL.
 * Immutable afterwards; may be shared by threads. The caller owns the plan: doconv_plan_destroy().
 * Errors: INVALID_*, OVERFLOW, UNSUPPORTED, NOT_FOUND, OUT_OF_MEMORY.
 */
DOCONV_API doconv_status doconv_plan_create(doconv_context *context, const doconv_conv_desc *desc,
                                            const doconv_plan_options *options, doconv_plan **plan);
DOCONV_API void doconv_plan_destroy(doconv_plan *plan);

/**
 * The chosen variant, e.g. "direct:direct_f32_14x32@avx512:src=rows,rows=14,kc=128"; lives as long
 * as the plan; "" for NULL.
 */
DOCONV_API const char *doconv_plan_variant(const doconv_plan *plan);

/**
 * Who chose it; lives as long as the plan; "" for NULL:
 *   "forced"     doconv_plan_options.variant
 *   "table"      the program's table
 *   "cache"      the cache's entry for this very problem, context and options
 *   "measured"   a measurement, just now
 *   "nearest"    the cache's entry for the same layer in the same layouts, but with another bias,
 *                residual, ReLU or clamp, another way to run its threads, other limits of memory,
 *                or weights cold for warm; its variant is a candidate of this plan
 *   "neighbour"  the estimate, corrected by what the cache's entry for another batch or image size
 *                of this layer measured
 *   "estimate"   the estimate alone
 */
DOCONV_API const char *doconv_plan_origin(const doconv_plan *plan);

/**
 * The key of the cache's entry (doconv_entry_info) that a choice "nearest" or "neighbour" is from;
 * "" for others, and for NULL. Lives as long as the plan.
 */
DOCONV_API const char *doconv_plan_source(const doconv_plan *plan);

/** Bytes that doconv_execute() needs as workspace; it may be 0. */
DOCONV_API size_t doconv_plan_workspace_size(const doconv_plan *plan);

/** Bytes that doconv_weights_create() allocates for the packed weights. */
DOCONV_API size_t doconv_plan_packed_size(const doconv_plan *plan);

/** One candidate of a problem. Strings live as long as the list. */
typedef struct doconv_candidate_info {
    size_t size;         /**< in: sizeof(doconv_candidate_info) */
    const char *variant; /**< for a refused kernel: its solver and name without parameters */
    /** the kernel's name; "portable": loops without one; "": a composition of other operations */
    const char *kernel;
    const char *refused;      /**< NULL: accepted; else the reason */
    double estimated_seconds; /**< analytic; 0 if refused */
    size_t workspace_size, packed_size;
    /**
     * of the bound of a dot product's rounding; 1: a direct kernel's. accuracy=strict takes 1,
     * default at most 4, fast all
     */
    double error_amplification;
    const char *second; /**< the name of a kernel that works with `kernel`, or "" */
} doconv_candidate_info;

/**
 * Lists every candidate of an operation on a layer (options->operation; NULL: its convolution):
 * each kernel of the families that can do it at least once, refused ones with the reason, accepted
 * ones with each of their parameter sets, best estimate first. Other options as in
 * doconv_plan_create(); an operation that the layer has not is an INVALID_PROBLEM. The caller owns
 * the list.
 */
DOCONV_API doconv_status doconv_candidates_create(doconv_context *context,
                                                  const doconv_conv_desc *desc,
                                                  const doconv_plan_options *options,
                                                  doconv_candidates **list);
DOCONV_API void doconv_candidates_destroy(doconv_candidates *list);
DOCONV_API int doconv_candidates_count(const doconv_candidates *list);
DOCONV_API doconv_status doconv_candidates_get(const doconv_candidates *list, int index,
                                               doconv_candidate_info *info);

/* ------------------------------------------------------------------------ weights and execution */

/**
 * Packs weights for a plan. weight: Cout x Cin/groups x KH x KW (OIHW), contiguous; bias: Cout
 * floats if the descriptor has_bias, else NULL. Both are copied. The result is read-only, may be
 * shared by threads, and serves every plan of the same problem shape and packed layout (execute
 * refuses others with DOCONV_MISMATCH). The caller owns it.
 */
DOCONV_API doconv_status doconv_weights_create(const doconv_plan *plan, const float *weight,
                                               const float *bias, doconv_weights **weights);
DOCONV_API void doconv_weights_destroy(doconv_weights *weights);

/**
 * Runs a plan. src: N x Cin x H x W in src_layout; residual: dst's shape and layout if the
 * descriptor asks for one, else NULL; dst: N x Cout x Hout x Wout in dst_layout, written whole.
 * workspace: at least doconv_plan_workspace_size() bytes of any alignment, used by one execute at a
 * time; NULL if that is 0. residual may be dst itself; in every other case dst and the workspace
 * overlap nothing, or the call is refused. Re-entrant. For an empty batch it does nothing, and
 * every tensor may be NULL. Errors are argument errors only: INVALID_ARGUMENT, MISMATCH,
 * WORKSPACE_TOO_SMALL; dst is untouched then.
 *
 * A plan gives the same bits each time, on whatever threads its tasks run. Another number of
 * threads, the tuner or its cache may choose another variant for the same problem, which may round
 * otherwise; in contexts with `deterministic` set they choose among variants that give the same
 * bits, on one machine with one max_isa. A variant that is forced is the caller's choice there too;
 * a workspace_limit that leaves none of the others is UNSUPPORTED. Training keeps to the same bits
 * in any context. That is for finite weights, and but for the sign of zeros.
 *
 * Values that are not finite: those of src, residual and bias reach the outputs that the formula
 * has them in, and no other but those that doconv_accuracy tells of. A weight that is not finite
 * may, beside these, turn those outputs to NaN that meet it in the padding, since some variants
 * multiply the padding's zeros.
 */
DOCONV_API doconv_status doconv_execute(const doconv_plan *plan, const doconv_weights *weights,
                                        const float *src, const float *residual, float *dst,
                                        void *workspace, size_t workspace_size);

/* -------------------------------------------------------------------------------------- DO-Conv */

/**
 * The kernel of a DO-Conv layer (arXiv 2006.12030), DO-DConv (groups = Cin) and DO-GConv included.
 */
typedef struct doconv_fold_desc {
    size_t size; /**< sizeof(doconv_fold_desc) */
    int64_t cout, cin, kh, kw;
    int64_t groups; /**< divides cin and cout */
    int64_t d_mul;  /**< >= 1; the reference's default is KH*KW */
    doconv_mapping mapping;
    /**
     * 1: compose with D + I, I being the KH*KW identity repeated d_mul / (KH*KW) times along D_mul,
     * zero in the remainder
     */
    int add_identity;
} doconv_fold_desc;

/**
 * Composes the kernel of a DO-Conv layer: weight[o][i][m] = sum over s < D_mul of D[channel(o,
 * i)][m][s] * W[o][i][s]. w: Cout x Cin/groups x D_mul; d: Cin x (KH*KW) x D_mul, or NULL where
 * KH*KW = D_mul = 1 (the layer has no D then: weight is w); weight: Cout x Cin/groups x KH x KW, as
 * doconv_weights_create() takes it; all contiguous; INVALID_ARGUMENT if weight overlaps another.
 * Runs on the context's threads; the result does not depend on them. Errors: INVALID_ARGUMENT,
 * INVALID_PROBLEM, OVERFLOW, OUT_OF_MEMORY, MISMATCH (size).
 */
DOCONV_API doconv_status doconv_fold(doconv_context *context, const doconv_fold_desc *desc,
                                     const float *w, const float *d, float *weight);

/**
 * Hands the gradient of a loss back through doconv_fold(): from grad_weight, its gradient by weight
 * (Cout x Cin/groups x KH x KW), to those by W and D,
 *   grad_w[o][i][s] = sum over m of (D + I)[channel(o, i)][m][s] * grad_weight[o][i][m]
 *   grad_d[channel][m][s] = sum over the (o, i) that meet it of W[o][i][s] * grad_weight[o][i][m]
 * I only if desc->add_identity. Shapes and errors are doconv_fold()'s; a layer without D (d NULL)
 * has no grad_d, and grad_w is grad_weight. grad_w, grad_d: NULL where not wanted; INVALID_ARGUMENT
 * if they overlap anything. The result does not depend on threads.
 */
DOCONV_API doconv_status doconv_fold_gradient(doconv_context *context, const doconv_fold_desc *desc,
                                              const float *w, const float *d,
                                              const float *grad_weight, float *grad_w,
                                              float *grad_d);

/**
 * doconv_fold() straight into the packed weights of a plan, whose convolution desc's shape must be
 * (MISMATCH otherwise): the same bits as doconv_weights_create() makes of the folded weight, which
 * is never whole in memory where one block of output channels after the other will do. bias as for
 * doconv_weights_create(), other errors as for doconv_fold(). The caller owns the result:
 * doconv_weights_destroy().
 */
DOCONV_API doconv_status doconv_weights_fold(const doconv_plan *plan, const doconv_fold_desc *desc,
                                             const float *w, const float *d, const float *bias,
                                             doconv_weights **weights);

/** A layer of a checkpoint as it is folded. */
typedef struct doconv_folded_layer {
    size_t size; /**< of what the library has */
    /**
     * NAME of NAME.weight, as the file has it (UTF-8, may have control characters); "" for a module
     * saved by itself
     */
    const char *name;
    const doconv_fold_desc *desc; /**< add_identity: 1 where the option adds it */
    /**
     * 0: a 1x1 layer, whose weight is W; the file does not tell its groups: *desc has 1, and cin is
     * Cin/groups
     */
    int has_d;
    int has_identity;    /**< 1: the file has the layer's identity, which is added to D */
    size_t bytes_before; /**< of W, D and the identity */
    size_t bytes_after;  /**< of the weight */
    const char *weight;  /**< the name of the weight in the result */
    const char *type;    /**< of the weight in the result: "F32", "F16", "BF16" or "F64" */
    /**
     * 1: KH and KW are the root of the D's rows because no option gives them: the file has KH*KW
     * alone, and 9 rows may be 3x3 or 1x9
     */
    int assumed_square;
} doconv_folded_layer;

/**
 * Told of each layer, in the file's order, on the calling thread, once the whole file is known to
 * be valid. layer and what it points to live for this call only.
 */
typedef void (*doconv_fold_report_fn)(void *user, const doconv_folded_layer *layer);

/**
 * Told of each tensor that has a DO-Conv layer's name and is left alone, and why, before any layer
 * is reported; also where the call fails in the end. The texts live for this call only.
 */
typedef void (*doconv_fold_note_fn)(void *user, const char *tensor, const char *why);

/**
 * Gives a file that an index of shards names: *data, *size, whole in memory until
 * doconv_fold_checkpoint() returns; the caller frees them then. name has no directory. What it
 * returns other than DOCONV_OK is what doconv_fold_checkpoint() returns.
 */
typedef doconv_status (*doconv_fold_open_fn)(void *user, const char *name, const void **data,
                                             size_t *size);

/** The spatial size of a checkpoint's layers. */
typedef struct doconv_fold_kernel {
    /**
     * doconv_folded_layer's name, or a pattern of it: '*' is any text, '?' any byte. A layer takes
     * the size that is given for its whole name, else that of the first pattern that it matches and
     * whose KH*KW are its D's rows.
     */
    const char *name;
    int64_t kh, kw;
} doconv_fold_kernel;

/** What becomes of a D whose identity the file does not have. */
typedef enum doconv_fold_identity {
    DOCONV_FOLD_IDENTITY_UNSET = 0, /**< INVALID_ARGUMENT: the file does not tell */
    DOCONV_FOLD_IDENTITY_ADD = 1,   /**< composed as D + I */
    DOCONV_FOLD_IDENTITY_NONE = 2   /**< composed as it is */
} doconv_fold_identity;

/** The type of a folded weight. */
typedef enum doconv_fold_type {
    DOCONV_FOLD_KEEP = 0, /**< W's */
    DOCONV_FOLD_F32,
    DOCONV_FOLD_F16,
    DOCONV_FOLD_BF16,
    DOCONV_FOLD_F64
} doconv_fold_type;

/** Set size and zero the rest for the defaults. */
typedef struct doconv_fold_checkpoint_options {
    size_t size;
    /**
     * NULL: DOCONV_MAPPING_PYTORCH for layers whose identity the file has, as the official PyTorch
     * module writes it. Without it the file may be from elsewhere, doconv_training's zeroed
     * descriptor (PAPER) among others: a layer for which the mappings differ (groups > 1, other
     * than one output a group and, for TENSORFLOW, one input) is INVALID_ARGUMENT then.
     */
    const doconv_mapping *mapping;
    /** a doconv_fold_identity */
    int add_identity;
    /** layers that are not square (a D of KH*KW rows does not tell them) */
    const doconv_fold_kernel *kernels;
    size_t kernel_count;
    /** 1: check, report, and tell the result's size, but make none */
    int dry_run;
    doconv_fold_report_fn report; /**< NULL: none */
    void *report_user;            /**< of report and note */
    /**
     * Patterns of layers' names as doconv_fold_kernel's: only those that match one of `only` (0:
     * all) and none of `exclude` are folded, the others left alone. `only` says too that what it
     * matches is a DO-Conv layer: a W without D, which may be any module's, is a 1x1 layer only by
     * it.
     */
    const char *const *only;
    size_t only_count;
    const char *const *exclude;
    size_t exclude_count;
    /** name of a folded weight, of which {name} is NAME; NULL: "{name}.weight" */
    const char *rename;
    /**
     * What is taken from the front of each tensor's name in the result: NULL: nothing; "": all of
     * "module.", "_orig_mod." and "ema." that stand there; else this text
     */
    const char *strip_prefix;
    int type;                 /**< of the folded weights, a doconv_fold_type */
    doconv_fold_note_fn note; /**< NULL: none */
    /** NULL: an index of shards is INVALID_FILE */
    doconv_fold_open_fn open;
    void *open_user;
} doconv_fold_checkpoint_options;

/**
 * Folds the DO-Conv layers of a checkpoint: a PyTorch state_dict in safetensors format, whole in
 * memory, or the index of one in shards (*.safetensors.index.json), which options->open reads; the
 * result is one file. Of each layer, the tensors
 *     NAME.W       Cout x Cin/groups x D_mul
 *     NAME.D       Cin x (KH*KW) x D_mul; a 1x1 layer (D_mul = 1) has none: see options->only
 *     NAME.d_diag  D's shape: the identity, which the official module keeps (earlier: D_diag);
 *                  added to D; where it is missing options->add_identity must say what D is
 * of type F32, F16, BF16 or F64 each, become NAME.weight, Cout x Cin/groups x KH x KW, computed in
 * fp32 and stored in W's type unless options->type says another. KH and KW are the root of D's
 * KH*KW unless options->kernels tells. Every other tensor, of any type, keeps its bytes, and
 * __metadata__ its texts; the tensors keep their order. (Where folding would leave one at an offset
 * that is no multiple of its elements' size, wider elements come first.)
 *
 * Left alone, and told to options->note: W and D that don't fit together and have no identity,
 * either without the other, an optimizer's moments (exp_avg.NAME.W). With an identity, or named by
 * options->only, tensors that don't fit are an error.
 *
 * file: size bytes of any alignment, which nobody may change during the call; nothing in them is
 * trusted. options may be NULL. *result, *result_size: the folded checkpoint, from the context's
 * allocator; the caller owns it: doconv_checkpoint_free(). With dry_run *result is NULL. The call
 * needs about the size of the result and of the largest layer; the file's header is parsed by
 * Jansson, whose memory, some twenty times the header, is malloc's. The layers run on the context's
 * threads; calls on one context may run at the same time. Errors: INVALID_FILE (malformed,
 * truncated, a pickle; tensors of a layer that do not fit together or have no counterpart; a name
 * of the result that is there already), UNSUPPORTED (a build without Jansson; a layer of another
 * type), NOT_FOUND (no DO-Conv layer in it), INVALID_ARGUMENT (also an identity, a mapping, KH and
 * KW that are needed but not given, or do not fit), OVERFLOW (also a weight that the chosen type
 * can't hold), OUT_OF_MEMORY, MISMATCH (size). The detail names the tensor.
 */
DOCONV_API doconv_status doconv_fold_checkpoint(doconv_context *context, const void *file,
                                                size_t size,
                                                const doconv_fold_checkpoint_options *options,
                                                void **result, size_t *result_size);

/** Frees what doconv_fold_checkpoint() made with this context; NULL is allowed. */
DOCONV_API void doconv_checkpoint_free(doconv_context *context, void *result);

#ifdef __cplusplus
}
#endif

#endif

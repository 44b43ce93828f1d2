/* SPDX-License-Identifier: MIT */
/* Folding a checkpoint: files in and out around doconv_fold_checkpoint(). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command_shared.h"

struct fold_command {
    const char *in, *out; /* out: NULL with dry_run if none was named */
    bool dry_run;
    int identity, type; /* a doconv_fold_identity, a doconv_fold_type */
    doconv_mapping mapping;
    struct command_kernels kernels;
    struct command_texts only, exclude;
    const char *rename, *strip_prefix;
    doconv_context *context;
    struct command_table table;
    int layers, squares, grouped;
    char *notes; /* a line each */
    size_t notes_length;
    unsigned char **shards; /* to be freed */
    size_t shard_count;
    size_t bytes; /* of all that was read */
};

#define NO_MAPPING ((doconv_mapping)-1)

/* ---- files ---- */

/* Refuses what a rename would wrongly replace. */
static int check_out(const struct fold_command *f)
{
    struct stat in, out;
    if (f->out == NULL || lstat(f->out, &out) != 0) {
        return COMMAND_OK; /* a name that can't be used shows when it is written */
    }
    if (!S_ISREG(out.st_mode)) {
        command_error("fold: %s: exists, and is not a regular file", f->out);
        return COMMAND_USAGE;
    }
    if (stat(f->in, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
        command_error(
            "fold: %s: is the input, and what is folded can't be trained again: name another file",
            f->out);
        return COMMAND_USAGE;
    }
    return COMMAND_OK;
}

/*
 * Reads a shard that lies beside the index. The writing renames a file to OUT: that must be none of
 * those that were read.
 */
static doconv_status open_shard(void *user, const char *name, const void **data, size_t *size)
{
    struct fold_command *f = user;
    const char *slash = strrchr(f->in, '/');
    const size_t folder = slash != NULL ? (size_t)(slash - f->in) + 1 : 0;
    char *path = malloc(folder + strlen(name) + 1);
    unsigned char **more = realloc(f->shards, (f->shard_count + 1) * sizeof *more);
    f->shards = more != NULL ? more : f->shards;
    if (path == NULL || more == NULL) {
        free(path);
        return DOCONV_OUT_OF_MEMORY;
    }
    memcpy(path, f->in, folder);
    strcpy(path + folder, name);
    struct fold_command shard = {.in = path, .out = f->out};
    int result = check_out(&shard);
    if (result == COMMAND_OK) {
        result = command_read_file("fold", path, &more[f->shard_count], size);
    }
    free(path);
    if (result != COMMAND_OK) {
        return result == COMMAND_USAGE ? DOCONV_INVALID_FILE : DOCONV_IO_ERROR;
    }
    *data = more[f->shard_count++];
    f->bytes += *size;
    return DOCONV_OK;
}

/* ---- the report ---- */

/* A text from the file, without control characters: they would reach the terminal. */
static void copy_text(char *to, size_t size, const char *text)
{
    snprintf(to, size, "%s", text);
    for (unsigned char *c = (unsigned char *)to; *c != '\0'; c++) {
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) { /* U+0080..U+009F are some too */
            c[0] = c[1] = '?';
        }
        *c = *c < 0x20 || *c == 0x7f ? '?' : *c;
    }
}

static void add_note(void *user, const char *tensor, const char *why)
{
    struct fold_command *f = user;
    char name[1000], line[1400];
    copy_text(name, sizeof name, tensor);
    const int length = snprintf(line, sizeof line, "left alone: %s: %s\n", name, why);
    char *more = realloc(f->notes, f->notes_length + (size_t)length + 1);
    if (more != NULL) {
        strcpy(more + f->notes_length, line);
        f->notes = more;
        f->notes_length += (size_t)length;
    }
}

static void add_layer(void *user, const doconv_folded_layer *layer)
{
    struct fold_command *f = user;
    const doconv_fold_desc *d = layer->desc;
    char name[1000];
    copy_text(name, sizeof name, layer->weight);
    struct command_table *t = &f->table;
    command_table_add(t, "%s", name);
    command_table_add(t, "%" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64, d->cout,
                      d->cin / d->groups, d->kh, d->kw);
    command_table_add(t, "%s", layer->type);
    if (layer->has_d) {
        command_table_add(t, "%" PRId64, d->groups);
        command_table_add(t, "%" PRId64, d->d_mul);
        command_table_add(t, "%s",
                          layer->has_identity ? "stored"
                          : d->add_identity   ? "added"
                                              : "none");
    } else {
        command_table_add(t, "-"); /* the file does not tell */
        command_table_add(t, "-");
        command_table_add(t, "no D");
    }
    command_table_add(t, "%zu", layer->bytes_before);
    command_table_add(t, "%zu", layer->bytes_after);
    f->layers++;
    f->squares += layer->assumed_square;
    f->grouped += d->groups > 1;
}

static void print_report(struct fold_command *f, size_t folded_size)
{
    static const char *const mappings[] = {[DOCONV_MAPPING_PAPER] = "paper",
                                           [DOCONV_MAPPING_PYTORCH] = "pytorch",
                                           [DOCONV_MAPPING_TENSORFLOW] = "tensorflow"};
    command_table_print(&f->table, 0);
    printf("\n%d layer%s %sfolded; %zu bytes %s %zu\n", f->layers, f->layers == 1 ? "" : "s",
           f->dry_run ? "would be " : "", f->bytes, f->dry_run ? "would become" : "became",
           folded_size);
    if (f->squares > 0) {
        printf("%d of them taken as square: a D of 9 rows is 3x3 unless --kernel says 1x9\n",
               f->squares);
    }
    if (f->grouped > 0) {
        printf("%d of them of several groups: mapping %s%s\n", f->grouped,
               mappings[f->mapping != NO_MAPPING ? f->mapping : DOCONV_MAPPING_PYTORCH],
               f->mapping != NO_MAPPING ? "" : ", as the official module's files need");
    }
    if (f->notes != NULL) {
        fputs(f->notes, stdout);
    }
}

/* ---- folding ---- */

/* What became of the library's call: an exit status, after a message if it failed. */
static int judge(const struct fold_command *f, doconv_status status)
{
    if (status == DOCONV_OK) {
        return COMMAND_OK;
    }
    command_library_error(f->context, status, "fold: %s", f->in);
    if (status == DOCONV_NOT_FOUND && f->notes != NULL) {
        fputs(f->notes, stderr);
        fputs("A 1x1 DO-Conv layer has a W alone; --only=NAME (or '*') says that it is one.\n",
              stderr);
    }
    return status == DOCONV_INVALID_FILE || status == DOCONV_INVALID_ARGUMENT ? COMMAND_USAGE
                                                                              : COMMAND_FAILED;
}

static int fold_file(struct fold_command *f)
{
    static const char *const heads[] = {"weight", "shape",    "type",  "groups",
                                        "D_mul",  "identity", "bytes", "folded"};
    unsigned char *data;
    size_t size = 0, folded_size = 0;
    int result = command_read_file("fold", f->in, &data, &size);
    if (result != COMMAND_OK) {
        return result;
    }
    f->bytes = size;
    f->table.align = "lllrrlrr";
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&f->table, "%s", heads[i]);
    }
    const doconv_fold_checkpoint_options options = {
        .size = sizeof options,
        .mapping = f->mapping != NO_MAPPING ? &f->mapping : NULL,
        .add_identity = f->identity,
        .kernels = f->kernels.item,
        .kernel_count = f->kernels.count,
        .dry_run = f->dry_run,
        .report = add_layer,
        .report_user = f,
        .only = f->only.item,
        .only_count = f->only.count,
        .exclude = f->exclude.item,
        .exclude_count = f->exclude.count,
        .rename = f->rename,
        .strip_prefix = f->strip_prefix,
        .type = f->type,
        .note = add_note,
        .open = open_shard,
        .open_user = f,
    };
    void *folded = NULL;
    const doconv_status status =
        doconv_fold_checkpoint(f->context, data, size, &options, &folded, &folded_size);
    free(data);
    result = judge(f, status);
    if (result == COMMAND_OK && !f->dry_run) {
        result = command_write_file("fold", f->out, folded, folded_size);
    }
    doconv_checkpoint_free(f->context, folded);
    if (result == COMMAND_OK) {
        print_report(f, folded_size);
    }
    return result;
}

/* ---- the verb ---- */

static int run_with(struct fold_command *f, int count, char **words)
{
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 0;
    const struct command_option options[] = {
        {"mapping", COMMAND_OPTION_MAPPING, &f->mapping, 0, 0},
        {"kernel", COMMAND_OPTION_KERNELS, &f->kernels, 0, 0},
        {"identity", COMMAND_OPTION_IDENTITY, &f->identity, 0, 0},
        {"dtype", COMMAND_OPTION_DTYPE, &f->type, 0, 0},
        {"only", COMMAND_OPTION_TEXTS, &f->only, 0, 0},
        {"exclude", COMMAND_OPTION_TEXTS, &f->exclude, 0, 0},
        {"rename", COMMAND_OPTION_TEXT, &f->rename, 0, 0},
        {"strip-prefix", COMMAND_OPTION_PREFIX, &f->strip_prefix, 0, 0},
        {"dry-run", COMMAND_OPTION_FLAG, &f->dry_run, 0, 0},
        {"isa", COMMAND_OPTION_ISA, &isa, 0, 0},
        {"threads", COMMAND_OPTION_INT, &threads, 1, 4096},
        {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    const int arguments = command_parse_options(&command_fold, count, words, options);
    if (arguments < 0) {
        return COMMAND_USAGE;
    }
    if (arguments == 0 || words[0][0] == '\0') {
        return command_usage_error("fold", "a file is missing");
    }
    if (arguments > 2) {
        return command_usage_error("fold", "one word too many: \"%.80s\"", words[2]);
    }
    if ((arguments == 1 && !f->dry_run) || (arguments == 2 && words[1][0] == '\0')) {
        return command_usage_error("fold", "the file to write is missing");
    }
    f->in = words[0];
    f->out = arguments == 2 ? words[1] : NULL;
    int result = check_out(f);
    if (result == COMMAND_OK) {
        result = command_context_create("fold", isa, threads, DOCONV_TUNE_OFF, &f->context);
    }
    return result == COMMAND_OK ? fold_file(f) : result;
}

static int run_fold(int count, char **words)
{
    const size_t room = (size_t)count + 1;
    struct fold_command f = {.mapping = NO_MAPPING};
    f.kernels.item = malloc(room * sizeof *f.kernels.item);
    f.only.item = malloc(room * sizeof *f.only.item);
    f.exclude.item = malloc(room * sizeof *f.exclude.item);
    const bool memory = f.kernels.item != NULL && f.only.item != NULL && f.exclude.item != NULL;
    const int result = memory ? run_with(&f, count, words) : command_error("out of memory");
    for (size_t i = 0; i < f.kernels.count; i++) {
        free((char *)f.kernels.item[i].name);
    }
    for (size_t i = 0; i < f.shard_count; i++) {
        free(f.shards[i]);
    }
    free(f.shards);
    free(f.kernels.item);
    free(f.only.item);
    free(f.exclude.item);
    free(f.notes);
    command_table_free(&f.table);
    doconv_context_destroy(f.context);
    return result;
}

const struct command_verb command_fold = {
    .name = "fold",
    .summary = "folds the DO-Conv layers of a checkpoint",
    .help =
        "usage: doconv fold IN OUT [--OPTION=VALUE ...]\n"
        "       doconv fold IN --dry-run [--OPTION=VALUE ...]\n"
        "\n"
        "Reads IN, a PyTorch state_dict in safetensors format or the index of one in shards "
        "(*.safetensors.index.json),\n"
        "and writes OUT, one file in which each DO-Conv layer is a plain convolution: NAME.W and "
        "NAME.D, with NAME.d_diag\n"
        "(or D_diag) added to D, become NAME.weight, folded in fp32 and stored in W's type "
        "(F32, F16, BF16, F64). All other\n"
        "tensors and the metadata are copied, in their order. OUT appears when it is complete; "
        "if anything is wrong with\n"
        "IN, it does not. Prints a table of the layers, and a line for each tensor of a layer's "
        "name that is left alone:\n"
        "W and D that don't fit together, one without the other, an optimizer's state.\n"
        "\n"
        "  --identity=add|none   what a D is whose d_diag is not in the file: to be composed as "
        "D + I, or as it is\n"
        "  --mapping=NAME        which channel of D a grouped layer's filter meets: pytorch "
        "(the default with d_diag: the\n"
        "                        files of the official PyTorch module need it), paper, "
        "tensorflow\n"
        "  --kernel=GLOB=KHxKW   height and width of layers' kernels (default: both the root "
        "of the rows of D); a whole\n"
        "                        name before patterns, the first pattern that fits before "
        "others; may be repeated\n"
        "  --only=GLOB           folds only layers of this NAME, and takes a W without D for a "
        "1x1 layer; may be repeated\n"
        "  --exclude=GLOB        leaves layers of this NAME alone; may be repeated\n"
        "  --dtype=TYPE          of the folded weights: f32, f16, bf16, f64 or keep (the "
        "default)\n"
        "  --rename=TEMPLATE     the weights' names, of NAME as {name} (default: "
        "'{name}.weight')\n"
        "  --strip-prefix[=TEXT] takes TEXT from the front of all names in OUT; without TEXT "
        "module., _orig_mod., ema.\n"
        "  --dry-run             checks IN and prints the table; writes nothing\n"
        "  --isa=NAME            cap on the instruction set: none, avx2, avx512, neon\n"
        "  --threads=N           threads (default: OMP_NUM_THREADS, else one for each CPU)\n"
        "\n"
        "Exit status: 0 folded, 1 a failure (no DO-Conv layer in IN, a type that can't be "
        "folded, OUT can't be written, a\n"
        "build without safetensors), 2 bad usage, something that the file does not tell, or IN "
        "is malformed.\n",
    .run = run_fold,
};

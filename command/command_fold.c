/* SPDX-License-Identifier: MIT */
/* Folding a checkpoint: files in and out around doconv_fold_checkpoint(). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command_shared.h"

struct fold_command {
    const char *in, *out; /* out: NULL with dry_run if none was named */
    bool add_identity, dry_run;
    doconv_mapping mapping;
    struct command_kernels kernels;
    doconv_context *context;
    struct command_table table;
    int layers;
};

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

/* ---- folding ---- */

static void add_layer(void *user, const doconv_folded_layer *layer)
{
    struct fold_command *f = user;
    const doconv_fold_desc *d = layer->desc;
    char name[1000];
    snprintf(name, sizeof name, "%s%sweight", layer->name, layer->name[0] != '\0' ? "." : "");
    for (unsigned char *c = (unsigned char *)name; *c != '\0'; c++) {
        /* Control characters would reach the terminal; U+0080..U+009F are some too. */
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) {
            c[0] = c[1] = '?';
        }
        *c = *c < 0x20 || *c == 0x7f ? '?' : *c;
    }
    struct command_table *t = &f->table;
    command_table_add(t, "%s", name);
    command_table_add(t, "%" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64, d->cout,
                      d->cin / d->groups, d->kh, d->kw);
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
}

static int fold_file(struct fold_command *f)
{
    static const char *const heads[] = {"weight",   "shape", "groups", "D_mul",
                                        "identity", "bytes", "folded"};
    unsigned char *data;
    size_t size = 0, folded_size = 0;
    int result = command_read_file("fold", f->in, &data, &size);
    if (result != COMMAND_OK) {
        return result;
    }
    f->table.align = "llrrlrr";
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&f->table, "%s", heads[i]);
    }
    const doconv_fold_checkpoint_options options = {
        .size = sizeof options,
        .mapping = &f->mapping,
        .add_identity = f->add_identity,
        .kernels = f->kernels.item,
        .kernel_count = f->kernels.count,
        .dry_run = f->dry_run,
        .report = add_layer,
        .report_user = f,
    };
    void *folded = NULL;
    const doconv_status status =
        doconv_fold_checkpoint(f->context, data, size, &options, &folded, &folded_size);
    free(data);
    if (status != DOCONV_OK) {
        command_library_error(f->context, status, "fold: %s", f->in);
        return status == DOCONV_INVALID_FILE || status == DOCONV_INVALID_ARGUMENT ? COMMAND_USAGE
                                                                                  : COMMAND_FAILED;
    }
    if (!f->dry_run) {
        result = command_write_file("fold", f->out, folded, folded_size);
    }
    doconv_checkpoint_free(f->context, folded);
    if (result == COMMAND_OK) {
        command_table_print(&f->table, 0);
        printf("\n%d layer%s %sfolded; %zu bytes %s %zu\n", f->layers, f->layers == 1 ? "" : "s",
               f->dry_run ? "would be " : "", size, f->dry_run ? "would become" : "became",
               folded_size);
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
        {"identity", COMMAND_OPTION_FLAG, &f->add_identity, 0, 0},
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
    struct fold_command f = {.mapping = DOCONV_MAPPING_PYTORCH};
    f.kernels.item = malloc(((size_t)count + 1) * sizeof *f.kernels.item);
    if (f.kernels.item == NULL) {
        return command_error("out of memory");
    }
    const int result = run_with(&f, count, words);
    for (size_t i = 0; i < f.kernels.count; i++) {
        free((char *)f.kernels.item[i].name);
    }
    free(f.kernels.item);
    command_table_free(&f.table);
    doconv_context_destroy(f.context);
    return result;
}

const struct command_verb command_fold = {
    .name = "fold",
    .summary = "folds the DO-Conv layers of a checkpoint",
    .help = "usage: doconv fold IN OUT [--OPTION=VALUE ...]\n"
            "       doconv fold IN --dry-run [--OPTION=VALUE ...]\n"
            "\n"
            "Reads IN, a PyTorch state_dict in safetensors format, and writes OUT, in which each "
            "DO-Conv layer is a plain\n"
            "convolution: NAME.W and NAME.D, with NAME.d_diag (or D_diag) added to D, become "
            "NAME.weight. A 1x1 layer has a NAME.W\n"
            "alone. All other tensors and the metadata are copied, in their order. Only layers of "
            "type F32 can be folded.\n"
            "OUT appears when it is complete; if anything is wrong with IN, it does not. Prints a "
            "table of the layers.\n"
            "\n"
            "  --mapping=NAME        which channel of D a grouped layer's filter meets: pytorch "
            "(the default: the files of the\n"
            "                        official PyTorch module need it), paper, tensorflow; all the "
            "same for layers of one group\n"
            "  --kernel=NAME=KHxKW   height and width of a layer's kernel (default: both the root "
            "of the rows of its D);\n"
            "                        may be repeated\n"
            "  --identity            adds the identity to each D whose d_diag is not in the file\n"
            "  --dry-run             checks IN and prints the table; writes nothing\n"
            "  --isa=NAME            cap on the instruction set: none, avx2, avx512, neon\n"
            "  --threads=N           threads (default: OMP_NUM_THREADS, else one for each CPU)\n"
            "\n"
            "Exit status: 0 folded, 1 a failure (no DO-Conv layer in IN, a type other than F32, "
            "OUT can't be written, a build\n"
            "without safetensors), 2 bad usage, or IN is malformed.\n",
    .run = run_fold,
};

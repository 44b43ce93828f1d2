/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "command_shared.h"
#include "network_list.h"

static void print_bytes(const char *name, int64_t bytes)
{
    if (bytes <= 0) {
        printf("%s unknown", name);
    } else if (bytes % (1 << 20) == 0) {
        printf("%s %" PRId64 " MiB", name, bytes >> 20);
    } else {
        printf("%s %" PRId64 " KiB", name, bytes >> 10);
    }
}

static int print_kernels(const doconv_context *context)
{
    struct command_table table = {.align = "llrrrl"};
    command_table_add(&table, "kernel");
    command_table_add(&table, "operation");
    command_table_add(&table, "tile");
    command_table_add(&table, "revision");
    command_table_add(&table, "error");
    command_table_add(&table, "usable");
    int usable = 0;
    const int count = doconv_kernel_count(context);
    for (int i = 0; i < count; i++) {
        doconv_kernel_info kernel = {.size = sizeof kernel};
        const doconv_status status = doconv_kernel_get(context, i, &kernel);
        if (status != DOCONV_OK) {
            return command_library_error(context, status, "kernel %d", i);
        }
        command_table_add(&table, "%s", kernel.name);
        command_table_add(&table, "%s", kernel.operation);
        command_table_add(&table, "%dx%d", kernel.tile_pixels, kernel.tile_channels);
        command_table_add(&table, "%u", kernel.revision);
        command_table_add(&table, "%.3g", kernel.error_amplification);
        command_table_add(&table, "%s", kernel.usable ? "yes" : "no");
        usable += kernel.usable != 0;
    }
    printf(
        "kernels   %d, %d of them usable; tile: pixels x channels; error: 1 is a direct kernel's\n",
        count, usable);
    command_table_print(&table, 10);
    return COMMAND_OK;
}

static int run_info(int count, char **words)
{
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 0;
    const struct command_option options[] = {{"isa", COMMAND_OPTION_ISA, &isa, 0, 0},
                                             {"threads", COMMAND_OPTION_INT, &threads, 1, 4096},
                                             {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    const int arguments = command_parse_options(&command_info, count, words, options);
    if (arguments < 0) {
        return COMMAND_USAGE;
    }
    if (arguments > 0) {
        return command_usage_error("info", "one word too many: \"%.80s\"", words[0]);
    }
    doconv_context *context;
    int result = command_context_create("info", isa, threads, DOCONV_TUNE_DEFAULT, &context);
    if (result != COMMAND_OK) {
        return result;
    }
    doconv_context_info info = {.size = sizeof info};
    const doconv_status status = doconv_context_get_info(context, &info);
    if (status != DOCONV_OK) {
        result = command_library_error(context, status, "the context's properties");
        doconv_context_destroy(context);
        return result;
    }
    printf("version   %s\n", doconv_version_string());
    printf("cpu       %s\n", info.cpu);
    printf("isa       %s", doconv_isa_string(info.isa));
    if (info.isa != info.cpu_isa) {
        printf(" (capped: the CPU has %s)", doconv_isa_string(info.cpu_isa));
    }
    printf("\nthreads   %d\n", info.threads);
    print_bytes("caches    L1d", info.l1d_bytes);
    print_bytes(", L2", info.l2_bytes);
    print_bytes(", L3", info.l3_bytes);
    printf("\ncache     %s\n", info.cache_directory[0] != '\0'
                                   ? info.cache_directory
                                   : "none: no directory is set, and HOME names none");
    printf("tune      %s\n", command_tune_mode_string(info.tune));
    printf("registry  %s\n", info.registry);
    char names[64][NETWORK_NAME_SIZE];
    const int networks = network_names(names, 64);
    printf("networks  ");
    for (int i = 0; i < networks; i++) {
        printf("%s%s", i > 0 ? ", " : "", names[i]);
    }
    printf("%s\n", networks == 0 ? "none found" : "");
    result = print_kernels(context);
    doconv_context_destroy(context);
    return result;
}

const struct command_verb command_info = {
    .name = "info",
    .summary = "the CPU, the kernels, the tuner's cache",
    .help = "usage: doconv info [--isa=NAME] [--threads=N]\n"
            "\n"
            "Prints the library's version, the CPU, the instruction set that plans may use, "
            "threads, caches, the tuner's\n"
            "cache directory and mode, the fingerprint of the set of kernels, the networks that "
            "are found by name, and\n"
            "every kernel of the build, with the bound of its rounding (error) by that of a direct "
            "one.\n"
            "\n"
            "  --isa=NAME    cap on the instruction set: none, avx2, avx512, neon\n"
            "  --threads=N   threads (default: OMP_NUM_THREADS, else one for each CPU)\n",
    .run = run_info,
};

/* SPDX-License-Identifier: MIT */
/* How much of the library's own memory is resident; in a program whose heap nobody fills. */
#include <unistd.h>

#include "api_support.h"

/* Pages of this process in memory, in bytes. */
static size_t resident_bytes(void)
{
    long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    const int read = file != NULL ? fscanf(file, "%ld %ld", &size, &pages) : 0;
    if (file != NULL) {
        fclose(file);
    }
    return read == 2 ? (size_t)pages * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

/* The system gives huge pages to whom did not ask: what is resident is its business. */
static bool huge_pages_always(void)
{
    char text[128] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (file != NULL) {
        const bool read = fgets(text, sizeof text, file) != NULL;
        fclose(file);
        return read && strstr(text, "[always]") != NULL;
    }
    return false;
}

/*
 * Packed weights of sizes around multiples of a huge page take the memory that they were said to,
 * with the library's own allocator.
 */
static void test_resident_weights(void **state)
{
    (void)state;
    if (resident_bytes() == 0 || huge_pages_always()) {
        skip();
    }
    static const int64_t couts[] = {448, 500, 512, 524, 560, 768, 1000, 1024, 1040};
    doconv_context *context = open_context();
    doconv_plan *plans[9];
    doconv_weights *weights[9];
    float *weight = calloc(1040 * 1024, sizeof *weight);
    assert_non_null(weight);
    for (int i = 0; i < 1040 * 1024; i++) {
        weight[i] = 1.0f;
    }
    size_t packed = 0;
    const size_t before = resident_bytes();
    for (int i = 0; i < 9; i++) {
        doconv_conv_desc desc = problem("ic1024ih7oc16");
        desc.cout = couts[i];
        expect_ok(doconv_plan_create(context, &desc, NULL, &plans[i]));
        expect_ok(doconv_weights_create(plans[i], weight, NULL, &weights[i]));
        packed += doconv_plan_packed_size(plans[i]);
    }
    const size_t grown = resident_bytes() - before;
    /* A page at each end of a block, and the plans. */
    if (grown > packed + packed / 20) {
        fail_msg("%zu bytes of packed weights keep %zu bytes resident", packed, grown);
    }
    for (int i = 0; i < 9; i++) {
        doconv_weights_destroy(weights[i]);
        doconv_plan_destroy(plans[i]);
    }
    free(weight);
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resident_weights)};
    return cmocka_run_group_tests_name("resident", tests, NULL, NULL) != 0;
}

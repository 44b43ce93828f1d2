/* SPDX-License-Identifier: MIT */
/* The text of a cache entry: printed and read again, cut, changed, forged. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/registry.h"
#include "cachefile.h"
#include "tuner_fixture.h"

#define REFERENCE "reference:reference_f32@none"

static struct cache_entry make_entry(const char *key)
{
    return fixture_entry_of("reference_f32@none", 1, key);
}

static void assert_same(const struct cache_entry *a, const struct cache_entry *b)
{
    char x[8192], y[8192];
    const size_t length = dc_cachefile_print(a, x, sizeof x);
    assert_true(length > 0);
    assert_int_equal(dc_cachefile_print(b, y, sizeof y), length);
    assert_memory_equal(x, y, length);
}

static void test_round_trip(void **state)
{
    (void)state;
    const struct cache_entry e = make_entry("mb1_ic64ih56oc64 threads=1");
    char text[8192];
    const size_t length = dc_cachefile_print(&e, text, sizeof text);
    assert_true(length > 0 && length < sizeof text);
    assert_int_equal(strlen(text), length);
    assert_memory_equal(text, "doconv-cache 2\nkey mb1_ic64", 27);
    struct cache_entry back;
    assert_null(dc_cachefile_parse(text, length, &back));
    assert_same(&e, &back);
    assert_string_equal(back.key, e.key);
    assert_string_equal(back.variant, e.variant);
    assert_int_equal(back.workspace, e.workspace);
    assert_int_equal(back.count, 3);
    assert_int_equal(back.measured[2].fate, CACHE_SLOWER);
    assert_int_equal(back.measured[1].spread_ppm, 1000);
}

static void test_round_trip_of_two_kernels(void **state)
{
    (void)state;
    struct cache_entry e = make_entry("key"), back;
    char text[8192];
    snprintf(e.variant, sizeof e.variant, "feature:a@none+b@none:way=rows");
    e.second_revision = 2;
    const size_t length = dc_cachefile_print(&e, text, sizeof text);
    assert_non_null(strstr(text, "\nrevision 1+2\n"));
    assert_null(dc_cachefile_parse(text, length, &back));
    assert_same(&e, &back);
    assert_int_equal(back.revision, 1);
    assert_int_equal(back.second_revision, 2);
    e.revision = e.second_revision = 0; /* of portable loops */
    assert_true(dc_cachefile_print(&e, text, sizeof text) > 0);
    assert_non_null(strstr(text, "\nrevision 0\n"));
    e.second_revision = (unsigned)INT32_MAX + 1;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
}

static void test_round_trip_of_extremes(void **state)
{
    (void)state;
    static struct cache_entry e, back;
    static char text[CACHEFILE_SIZE];
    memset(e.key, 'k', sizeof e.key - 1);
    memset(e.variant, 'v', sizeof e.variant - 1);
    e.revision = e.second_revision = INT32_MAX;
    e.workspace = e.picoseconds = e.max_rel_error_e12 = INT64_MAX;
    e.against_picoseconds = INT64_MAX;
    e.confidence_ppm = 1000000;
    e.doubtful = 1;
    memcpy(e.when, "9999-99-99T99:99:99Z", sizeof e.when);
    memset(e.against, 'a', sizeof e.against - 1);
    e.count = CACHEFILE_MEASURED;
    for (int i = 0; i < e.count; i++) {
        memset(e.measured[i].variant, '~', sizeof e.measured[i].variant - 1);
        e.measured[i].picoseconds = INT64_MAX;
        e.measured[i].rounds = e.measured[i].spread_ppm = INT32_MAX;
        e.measured[i].clean = e.measured[i].retaken = INT32_MAX;
        e.measured[i].fate = CACHE_WRONG;
    }
    const size_t length = dc_cachefile_print(&e, text, sizeof text);
    assert_true(length > 0);
    assert_null(dc_cachefile_parse(text, length, &back));
    assert_same(&e, &back);
    const struct cache_entry zero = {
        .key = "k", .variant = "v", .when = FIXTURE_WHEN, .against = "a"};
    const size_t shortest = dc_cachefile_print(&zero, text, sizeof text);
    assert_true(shortest > 0);
    assert_null(dc_cachefile_parse(text, shortest, &back));
    assert_same(&zero, &back);
}

static void test_print_refuses(void **state)
{
    (void)state;
    char text[8192];
    const struct cache_entry good = make_entry("key");
    const size_t length = dc_cachefile_print(&good, text, sizeof text);
    for (size_t size = 0; size <= length; size++) {
        char *exact = malloc(size + 1); /* a write past size bytes shows under a sanitizer */
        assert_non_null(exact);
        exact[size] = 'x';
        assert_int_equal(dc_cachefile_print(&good, exact, size), 0);
        assert_int_equal(exact[size], 'x');
        free(exact);
    }
    assert_int_equal(dc_cachefile_print(&good, text, length + 1), length);
    struct cache_entry e = good;
    e.key[1] = '\n';
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.variant[0] = '\0';
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    memset(e.variant, 'v', sizeof e.variant);
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.picoseconds = -1;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.count = CACHEFILE_MEASURED + 1;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.measured[0].fate = CACHE_WRONG + 1;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.measured[0].clean = e.measured[0].rounds + 1;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.confidence_ppm = 1000001;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.doubtful = 2;
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.when[10] = ' ';
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
    e = good;
    e.against[0] = '\0';
    assert_int_equal(dc_cachefile_print(&e, text, sizeof text), 0);
}

static void test_every_truncation(void **state)
{
    (void)state;
    const struct cache_entry e = make_entry("key");
    struct cache_entry back;
    char text[8192];
    const size_t length = dc_cachefile_print(&e, text, sizeof text);
    for (size_t cut = 0; cut < length; cut++) {
        char *exact = malloc(cut + 1);
        assert_non_null(exact);
        memcpy(exact, text, cut);
        assert_non_null(dc_cachefile_parse(exact, cut, &back));
        free(exact);
    }
}

static void test_every_byte(void **state)
{
    (void)state;
    const struct cache_entry e = make_entry("key");
    struct cache_entry back;
    char text[8192];
    const size_t length = dc_cachefile_print(&e, text, sizeof text);
    for (size_t at = 0; at < length; at++) {
        const char was = text[at];
        for (int bit = 0; bit < 8; bit++) {
            text[at] = (char)(was ^ 1 << bit);
            assert_non_null(dc_cachefile_parse(text, length, &back));
        }
        text[at] = '\0';
        assert_non_null(dc_cachefile_parse(text, length, &back));
        text[at] = was;
    }
    assert_null(dc_cachefile_parse(text, length, &back));
}

/*
 * With the checksum repaired only the parser stands between a changed text and the library: what it
 * accepts must be the printer's text.
 */
static void test_changed_and_sealed(void **state)
{
    (void)state;
    static const char pool[] = "0123456789 \n:=@~-+abcdoconv\0\t\r\x7f\xff";
    const struct cache_entry e = make_entry("mb1_ic64 threads=1");
    struct cache_entry back;
    char text[8192], changed[8192], again[8192];
    const size_t length = dc_cachefile_print(&e, text, sizeof text),
                 body = length - FIXTURE_CHECKSUM;
    uint64_t random = 1;
    int accepted = 0;
    for (int i = 0; i < 20000; i++) {
        size_t size = body;
        memcpy(changed, text, body);
        for (int edits = 1 + i % 3; edits > 0; edits--) {
            random = random * UINT64_C(6364136223846793005) + 1;
            const size_t at = (size_t)(random >> 33) % size;
            const char c = pool[(random >> 20) % (sizeof pool - 1)];
            if (random >> 62 == 0) { /* insert */
                memmove(changed + at + 1, changed + at, size - at);
                changed[at] = c;
                size++;
            } else if (random >> 62 == 1) { /* remove */
                memmove(changed + at, changed + at + 1, size - at - 1);
                size--;
            } else {
                changed[at] = c;
            }
        }
        const size_t sealed = fixture_seal(changed, size);
        if (dc_cachefile_parse(changed, sealed, &back) == NULL) {
            accepted++;
            assert_int_equal(dc_cachefile_print(&back, again, sizeof again), sealed);
            assert_memory_equal(changed, again, sealed);
        }
    }
    assert_in_range(accepted, 100, 19000); /* both ways are tried */
}

#define MEASUREMENT "when " FIXTURE_WHEN "\nagainst 1 a\nconfidence_ppm 1\ndoubtful 0\n"
#define HEAD                                                                                       \
    "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "                      \
    "1\nmax_rel_error_e12 0\n"

static void test_hostile_texts(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "\n",
        "doconv-cache 2\n",
        "doconv-cache 1\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 02\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\r\nkey k\r\nvariant v\r\nrevision 1\r\nworkspace 0\r\npicoseconds "
        "1\r\nmax_rel_error_e12 0\r\n",
        "doconv-cache 2\nkey \nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 2147483648\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "9223372036854775808\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "99999999999999999999999999\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "-1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "+1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1.5\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT "measured 1 1 1 0 0 3 v\n",
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT "measured 1 1 1 0 0 0 \n",
        "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT "more\n",
        HEAD,
        HEAD "measured 1 1 2 0 0 0 v\n",
        HEAD "when 2026-11-27 22:56:22Z\nagainst 1 a\nconfidence_ppm 1\ndoubtful 0\n",
        HEAD "when " FIXTURE_WHEN "Z\nagainst 1 a\nconfidence_ppm 1\ndoubtful 0\n",
        HEAD "when " FIXTURE_WHEN "\nagainst a\nconfidence_ppm 1\ndoubtful 0\n",
        HEAD "when " FIXTURE_WHEN "\nagainst 1 a\nconfidence_ppm 1000001\ndoubtful 0\n",
        HEAD "when " FIXTURE_WHEN "\nagainst 1 a\nconfidence_ppm 1\ndoubtful 2\n",
        HEAD "when " FIXTURE_WHEN "\nagainst 1 a\nconfidence_ppm 1\n",
        "doconv-cache 2\nvariant v\nkey k\nrevision 1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1+\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision +1\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1+0\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1+02\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1+2147483648\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
        "doconv-cache 2\nkey k\nvariant v\nrevision 1+2+3\nworkspace 0\npicoseconds "
        "1\nmax_rel_error_e12 0\n" MEASUREMENT,
    };
    static char text[4 * CACHEFILE_SIZE];
    struct cache_entry back;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        strcpy(text, bodies[i]);
        assert_non_null(dc_cachefile_parse(text, fixture_seal(text, strlen(text)), &back));
    }
    size_t used = (size_t)sprintf(text, "doconv-cache 2\nkey k\nvariant v\nrevision 1\nworkspace "
                                        "0\npicoseconds 1\nmax_rel_error_e12 0\n" MEASUREMENT);
    assert_null(dc_cachefile_parse(text, fixture_seal(text, used), &back));
    for (int i = 0; i <= CACHEFILE_MEASURED; i++) {
        assert_int_equal(back.count, i);
        used += (size_t)sprintf(text + used, "measured 1 1 1 0 0 0 v\n");
        const char *reason = dc_cachefile_parse(text, fixture_seal(text, used), &back);
        assert_true((reason == NULL) == (i < CACHEFILE_MEASURED));
        back.count = reason == NULL ? back.count : i + 1;
    }
    used = (size_t)sprintf(text, "doconv-cache 2\nkey ");
    memset(text + used, 'k', 3 * CACHEFILE_SIZE);
    /* one too long, without its newline */
    assert_non_null(dc_cachefile_parse(text, fixture_seal(text, used + DC_KEY_SIZE), &back));
    assert_non_null(dc_cachefile_parse(text, fixture_seal(text, 3 * CACHEFILE_SIZE), &back));
    memset(text, 0, sizeof text);
    assert_non_null(dc_cachefile_parse(text, 1000, &back));
    assert_non_null(dc_cachefile_parse(text, fixture_seal(text, 1000), &back));
    assert_non_null(dc_cachefile_parse(text, 0, &back));
}

static void test_kernel_of_variant(void **state)
{
    (void)state;
    size_t length = 99;
    assert_memory_equal(dc_cachefile_kernel("direct:k@avx2:rows=1", &length), "k@avx2", 6);
    assert_int_equal(length, 6);
    assert_non_null(dc_cachefile_kernel(REFERENCE, &length));
    assert_int_equal(length, strlen(REFERENCE) - 10);
    assert_null(dc_cachefile_kernel("direct", &length));
    assert_non_null(dc_cachefile_kernel("direct:", &length));
    assert_int_equal(length, 0);
    static const char pair[] = "feature:k@avx2+second@avx2:way=rows";
    assert_ptr_equal(dc_cachefile_kernel(pair, &length), pair + 8);
    assert_int_equal(length, 6);
    assert_ptr_equal(dc_cachefile_second(pair, &length), pair + 15);
    assert_int_equal(length, 11);
    assert_null(dc_cachefile_second("direct:k@avx2:a+b", &length));
    assert_null(dc_cachefile_second("direct", &length));
    assert_non_null(dc_cachefile_second("feature:k+", &length));
    assert_int_equal(length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_of_two_kernels),
        cmocka_unit_test(test_round_trip_of_extremes),
        cmocka_unit_test(test_print_refuses),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_changed_and_sealed),
        cmocka_unit_test(test_hostile_texts),
        cmocka_unit_test(test_kernel_of_variant),
    };
    return cmocka_run_group_tests_name("cachefile", tests, NULL, NULL);
}

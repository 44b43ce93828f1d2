/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sysconf's cache levels, sched_getaffinity */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cpu.h"
#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/*
 * A bundle counts only when the OS saves its registers too: CPUID alone would crash under an old
 * kernel or hypervisor.
 */
static enum dc_isa probe_isa(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) {
        return DC_ISA_NONE;
    }
    const unsigned osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12;
    if ((c & (osxsave | avx | fma)) != (osxsave | avx | fma)) {
        return DC_ISA_NONE;
    }
    const uint64_t xcr0 = read_xcr0();
    if ((xcr0 & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5)) {
        return DC_ISA_NONE;
    }
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((xcr0 & 0xe0) == 0xe0 && (b & avx512) == avx512) {
        return DC_ISA_AVX512;
    }
    return DC_ISA_AVX2;
}

static void probe_name(char *name, size_t size)
{
    unsigned regs[12];
    snprintf(name, size, "x86-64");
    if (__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        __get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2],
                    &regs[4 * i + 3]);
    }
    /* The signature tells apart the models that virtual machines give one name. */
    unsigned a = 0, b, c, d;
    __get_cpuid(1, &a, &b, &c, &d);
    char brand[49];
    memcpy(brand, regs, 48);
    brand[48] = '\0';
    const char *start = brand + strspn(brand, " ");
    snprintf(name, size, "%.*s (%x)", 48, start, a);
}
/* Zen 4 (AMD family 19h) runs 512-bit operations on 256-bit units. */
static double probe_fma512(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx ||
        !__get_cpuid(1, &a, &b, &c, &d)) {
        return 2.0;
    }
    const unsigned family = (a >> 8 & 15) + (a >> 20 & 255);
    return family <= 0x19 ? 1.0 : 2.0;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static enum dc_isa probe_isa(void)
{
    /* HWCAP_ASIMD; getauxval is right under emulation, where /proc/cpuinfo may be the host's. */
    return (getauxval(AT_HWCAP) & (1ul << 1)) ? DC_ISA_NEON : DC_ISA_NONE;
}

static void probe_name(char *name, size_t size)
{
    unsigned long midr = 0;
    if (getauxval(AT_HWCAP) & (1ul << 11)) { /* HWCAP_CPUID: the OS emulates reads of MIDR_EL1 */
        __asm__("mrs %0, MIDR_EL1" : "=r"(midr));
    }
    snprintf(name, size, "aarch64 (%lx)", midr);
}
#else
static enum dc_isa probe_isa(void)
{
    return DC_ISA_NONE;
}

static void probe_name(char *name, size_t size)
{
    snprintf(name, size, "unknown CPU");
}
#endif

static int64_t cache_bytes(int name, const char *sys_index, int64_t fallback)
{
    /* The kernel first: a C library may add up what several cores share. */
    char path[96];
    long kib = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/%s/size", sys_index);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%ldK", &kib) != 1) {
            kib = 0;
        }
        fclose(file);
    }
    if (kib > 0) {
        return (int64_t)kib * 1024;
    }
    const long bytes = sysconf(name);
    return bytes > 0 ? bytes : fallback;
}

/* Not every C library knows these names: -1 is none of any. */
#ifndef _SC_LEVEL1_DCACHE_SIZE
#define _SC_LEVEL1_DCACHE_SIZE (-1)
#define _SC_LEVEL2_CACHE_SIZE (-1)
#define _SC_LEVEL3_CACHE_SIZE (-1)
#endif

static struct dc_cpu probed;
static pthread_once_t probe_once = PTHREAD_ONCE_INIT;

static void probe(void)
{
    probed.isa = probe_isa();
    probe_name(probed.name, sizeof probed.name);
#if defined(__x86_64__)
    probed.fma512_per_cycle = probe_fma512();
#else
    probed.fma512_per_cycle = 2.0;
#endif
    probed.l1d_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, "index0", 32 * 1024);
    probed.l2_bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE, "index2", 512 * 1024);
    probed.l3_bytes = cache_bytes(_SC_LEVEL3_CACHE_SIZE, "index3", 0);
}

const struct dc_cpu *dc_cpu_probe(void)
{
    pthread_once(&probe_once, probe);
    return &probed;
}

int dc_usable_cpus(void)
{
#ifdef __linux__
    /* A set too small for the machine's CPUs is an error. */
    cpu_set_t sets[16];
    if (sched_getaffinity(0, sizeof sets, sets) == 0) {
        const int count = CPU_COUNT_S(sizeof sets, sets);
        return count > 0 ? count : 1;
    }
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online <= INT_MAX ? (int)online : 1;
}

bool dc_isa_usable(enum dc_isa isa, enum dc_isa best)
{
    if (isa == DC_ISA_NONE) {
        return true;
    }
    if (isa == DC_ISA_NEON || best == DC_ISA_NEON) {
        return isa == best;
    }
    return isa <= best;
}

const char *dc_isa_name(enum dc_isa isa)
{
    switch (isa) {
    case DC_ISA_NONE:
        return "none";
    case DC_ISA_AVX2:
        return "avx2";
    case DC_ISA_AVX512:
        return "avx512";
    case DC_ISA_NEON:
        return "neon";
    }
    return "unknown";
}

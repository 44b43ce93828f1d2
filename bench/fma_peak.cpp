/* SPDX-License-Identifier: MIT */
/*
 * The peak: FMAs on registers alone, with more independent accumulators than any core needs to hide
 * their latency. Assembly, because the figure must not depend on what a compiler makes of the loop.
 */
#include "bench_engine.h"

namespace bench
{

namespace
{

constexpr long loop_count = 8000;

struct fma_loop {
    void (*run)(long count);
    double flops; /* of one pass */
};

#define R4(op, a, b, c, d) op(a) op(b) op(c) op(d)

#if defined(__x86_64__)

#define AVX512_ZERO(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define AVX512_FMA(n) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #n "\n\t"
#define AVX512_ALL(op)                                                                             \
    R4(op, 0, 1, 2, 3)                                                                             \
    R4(op, 4, 5, 6, 7)                                                                             \
    R4(op, 8, 9, 10, 11) R4(op, 12, 13, 14, 15) R4(op, 16, 17, 18, 19) R4(op, 20, 21, 22, 23)

__attribute__((target("avx512f"))) void run_avx512(long count)
{
    const float a = 0.7f, b = 0.3f;
    __asm__ volatile(AVX512_ALL(AVX512_ZERO) "vbroadcastss %[a], %%zmm30\n\t"
                                             "vbroadcastss %[b], %%zmm31\n\t"
                                             ".p2align 5\n"
                                             "1:\n\t" AVX512_ALL(AVX512_FMA) "decq %[count]\n\t"
                                                                             "jnz 1b\n\t"
                                                                             "vzeroupper"
                     : [count] "+r"(count)
                     : [a] "m"(a), [b] "m"(b)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16",
                       "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30",
                       "xmm31");
}

#define AVX2_ZERO(n) "vxorps %%ymm" #n ", %%ymm" #n ", %%ymm" #n "\n\t"
#define AVX2_FMA(n) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #n "\n\t"
#define AVX2_ALL(op) R4(op, 0, 1, 2, 3) R4(op, 4, 5, 6, 7) R4(op, 8, 9, 10, 11)

__attribute__((target("avx2,fma"))) void run_avx2(long count)
{
    const float a = 0.7f, b = 0.3f;
    __asm__ volatile(AVX2_ALL(AVX2_ZERO) "vbroadcastss %[a], %%ymm14\n\t"
                                         "vbroadcastss %[b], %%ymm15\n\t"
                                         ".p2align 5\n"
                                         "1:\n\t" AVX2_ALL(AVX2_FMA)
                                             AVX2_ALL(AVX2_FMA) "decq %[count]\n\t"
                                                                "jnz 1b\n\t"
                                                                "vzeroupper"
                     : [count] "+r"(count)
                     : [a] "m"(a), [b] "m"(b)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
}

/* The baseline of x86-64 has no FMA: a multiplication and an addition. */
#define SSE_ZERO(n) "xorps %%xmm" #n ", %%xmm" #n "\n\t"
#define SSE_ADD(n) "addps %%xmm15, %%xmm" #n "\n\t"
#define SSE_MUL(n) "mulps %%xmm14, %%xmm" #n "\n\t"

void run_none(long count)
{
    const float a = 0.7f;
    __asm__ volatile(AVX2_ALL(SSE_ZERO) "movss %[a], %%xmm14\n\t"
                                        "shufps $0, %%xmm14, %%xmm14\n\t"
                                        "movaps %%xmm14, %%xmm15\n\t"
                                        ".p2align 5\n"
                                        "1:\n\t" R4(SSE_ADD, 0, 1, 2, 3) R4(SSE_MUL, 6, 7, 8, 9)
                                            R4(SSE_ADD, 4, 5, 0, 1) R4(SSE_MUL, 10, 11, 6, 7)
                                                R4(SSE_ADD, 2, 3, 4, 5)
                                                    R4(SSE_MUL, 8, 9, 10, 11) "decq %[count]\n\t"
                                                                              "jnz 1b\n\t"
                     : [count] "+r"(count)
                     : [a] "m"(a)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
}

fma_loop choose_loop(doconv_isa isa)
{
    switch (isa) {
    case DOCONV_ISA_AVX512:
        return {run_avx512, 24 * 16 * 2};
    case DOCONV_ISA_AVX2:
        return {run_avx2, 24 * 8 * 2};
    default:
        return {run_none, 24 * 4};
    }
}

#elif defined(__aarch64__)

#define NEON_ZERO(n) "movi v" #n ".4s, #0\n\t"
#define NEON_FMA(n) "fmla v" #n ".4s, v30.4s, v31.4s\n\t"
#define NEON_ALL(op)                                                                               \
    R4(op, 0, 1, 2, 3)                                                                             \
    R4(op, 4, 5, 6, 7)                                                                             \
    R4(op, 16, 17, 18, 19) R4(op, 20, 21, 22, 23) R4(op, 24, 25, 26, 27) R4(op, 8, 9, 10, 11)

void run_neon(long count)
{
    __asm__ volatile(
        NEON_ALL(NEON_ZERO) "fmov v30.4s, #0.75\n\t"
                            "fmov v31.4s, #0.3125\n\t"
                            "1:\n\t" NEON_ALL(NEON_FMA) "subs %[count], %[count], #1\n\t"
                                                        "b.ne 1b\n\t"
        : [count] "+r"(count)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v16",
          "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v30",
          "v31");
}

fma_loop choose_loop(doconv_isa)
{
    return {run_neon, 24 * 4 * 2};
}

#else

/*
 * No bundle for this architecture: what the compiler makes of independent multiplications and
 * additions.
 */
void run_plain(long count)
{
    volatile float sink[16];
    float sum[16] = {};
    for (long i = 0; i < count; i++) {
        for (float &s : sum) {
            s = s * 0.7f + 0.3f;
        }
        __asm__ volatile("" : : "r"(sum) : "memory");
    }
    for (int i = 0; i < 16; i++) {
        sink[i] = sum[i];
    }
    static_cast<void>(sink);
}

fma_loop choose_loop(doconv_isa)
{
    return {run_plain, 16 * 2};
}

#endif

} // namespace

peak_runner::peak_runner(doconv_isa isa, int threads) : threads_(threads)
{
    const fma_loop loop = choose_loop(isa);
    loop_ = loop.run;
    flops_ = loop.flops * loop_count * threads;
}

void peak_runner::run()
{
#ifdef _OPENMP
    if (threads_ > 1) {
#pragma omp parallel num_threads(threads_)
        loop_(loop_count);
        return;
    }
#endif
    loop_(loop_count);
}

} // namespace bench

/* SPDX-License-Identifier: MIT */
/*
 * The copy: plain vector loads and stores, because a C library's memcpy chooses vectors and stores
 * past the caches as it likes, and a layer is to be compared with what its own ISA and ordinary
 * stores reach.
 */
#include "bench_engine.h"

namespace bench
{

namespace
{

constexpr size_t step = 256; /* bytes of a pass of the loops: four of the widest vectors */

/*
 * The assembly is empty: it keeps the compiler from making calls of memcpy of the loops, and from
 * dropping the loads. register_class: of a vector in assembly.
 */
#define STREAM(name, target_attribute, width, register_class)                                      \
    target_attribute void copy_##name(const float *from, float *to, size_t floats)                 \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(width)));                                  \
        const vector *in = reinterpret_cast<const vector *>(from);                                 \
        vector *out = reinterpret_cast<vector *>(to);                                              \
        for (size_t left = floats / ((width) / sizeof(float)); left > 0;                           \
             left -= 4, in += 4, out += 4) {                                                       \
            vector a = in[0], b = in[1], c = in[2], d = in[3];                                     \
            __asm__ volatile(""                                                                    \
                             : "+" register_class(a), "+" register_class(b),                       \
                               "+" register_class(c), "+" register_class(d));                      \
            out[0] = a;                                                                            \
            out[1] = b;                                                                            \
            out[2] = c;                                                                            \
            out[3] = d;                                                                            \
        }                                                                                          \
    }                                                                                              \
    target_attribute void read_##name(const float *from, size_t floats)                            \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(width)));                                  \
        const vector *in = reinterpret_cast<const vector *>(from);                                 \
        for (size_t left = floats / ((width) / sizeof(float)); left > 0; left -= 4, in += 4) {     \
            const vector a = in[0], b = in[1], c = in[2], d = in[3];                               \
            __asm__ volatile(""                                                                    \
                             :                                                                     \
                             : register_class(a), register_class(b), register_class(c),            \
                               register_class(d));                                                 \
        }                                                                                          \
    }

struct loops {
    void (*copy)(const float *from, float *to, size_t floats);
    void (*read)(const float *from, size_t floats);
};

#if defined(__x86_64__)

STREAM(avx512, __attribute__((target("avx512f"))), 64, "v")
STREAM(avx2, __attribute__((target("avx2"))), 32, "x")
STREAM(none, , 16, "x")

loops choose_loops(doconv_isa isa)
{
    switch (isa) {
    case DOCONV_ISA_AVX512:
        return {copy_avx512, read_avx512};
    case DOCONV_ISA_AVX2:
        return {copy_avx2, read_avx2};
    default:
        return {copy_none, read_none};
    }
}

#elif defined(__aarch64__)

STREAM(neon, , 16, "w")

loops choose_loops(doconv_isa)
{
    return {copy_neon, read_neon};
}

#else

/* No bundle for this architecture: what the compiler makes of it. */
void copy_plain(const float *from, float *to, size_t floats)
{
    std::copy_n(from, floats, to);
    __asm__ volatile("" : : "r"(to) : "memory");
}

void read_plain(const float *from, size_t floats)
{
    float sum[16] = {};
    for (size_t i = 0; i < floats; i++) {
        sum[i % 16] += from[i];
    }
    __asm__ volatile("" : : "r"(sum) : "memory");
}

loops choose_loops(doconv_isa)
{
    return {copy_plain, read_plain};
}

#endif

size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

} // namespace

copy_runner::copy_runner(const problem &p, doconv_isa isa, int threads, bool cold)
    : threads_(static_cast<size_t>(threads)),
      half_(round_up((p.activation_bytes() + (cold ? 0 : p.weight_bytes())) / 2, step)),
      cold_(cold ? round_up(p.weight_bytes(), step) : 0)
{
    const loops of_isa = choose_loops(isa);
    copy_ = of_isa.copy;
    read_ = of_isa.read;
    /*
     * Half a page between the halves: a load must not look like one of what was stored just before
     * it.
     */
    const size_t distance = round_up(half_, 4096) + 2048;
    halves_ = buffer(distance + half_);
    to_ = halves_.data() + distance / sizeof(float);
    copy_runner::hold_copies(0);
}

void copy_runner::hold_copies(size_t bytes)
{
    if (cold_ > 0) {
        weights_ = buffer(0);
        copies_ = copies_for(bytes, cold_);
        weights_ = buffer(copies_ * cold_,
                          cold_ >= (size_t{2} << 20) ? buffer::use::weights : buffer::use::any);
        next_ = 0;
    }
}

/* A thread's share of the steps. */
void copy_runner::run_part(size_t part) const
{
    const auto floats_before = [&](size_t bytes, size_t p) {
        return bytes / step * p / threads_ * (step / sizeof(float));
    };
    const size_t start = floats_before(half_, part), end = floats_before(half_, part + 1);
    copy_(halves_.data() + start, to_ + start, end - start);
    if (cold_ > 0) {
        const size_t first = floats_before(cold_, part), last = floats_before(cold_, part + 1);
        read_(weights_.data() + next_ * cold_ / sizeof(float) + first, last - first);
    }
}

void copy_runner::run()
{
    next_ = next_ + 1 < copies_ ? next_ + 1 : 0;
#ifdef _OPENMP
    if (threads_ > 1) {
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(threads_))
        for (size_t part = 0; part < threads_; part++) {
            run_part(part);
        }
        return;
    }
#endif
    run_part(0);
}

} // namespace bench

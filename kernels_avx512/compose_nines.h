/* SPDX-License-Identifier: MIT */
/*
 * Composing for nine taps and D_mul 9 with outputs for lanes: a channel's D then is scalars, which
 * the multiplications broadcast from memory as they are, where with channels for lanes D has to be
 * transposed, and a vector of it loaded for each multiplication.
 *
 * The price is that a vector's rows are Cin rows apart, and that transposing works on eight columns
 * while a channel has nine. So eight channels go together: of the octets of their 72 columns,
 * channel k has the last 8 - k columns of octet k and the first k + 1 of octet k + 1. Sums leave by
 * octets too.
 *
 * All that stands between the multiplications has two operands. On Zen 4 what has a third (a
 * merging mask, the data of a plain store) takes it away from a multiplication, which has three: 36
 * stores among 162 multiplications cost 80 cycles. Half a vector extracted to memory costs none,
 * nor does a blend.
 */
#ifndef DOCONV_COMPOSE_NINES_H
#define DOCONV_COMPOSE_NINES_H

#include "body_compose.h"

#define INLINE static inline __attribute__((always_inline))
/* A loop over vectors in registers, which must not stay a loop. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

INLINE void octet_of_rows(const float *from, ptrdiff_t step, vec *columns)
{
    vec r[8];
    EACH(i, 4)
    {
        r[i] = join_halves(from + i * step, from + (i + 4) * step);
        r[i + 4] = join_halves(from + (i + 8) * step, from + (i + 12) * step);
    }
    transpose_octet(r, columns);
}

#define STORE_HALF(to, v, half)                                                                    \
    __asm__ volatile("vextractf32x8 $" #half ", %1, %0" : "=m"(*(float(*)[8])(to)) : "v"(v))

INLINE void octet_to_rows(const vec *columns, float *to, ptrdiff_t step, __mmask16 odd_quarters)
{
    vec x[4], y[4];
    EACH(i, 4)
    {
        x[i] = BLEND(columns[i], TURN(columns[i + 4], 12), odd_quarters);
        y[i] = BLEND(TURN(columns[i], 4), columns[i + 4], odd_quarters);
    }
    transpose_quads(&x[0], &x[1], &x[2], &x[3]);
    EACH(i, 4)
    {
        STORE_HALF(to + i * step, x[i], 0);
        STORE_HALF(to + (i + 8) * step, x[i], 1);
    }
    transpose_quads(&y[0], &y[1], &y[2], &y[3]);
    EACH(i, 4)
    {
        STORE_HALF(to + (i + 4) * step, y[i], 0);
        STORE_HALF(to + (i + 12) * step, y[i], 1);
    }
}

/*
 * Columns [s, s_end) of a channel, in its taps [m, m_end), whose sums begin with it where s is 0.
 */
INLINE void add_products(const float *d, int d_turned, int identity, int s, int s_end, int m,
                         int m_end, const vec *columns, vec *sums)
{
    if (s == 0) {
        EACH(j, m_end - m)
        {
            sums[m + j] = identity ? columns[m + j] : v_zero();
        }
    }
    EACH(i, s_end - s)
    {
        EACH(j, m_end - m)
        {
            const float *const at = d + (d_turned ? (s + i) * 9 + m + j : (m + j) * 9 + s + i);
            __asm__("vfmadd231ps %2%{1to16%}, %1, %0"
                    : "+v"(sums[m + j])
                    : "v"(columns[s + i]), "m"(*at));
        }
    }
}

/*
 * 16 rows of eight channels. Units go along the rows of a panel of channels, as memory does; the
 * last 16 rows may be some of those before once more.
 */
struct nines_unit {
    const float *w, *d;
    float *weight;
    ptrdiff_t channel, row;
};

INLINE struct nines_unit nines_unit_at(const struct nines *of, ptrdiff_t channel, ptrdiff_t row)
{
    return (struct nines_unit){
        .w = of->w + row * of->w_step + channel * 9,
        .d = of->d + channel * 81,
        .weight = of->weight + row * of->weight_step + channel * 9,
        .channel = channel,
        .row = row,
    };
}

/* Channels of a panel, whose rows and those that are prefetched have to be in L2 together. */
#define PANEL_CHANNELS 256

/* After the last one the last one. */
INLINE struct nines_unit nines_unit_after(const struct nines *of, const struct nines_unit *unit)
{
    const ptrdiff_t next = unit->channel + 8,
                    panel = unit->channel / PANEL_CHANNELS * PANEL_CHANNELS;
    if (next < of->channels && next < panel + PANEL_CHANNELS) {
        return nines_unit_at(of, next, unit->row);
    }
    if (unit->row + 16 < of->rows) {
        return nines_unit_at(of, panel,
                             unit->row + 32 <= of->rows ? unit->row + 16 : of->rows - 16);
    }
    return next < of->channels ? nines_unit_at(of, next, 0) : *unit;
}

/*
 * What is prefetched where rows are in memory: the panel's next 16 in its order, in which hardware
 * then goes on by itself.
 */
struct nines_ahead {
    uintptr_t w, weight;
    ptrdiff_t left, channels; /* of the row and of all, 0: nothing */
};

/* At the first unit of 16 rows. */
static inline struct nines_ahead nines_ahead_of(const struct nines *of,
                                                const struct nines_unit *unit)
{
    ptrdiff_t channel = unit->channel, row = unit->row + 16;
    if (row >= of->rows) {
        channel += PANEL_CHANNELS;
        row = 0;
    }
    if (!of->in_memory || channel >= of->channels) {
        return (struct nines_ahead){.channels = 0};
    }
    const ptrdiff_t channels =
        of->channels - channel < PANEL_CHANNELS ? of->channels - channel : PANEL_CHANNELS;
    return (struct nines_ahead){
        .w = (uintptr_t)(of->w + channel * 9) + (uintptr_t)(row * of->w_step) * sizeof(float),
        .weight = (uintptr_t)(of->weight + channel * 9) +
                  (uintptr_t)(row * of->weight_step) * sizeof(float),
        .left = channels,
        .channels = channels,
    };
}

/* 32 channels of a row, which is a quarter of a unit. */
INLINE void nines_fetch_ahead(const struct nines *of, struct nines_ahead *ahead)
{
    for (ptrdiff_t line = 0; line < 32 * 36; line += 64) {
        __builtin_prefetch((const void *)(ahead->w + (uintptr_t)line), 0, 2);
        __builtin_prefetch((const void *)(ahead->weight + (uintptr_t)line), 0, 2);
    }
    ahead->w += 32 * 36;
    ahead->weight += 32 * 36;
    ahead->left -= 32;
    if (ahead->left <= 0) {
        ahead->w += (uintptr_t)(of->w_step * (ptrdiff_t)sizeof(float) -
                                (ahead->channels - ahead->left) * 36);
        ahead->weight += (uintptr_t)(of->weight_step * (ptrdiff_t)sizeof(float) -
                                     (ahead->channels - ahead->left) * 36);
        ahead->left = ahead->channels;
    }
}

/* An eighth of a unit's rows: they are too many streams for hardware to follow. */
INLINE void nines_fetch(const float *w, ptrdiff_t w_step, int eighth)
{
    for (int row = 2 * eighth; row < 2 * eighth + 2; row++) {
        for (int line = 0; line < 72; line += 16) {
            __builtin_prefetch(w + row * w_step + line, 0, 3);
        }
    }
}

INLINE void nines_units(const struct nines *of, const int d_turned, const int identity)
{
    const ptrdiff_t w_step = of->w_step, weight_step = of->weight_step;
    struct nines_unit unit = nines_unit_at(of, 0, 0);
    __mmask16 odd_quarters = 0xf0f0;
    __asm__("" : "+Yk"(odd_quarters)); /* else compilers would load it at each use */
    /*
     * The first octets of a unit are made, and the last one of its sums leaves, while its neighbour
     * multiplies.
     */
    vec first[16], last[8];
    float *before = NULL;
    octet_of_rows(unit.w, w_step, first);
    octet_of_rows(unit.w + 8, w_step, first + 8);
    EACH(i, 8)
    {
        last[i] = v_zero();
    }
    struct nines_ahead ahead = {.channels = 0};
    for (ptrdiff_t left = (of->rows + 15) / 16 * (of->channels / 8); left > 0; left--) {
        if (unit.channel % PANEL_CHANNELS == 0) {
            ahead = nines_ahead_of(of, &unit);
        }
        const float *d = unit.d;
        __asm__("" : "+r"(d)); /* D stays in memory: there are no registers for it */
        const float *const w = unit.w;
        float *const weight = unit.weight;
        unit = nines_unit_after(of, &unit);
        const float *const next = unit.w;
        vec columns[80], sums[72]; /* only few at a time are anywhere, and that is in registers */
        EACH(i, 16)
        {
            columns[i] = first[i];
        }
#define NINES_ADD(k, s, s_end, m, m_end)                                                           \
    add_products(d + (k)*81, d_turned, identity, s, s_end, m, m_end, columns + (k)*9, sums + (k)*9);
#define NINES_OUT(octet)                                                                           \
    octet_to_rows(sums + (octet)*8, weight + (octet)*8, weight_step, odd_quarters);
#define NINES_IN(octet) octet_of_rows(w + (octet)*8, w_step, columns + (octet)*8);
/*
 * Channel k: an octet of sums of the channels before leaves amid its first taps, an octet of
 * columns for the next one comes amid the others.
 */
#define NINES_CHANNEL(k, LEAVING, COMING)                                                          \
    NINES_ADD(k, 0, 6, 0, 5)                                                                       \
    LEAVING NINES_ADD(k, 6, 9, 0, 5) nines_fetch(next, w_step, k);                                 \
    if ((k) % 2 != 0 && ahead.channels != 0) {                                                     \
        nines_fetch_ahead(of, &ahead);                                                             \
    }                                                                                              \
    NINES_ADD(k, 0, 6, 5, 9) COMING NINES_ADD(k, 6, 9, 5, 9)
#define NINES_LAST                                                                                 \
    if (before != NULL) {                                                                          \
        octet_to_rows(last, before, weight_step, odd_quarters);                                    \
    }
        NINES_CHANNEL(0, NINES_LAST, NINES_IN(2))
        NINES_CHANNEL(1, NINES_OUT(0), NINES_IN(3))
        NINES_CHANNEL(2, NINES_OUT(1), NINES_IN(4))
        NINES_CHANNEL(3, NINES_OUT(2), NINES_IN(5))
        NINES_CHANNEL(4, NINES_OUT(3), NINES_IN(6))
        NINES_CHANNEL(5, NINES_OUT(4), NINES_IN(7))
        NINES_CHANNEL(6, NINES_OUT(5), NINES_IN(8))
        NINES_CHANNEL(7, NINES_OUT(6), NINES_OUT(7) octet_of_rows(next, w_step, first);)
        octet_of_rows(next + 8, w_step, first + 8);
        EACH(i, 8)
        {
            last[i] = sums[64 + i];
        }
        before = weight + 64;
    }
    octet_to_rows(last, before, weight_step, odd_quarters);
}

#define NINES_UNITS(name, d_turned, identity)                                                      \
    static __attribute__((noinline)) void name(const struct nines *of)                             \
    {                                                                                              \
        nines_units(of, d_turned, identity);                                                       \
    }
NINES_UNITS(nines_plain, 0, 0)
NINES_UNITS(nines_identity, 0, 1)
NINES_UNITS(nines_turned_plain, 1, 0)
NINES_UNITS(nines_turned_identity, 1, 1)

/* Would 16 rows meet in one set of L1's lines? */
static inline int rows_collide(ptrdiff_t step)
{
    return step * (ptrdiff_t)sizeof(float) % 4096 == 0;
}

INLINE void copy_nines_rows(const float *from, ptrdiff_t from_step, float *to, ptrdiff_t to_step,
                            ptrdiff_t rows)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t i = 0; i < 72; i += 8) {
            _mm256_storeu_ps(to + r * to_step + i, _mm256_loadu_ps(from + r * from_step + i));
        }
    }
}

static void compose_nines(const struct nines *of)
{
    static void (*const variants[2][2])(const struct nines *) = {
        {nines_plain, nines_identity}, {nines_turned_plain, nines_turned_identity}};
    void (*const units)(const struct nines *) = variants[of->d_turned != 0][of->identity != 0];
    if (of->rows >= 16 && !rows_collide(of->w_step) && !rows_collide(of->weight_step)) {
        units(of);
        return;
    }
    /* Unit by unit, by way of a place where rows are 16 and near each other. */
    float w[16 * 72] = {0}, weight[16 * 72];
    struct nines alone = {
        .w = w, .weight = weight, .channels = 8, .rows = 16, .w_step = 72, .weight_step = 72};
    const ptrdiff_t rows = of->rows < 16 ? of->rows : 16;
    struct nines_ahead ahead = {.channels = 0};
    struct nines_unit unit = nines_unit_at(of, 0, 0);
    for (ptrdiff_t left = (of->rows + 15) / 16 * (of->channels / 8); left > 0; left--) {
        if (unit.channel % PANEL_CHANNELS == 0) {
            ahead = nines_ahead_of(of, &unit);
        }
        copy_nines_rows(unit.w, of->w_step, w, 72, rows);
        for (int i = 0; i < 4 && ahead.channels != 0; i++) {
            nines_fetch_ahead(of, &ahead);
        }
        alone.d = unit.d;
        units(&alone);
        copy_nines_rows(weight, 72, unit.weight, of->weight_step, rows);
        unit = nines_unit_after(of, &unit);
    }
}

#endif

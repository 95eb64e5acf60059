/* SPDX-License-Identifier: Apache-2.0 */
/* machine - what this machine could do at most, measured: the figures that benchmarks stand beside. */
#ifndef KVASIR_BENCH_MACHINE_H
#define KVASIR_BENCH_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Giga multiply-adds a second of one or several threads, each repeating register-only code; 0 where the machine
 * has no such instruction. */
struct machine_peaks {
    double int8_dot;      // bytes multiplied and summed: vpdpbusd, else vpmaddubsw + vpaddw
    double int8_multiply; // the multiplier alone: vpdpbusd, or vpmaddubsw without the sums
    double bf16_dot;      // vdpbf16ps
    double f32_fma;
};

struct machine_peaks machine_peaks(uint32_t threads, double seconds);

enum machine_unit { MACHINE_INT8, MACHINE_F32 };

/* A little of what int8_dot or f32_fma measure, some 40 us, by the calling thread; the multiply-adds in it, 0 where
 * there is no such instruction. */
void machine_piece(enum machine_unit unit);
double machine_piece_macs(enum machine_unit unit);

/* GB/s that threads read from a buffer of `bytes` a thread; more than the last cache for memory. */
double machine_read_gbs(uint32_t threads, size_t bytes, double seconds);

/* One pass of plain loads over bytes; the sum of them, so that no compiler drops it. */
uint64_t machine_read(const uint8_t *bytes, size_t size);

const char *machine_int8_name(void); // the instructions behind int8_dot
uint32_t machine_cores(void);        // this process may use

/* Lines "# key: value" with processor, cores, kernel and compiler. */
void machine_print_header(FILE *out);

/* Seconds now; the median of count values (sorts them). */
double machine_now(void);
double machine_median(double *values, uint32_t count);

#endif

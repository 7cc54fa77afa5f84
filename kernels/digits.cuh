// Counting numbers by a digit of their keys: what selections by radix are made of. A key is the 64 bits of a float64, changed so
// that unsigned integers are in the order that is wanted.
#ifndef SURGEON_DIGITS_CUH
#define SURGEON_DIGITS_CUH

#include "common.cuh"

typedef unsigned long long Key;

__device__ __forceinline__ Key bitsOf(double x) { return (Key)__double_as_longlong(x); }
const Key signBit = 1ull << 63;

// Digit is a digit of a key: `width` bits after the first `read`, of keys whose first bits are prefix. A shift by all 64 bits is
// undefined in C, so shifts are made in two steps where they may be.
struct Digit {
	Key prefix;
	int read, width;
	__device__ __forceinline__ bool has(Key k) const { return read == 0 || k >> (64 - read) == prefix; }
	__device__ __forceinline__ unsigned of(Key k) const { return width == 0 ? 0 : (unsigned)(k << read >> (64 - width)); }
};

const unsigned noPlace = 0xffffffffu;

// countWarp is counts[place] + 1 for each thread of a warp, unless its place is noPlace. Most numbers have one of a few exponents,
// and 0 may be most of all: the threads that have the same place send one of them, so that no two wait for each other.
__device__ __forceinline__ void countWarp(uint32_t *counts, unsigned place) {
	unsigned alike = __match_any_sync(allLanes, place);
	if (place != noPlace && __ffs((int)alike) - 1 == (int)threadIdx.x % 32)
		atomicAdd(&counts[place], (uint32_t)__popc(alike));
}

#endif

// CUDA C++ on CPU fibers: what the kernels need of it, so that g++ compiles the same .cu files and runs them anywhere, with
// AddressSanitizer and UBSan looking on.
//
// Every thread of a block is a fiber. A warp runs alone until all of its threads wait for the block (__syncthreads), or for a gate
// (warpgroup.h); in it the threads one after the other until each waits for the warp (shuffles, tensor-core products); then
// the next warp. Both orders are shuffled by a seed (SURGEON_EMU_SEED, default 1). So warps are as far out of step as barriers
// allow: where one is missing, a thread reads what nobody has written yet, or overwrites what others have still to read. Blocks run
// one after the other, in an order drawn likewise, those of a cluster together. Shared memory is new for every block, full of NaN,
// and of exactly the size that was asked for. Asynchronous copies and products of warpgroups take effect at once for one half of the
// threads, and not before they are waited for for the other; copies of tiles (warpgroup.h) arrive late and in any order.
//
// SURGEON_EMU_FAIL_AT=n makes the n-th launch and all after it fail, as on a GPU that is lost.
//
// What this proves is index arithmetic, barriers that results depend on, and results; not speed. Races that did no harm in the order
// that was run, and those between blocks, are for races.cpp.
#ifndef SURGEON_EMU_H
#define SURGEON_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#include "races.h"

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) double2 { double x, y; };
struct __align__(8) uint2 { uint32_t x, y; };
struct __align__(16) uint4 { uint32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return float2{x, y}; }
inline double2 make_double2(double x, double y) { return double2{x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return uint2{x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{x, y, z, w}; }

enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {

int launch(unsigned cluster, dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()> &body);
void *sharedMemory(); // of the running thread's block
void blockBarrier();
int blockBarrierOr(int p); // whether p of a thread of the block was not 0
void warpBarrier();
void warpFence(); // one that also orders memory
int lane(); // of the running thread in its warp
// exchange is 64 bytes for each lane of the running thread's warp, to be read after a warpBarrier. There are two of it, in turn:
// who comes to write the first one again has passed the barrier of the second, where all had read the first.
typedef char Lanes[32][64];
Lanes &exchange();

// fromLane is the value that another lane of the warp passes at the same place.
template <class T> T fromLane(T v, int source) {
	static_assert(sizeof(T) <= 64, "too large for a shuffle");
	Lanes &lanes = exchange();
	memcpy(lanes[lane()], &v, sizeof v);
	warpBarrier();
	memcpy(&v, lanes[source & 31], sizeof v);
	return v;
}

// lanesWhere has a bit for every lane of the warp whose value at the same place is what f asks for.
template <class T, class F> uint32_t lanesWhere(T v, F f) {
	Lanes &lanes = exchange();
	memcpy(lanes[lane()], &v, sizeof v);
	warpBarrier();
	uint32_t bits = 0;
	for (int i = 0; i < 32; i++) {
		memcpy(&v, lanes[i], sizeof v);
		bits |= (uint32_t)f(v) << i;
	}
	return bits;
}

} // namespace emu

inline void __syncthreads() { emu::blockBarrier(); }
inline int __syncthreads_or(int p) { return emu::blockBarrierOr(p); }
inline void __syncwarp(unsigned = 0xffffffffu) { emu::warpFence(); }
template <class T> T __shfl_sync(unsigned, T v, int source) { return emu::fromLane(v, source); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return emu::fromLane(v, emu::lane() ^ mask); }
template <class T> T __shfl_down_sync(unsigned, T v, int n) { return emu::fromLane(v, emu::lane() + n < 32 ? emu::lane() + n : emu::lane()); }
template <class T> T __shfl_up_sync(unsigned, T v, int n) { return emu::fromLane(v, emu::lane() >= n ? emu::lane() - n : emu::lane()); }
inline int __any_sync(unsigned, int p) { return emu::lanesWhere(p, [](int q) { return q != 0; }) != 0; }
inline unsigned __match_any_sync(unsigned, unsigned v) { return emu::lanesWhere(v, [=](unsigned w) { return w == v; }); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }

inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
inline long long __double_as_longlong(double d) { long long u; memcpy(&u, &d, 8); return u; }
inline double __longlong_as_double(long long u) { double d; memcpy(&d, &u, 8); return d; }
template <class T> T __ldg(const T *p) { return *p; }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __frcp_rn(float x) { return 1 / x; }
// For the detector of races these are no reads and writes.
#define EMU_ATOMIC __attribute__((noinline, no_sanitize("thread")))
template <class T> EMU_ATOMIC T atomicMin(T *p, T v) { emu::raceAtomic(p, sizeof *p, __builtin_return_address(0)); T old = *p; if (v < old) *p = v; return old; }
template <class T> EMU_ATOMIC T atomicMax(T *p, T v) { emu::raceAtomic(p, sizeof *p, __builtin_return_address(0)); T old = *p; if (v > old) *p = v; return old; }
template <class T> EMU_ATOMIC T atomicAdd(T *p, T v) { emu::raceAtomic(p, sizeof *p, __builtin_return_address(0)); T old = *p; *p = old + v; return old; }
template <class A, class B> auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
template <class A, class B> auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }

#endif

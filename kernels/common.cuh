// What all kernels share: element types and their arithmetic, reductions, and the launch.
//
// The same source is compiled by nvcc for the GPU and by g++ for the emulated device (emu/emu.h), which stands in for the
// few things of CUDA C++ that are used here. So kernels keep to them:
//
//   - launch(kernel, grid, block, sharedBytes, stream, arguments…) in place of <<<…>>>
//   - all shared memory is dynamic, a struct at the start of it: `auto &s = shared<Tile>();`, launched with sizeof(Tile).
//     The emulated device gives every block a fresh one, full of NaN, with forbidden memory behind it.
//   - threads of a warp talk through the wrappers of tensor.cuh and the *_sync functions, all 32 of them together
#ifndef SURGEON_COMMON_CUH
#define SURGEON_COMMON_CUH

#include <stdint.h>

#include "kernels.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#else
#include "emu/emu.h"
#endif

// bf16 is bfloat16 as it is stored: the upper half of a float32. No arithmetic is done on it.
struct bf16 {
	uint16_t bits;
};

// Arithmetic<T>::type is what elements stored as T are computed in, and sums of them kept in.
template <class T> struct Arithmetic { typedef T type; };
template <> struct Arithmetic<bf16> { typedef float type; };
template <class T> using Acc = typename Arithmetic<T>::type;

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ double value(double x) { return x; }
__device__ __forceinline__ float value(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

// rounded<T>(x) is x as it is stored: to nearest even; NaN stays NaN.
template <class T> __device__ __forceinline__ T rounded(Acc<T> x) { return x; }
template <> __device__ __forceinline__ bf16 rounded<bf16>(float x) {
#ifdef __CUDACC__
	return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
	uint32_t b = __float_as_uint(x);
	if (x != x)
		return bf16{(uint16_t)(b >> 16 | 0x40)};
	return bf16{(uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16)};
#endif
}

// dispatch calls f with a value of the element type that the code stands for. It returns f's code, or that of an invalid
// value for another type.
template <class F> int dispatch(int type, F f) {
	switch (type) {
	case SURGEON_F32: return f(float());
	case SURGEON_F64: return f(double());
	case SURGEON_BF16: return f(bf16());
	}
	return (int)cudaErrorInvalidValue;
}

// launchClusters queues kernel(arguments…) on a grid of blocks, of which `cluster` that follow one another along x run together
// and can reach each other's shared memory. A grid with no block is no work. Returns 0 or a CUDA error.
template <class... P, class... A>
int launchClusters(unsigned cluster, void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes, void *stream, A... arguments) {
	if (grid.x == 0 || grid.y == 0 || grid.z == 0)
		return 0;
#ifdef __CUDACC__
	if (sharedBytes > 48 << 10) { // more than a kernel gets unasked
		cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sharedBytes);
		if (e != cudaSuccess)
			return (int)e;
	}
	cudaLaunchAttribute attribute = {};
	attribute.id = cudaLaunchAttributeClusterDimension;
	attribute.val.clusterDim.x = cluster;
	attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
	cudaLaunchConfig_t config = {};
	config.gridDim = grid;
	config.blockDim = block;
	config.dynamicSmemBytes = sharedBytes;
	config.stream = (cudaStream_t)stream;
	config.attrs = &attribute;
	config.numAttrs = cluster > 1; // GPUs before compute capability 9.0 have no clusters
	cudaError_t e = cudaLaunchKernelEx(&config, kernel, (P)arguments...);
	if (e != cudaSuccess)
		cudaGetLastError(); // forgets it; an older one is not this launch's
	return (int)e;
#else
	return emu::launch(cluster, grid, block, sharedBytes, [=] { kernel((P)arguments...); });
#endif
}

// launch queues kernel(arguments…) on a grid of blocks, each by itself.
template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes, void *stream, A... arguments) {
	return launchClusters(1, kernel, grid, block, sharedBytes, stream, arguments...);
}

// shared<T>() is the block's shared memory.
template <class T> __device__ __forceinline__ T &shared() {
#ifdef __CUDACC__
	extern __shared__ __align__(1024) unsigned char surgeon_shared[];
	return *reinterpret_cast<T *>(surgeon_shared);
#else
	return *reinterpret_cast<T *>(emu::sharedMemory());
#endif
}

__host__ __device__ constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Elementwise work: a grid of at most maxBlocks blocks walks over n elements, `for (int64_t i = first(); i < n; i += stride())`.
const int elementThreads = 256;
const int64_t maxBlocks = 132 * 16; // every multiprocessor of an H100 full of blocks of 256 threads, twice over
inline dim3 elementGrid(int64_t n) {
	int64_t blocks = ceilDiv(n, elementThreads);
	return dim3((unsigned)(blocks < maxBlocks ? blocks : maxBlocks));
}
__device__ __forceinline__ int64_t first() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t stride() { return (int64_t)gridDim.x * blockDim.x; }

const unsigned allLanes = 0xffffffffu;

// warpSum is the sum of x over the 32 threads of a warp, in a fixed order, for all of them.
template <class A> __device__ __forceinline__ A warpSum(A x) {
	for (int m = 16; m > 0; m >>= 1)
		x += __shfl_xor_sync(allLanes, x, m);
	return x;
}

// blockSum is the sum of x over the block, in a fixed order, for all its threads. partial is shared memory for 32 values.
// blockDim.x is a multiple of 32 and the block has no other dimension.
template <class A> __device__ __forceinline__ A blockSum(A x, A *partial) {
	x = warpSum(x);
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
	if (lane == 0)
		partial[warp] = x;
	__syncthreads();
	x = lane < warps ? partial[lane] : A(0);
	x = warpSum(x);
	__syncthreads(); // partial may be used again
	return x;
}

// packedLength is the number of elements of a packed triangle of order n; element (i, j), j ≤ i, stands at packedLength(i) + j.
__host__ __device__ constexpr int64_t packedLength(int64_t n) { return n * (n + 1) / 2; }

#endif

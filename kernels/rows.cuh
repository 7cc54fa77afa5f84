// Sums over rows. A row is worked on by a group of threads: lanes of one warp where it is narrow, so that no warp waits for
// another, a whole block where it is wide.
//
//	group 8:   a warp has the rows │ 0 │ 1 │ 2 │ 3 │, a block of 256 threads has 32
//	group 352: a block of 352 threads has one row
#ifndef SURGEON_ROWS_CUH
#define SURGEON_ROWS_CUH

#include "wide.cuh"

struct RowGroups {
	int group;   // threads per row: a power of two up to 32, or the block
	dim3 grid, block;
};

const int rowThreads = 256; // of a block, unless a row needs another number

// narrowRows are groups of lanes for rows of so many pieces of work.
inline RowGroups narrowRows(int64_t rows, int64_t pieces) {
	int group = 1;
	while (group < 32 && group < pieces)
		group *= 2;
	return RowGroups{group, gridOf(ceilDiv(rows, rowThreads / group)), rowThreads};
}

// blockRows are blocks of so many threads for a row each.
inline RowGroups blockRows(int64_t rows, int64_t threads = rowThreads) { return RowGroups{(int)threads, gridOf(rows), dim3((unsigned)threads)}; }

// Partial is what groupSum needs of the block's shared memory.
template <class A, int K> struct Partial { A of[K][32]; };

// groupSum replaces v_k by its sum over the group, in a fixed order, for all its threads. All threads of the block take part.
// Before p is used again there is a __syncthreads.
template <class A, int K> __device__ __forceinline__ void groupSum(A (&v)[K], int group, Partial<A, K> &p) {
	for (int m = (group < 32 ? group : 32) / 2; m > 0; m >>= 1)
#pragma unroll
		for (int k = 0; k < K; k++)
			v[k] += __shfl_xor_sync(allLanes, v[k], m);
	if (group <= 32)
		return;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
	if (lane == 0)
#pragma unroll
		for (int k = 0; k < K; k++)
			p.of[k][warp] = v[k];
	__syncthreads();
#pragma unroll
	for (int k = 0; k < K; k++)
		v[k] = warpSum(lane < warps ? p.of[k][lane] : A(0));
}

#endif

// How many of n float64 have each value of a digit of their keys, among those with a given prefix:
//
//	for x in …:  if key(x) begins with prefix:  counts[the next bits of key(x)]++            8·n bytes read
//
// key(x) are the bits of x, those of −0 being 0: numbers from 0 up are in order.
//
// A block counts in shared memory what it sees, and adds what it has counted to counts: integers, so that the order in which
// blocks are done does not matter. By the numbers of an H100 memory is what it waits for: a multiprocessor gets 14 bytes a cycle,
// 18 cycles for a warp's 32 elements, in which it may issue 70 instructions, and the longest way through the loop is about 50.
#include "digits.cuh"
#include "wide.cuh"

namespace {

const int threads = 512; // four blocks of 32 KiB of counts fill a multiprocessor with threads
const int64_t blocksMost = 132 * 4;
// elementsOfThread is the fewest for which another block is worth its counts, which are cleared and added.
const int64_t elementsOfThread = 16;

template <int V> __global__ void __launch_bounds__(threads) histogram(int64_t n, const double *x, Digit digit, Key *counts) {
	uint32_t *own = &shared<uint32_t>(); // no block of a grid sees 2³² elements
	for (int i = threadIdx.x; i < 1 << digit.width; i += threads)
		own[i] = 0;
	__syncthreads();
	int64_t packs = ceilDiv(n, V);
	for (int64_t base = (int64_t)blockIdx.x * threads; base < packs; base += (int64_t)gridDim.x * threads) { // the same for a whole warp
		int64_t i = (base + threadIdx.x) * V;
		double v[V];
		if (i + V <= n)
			load<V>(v, x + i);
		else
			for (int k = 0; k < V && i + k < n; k++)
				v[k] = x[i + k];
#pragma unroll
		for (int k = 0; k < V; k++) {
			unsigned place = noPlace;
			if (i + k < n) {
				Key key = bitsOf(v[k]);
				key = key == signBit ? 0 : key;
				if (digit.has(key))
					place = digit.of(key);
			}
			if (__any_sync(allLanes, place != noPlace))
				countWarp(own, place);
		}
	}
	__syncthreads();
	for (int i = threadIdx.x; i < 1 << digit.width; i += threads)
		if (own[i] != 0)
			atomicAdd(&counts[i], (Key)own[i]);
}

} // namespace

extern "C" int surgeon_histogram(int64_t n, const double *x, uint64_t prefix, int read, int width, uint64_t *counts, void *stream) {
	return byWidth<double>(aligned(x), [&](auto v) {
		constexpr int V = decltype(v)::value;
		return launch(histogram<V>, gridOf(ceilDiv(n, threads * elementsOfThread), blocksMost), threads, sizeof(uint32_t) << width, stream,
		              n, x, Digit{prefix, read, width}, (Key *)counts);
	});
}

// Draws from the softmax of the rows of logits N×V. For a row x and a number 0 ≤ u < 1,
//
//	M = max_v x_v,  e_v = exp(x_v − M),  id = the smallest v with Σ_{w≤v} e_w > u·Σ_w e_w
//
// and V−1 where there is none: a NaN. A block has a row and goes over it in tiles of an element for each thread: for M, for the sum
// of all tiles, and again as far as the tile where the sum so far passes u times that, through which every thread walks, on the same way. The sum
// of all tiles is added up the same way both times, so that it is above u times itself also as it is rounded. 3 reads of an
// element at most, two of them from the L2 cache; 2 exp. Sums are kept in float64. It is called once for each product of logits,
// which takes far longer.
#include "common.cuh"

namespace {

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

const int threads = 256;

template <class A> struct Draw {
	A top[32];
	double partial[32];
};

template <class T>
__global__ void __launch_bounds__(threads) sample(int64_t rows, int64_t vocabulary, const T *logits, const double *uniform, int32_t *ids) {
	typedef Acc<T> A;
	auto &s = shared<Draw<A>>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
		const T *row = logits + i * vocabulary;
		A top = -(A)INFINITY; // a NaN makes the sum one
		for (int64_t j = threadIdx.x; j < vocabulary; j += threads)
			if (value(row[j]) > top)
				top = value(row[j]);
		for (int m = 16; m > 0; m >>= 1) {
			A other = __shfl_xor_sync(allLanes, top, m);
			top = other > top ? other : top;
		}
		if (lane == 0)
			s.top[warp] = top;
		__syncthreads();
		for (int k = 0; k < threads / 32; k++)
			top = s.top[k] > top ? s.top[k] : top;

		auto tile = [&](int64_t j0) {
			int64_t j = j0 + threadIdx.x;
			return blockSum(j < vocabulary ? (double)exponential(value(row[j]) - top) : 0., s.partial);
		};
		double all = 0, sum = 0;
		for (int64_t j0 = 0; j0 < vocabulary; j0 += threads)
			all += tile(j0);
		double below = uniform[i] * all;
		int64_t id = vocabulary - 1;
		for (int64_t j0 = 0; j0 < vocabulary; j0 += threads) {
			double more = tile(j0);
			if (sum + more > below) { // for all threads
				for (int64_t j = j0; j < vocabulary && j < j0 + threads; j++) {
					double e = exponential(value(row[j]) - top);
					if (e > 0)
						id = j; // what is left where this order of adding does not pass
					if (sum += e; sum > below)
						break;
				}
				break;
			}
			sum += more;
		}
		if (threadIdx.x == 0)
			ids[i] = (int32_t)id;
		__syncthreads(); // s is used again
	}
}

} // namespace

extern "C" int surgeon_sample(int type, int64_t rows, int64_t vocabulary, const void *logits, const double *uniform, int32_t *ids, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		dim3 grid((unsigned)(rows < maxBlocks ? rows : maxBlocks));
		return launch(sample<T>, grid, threads, sizeof(Draw<Acc<T>>), stream, rows, vocabulary, (const T *)logits, uniform, ids);
	});
}

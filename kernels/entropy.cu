// Cross entropy of the rows of logits N×V against target tokens, and its gradient in their place. For a row x with target t,
//
//	M = max_v x_v,  S = Σ_v exp(x_v − M),  loss = M − x_t + log S            read 1 element
//	with grad: x_v ← exp(x_v − M)/S − [v = t]                                read again, written 1
//
// A target of −1 gives loss 0 and a gradient of zeros; the row is not read. A block has a row. It goes over it once for M
// and S together: a thread whose largest element so far grows takes its sum down by the difference. Then once more for the
// gradient, and finds the row in the L2 cache: rows of 64 kB (V = 32000, bfloat16), three for each of 132
// multiprocessors, are 25 MB of its 50. 2 exp an element. S in float64, of sums of a few elements in float32.
#include "rows.cuh"

namespace {

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

const int threads = 512;

// atOnce is how many packs a thread asks for before it waits: in float64, which is not for speed, one keeps registers free.
template <class T> constexpr int atOnce = sizeof(T) == 8 ? 1 : 2;

template <class A> struct Entropy {
	A top[32];
	Partial<double, 1> sum;
};

// larger is the larger of two, a NaN not counting: one of the two passes over the row finds it again as exp of it.
template <class A> __device__ __forceinline__ A larger(A a, A b) { return b > a ? b : a; }

// shift is what is taken off before exp: M, unless all so far are −Inf, where −Inf − M would be NaN.
template <class A> __device__ __forceinline__ A shift(A top) { return top == -(A)INFINITY ? 0 : top; }

template <class T, int V, bool grad>
__global__ void __launch_bounds__(threads, sizeof(Acc<T>) == 4 ? 3 : 2) crossEntropy(int64_t rows, int vocabulary, const int32_t *targets, T *logits, Acc<T> *losses) {
	typedef Acc<T> A;
	auto &s = shared<Entropy<A>>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int P = atOnce<T>, step = threads * V * P;
	for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
		T *row = logits + i * vocabulary;
		int32_t target = targets[i];
		if (target < 0) {
			if (grad) {
				const A zeros[V] = {};
				for (int j = threadIdx.x * V; j < vocabulary; j += threads * V)
					store<V>(row + j, zeros);
			}
			if (threadIdx.x == 0)
				losses[i] = 0;
			continue;
		}
		A ofTarget = value(row[target]); // before it is replaced

		A top = -(A)INFINITY;
		double sum[1] = {0};
		for (int j0 = threadIdx.x * V; j0 < vocabulary; j0 += step) {
			Pack<T, V> x[P];
#pragma unroll
			for (int p = 0; p < P; p++)
				if (j0 + p * threads * V < vocabulary)
					x[p].read(row + j0 + p * threads * V);
#pragma unroll
			for (int p = 0; p < P; p++)
				if (j0 + p * threads * V < vocabulary) {
					A v[V], most = top, few = 0;
					x[p].unpack(v);
#pragma unroll
					for (int k = 0; k < V; k++)
						most = larger(most, v[k]);
					if (most > top) {
						sum[0] *= exponential(top - most);
						top = most;
					}
#pragma unroll
					for (int k = 0; k < V; k++)
						few += exponential(v[k] - shift(top));
					sum[0] += few;
				}
		}

		A ofThread = top;
		for (int m = 16; m > 0; m >>= 1)
			top = larger(top, __shfl_xor_sync(allLanes, top, m));
		if (lane == 0)
			s.top[warp] = top;
		__syncthreads();
		top = lane < threads / 32 ? s.top[lane] : -(A)INFINITY;
		for (int m = 16; m > 0; m >>= 1)
			top = larger(top, __shfl_xor_sync(allLanes, top, m));
		sum[0] *= exponential(ofThread - shift(top));
		groupSum(sum, threads, s.sum); // its barrier also tells that every thread has read ofTarget
		if (threadIdx.x == 0)
			losses[i] = (A)((double)top - (double)ofTarget + log(sum[0]));

		if (grad) {
			A inverse = (A)(1 / sum[0]);
			for (int j0 = threadIdx.x * V; j0 < vocabulary; j0 += step) {
				Pack<T, V> x[P];
#pragma unroll
				for (int p = 0; p < P; p++)
					if (j0 + p * threads * V < vocabulary)
						x[p].read(row + j0 + p * threads * V);
#pragma unroll
				for (int p = 0; p < P; p++) {
					int j = j0 + p * threads * V;
					if (j < vocabulary) {
						A v[V];
						x[p].unpack(v);
#pragma unroll
						for (int k = 0; k < V; k++)
							v[k] = exponential(v[k] - top) * inverse - (j + k == target ? 1 : 0);
						store<V>(row + j, v);
					}
				}
			}
		}
		__syncthreads();
	}
}

} // namespace

extern "C" int surgeon_cross_entropy(int type, int64_t rows, int64_t vocabulary, void *logits, const int32_t *targets, int grad, void *losses, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(vocabulary, logits), [&](auto v) {
			constexpr int V = decltype(v)::value;
			auto kernel = grad ? crossEntropy<T, V, true> : crossEntropy<T, V, false>;
			return launch(kernel, gridOf(rows), threads, sizeof(Entropy<Acc<T>>), stream, rows, vocabulary, targets, (T *)logits, (Acc<T> *)losses);
		});
	});
}

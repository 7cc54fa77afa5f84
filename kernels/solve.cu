// Triangular solves of single right sides, many at once.
//
//	b ← (l·lᵀ)⁻¹·b:   y_i = (b_i − Σ_k<i l_ik·y_k) / l_ii,   then   x_k = (y_k − Σ_i>k l_ik·x_i) / l_kk        order n, float32 or float64
//
// 2·n² FLOP and n² numbers read: each of both halves reads the triangle once, and there is nothing else to do. cuBLAS solves one
// system at a time and makes one column wait for the other; here every system has a block of threads, and what waits is the
// solve with a block of 32×32 on the diagonal by one warp. All else is sums along rows, which all warps read ahead:
//
//	┌────┐                   l·y = b       a warp for each of the panel's rows adds up l_ik·y_k, lanes along the row
//	│    ├────┐              lᵀ·x = y      lane j adds up column j of the panel, each warp every sixteenth row below it; the
//	├────┼────┤                            warps' sums are added in their order
//	│  → │ 32 │
//	└────┴────┘              What is above the diagonal is not read.
#include "common.cuh"

namespace {

const int width = 32;    // of a panel: a row of the block on the diagonal for each lane of a warp
const int threads = 512; // as many systems as multiprocessors are usual, so a block should fill one with loads
const int warps = threads / 32;

template <class T> struct Panel {
	T l[width][width + 1];
	T v[width];           // what the panel's rows have of the sums
	T sums[warps][width]; // what each warp has of the panel's columns
};

// diagonal brings the block on the diagonal at k0, of order w, to shared memory.
template <class T> __device__ void diagonal(Panel<T> &s, int64_t n, const T *l, int64_t k0, int w, int warp, int lane) {
	for (int r = warp; r < w; r += warps)
		if (lane <= r)
			s.l[r][lane] = l[(k0 + r) * n + k0 + lane];
}

// solve: block b solves system b.
template <class T> __global__ void __launch_bounds__(threads) solve(const surgeon_system *systems) {
	auto &s = shared<Panel<T>>();
	const int64_t n = systems[blockIdx.x].n;
	const T *l = (const T *)systems[blockIdx.x].l;
	T *b = (T *)systems[blockIdx.x].b;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	for (int64_t k0 = 0; k0 < n; k0 += width) {
		int w = n - k0 < width ? (int)(n - k0) : width;
		diagonal(s, n, l, k0, w, warp, lane);
		for (int r = warp; r < w; r += warps) {
			const T *row = l + (k0 + r) * n;
			T sum = 0;
#pragma unroll 4
			for (int64_t k = lane; k < k0; k += 32)
				sum += row[k] * b[k];
			sum = warpSum(sum);
			if (lane == 0)
				s.v[r] = b[k0 + r] - sum;
		}
		__syncthreads(); // the panel is there
		if (warp == 0) {
			T v = lane < w ? s.v[lane] : 0, inverse = lane < w ? 1 / s.l[lane][lane] : 0;
#pragma unroll 1
			for (int j = 0; j < w; j++) {
				T y = __shfl_sync(allLanes, v, j) * __shfl_sync(allLanes, inverse, j);
				if (lane == j)
					v = y;
				else if (lane > j && lane < w)
					v -= s.l[lane][j] * y;
			}
			if (lane < w)
				b[k0 + lane] = v;
		}
		__syncthreads(); // y is there, the panel was read
	}
	for (int64_t k0 = (n - 1) / width * width; k0 >= 0; k0 -= width) {
		int w = n - k0 < width ? (int)(n - k0) : width;
		diagonal(s, n, l, k0, w, warp, lane);
		T sum = 0;
#pragma unroll 4
		for (int64_t i = k0 + w + warp; i < n; i += warps)
			sum += lane < w ? l[i * n + k0 + lane] * b[i] : 0;
		s.sums[warp][lane] = sum;
		__syncthreads(); // the sums are there
		if (warp == 0) {
			T v = lane < w ? b[k0 + lane] : 0, inverse = lane < w ? 1 / s.l[lane][lane] : 0;
			for (int u = 0; u < warps; u++)
				v -= s.sums[u][lane];
#pragma unroll 1
			for (int j = w - 1; j >= 0; j--) {
				T x = __shfl_sync(allLanes, v, j) * __shfl_sync(allLanes, inverse, j);
				if (lane == j)
					v = x;
				else if (lane < j)
					v -= s.l[j][lane] * x;
			}
			if (lane < w)
				b[k0 + lane] = v;
		}
		__syncthreads(); // x is there, the sums were read
	}
}

} // namespace

extern "C" int surgeon_cholesky_solve_many(int type, int64_t count, const surgeon_system *systems, void *stream) {
	if (type == SURGEON_F32)
		return launch(solve<float>, dim3((unsigned)count), threads, sizeof(Panel<float>), stream, systems);
	return launch(solve<double>, dim3((unsigned)count), threads, sizeof(Panel<double>), stream, systems);
}

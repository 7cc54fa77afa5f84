// The norms of a row x of n elements, and their backward passes. With g the gain and, in LayerNorm only, m the mean and b
// the bias,
//
//	z = (x − m)·s,  s = 1/√(Σ(x−m)²/n + eps),  y = g∘z + b                     read 1, written 1 element
//	dx ← s·(u − mean(u) − z·mean(u∘z)) + β·dx,  u = g∘dy                       read 2, or 3 where β ≠ 0, written 1
//	     (RMSNorm without mean(u))
//
// some 10 FLOP an element. A row is read once and stays in registers, as it is stored, between its sums and what is made
// with them: packs of 16 bytes, 1, 2 or 4 of them for a thread. Narrow rows (norms of heads) have some lanes of a warp
// each, wide ones a block (rows.cuh). m, and then Σ(x−m)²: the shorter Σx²/n − m² loses all digits where the mean is
// large. Sums in float32, or float64, of at most 32 terms one after the other, then pairwise.
//
// The plain kernels read a row again for every sum, take rows of any width and address, and compute in float64 as the CPU
// does: in rows of one element, or few, what is left of u − z·mean(u∘z) is small against both.
#include "rows.cuh"

namespace {

template <class A> struct NormSums {
	Partial<A, 1> first, second;
};

__device__ __forceinline__ float inverseRoot(float x) { return 1 / sqrtf(x); }
__device__ __forceinline__ double inverseRoot(double x) { return 1 / sqrt(x); }

// sumOf is the sum of a row: of what its group holds of it, end elements, or read by a block.
template <class T, int V, int P> __device__ __forceinline__ Acc<T> sumOf(Pack<T, V> (&held)[P], int group, int lane, int end, Partial<Acc<T>, 1> &partial) {
	Acc<T> sum[1] = {0};
#pragma unroll
	for (int p = 0; p < P; p++)
		if ((p * group + lane) * V < end) {
			Acc<T> v[V];
			held[p].unpack(v);
#pragma unroll
			for (int k = 0; k < V; k++)
				sum[0] += v[k];
		}
	groupSum(sum, group, partial);
	return sum[0];
}
template <class T> __device__ __forceinline__ double sumOf(const T *row, int64_t n, Partial<double, 1> &partial) {
	double sum[1] = {0};
	for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
		sum[0] += value(row[j]);
	groupSum(sum, blockDim.x, partial);
	return sum[0];
}

// widestBlock is how many threads a block has at most that hold so many packs each: two blocks have to fit into the registers
// of a multiprocessor, so that one waits for its row while the other computes. Where the compiler would take more registers
// than that it is told (the 2 below; with a 0 it decides itself).
constexpr int widestBlock(int packs) { return packs == 4 ? 384 : 512; }

template <class T, int P, bool centred>
__global__ void __launch_bounds__(widestBlock(P)) norm(int64_t rows, int n, int group, const T *x, const T *gain, const T *bias, Acc<T> eps, T *y) {
	typedef Acc<T> A;
	const int V = wide<T>;
	auto &s = shared<NormSums<A>>();
	int lane = threadIdx.x % group, perBlock = blockDim.x / group;
	for (int64_t base = (int64_t)blockIdx.x * perBlock; base < rows; base += (int64_t)gridDim.x * perBlock) {
		int64_t row = base + threadIdx.x / group;
		int end = row < rows ? n : 0; // a group without a row has nothing to do, but takes part in the sums
		Pack<T, V> held[P];
#pragma unroll
		for (int p = 0; p < P; p++) {
			int j = (p * group + lane) * V;
			if (j < end)
				held[p].read(x + row * n + j);
		}
		A mean = centred ? sumOf(held, group, lane, end, s.first) / n : A(0);
		A square[1] = {0};
#pragma unroll
		for (int p = 0; p < P; p++)
			if ((p * group + lane) * V < end) {
				A v[V];
				held[p].unpack(v);
#pragma unroll
				for (int k = 0; k < V; k++)
					square[0] += (v[k] - mean) * (v[k] - mean);
			}
		groupSum(square, group, s.second);
		A scale = inverseRoot(square[0] / n + eps);
#pragma unroll
		for (int p = 0; p < P; p++) {
			int j = (p * group + lane) * V;
			if (j < end) {
				A v[V], g[V];
				held[p].unpack(v);
				load<V>(g, gain + j);
#pragma unroll
				for (int k = 0; k < V; k++)
					v[k] = g[k] * ((v[k] - mean) * scale);
				if (centred) {
					load<V>(g, bias + j);
#pragma unroll
					for (int k = 0; k < V; k++)
						v[k] += g[k];
				}
				store<V>(y + row * n + j, v);
			}
		}
		if (group > 32)
			__syncthreads();
	}
}

template <class T, bool centred>
__global__ void __launch_bounds__(rowThreads) normPlain(int64_t rows, int64_t n, const T *x, const T *gain, const T *bias, double eps, T *y) {
	auto &s = shared<NormSums<double>>();
	for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
		const T *from = x + row * n;
		T *to = y + row * n;
		double mean = centred ? sumOf(from, n, s.first) / n : 0, square[1] = {0};
		for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
			double c = value(from[j]) - mean;
			square[0] += c * c;
		}
		groupSum(square, blockDim.x, s.second);
		double scale = inverseRoot(square[0] / n + eps);
		for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
			Acc<T> v = value(gain[j]) * (Acc<T>)((value(from[j]) - mean) * scale);
			if (centred)
				v += value(bias[j]);
			to[j] = rounded<T>(v);
		}
		__syncthreads();
	}
}

template <class A, int K> struct NormBackwardSums {
	Partial<A, 1> first;
	Partial<A, K> second;
};

// inverse is dx from the sums Σ(x−m)², Σu·(x−m), Σu of a row; c = x − m.
template <class A, bool centred> struct Inverse {
	A scale, meanU, ofZ; // ofZ = mean(u∘z)·s, so that z·mean(u∘z) is c·ofZ
	__device__ __forceinline__ Inverse(const A *sum, A n, A eps) {
		scale = inverseRoot(sum[0] / n + eps);
		ofZ = sum[1] * scale / n * scale;
		meanU = centred ? sum[2] / n : 0;
	}
	__device__ __forceinline__ A operator()(A u, A c) const { return scale * (u - meanU - c * ofZ); }
};

template <class T, int P, bool centred>
__global__ void __launch_bounds__(widestBlock(P), P == 4 && sizeof(Acc<T>) == 4 ? 2 : 0) normBackward(int64_t rows, int n, int group, const T *x, const T *gain, Acc<T> eps, const T *dy, Acc<T> beta, T *dx) {
	typedef Acc<T> A;
	const int V = wide<T>, K = centred ? 3 : 2;
	auto &s = shared<NormBackwardSums<A, K>>();
	int lane = threadIdx.x % group, perBlock = blockDim.x / group;
	for (int64_t base = (int64_t)blockIdx.x * perBlock; base < rows; base += (int64_t)gridDim.x * perBlock) {
		int64_t row = base + threadIdx.x / group;
		int end = row < rows ? n : 0;
		Pack<T, V> heldX[P], heldDy[P], heldDx[P];
#pragma unroll
		for (int p = 0; p < P; p++) {
			int j = (p * group + lane) * V;
			if (j < end) {
				heldX[p].read(x + row * n + j);
				heldDy[p].read(dy + row * n + j);
				if (beta != 0) // here already: after the sums its way from memory would have to be waited for again
					heldDx[p].read(dx + row * n + j);
			}
		}
		A mean = centred ? sumOf(heldX, group, lane, end, s.first) / n : A(0);
		A sum[K] = {};
#pragma unroll
		for (int p = 0; p < P; p++) {
			int j = (p * group + lane) * V;
			if (j < end) {
				A v[V], d[V], g[V];
				heldX[p].unpack(v);
				heldDy[p].unpack(d);
				load<V>(g, gain + j);
#pragma unroll
				for (int k = 0; k < V; k++) {
					A u = g[k] * d[k], c = v[k] - mean;
					sum[0] += c * c;
					sum[1] += u * c;
					if (centred)
						sum[K - 1] += u;
				}
			}
		}
		groupSum(sum, group, s.second);
		Inverse<A, centred> inverse(sum, (A)n, eps);
#pragma unroll
		for (int p = 0; p < P; p++) {
			int j = (p * group + lane) * V;
			if (j < end) {
				A v[V], d[V], g[V];
				heldX[p].unpack(v);
				heldDy[p].unpack(d);
				load<V>(g, gain + j);
#pragma unroll
				for (int k = 0; k < V; k++)
					v[k] = inverse(g[k] * d[k], v[k] - mean);
				if (beta != 0) {
					heldDx[p].unpack(d);
#pragma unroll
					for (int k = 0; k < V; k++)
						v[k] += beta * d[k];
				}
				store<V>(dx + row * n + j, v);
			}
		}
		if (group > 32)
			__syncthreads();
	}
}

template <class T, bool centred>
__global__ void __launch_bounds__(rowThreads) normBackwardPlain(int64_t rows, int64_t n, const T *x, const T *gain, double eps, const T *dy, Acc<T> beta, T *dx) {
	auto &s = shared<NormBackwardSums<double, 3>>();
	for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
		const T *from = x + row * n, *grad = dy + row * n;
		T *to = dx + row * n;
		double mean = centred ? sumOf(from, n, s.first) / n : 0, sum[3] = {};
		for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
			double u = (double)value(gain[j]) * value(grad[j]), c = value(from[j]) - mean;
			sum[0] += c * c;
			sum[1] += u * c;
			sum[2] += u;
		}
		groupSum(sum, blockDim.x, s.second);
		Inverse<double, centred> inverse(sum, (double)n, eps);
		for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
			Acc<T> v = (Acc<T>)inverse((double)value(gain[j]) * value(grad[j]), value(from[j]) - mean);
			if (beta != 0)
				v += beta * value(to[j]);
			to[j] = rounded<T>(v);
		}
		__syncthreads();
	}
}

const int64_t packsOfLanes = 32 * 4, packsOfBlock = widestBlock(4) * 4; // what a warp, a block can hold of a row

// held calls f with the constant P, how many packs of a row a thread holds, and the groups that do so.
template <class F> int held(int64_t rows, int64_t packs, F f) {
	int perThread = packs <= 32 ? 1 : packs <= 64 ? 2 : packs <= packsOfLanes ? 4 : packs <= 256 ? 1 : packs <= 1024 ? 2 : 4;
	int64_t threads = ceilDiv(packs, perThread);
	RowGroups g = packs <= packsOfLanes ? narrowRows(rows, threads) : blockRows(rows, roundUp(threads, 32));
	switch (perThread) {
	case 1: return f(std::integral_constant<int, 1>(), g);
	case 2: return f(std::integral_constant<int, 2>(), g);
	}
	return f(std::integral_constant<int, 4>(), g);
}

template <bool centred> int launchNorm(int type, int64_t rows, int64_t n, const void *x, const void *gain, const void *bias, double eps, void *y, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		if (n == 0)
			return 0;
		if (wideRows<T>(n, x, gain, bias, y) && n / wide<T> <= packsOfBlock)
			return held(rows, n / wide<T>, [&](auto p, RowGroups g) {
				constexpr int P = decltype(p)::value;
				return launch(norm<T, P, centred>, g.grid, g.block, sizeof(NormSums<Acc<T>>), stream, rows, n, g.group, (const T *)x, (const T *)gain, (const T *)bias,
				              (Acc<T>)eps, (T *)y);
			});
		RowGroups g = blockRows(rows, columnBlock(n));
		return launch(normPlain<T, centred>, g.grid, g.block, sizeof(NormSums<double>), stream, rows, n, (const T *)x, (const T *)gain, (const T *)bias, eps, (T *)y);
	});
}

template <bool centred>
int launchNormBackward(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, const void *dy, double beta, void *dx, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		if (n == 0)
			return 0;
		if (wideRows<T>(n, x, gain, dy, dx) && n / wide<T> <= packsOfBlock)
			return held(rows, n / wide<T>, [&](auto p, RowGroups g) {
				constexpr int P = decltype(p)::value;
				return launch(normBackward<T, P, centred>, g.grid, g.block, sizeof(NormBackwardSums<Acc<T>, centred ? 3 : 2>), stream, rows, n, g.group, (const T *)x, (const T *)gain, (Acc<T>)eps,
				              (const T *)dy, (Acc<T>)beta, (T *)dx);
			});
		RowGroups g = blockRows(rows, columnBlock(n));
		return launch(normBackwardPlain<T, centred>, g.grid, g.block, sizeof(NormBackwardSums<double, 3>), stream, rows, n, (const T *)x, (const T *)gain, eps, (const T *)dy,
		              (Acc<T>)beta, (T *)dx);
	});
}

} // namespace

extern "C" int surgeon_rms_norm(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, void *y, void *stream) {
	return launchNorm<false>(type, rows, n, x, gain, nullptr, eps, y, stream);
}

extern "C" int surgeon_layer_norm(int type, int64_t rows, int64_t n, const void *x, const void *gain, const void *bias, double eps, void *y, void *stream) {
	return launchNorm<true>(type, rows, n, x, gain, bias, eps, y, stream);
}

extern "C" int surgeon_rms_norm_backward(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, const void *dy, double beta, void *dx, void *stream) {
	return launchNormBackward<false>(type, rows, n, x, gain, eps, dy, beta, dx, stream);
}

extern "C" int surgeon_layer_norm_backward(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, const void *dy, double beta, void *dx, void *stream) {
	return launchNormBackward<true>(type, rows, n, x, gain, eps, dy, beta, dx, stream);
}

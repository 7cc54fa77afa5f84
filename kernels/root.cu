// Rows weighted for a Gram matrix, and squares. x, y: rows×cols.
//
//	scaleRoot   y_i ← √max(sign·w_i, 0)·x_i, a NaN of w staying one      read 1, written 1 element; 1 FLOP
//	square      y_ij ← x_ij²                                             read 1, written 1 element; 1 FLOP
//
// Both should take the time of their bytes. The root is rounded before it is multiplied with, as on the CPU.
#include "wide.cuh"

namespace {

__device__ __forceinline__ float root(float x) { return sqrtf(x); }
__device__ __forceinline__ double root(double x) { return sqrt(x); }

const int rowsOfThread = 4; // so that a block has some work

template <class T, int V>
__global__ void __launch_bounds__(elementThreads) scaleRoot(int64_t rows, int64_t cols, Acc<T> sign, const Acc<T> *w, const T *x, T *y) {
	for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
		Acc<T> weight = sign * w[i], scale = weight <= 0 ? 0 : root(weight);
		for (int64_t j = first() * V; j < cols; j += stride() * V) {
			Acc<T> v[V];
			load<V>(v, x + i * cols + j);
#pragma unroll
			for (int k = 0; k < V; k++)
				v[k] *= scale;
			store<V>(y + i * cols + j, v);
		}
	}
}

template <class T> struct Square {
	const T *x;
	T *y;
	template <int V> __device__ __forceinline__ void at(int64_t i) const {
		Acc<T> v[V];
		load<V>(v, x + i);
#pragma unroll
		for (int k = 0; k < V; k++)
			v[k] *= v[k];
		store<V>(y + i, v);
	}
};

} // namespace

extern "C" int surgeon_scale_root(int type, int64_t rows, int64_t cols, double sign, const void *w, const void *x, void *y, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(cols, x, y), [&](auto v) {
			constexpr int V = decltype(v)::value;
			unsigned block = columnBlock(ceilDiv(cols, V));
			dim3 grid(block ? gridOf(ceilDiv(cols, (int64_t)V * block)) : 0, gridOf(ceilDiv(rows, rowsOfThread), maxGridY));
			return launch(scaleRoot<T, V>, grid, block, 0, stream, rows, cols, (Acc<T>)sign, (const Acc<T> *)w, (const T *)x, (T *)y);
		});
	});
}

extern "C" int surgeon_square(int type, int64_t n, const void *x, void *y, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return launchElements<T>(n, aligned(x, y), Square<T>{(const T *)x, (T *)y}, stream);
	});
}

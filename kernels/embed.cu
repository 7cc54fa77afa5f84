// Rows taken from a table, and one row for all. x: rows×cols.
//
//	embed    x_ij ← table[ids_i, j] + β·x_ij     read 1, or 2 where β ≠ 0, written 1 element
//	bias     x_ij ← b_j + β·x_ij                 read 1 where β ≠ 0, written 1 element; b stays in registers
#include "wide.cuh"

namespace {

template <class T, int V> __global__ void __launch_bounds__(elementThreads) embed(int64_t rows, int64_t cols, const T *table, const int32_t *ids, Acc<T> beta, T *x) {
	for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
		const T *from = table + (int64_t)ids[i] * cols;
		T *to = x + i * cols;
		for (int64_t j = first() * V; j < cols; j += stride() * V) {
			Acc<T> v[V];
			load<V>(v, from + j);
			if (beta != 0) {
				Acc<T> old[V];
				load<V>(old, to + j);
#pragma unroll
				for (int k = 0; k < V; k++)
					v[k] += beta * old[k];
			}
			store<V>(to + j, v);
		}
	}
}

const int rowsOfThread = 4; // so many rows for one reading of b

template <class T, int V> __global__ void __launch_bounds__(elementThreads) bias(int64_t rows, int64_t cols, const T *b, Acc<T> beta, T *x) {
	for (int64_t j = first() * V; j < cols; j += stride() * V) {
		Acc<T> row[V];
		load<V>(row, b + j);
		for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
			T *to = x + i * cols + j;
			if (beta == 0) {
				store<V>(to, row);
				continue;
			}
			Acc<T> v[V];
			load<V>(v, to);
#pragma unroll
			for (int k = 0; k < V; k++)
				v[k] = row[k] + beta * v[k];
			store<V>(to, v);
		}
	}
}

} // namespace

extern "C" int surgeon_embed(int type, int64_t rows, int64_t cols, const void *table, const int32_t *ids, double beta, void *x, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(cols, table, x), [&](auto v) {
			constexpr int V = decltype(v)::value;
			unsigned threads = columnBlock(ceilDiv(cols, V));
			dim3 grid(threads ? gridOf(ceilDiv(cols, V * threads)) : 0, gridOf(rows, maxGridY));
			return launch(embed<T, V>, grid, threads, 0, stream, rows, cols, (const T *)table, ids, (Acc<T>)beta, (T *)x);
		});
	});
}

extern "C" int surgeon_bias(int type, int64_t rows, int64_t cols, const void *b, double beta, void *x, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(cols, b, x), [&](auto v) {
			constexpr int V = decltype(v)::value;
			unsigned threads = columnBlock(ceilDiv(cols, V));
			dim3 grid(threads ? gridOf(ceilDiv(cols, V * threads)) : 0, gridOf(ceilDiv(rows, rowsOfThread), maxGridY));
			return launch(bias<T, V>, grid, threads, 0, stream, rows, cols, (const T *)b, (Acc<T>)beta, (T *)x);
		});
	});
}

// Rows taken from a table, and a row added to every row. x: rows×cols.
//
//	embed    x_ij ← table[ids_i, j] + β·x_ij     read 1, or 2 where β ≠ 0, written 1 element
//	addRow   x_ij ← x_ij + b_j                   read 1, written 1 element; b stays in registers
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

template <class T, int V> __global__ void __launch_bounds__(elementThreads) addRow(int64_t rows, int64_t cols, const T *b, T *x) {
	for (int64_t j = first() * V; j < cols; j += stride() * V) {
		Acc<T> add[V];
		load<V>(add, b + j);
		for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
			Acc<T> v[V];
			load<V>(v, x + i * cols + j);
#pragma unroll
			for (int k = 0; k < V; k++)
				v[k] += add[k];
			store<V>(x + i * cols + j, v);
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

extern "C" int surgeon_add_row(int type, int64_t rows, int64_t cols, const void *b, void *x, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(cols, b, x), [&](auto v) {
			constexpr int V = decltype(v)::value;
			unsigned threads = columnBlock(ceilDiv(cols, V));
			dim3 grid(threads ? gridOf(ceilDiv(cols, V * threads)) : 0, gridOf(ceilDiv(rows, rowsOfThread), maxGridY));
			return launch(addRow<T, V>, grid, threads, 0, stream, rows, cols, (const T *)b, (T *)x);
		});
	});
}

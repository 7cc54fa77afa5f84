// What moves elements between matrices, index lists and packed triangles. No arithmetic to speak of: every operation here
// should take the time of the bytes that it reads and writes.
//
//	gather      y_ij ← x[rows_i, cols_j]                 2·|rows|·|cols| elements
//	scatter     y[rows_i, cols_j] ← x_ij                 2·|rows|·|cols| elements
//	extract     y_ij ← s[rows_i, cols_j]                 the same, s packed; order 11008 in float32: 0.5 GB read, 0.5 GB written
//	diagonals   a_ii ← a_ii + λ, d_i ← s_ii, and a look for what is not finite
//
// Nothing rounds but a_ii + λ in bfloat16. A NULL list stands for all indices.
#include "common.cuh"

namespace {

__device__ __forceinline__ int64_t at(const int32_t *list, int64_t i) { return list ? list[i] : i; }

const int moveThreads = 256;
const int movesAtOnce = 4; // rows that a thread has on their way, so that it does not wait for memory one by one

// moveShape is a block as wide as a row, up to all its threads: narrow matrices still use all of them.
dim3 moveShape(int64_t cols) {
	int wide = 32;
	while (wide < cols && wide < moveThreads)
		wide *= 2;
	return dim3(wide, moveThreads / wide);
}

dim3 moveGrid(int64_t rows, int64_t cols, dim3 block) {
	int64_t down = ceilDiv(rows, (int64_t)block.y * movesAtOnce);
	return dim3((unsigned)ceilDiv(cols, block.x), (unsigned)(down < 65535 ? down : 65535));
}

// move copies an m×n matrix, to or from the places that the lists say in one with `stride` columns. A thread stays in its
// column, whose index it reads once.
template <class E, bool scatter>
__global__ void move(int64_t m, int64_t n, const E *x, const int32_t *rows, const int32_t *cols, int64_t stride, E *y) {
	int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (j >= n)
		return;
	int64_t col = at(cols, j), step = (int64_t)gridDim.y * blockDim.y;
	for (int64_t i = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; i < m; i += movesAtOnce * step) {
		E v[movesAtOnce];
		int64_t listed[movesAtOnce];
#pragma unroll
		for (int u = 0; u < movesAtOnce; u++)
			if (i + u * step < m) {
				listed[u] = at(rows, i + u * step) * stride + col;
				v[u] = x[scatter ? (i + u * step) * n + j : listed[u]];
			}
#pragma unroll
		for (int u = 0; u < movesAtOnce; u++)
			if (i + u * step < m)
				y[scatter ? listed[u] : (i + u * step) * n + j] = v[u];
	}
}

template <bool scatter>
int moveAny(int type, int64_t m, int64_t n, const void *x, const int32_t *rows, const int32_t *cols, int64_t stride, void *y, void *stream) {
	return dispatch(type, [&](auto e) {
		typedef decltype(e) E;
		dim3 block = moveShape(n);
		return launch(move<E, scatter>, moveGrid(m, n, block), block, 0, stream, m, n, (const E *)x, rows, cols, stride, (E *)y);
	});
}

// extract makes y in tiles of 32×32. Where an element is in the lower triangle its neighbours to the right are next to it in
// memory, where it is above the diagonal its neighbours below are. So a tile is read twice, by warps that lie along its
// rows and by warps that lie along its columns, each time what is contiguous in that direction; both meet in shared memory.
// Lists need not ascend for the result, only for the speed.
const int side = 32, extractWarps = 8, turns = side / extractWarps;

template <class To> struct ExtractTile {
	To at[side][side + 1]; // one more, so that a column lies in 32 banks
};

template <class From, class To>
__global__ void __launch_bounds__(32 * extractWarps) extract(const From *s, int64_t m, const int32_t *rows, int64_t n, const int32_t *cols, int64_t across, To *y) {
	auto &tile = shared<ExtractTile<To>>();
	int64_t i0 = blockIdx.x / across * side, j0 = blockIdx.x % across * side;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	// The indices of row i0+lane and of column j0+lane; −1 beyond the edge.
	int64_t row = i0 + lane < m ? at(rows, i0 + lane) : -1, col = j0 + lane < n ? at(cols, j0 + lane) : -1;
	From alongRow[turns], alongCol[turns];
	bool inRow[turns], inCol[turns];
#pragma unroll
	for (int u = 0; u < turns; u++) { // all on their way before one is used
		int k = warp + u * extractWarps;
		int64_t r = __shfl_sync(allLanes, row, k), c = __shfl_sync(allLanes, col, k);
		inRow[u] = col >= 0 && col <= r;
		inCol[u] = row >= 0 && row < c;
		if (inRow[u])
			alongRow[u] = s[packedLength(r) + col];
		if (inCol[u])
			alongCol[u] = s[packedLength(c) + row];
	}
#pragma unroll
	for (int u = 0; u < turns; u++) {
		int k = warp + u * extractWarps;
		if (inRow[u])
			tile.at[k][lane] = (To)alongRow[u];
		if (inCol[u])
			tile.at[lane][k] = (To)alongCol[u];
	}
	__syncthreads();
#pragma unroll
	for (int u = 0; u < turns; u++) {
		int k = warp + u * extractWarps;
		if (i0 + k < m && j0 + lane < n)
			y[(i0 + k) * n + j0 + lane] = tile.at[k][lane];
	}
}

template <class T> __global__ void addDiagonal(int64_t n, Acc<T> lambda, T *a) {
	for (int64_t i = first(); i < n; i += stride())
		a[i * (n + 1)] = rounded<T>(value(a[i * (n + 1)]) + lambda);
}

template <class T> __global__ void diagonal(int64_t n, const T *s, double *d) {
	for (int64_t i = first(); i < n; i += stride())
		d[i] = s[packedLength(i) + i];
}

const long long nothing = 0x7fffffffffffffff; // larger than every tag

template <class T> __global__ void watchFinite(int64_t n, const T *s, long long tag, long long *smallest) {
	bool bad = false;
	for (int64_t i = first(); i < n; i += stride()) {
		T v = s[packedLength(i) + i];
		bad |= !(v - v == 0); // 0 for every finite v, else NaN
	}
	if (bad)
		atomicMin(smallest, tag);
}

__global__ void forget(long long *smallest) { *smallest = nothing; }

// sums calls f for a type that sums are kept in.
template <class F> int sums(int type, F f) {
	switch (type) {
	case SURGEON_F32: return f(float());
	case SURGEON_F64: return f(double());
	}
	return (int)cudaErrorInvalidValue;
}

} // namespace

extern "C" int surgeon_gather(int type, int64_t m, int64_t n, const void *x, int64_t stride, const int32_t *rows, const int32_t *cols, void *y, void *stream) {
	return moveAny<false>(type, m, n, x, rows, cols, stride, y, stream);
}

extern "C" int surgeon_scatter(int type, int64_t m, int64_t n, const void *x, const int32_t *rows, const int32_t *cols, int64_t stride, void *y, void *stream) {
	return moveAny<true>(type, m, n, x, rows, cols, stride, y, stream);
}

extern "C" int surgeon_extract(int from, int to, const void *s, int64_t m, const int32_t *rows, int64_t n, const int32_t *cols, void *y, void *stream) {
	return sums(from, [&](auto a) {
		return sums(to, [&](auto b) {
			typedef decltype(a) From;
			typedef decltype(b) To;
			int64_t across = ceilDiv(n, side), tiles = across * ceilDiv(m, side);
			if (sizeof(To) < sizeof(From) || tiles > 0x7fffffff)
				return (int)cudaErrorInvalidValue;
			return launch(extract<From, To>, dim3((unsigned)tiles), dim3(32 * extractWarps), sizeof(ExtractTile<To>), stream,
			              (const From *)s, m, rows, n, cols, across, (To *)y);
		});
	});
}

extern "C" int surgeon_add_diagonal(int type, int64_t n, double lambda, void *a, void *stream) {
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return launch(addDiagonal<T>, elementGrid(n), elementThreads, 0, stream, n, (Acc<T>)lambda, (T *)a);
	});
}

extern "C" int surgeon_diagonal(int type, int64_t n, const void *s, double *d, void *stream) {
	return sums(type, [&](auto e) {
		typedef decltype(e) T;
		return launch(diagonal<T>, elementGrid(n), elementThreads, 0, stream, n, (const T *)s, d);
	});
}

extern "C" int surgeon_watch_finite(int type, int64_t n, const void *s, int64_t tag, int64_t *smallest, void *stream) {
	return sums(type, [&](auto e) {
		typedef decltype(e) T;
		return launch(watchFinite<T>, elementGrid(n), elementThreads, 0, stream, n, (const T *)s, (long long)tag, (long long *)smallest);
	});
}

extern "C" int surgeon_watch_forget(int64_t *smallest, void *stream) {
	return launch(forget, 1, 1, 0, stream, (long long *)smallest);
}

// Vectors, and sums and maxima of the rows and columns of a matrix. x, y: rows×cols.
//
//	axpy     y_i ← α·x_i + y_i                           read 2, written 1 element; 2 FLOP
//	rowDot   d_i ← Σ_j x_ij·y_ij                         read 2;                    2 FLOP
//	colDot   d_j ← Σ_i x_ij·y_ij                         read 2;                    2 FLOP
//	maxAbs   r_i ← max_j |x_ij|,  c_j ← max_i |x_ij|     read 1, for both
//
// The sums are kept in float64 for every type, as on the CPU: the pruning costs are sums over whole layers, and memory is what
// they wait for all the same.
//
// Down the columns the matrix is cut into blocks, columns × slices of rows. A block's warps take turns at the rows of its
// slice, its lanes are side by side on a row; what it finds goes to scratch memory, and a second kernel adds up the
// slices in order:
//
//	          32·V columns          partial: slices × cols
//	slice 0 ┌ warp 0 ─────┐  ──►   ┌───────────────┐
//	        │ warp 1      │        │ sum of slice 0│
//	        │  ⋮          │        │  ⋮            │ ──► d
//	slice 1 └ …           ┘        └───────────────┘
//
// A few long rows are cut into slices too, of columns.
//
// The cut depends on the shape alone, so that bits do not depend on the device. Those of a row's sum depend on V, which lane adds what.
#include "rows.cuh"

namespace {

template <class T> struct Axpy {
	Acc<T> alpha;
	const T *x;
	T *y;
	template <int V> __device__ __forceinline__ void at(int64_t i) const {
		Acc<T> a[V], b[V];
		load<V>(a, x + i);
		load<V>(b, y + i);
#pragma unroll
		for (int k = 0; k < V; k++)
			b[k] += alpha * a[k];
		store<V>(y + i, b);
	}
};

// dotPack adds products of V elements to sums, one to each (K = V) or all to one (K = 1).
template <int V, int K, class T> __device__ __forceinline__ void dotPack(double *sum, const T *x, const T *y) {
	Acc<T> a[V], b[V];
	load<V>(a, x);
	load<V>(b, y);
#pragma unroll
	for (int k = 0; k < V; k++)
		sum[k % K] += (double)a[k] * (double)b[k];
}

// Every row in count slices of so many columns; d: count × rows.
template <class T, int V, class A>
__global__ void __launch_bounds__(rowThreads) rowDot(int64_t rows, int64_t cols, int64_t count, int64_t colsOfSlice, int group, const T *x, const T *y, A *d) {
	auto &s = shared<Partial<double, 1>>();
	int lane = threadIdx.x % group, perBlock = blockDim.x / group;
	for (int64_t base = (int64_t)blockIdx.x * perBlock; base < rows * count; base += (int64_t)gridDim.x * perBlock) {
		int64_t i = base + threadIdx.x / group, row = i % rows, from = i / rows * colsOfSlice;
		double sum[1] = {0};
		if (i < rows * count) {
			const T *a = x + row * cols, *b = y + row * cols;
			int64_t to = from + colsOfSlice < cols ? from + colsOfSlice : cols;
#pragma unroll 4
			for (int64_t j = from + (int64_t)lane * V; j < to; j += group * V)
				dotPack<V, 1>(sum, a + j, b + j);
		}
		groupSum(sum, group, s);
		if (lane == 0 && i < rows * count)
			d[i] = (A)sum[0];
		if (group > 32)
			__syncthreads();
	}
}

const int64_t colsOfSlice = 1 << 14; // at least: enough for a block's way through scratch memory
const int64_t rowsEnough = 256;      // keep a GPU busy with a block for each

// slicesOfRow is into how many pieces long rows are cut, where there are few of them.
int64_t slicesOfRow(int64_t rows, int64_t cols) {
	int64_t n = rows < rowsEnough ? cols / colsOfSlice : 1;
	n = n < rowsEnough ? n : rowsEnough;
	return n > 1 ? n : 1;
}

const int warps = 8;              // of the blocks that go down columns
const int64_t rowsOfSlice = 32;   // at least: four for each warp, to be worth the way through scratch memory
const int64_t slicesMost = 128;   // so that the second kernel has little to do
const int64_t blocksWanted = 4096; // some eight waves on a large GPU: the last one, not full, is then a small part

// slices is into how many pieces the rows are cut where the columns are cut into pieces of so many.
int64_t slices(int64_t rows, int64_t cols, int64_t columnsOfBlock) {
	int64_t n = ceilDiv(blocksWanted, ceilDiv(cols + (cols == 0), columnsOfBlock));
	n = n < slicesMost ? n : slicesMost;
	n = n < rows / rowsOfSlice ? n : rows / rowsOfSlice;
	return n > 1 ? n : 1;
}

template <int V> struct ColumnSums { double of[warps][V][32]; };

template <class T, int V>
__global__ void __launch_bounds__(warps * 32) colDot(int64_t rows, int64_t cols, int64_t rowsOfSlice, const T *x, const T *y, double *partial) {
	auto &s = shared<ColumnSums<V>>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t from = blockIdx.y * rowsOfSlice, to = from + rowsOfSlice < rows ? from + rowsOfSlice : rows;
	int64_t left = (int64_t)blockIdx.x * 32 * V, j = left + lane * V;
	double sum[V] = {};
	if (j < cols)
#pragma unroll 4
		for (int64_t i = from + warp; i < to; i += warps)
			dotPack<V, V>(sum, x + i * cols + j, y + i * cols + j);
#pragma unroll
	for (int k = 0; k < V; k++)
		s.of[warp][k][lane] = sum[k];
	__syncthreads();
	int c = threadIdx.x;
	if (c >= 32 * V || left + c >= cols)
		return;
	double all = 0;
	for (int w = 0; w < warps; w++)
		all += s.of[w][c % V][c / V];
	partial[blockIdx.y * cols + left + c] = all;
}

template <class A> __global__ void addSlices(int64_t count, int64_t n, const double *partial, A *d) {
	for (int64_t j = first(); j < n; j += stride()) {
		double sum = 0;
#pragma unroll 8
		for (int64_t k = 0; k < count; k++)
			sum += partial[k * n + j];
		d[j] = (A)sum;
	}
}

// Magnitude<T> is |x| as its bits: they are in the order of the numbers, and those of a NaN come after infinity's. So the
// largest is found among integers, and a NaN is not lost.
template <class T> struct MagnitudeOf { typedef uint32_t type; };
template <> struct MagnitudeOf<double> { typedef unsigned long long type; };
template <class T> using Magnitude = typename MagnitudeOf<T>::type;
__device__ __forceinline__ uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }
__device__ __forceinline__ unsigned long long magnitude(double x) { return (unsigned long long)__double_as_longlong(x) & 0x7fffffffffffffffull; }
__device__ __forceinline__ void put(float *p, uint32_t m) { *p = __uint_as_float(m); }
__device__ __forceinline__ void put(double *p, unsigned long long m) { *p = __longlong_as_double((long long)m); }
__device__ __forceinline__ void put(bf16 *p, uint32_t m) { *p = bf16{(uint16_t)(m >> 16)}; } // of a bf16 as float32

// A thread looks at `packs` packs of a row, 32 packs from one to the next.
template <int V> constexpr int packs = V == 8 ? 2 : 4;
template <int V> constexpr int columnsOfMax = 32 * V * packs<V>;
const int64_t columnsOfMaxFewest = columnsOfMax<1>;

template <class M, int V> struct ColumnMaxima { M of[warps][packs<V>][V][32]; };

template <class T, int V>
__global__ void __launch_bounds__(warps * 32) maxAbs(int64_t rows, int64_t cols, int64_t rowsOfSlice, const T *x, Magnitude<T> *rowPartial, Magnitude<T> *colPartial) {
	typedef Magnitude<T> M;
	const int P = packs<V>;
	auto &s = shared<ColumnMaxima<M, V>>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t from = blockIdx.y * rowsOfSlice, to = from + rowsOfSlice < rows ? from + rowsOfSlice : rows;
	int64_t left = (int64_t)blockIdx.x * columnsOfMax<V>;
	M most[P][V] = {};
#pragma unroll 2
	for (int64_t i = from + warp; i < to; i += warps) {
		M ofRow = 0;
#pragma unroll
		for (int p = 0; p < P; p++) {
			int64_t j = left + (p * 32 + lane) * V;
			if (j < cols) {
				Acc<T> v[V];
				load<V>(v, x + i * cols + j);
#pragma unroll
				for (int k = 0; k < V; k++) {
					M m = magnitude(v[k]);
					most[p][k] = m > most[p][k] ? m : most[p][k];
					ofRow = m > ofRow ? m : ofRow;
				}
			}
		}
		for (int m = 16; m > 0; m >>= 1) {
			M other = __shfl_xor_sync(allLanes, ofRow, m);
			ofRow = other > ofRow ? other : ofRow;
		}
		if (lane == 0)
			rowPartial[blockIdx.x * rows + i] = ofRow;
	}
#pragma unroll
	for (int p = 0; p < P; p++)
#pragma unroll
		for (int k = 0; k < V; k++)
			s.of[warp][p][k][lane] = most[p][k];
	__syncthreads();
	for (int c = threadIdx.x; c < columnsOfMax<V> && left + c < cols; c += blockDim.x) {
		M all = 0;
		for (int w = 0; w < warps; w++) {
			M m = s.of[w][c / (32 * V)][c % V][c / V % 32];
			all = m > all ? m : all;
		}
		colPartial[blockIdx.y * cols + left + c] = all;
	}
}

// largest is out_j ← max_k partial_kj, 0 where there is none.
template <class T> __global__ void largest(int64_t count, int64_t n, const Magnitude<T> *partial, T *out) {
	for (int64_t j = first(); j < n; j += stride()) {
		Magnitude<T> all = 0;
#pragma unroll 8
		for (int64_t k = 0; k < count; k++) {
			Magnitude<T> m = partial[k * n + j];
			all = m > all ? m : all;
		}
		put(out + j, all);
	}
}

} // namespace

extern "C" int surgeon_axpy(int type, int64_t n, double alpha, const void *x, void *y, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return launchElements<T>(n, aligned(x, y), Axpy<T>{(Acc<T>)alpha, (const T *)x, (T *)y}, stream);
	});
}

extern "C" int64_t surgeon_row_dot_scratch(int64_t rows, int64_t cols) {
	int64_t count = slicesOfRow(rows, cols);
	return count > 1 ? count * rows * (int64_t)sizeof(double) : 0;
}

extern "C" int surgeon_row_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *scratch, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		int64_t count = slicesOfRow(rows, cols), each = count > 1 ? ceilDiv(ceilDiv(cols, count), 32) * 32 : cols; // slices begin where packs may
		int code = byWidth<T>(wideRows<T>(cols, x, y), [&](auto v) {
			constexpr int V = decltype(v)::value;
			int64_t pieces = ceilDiv(each, V);
			RowGroups g = pieces <= 128 ? narrowRows(rows, pieces) : blockRows(rows * count); // up to four packs a lane
			if (count == 1)
				return launch(rowDot<T, V, Acc<T>>, g.grid, g.block, sizeof(Partial<double, 1>), stream, rows, cols, count, each, g.group, (const T *)x, (const T *)y, (Acc<T> *)d);
			return launch(rowDot<T, V, double>, g.grid, g.block, sizeof(Partial<double, 1>), stream, rows, cols, count, each, g.group, (const T *)x, (const T *)y, (double *)scratch);
		});
		if (code != 0 || count == 1)
			return code;
		return launch(addSlices<Acc<T>>, elementGrid(rows), elementThreads, 0, stream, count, rows, (const double *)scratch, (Acc<T> *)d);
	});
}

extern "C" int64_t surgeon_col_dot_scratch(int64_t rows, int64_t cols) { return slicesMost * cols * (int64_t)sizeof(double); }

extern "C" int surgeon_col_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *scratch, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		int64_t count = slices(rows, cols, 32 * wide<T>), each = ceilDiv(rows, count);
		double *partial = (double *)scratch;
		int code = byWidth<T>(wideRows<T>(cols, x, y), [&](auto v) {
			constexpr int V = decltype(v)::value;
			dim3 grid((unsigned)ceilDiv(cols, 32 * V), (unsigned)count);
			return launch(colDot<T, V>, grid, warps * 32, sizeof(ColumnSums<V>), stream, rows, cols, each, (const T *)x, (const T *)y, partial);
		});
		if (code != 0)
			return code;
		return launch(addSlices<Acc<T>>, elementGrid(cols), elementThreads, 0, stream, count, cols, partial, (Acc<T> *)d);
	});
}

extern "C" int64_t surgeon_max_abs_scratch(int64_t rows, int64_t cols) {
	return (slicesMost * cols + ceilDiv(cols, columnsOfMaxFewest) * rows) * (int64_t)sizeof(double);
}

extern "C" int surgeon_max_abs(int type, int64_t rows, int64_t cols, const void *x, void *r, void *c, void *scratch, void *stream) {
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		typedef Magnitude<T> M;
		int64_t across = 0, count = 0;
		M *colPartial = (M *)scratch, *rowPartial = nullptr;
		int code = byWidth<T>(wideRows<T>(cols, x), [&](auto v) {
			constexpr int V = decltype(v)::value;
			across = ceilDiv(cols, columnsOfMax<V>);
			count = slices(rows, cols, columnsOfMax<V>);
			rowPartial = colPartial + count * cols;
			dim3 grid((unsigned)across, (unsigned)count);
			return launch(maxAbs<T, V>, grid, warps * 32, sizeof(ColumnMaxima<M, V>), stream, rows, cols, ceilDiv(rows, count), (const T *)x, rowPartial, colPartial);
		});
		if (code == 0)
			code = launch(largest<T>, elementGrid(rows), elementThreads, 0, stream, across, rows, rowPartial, (T *)r);
		if (code == 0)
			code = launch(largest<T>, elementGrid(cols), elementThreads, 0, stream, count, cols, colPartial, (T *)c);
		return code;
	});
}

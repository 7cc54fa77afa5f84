// What is done to single weights, float64. x, y: rows×cols, or n elements.
//
//	elementCosts   cost_ij ← ((½·r_i)·w_ij²)·c_j         read 1, written 1 element; 4 FLOP
//	divideOuter    x_ij ← x_ij / (α + s_i·t_j)           read 1, written 1 element; 3 FLOP
//	divide         z_i ← x_i / y_i                       read 2, written 1 element; 1 FLOP
//	compare        marks_i ← x_i against a limit         read 1 element, written 1 byte
//
// All of them should take the time of their bytes. The products of a cost are rounded one by one in the order above, as on
// the CPU: there is no addition that the compiler could fuse with one of them.
#include "wide.cuh"

namespace {

const int rowsOfThread = 4; // so many rows for one reading of what belongs to a column

// shapeOf is the grid and the block for work on a matrix whose columns are taken V at a time: the threads stay in their columns.
void shapeOf(int64_t rows, int64_t cols, int V, dim3 &grid, dim3 &block) {
	unsigned threads = columnBlock(ceilDiv(cols, V));
	block = dim3(threads);
	grid = dim3(threads ? gridOf(ceilDiv(cols, (int64_t)V * threads)) : 0, gridOf(ceilDiv(rows, rowsOfThread), maxGridY));
}

struct Cost {
	__device__ __forceinline__ double operator()(double w, double r, double c) const { return r / 2 * (w * w) * c; }
};

struct Quotient {
	double alpha;
	__device__ __forceinline__ double operator()(double x, double s, double t) const { return x / (alpha + s * t); }
};

// outer is y_ij ← f(x_ij, r_i, c_j). y may be x.
template <int V, class F>
__global__ void __launch_bounds__(elementThreads) outer(int64_t rows, int64_t cols, const double *x, const double *r, const double *c, double *y, F f) {
	for (int64_t j = first() * V; j < cols; j += stride() * V) {
		double ofCol[V];
		load<V>(ofCol, c + j);
		for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
			double v[V], ofRow = r[i];
			load<V>(v, x + i * cols + j);
#pragma unroll
			for (int k = 0; k < V; k++)
				v[k] = f(v[k], ofRow, ofCol[k]);
			store<V>(y + i * cols + j, v);
		}
	}
}

template <class F> int launchOuter(int64_t rows, int64_t cols, const double *x, const double *r, const double *c, double *y, F f, void *stream) {
	return byWidth<double>(wideRows<double>(cols, x, c, y), [&](auto v) {
		constexpr int V = decltype(v)::value;
		dim3 grid, block;
		shapeOf(rows, cols, V, grid, block);
		return launch(outer<V, F>, grid, block, 0, stream, rows, cols, x, r, c, y, f);
	});
}

struct Divide {
	const double *x, *y;
	double *z;
	template <int V> __device__ __forceinline__ void at(int64_t i) const {
		double a[V], b[V];
		load<V>(a, x + i);
		load<V>(b, y + i);
#pragma unroll
		for (int k = 0; k < V; k++)
			a[k] /= b[k];
		store<V>(z + i, a);
	}
};

struct Compare {
	const double *x;
	double limit;
	uint8_t *marks;
	template <int V> __device__ __forceinline__ void at(int64_t i) const {
		double v[V];
		load<V>(v, x + i);
#pragma unroll
		for (int k = 0; k < V; k++)
			marks[i + k] = v[k] < limit ? SURGEON_LESS : v[k] == limit ? SURGEON_EQUAL : SURGEON_MORE;
	}
};

} // namespace

extern "C" int surgeon_element_costs(int64_t rows, int64_t cols, const double *w, const double *r, const double *c, double *cost, void *stream) {
	return launchOuter(rows, cols, w, r, c, cost, Cost{}, stream);
}

extern "C" int surgeon_divide_outer(int64_t rows, int64_t cols, double alpha, const double *s, const double *t, double *x, void *stream) {
	return launchOuter(rows, cols, x, s, t, x, Quotient{alpha}, stream);
}

extern "C" int surgeon_divide(int64_t n, const double *x, const double *y, double *z, void *stream) {
	return launchElements<double>(n, aligned(x, y, z), Divide{x, y, z}, stream);
}

extern "C" int surgeon_compare(int64_t n, const double *x, double limit, uint8_t *marks, void *stream) {
	return launchElements<double>(n, aligned(x), Compare{x, limit, marks}, stream);
}

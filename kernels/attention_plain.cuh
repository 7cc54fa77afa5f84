// Tiles of the plain versions of attention: 64×64 numbers in shared memory, worked on by 16×16 threads, 4×4 numbers each.
//
//	thread (x, y) has rows y, y+16, y+32, y+48 and columns x, x+16, x+32, x+48
#ifndef SURGEON_ATTENTION_PLAIN_CUH
#define SURGEON_ATTENTION_PLAIN_CUH

#include "attention.cuh"

namespace {

const int plainThreads = 256;
const int side = tileRows;
// columns of a head's output that one block makes. A head that is wider takes more blocks, each with the scores of all of it.
const int plainColumns = 2 * side;

template <class A> using Plain = A[side][side + 1]; // one more, so that a column lies in 32 banks

__device__ __forceinline__ float power2(float x) { return exp2f(x); }
__device__ __forceinline__ double power2(double x) { return exp2(x); }

// load is tile ← the first rows×columns elements of x, and zeros beside them.
template <class T, class A> __device__ void load(Plain<A> &tile, const T *x, int64_t stride, int rows, int columns) {
	for (int i = threadIdx.x; i < side * side; i += plainThreads) {
		int r = i / side, c = i % side;
		tile[r][c] = r < rows && c < columns ? value(x[r * stride + c]) : A(0);
	}
}

// scores is s ← x·yᵀ, over all columns of a head, by way of the tiles a and b.
template <class T, class A>
__device__ void scores(A (&s)[4][4], Plain<A> &a, Plain<A> &b, const T *x, int64_t strideX, int rowsX, const T *y, int64_t strideY, int rowsY, int dim) {
	int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	for (int r = 0; r < 4; r++)
		for (int c = 0; c < 4; c++)
			s[r][c] = 0;
	for (int d = 0; d < dim; d += side) {
		int depth = dim - d < side ? dim - d : side;
		__syncthreads(); // a and b were read
		load<T, A>(a, x + d, strideX, rowsX, depth);
		load<T, A>(b, y + d, strideY, rowsY, depth);
		__syncthreads();
#pragma unroll 4
		for (int k = 0; k < depth; k++) {
			A u[4], w[4];
			for (int r = 0; r < 4; r++)
				u[r] = a[ty + 16 * r][k];
			for (int c = 0; c < 4; c++)
				w[c] = b[tx + 16 * c][k];
			for (int r = 0; r < 4; r++)
				for (int c = 0; c < 4; c++)
					s[r][c] += u[r] * w[c];
		}
	}
}

// addProduct is o ← o + p·y, or o + pᵀ·y, for tiles p and y.
template <bool transposed, class A> __device__ __forceinline__ void addProduct(A (&o)[4][4], const Plain<A> &p, const Plain<A> &y) {
	int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll 4
	for (int k = 0; k < side; k++) {
		A u[4], w[4];
		for (int r = 0; r < 4; r++)
			u[r] = transposed ? p[k][ty + 16 * r] : p[ty + 16 * r][k];
		for (int c = 0; c < 4; c++)
			w[c] = y[k][tx + 16 * c];
		for (int r = 0; r < 4; r++)
			for (int c = 0; c < 4; c++)
				o[r][c] += u[r] * w[c];
	}
}

// store is x ← factor_r·o_r, rounded, where that is inside rows×columns.
template <class T, class A> __device__ void store(T *x, int64_t stride, int rows, int columns, const A (&o)[4][4], const A (&factor)[4]) {
	int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	for (int r = 0; r < 4; r++)
		for (int c = 0; c < 4; c++)
			if (ty + 16 * r < rows && tx + 16 * c < columns)
				x[(ty + 16 * r) * stride + tx + 16 * c] = rounded<T>(o[r][c] * factor[r]);
}

__host__ __device__ inline int lesser(int a, int b) { return a < b ? a : b; }

} // namespace

#endif

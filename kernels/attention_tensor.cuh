// Tiles and products of the tensor-core versions of attention: bfloat16, heads 64, 80, 96 or 128 wide.
//
// A tile is rows of a head in shared memory. Every row is 16 bytes longer than the head is wide: an odd number of 16-byte
// pieces, so that the 8 rows that one phase of loadMatrix4 reads lie in 8 different bank groups, without the arithmetic that
// an XOR swizzle would need, and for widths that are no power of 2 too.
#ifndef SURGEON_ATTENTION_TENSOR_CUH
#define SURGEON_ATTENTION_TENSOR_CUH

#include <type_traits>

#include "attention.cuh"
#include "tensor.cuh"

namespace {

template <int D> constexpr int tileStride = D + 8; // elements
template <int D, int Rows> struct __align__(16) Tile {
	bf16 row[Rows][tileStride<D>];
};

// copyTile begins to copy the first `there` rows at x to a tile, and zeros to the rows after them.
template <int D, int Rows, int Threads> __device__ __forceinline__ void copyTile(Tile<D, Rows> &tile, const bf16 *x, int64_t stride, int there) {
	const int pieces = D / 8;
	static_assert(Rows * pieces % Threads == 0, "all threads copy equally much");
	if (Threads % pieces == 0) { // a thread stays in its column: few addresses, few registers
		const int step = Threads / pieces;
		int r = threadIdx.x / pieces, c = threadIdx.x % pieces * 8;
		const bf16 *from = x + r * stride + c;
#pragma unroll
		for (int n = 0; n < Rows / step; n++, from += step * stride)
			copyAsync(&tile.row[r + n * step][c], from, r + n * step < there);
	} else {
#pragma unroll
		for (int n = 0; n < Rows * pieces / Threads; n++) {
			int i = n * Threads + threadIdx.x, r = i / pieces, c = i % pieces * 8;
			copyAsync(&tile.row[r][c], x + r * stride + c, r < there);
		}
	}
}

// Where a lane points loadMatrix4 to, in elements from a fragment's first. leftAt: 16×16 of a left factor; with the transposed
// load also 16×16 of a right factor whose rows are those of the tile. rightAt: 16×16 of a right factor whose columns are the
// rows of the tile, b[0], b[1] of the left 8 and b[2], b[3] of the right 8.
template <int D> __device__ __forceinline__ int leftAt(int lane) { return lane % 16 * tileStride<D> + lane / 16 * 8; }
template <int D> __device__ __forceinline__ int rightAt(int lane) { return (lane % 8 + lane / 16 * 8) * tileStride<D> + lane / 8 % 2 * 8; }

// scores is s ← x·yᵀ for 16·M rows of one tile and 8·N rows of another, both addresses moved by leftAt and rightAt.
template <int D, int M, int N> __device__ __forceinline__ void scores(float (&s)[M][N][4], const bf16 *x, const bf16 *y) {
#pragma unroll
	for (int m = 0; m < M; m++)
#pragma unroll
		for (int n = 0; n < N; n++)
			s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
	for (int k = 0; k < D; k += 16) {
		uint32_t a[M][4];
#pragma unroll
		for (int m = 0; m < M; m++)
			loadMatrix4(a[m], x + m * 16 * tileStride<D> + k);
#pragma unroll
		for (int n = 0; n < N; n += 2) {
			uint32_t b[4];
			loadMatrix4(b, y + n * 8 * tileStride<D> + k);
#pragma unroll
			for (int m = 0; m < M; m++) {
				mma(s[m][n], a[m], b);
				mma(s[m][n + 1], a[m], b + 2);
			}
		}
	}
}

// scores with the left factor in registers.
template <int D, int N> __device__ __forceinline__ void scores(float (&s)[1][N][4], const uint32_t (&a)[D / 16][4], const bf16 *y) {
#pragma unroll
	for (int n = 0; n < N; n++)
		s[0][n][0] = s[0][n][1] = s[0][n][2] = s[0][n][3] = 0;
#pragma unroll
	for (int k = 0; k < D; k += 16)
#pragma unroll
		for (int n = 0; n < N; n += 2) {
			uint32_t b[4];
			loadMatrix4(b, y + n * 8 * tileStride<D> + k);
			mma(s[0][n], a[k / 16], b);
			mma(s[0][n + 1], a[k / 16], b + 2);
		}
}

// leftFactor rounds 16 × 8·N numbers as mma leaves them to a left factor as mma takes it: two neighbouring results 8 columns
// wide are one fragment 16 wide, lane by lane.
template <int N> __device__ __forceinline__ void leftFactor(uint32_t (&a)[N / 2][4], const float (&s)[N][4]) {
#pragma unroll
	for (int n = 0; n < N; n++) {
		a[n / 2][n % 2 * 2] = pair(s[n][0], s[n][1]);
		a[n / 2][n % 2 * 2 + 1] = pair(s[n][2], s[n][3]);
	}
}

// addProduct is o ← o + p·y for 16·K rows of a tile, the address moved by leftAt.
template <int D, int M, int K> __device__ __forceinline__ void addProduct(float (&o)[M][D / 8][4], const uint32_t (&p)[M][K][4], const bf16 *y) {
#pragma unroll
	for (int k = 0; k < K; k++)
#pragma unroll
		for (int n = 0; n < D / 8; n += 2) {
			uint32_t b[4];
			loadMatrix4Transposed(b, y + k * 16 * tileStride<D> + n * 8);
#pragma unroll
			for (int m = 0; m < M; m++) {
				mma(o[m][n], p[m][k], b);
				mma(o[m][n + 1], p[m][k], b + 2);
			}
		}
}

// storeRows is x ← factor·o, rounded, for the 16·M rows of a warp of which the first `there` are inside the matrix. It goes by
// way of `own`, rows of a tile that no other warp uses any more, so that rows are written in pieces of 16 bytes.
template <int D, int M> __device__ __forceinline__ void storeRows(bf16 *x, int64_t stride, int there, const float (&o)[M][D / 8][4], const float (&factor)[M][2], bf16 *own) {
	const int pieces = D / 8;
	int lane = threadIdx.x % 32;
	__syncwarp(); // own was read
#pragma unroll
	for (int m = 0; m < M; m++)
#pragma unroll
		for (int n = 0; n < D / 8; n++)
#pragma unroll
			for (int half = 0; half < 2; half++)
				*(uint32_t *)(own + (m * 16 + half * 8 + lane / 4) * tileStride<D> + n * 8 + lane % 4 * 2) =
				    pair(o[m][n][2 * half] * factor[m][half], o[m][n][2 * half + 1] * factor[m][half]);
	__syncwarp();
	for (int i = lane; i < 16 * M * pieces; i += 32) {
		int r = i / pieces, c = i % pieces * 8;
		if (r < there)
			*(uint4 *)(x + r * stride + c) = *(const uint4 *)(own + r * tileStride<D> + c);
	}
}

// power2 is 2^x to 2 ulp, in one instruction. Results below 2⁻¹²⁶ are 0.
__device__ __forceinline__ float power2(float x) {
#ifdef __CUDACC__
	float y;
	asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
	return y;
#else
	return exp2f(x);
#endif
}

// warpIndex is threadIdx.x / 32, said so that the compiler knows it to be the same in all of a warp.
__device__ __forceinline__ int warpIndex() { return __shfl_sync(allLanes, (int)threadIdx.x / 32, 0); }

// byWidth calls f with the width of a head as a constant. tensorFits has the same widths.
template <class F> int byWidth(int dim, F f) {
	switch (dim) {
	case 64: return f(std::integral_constant<int, 64>());
	case 80: return f(std::integral_constant<int, 80>());
	case 96: return f(std::integral_constant<int, 96>());
	case 128: return f(std::integral_constant<int, 128>());
	}
	return (int)cudaErrorInvalidValue;
}

} // namespace

#endif

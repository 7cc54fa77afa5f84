// Tiles of 64×64 numbers in float64, of which cholesky.cu and triangles.cu are made: a sum of products for each block of threads,
// and the substitution by a block on the diagonal.
//
//	tile ← tile + Σ_k a_ik·b_kj
//
// Both factors come through shared memory 16 k at a time, by asynchronous copies that run two steps ahead, and go to the tensor
// cores from there: 64·64·16·2 FLOP for 16 KiB. Each of four warps has a quarter of the tile, so that 8 numbers read by a thread make
// 16 products; with eight warps of half of that, shared memory would be as busy as the tensor cores. (Reasoned for an H100, not measured.)
//
//	         ┌───┬───┐
//	         │ b │ b │
//	         └───┴───┘       A factor may be stored the other way round. It is copied as it is stored, row by row, since only
//	 ┌───┐   ┌───┬───┐       neighbours in memory make whole sectors; how a thread reads it makes the difference.
//	 │ a │   │ 0 │ 1 │
//	 ├───┤   ├───┼───┤       Copies are of 8 bytes: rows of a matrix of odd order are aligned to no more. What is beyond the edge
//	 │ a │   │ 2 │ 3 │       of a matrix arrives as zeros.
//	 └───┘   └───┴───┘
//
// The order of a sum is that of k, whatever else is computed: a result depends on its own matrix alone.
#ifndef SURGEON_TILE_CUH
#define SURGEON_TILE_CUH

#include "tensor.cuh"

const int tileSide = 64;
const int tileThreads = 128;
const int tileDepth = 16; // k of a step
const int tileStages = 3; // steps in shared memory; with a panel beside them, two blocks fit on a multiprocessor
// Rows in shared memory are 4 modulo 16 doubles long, so that the 8×4 or 4×8 numbers of a fragment lie in different banks.
const int tilePitch = tileSide + 4, depthPitch = tileDepth + 4;

inline int64_t tilesOf(int64_t n) { return ceilDiv(n, tileSide); }

// Part is what is left of a row-major matrix from an element on: to the right and below.
struct Part {
	const double *at;
	int64_t stride; // from a row to the next
	int64_t rows, cols;
};

struct Stages {
	double a[tileStages][tileSide * depthPitch], b[tileStages][tileSide * depthPitch]; // 64 rows of 16, or 16 of 64
};
static_assert(tileSide * depthPitch >= tileDepth * tilePitch, "room for both");

// Tile is a thread's part of it, see mma.
struct Tile {
	double x[4][4][2];
};

// forTile calls f(row, col, number) for each of the thread's numbers.
template <class F> __device__ __forceinline__ void forTile(Tile &tile, F f) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				f(warp / 2 * 32 + 8 * i + lane / 4, warp % 2 * 32 + 8 * j + lane % 4 * 2 + e, tile.x[i][j][e]);
}

// multiply is tile += a·b of a warp's 32 rows, depth k and 32 columns in shared memory. a_ik is a[i·aPitch + k], or transposed
// a[k·aPitch + i], and b_kj likewise.
template <bool aTransposed, bool bTransposed, int depth, int aPitch, int bPitch>
__device__ __forceinline__ void multiply(Tile &tile, const double *a, const double *b) {
	const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	a += aTransposed ? t * aPitch + g : g * aPitch + t;
	b += bTransposed ? g * bPitch + t : t * bPitch + g;
#pragma unroll
	for (int k = 0; k < depth; k += 4) {
		double left[4], right[4];
#pragma unroll
		for (int i = 0; i < 4; i++) {
			left[i] = a[aTransposed ? k * aPitch + 8 * i : 8 * i * aPitch + k];
			right[i] = b[bTransposed ? 8 * i * bPitch + k : k * bPitch + 8 * i];
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int j = 0; j < 4; j++)
				mma(tile.x[i][j], left[i], right[j]);
	}
}

// copyStep begins to copy 64 rows of 16 columns, or 16 rows of 64, from (row, col) of p on.
template <int cols> __device__ __forceinline__ void copyStep(double *to, const Part &p, int64_t row, int64_t col) {
	const int across = threadIdx.x % cols, down = threadIdx.x / cols, rowsAtOnce = tileThreads / cols;
	const double *from = p.at + (row + down) * p.stride + col + across;
	to += down * (cols + 4) + across;
#pragma unroll
	for (int r = 0; r < tileSide * tileDepth / cols; r += rowsAtOnce)
		copyAsync8(to + r * (cols + 4), from + r * p.stride, row + down + r < p.rows && col + across < p.cols);
}

// addProduct is tile += a·b by a whole block: a of 64 rows and `inner` columns, b of `inner` rows and 64 columns; transposed they
// are stored the other way round.
template <bool aTransposed, bool bTransposed> __device__ __forceinline__ void addProduct(Tile &tile, Stages &s, const Part &a, const Part &b, int64_t inner) {
	const int warp = threadIdx.x / 32, steps = (int)ceilDiv(inner, tileDepth);
	auto copy = [&](int step) {
		if (step < steps) {
			int64_t k = (int64_t)step * tileDepth;
			int stage = step % tileStages;
			aTransposed ? copyStep<tileSide>(s.a[stage], a, k, 0) : copyStep<tileDepth>(s.a[stage], a, 0, k);
			bTransposed ? copyStep<tileDepth>(s.b[stage], b, 0, k) : copyStep<tileSide>(s.b[stage], b, k, 0);
		}
		copyCommit(); // also of nothing: groups are counted
	};
	const int aPitch = aTransposed ? tilePitch : depthPitch, bPitch = bTransposed ? depthPitch : tilePitch;
	const int aAt = warp / 2 * 32 * (aTransposed ? 1 : aPitch), bAt = warp % 2 * 32 * (bTransposed ? bPitch : 1);
	for (int step = 0; step < tileStages - 1; step++)
		copy(step);
	for (int step = 0; step < steps; step++) {
		copyWait<tileStages - 2>();
		__syncthreads(); // the step is there, for all; the one before was multiplied
		copy(step + tileStages - 1);
		multiply<aTransposed, bTransposed, tileDepth, aPitch, bPitch>(tile, s.a[step % tileStages] + aAt, s.b[step % tileStages] + bAt);
	}
	__syncthreads(); // all steps were multiplied
}

// Panel is a block on the diagonal and 64 other rows, in which tiles are multiplied before.
const int panelWidth = 32; // columns at a time: a row of the block on the diagonal for each lane of a warp
struct Panel {
	double block[tileSide][tilePitch];
	union {
		double rows[tileSide][tilePitch];
		Stages stages;
	};
	double inverse[tileSide]; // 1/l_jj
	double column[2][panelWidth];
	int failed;

	__device__ double *row(int r) { return r < tileSide ? block[r] : rows[r - tileSide]; }
};

// solveRow is row r ← row r · (block on the diagonal)⁻ᵀ, in the columns from j0 on. Two columns at a time, which come in one read.
__device__ __forceinline__ void solveRow(Panel &s, int r, int j0) {
	double x[panelWidth], *row = s.row(r) + j0;
#pragma unroll
	for (int j = 0; j < panelWidth; j++)
		x[j] = row[j];
#pragma unroll
	for (int j = 0; j < panelWidth; j += 2) {
		x[j] *= s.inverse[j0 + j];
		x[j + 1] = (x[j + 1] - x[j] * s.block[j0 + j + 1][j0 + j]) * s.inverse[j0 + j + 1];
#pragma unroll
		for (int k = j + 2; k < panelWidth; k++) {
			double2 l = *(const double2 *)&s.block[j0 + k][j0 + j];
			x[k] -= x[j] * l.x;
			x[k] -= x[j + 1] * l.y;
		}
	}
#pragma unroll
	for (int j = 0; j < panelWidth; j++)
		row[j] = x[j];
}

// updateRows takes what the first 32 columns do to the other 32 off the 32 rows from r0 on, by one warp.
__device__ __forceinline__ void updateRows(Panel &s, int r0) {
	const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	double *at = s.row(r0) + g * tilePitch + panelWidth + 2 * t;
	Tile tile; // of this warp alone, with the sign turned
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				tile.x[i][j][e] = -at[8 * i * tilePitch + 8 * j + e];
	multiply<false, true, panelWidth, tilePitch, tilePitch>(tile, s.row(r0), s.block[panelWidth]);
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				at[8 * i * tilePitch + 8 * j + e] = -tile.x[i][j][e];
}

#endif

// Gram matrices by tensor cores: how they are cut into tiles, and tiles into parts, for the kernels that make them,
// gram_tensor.cu and gram_warpgroup.cu. gram.cu says what is computed.
#ifndef SURGEON_GRAM_CUH
#define SURGEON_GRAM_CUH

#include "tensor.cuh"

const int chunk = 8;  // bfloat16 in 16 bytes, what is copied at a time
const int depth = 64; // tokens of a step

// A block makes a tile of 128 rows × 256 columns of s. Why this large: per 16 tokens that is 512 Ki multiplications and
// additions, 256 cycles of an H100's tensor cores at best, 512 of an A100's, for which 12 KiB come from L2, 48 bytes a cycle or
// 24. Tiles of 128×128 would need a third more. Larger ones do not fit the registers, of which the sums take half.
//
// Two blocks, one after the other in the grid, make a square of 256×256: what the squares on the diagonal have above it is
// made and not written, and the lower block of the last row may have no rows. An H100's two blocks share the copies of the
// columns (gram_warpgroup.cu).
const int tileRows = 128, tileCols = 256, squareSide = 256;

// How squares are given to blocks. An H100 has 132 multiprocessors: as many squares as make whole waves of 66 go each to one
// pair of blocks; the sums of the rest, less than a wave, are cut into parts that fill the multiprocessors, each part made by a
// pair of blocks into scratch memory and added up by a second kernel, in order. 4096 columns are 136 squares: two waves and 4
// squares, which uncut would take a third wave for themselves; 576 columns are 6 squares. The squares of all matrices of a call
// are counted through for this, the first matrix's first. The numbers are those of an H100 on every GPU. The emulated device has
// smaller ones: matrices small enough for it take every way.
#ifdef SURGEON_EMU
const int wave = 4, band = 2, partTokens = 64;
#else
const int wave = 66, band = 8, partTokens = 128;
#endif

struct Plan {
	int whole;      // squares that are made whole, the first of all matrices
	int rest;       // squares made in parts, those after them
	int parts;      // of each
	int partTokens; // tokens of a part
	int blocks() const { return 2 * (whole + rest * parts); }
	int64_t partials() const { return (int64_t)rest * parts * squareSide * squareSide; } // elements of all parts
};

// squareAt is the place of square number t of a matrix, counted in squares. Blocks that run together should read the same columns, so
// squares are numbered in bands of 8 rows of squares, and down the band column after column: a wave of 66 is about 8×8 squares
// and reads 4096 columns, not all that the longest row of squares needs.
//
//	 band 0   0
//	          1 2             bands of 2 rows of squares; the last of a row is on the diagonal
//	          ───────
//	 band 1   0 2 4
//	          1 3 5 6
struct Place {
	int i, j;
};
__host__ __device__ inline Place squareAt(int t, int across) {
	int top = 0, high;
	for (;; top += band) {
		high = across - top < band ? across - top : band;
		int squares = high * top + high * (high + 1) / 2;
		if (t < squares || high < band)
			break;
		t -= squares;
	}
	if (t < high * top) // columns that all rows of the band have
		return Place{top + t % high, t / high};
	t -= high * top;
	int c = 0; // columns after those: in the c-th the first c rows are missing
	for (; t >= high - c; c++)
		t -= high - c;
	return Place{top + c + t, top + c};
}

// Matrix is one of a call: x of tokens × n, s the triangle of its Gram matrix.
struct Matrix {
	const bf16 *x;
	float *s;
	int n;
	int across; // squares in the longest row
	int first;  // number of its first square among those of all matrices
};

// Gram is a call: s ← α·xᵀx + β·s for each matrix, and the parts of squares into partial. It is a __grid_constant__ of kernels,
// in which a matrix can be looked up by a number without a copy of all in local memory.
struct Gram {
	Plan plan;
	int64_t tokens;
	float alpha, beta;
	float *partial;
	int count;
	Matrix matrix[SURGEON_GRAM_MOST]; // first is INT_MAX beyond the last
};

// matrixOf is the number of the matrix that has square number t of all.
__device__ __forceinline__ int matrixOf(const Gram &g, int t) {
	int k = 0;
#pragma unroll
	for (int next = 1; next < SURGEON_GRAM_MOST; next++)
		k += t >= g.matrix[next].first;
	return k;
}

// Piece is what a block makes: the tile at (i0, j0) of a matrix from tokens t0 to t1−1.
struct Piece {
	int matrix;
	int i0, j0;
	int64_t t0, t1;
	float *part; // where it goes, or nullptr for a whole tile
	__device__ __forceinline__ int tokens() const { return (int)(t1 - t0); }
	__device__ __forceinline__ bool onDiagonal() const { return i0 - j0 < tileCols; } // its rows are among its columns
};

__device__ __forceinline__ Piece pieceOf(const Gram &g, int block) {
	Piece p = {};
	p.t1 = g.tokens;
	int number = block / 2, half = block % 2;
	if (number >= g.plan.whole) { // blocks that run together have the same tokens
		int part = (number - g.plan.whole) / g.plan.rest, square = (number - g.plan.whole) % g.plan.rest;
		p.t0 = (int64_t)part * g.plan.partTokens < g.tokens ? (int64_t)part * g.plan.partTokens : g.tokens;
		p.t1 = p.t0 + g.plan.partTokens < g.tokens ? p.t0 + g.plan.partTokens : g.tokens;
		p.part = g.partial + (((int64_t)part * g.plan.rest + square) * squareSide + half * tileRows) * tileCols;
		number = g.plan.whole + square;
	}
	p.matrix = matrixOf(g, number);
	const Matrix &m = g.matrix[p.matrix];
	Place place = squareAt(number - m.first, m.across);
	p.i0 = place.i * squareSide + half * tileRows;
	p.j0 = place.j * squareSide;
	return p;
}

// tileEnd is the number of elements of row i that a tile beginning in column j0 has in the lower triangle.
__device__ __forceinline__ int tileEnd(int i, int j0) { return i + 1 - j0 < tileCols ? i + 1 - j0 : tileCols; }

// A finished tile goes through shared memory on its way to the rows of a packed triangle, which are not aligned. With 8 more
// the rows of a product's fragments begin in different banks.
const int outStride = tileCols + 8;
const int outLength = tileRows * outStride;

// writeTile writes the tile from shared memory, a row by each of the warps in turn.
__device__ __forceinline__ void writeTile(const Gram &g, const Piece &p, const float *tile, int warps) {
	const Matrix &m = g.matrix[p.matrix];
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	bool whole = p.part == nullptr;
	for (int row = warp; row < tileRows && p.i0 + row < m.n; row += warps) {
		int end = tileEnd(p.i0 + row, p.j0);
		const float *out = tile + row * outStride;
		float *to = whole ? m.s + packedLength(p.i0 + row) + p.j0 : p.part + row * tileCols;
		float old[tileCols / 32];
#pragma unroll
		for (int u = 0; u < tileCols / 32; u++)
			old[u] = whole && g.beta != 0 && 32 * u + lane < end ? g.beta * to[32 * u + lane] : 0;
#pragma unroll
		for (int u = 0; u < tileCols / 32; u++)
			if (32 * u + lane < end)
				to[32 * u + lane] = whole ? g.alpha * out[32 * u + lane] + old[u] : out[32 * u + lane];
	}
}

int gramTensor(const Gram &g, void *stream);    // on every GPU
int gramWarpgroup(const Gram &g, void *stream); // on GPUs of compute capability 9.0

#endif

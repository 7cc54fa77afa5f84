// How Gram matrices are cut into tiles, and tiles into parts, for the kernels that make them fast: gram_tensor.cu and
// gram_warpgroup.cu by tensor cores, gram_float.cu without. gram.cu says what is computed.
#ifndef SURGEON_GRAM_CUH
#define SURGEON_GRAM_CUH

#include "tensor.cuh"

// A kind of kernels has a Cut, which says how the triangle is cut into squares of side × side elements, and these into tiles of
// rows × side, one for each block of threads. What the squares on the diagonal have above it is made and not written.
//
// An H100 has 132 multiprocessors. As many squares as make whole waves, which fill these, are each made at once; the sums of
// the rest, less than a wave, are cut into parts that fill the multiprocessors, each made into scratch memory by blocks of its own
// and added up by a second kernel, in order. The squares of all matrices of a call are counted through for this, the first
// matrix's first. The numbers are those of an H100 on every GPU. The emulated device has smaller ones: matrices small enough for
// it take every way.
#ifdef SURGEON_EMU
const bool emulated = true;
#else
const bool emulated = false;
#endif

// TensorCut: a block makes a tile of 128 rows × 256 columns of s. Why this large: per 16 tokens that is 512 Ki multiplications and
// additions, 256 cycles of an H100's tensor cores at best, 512 of an A100's, for which 12 KiB come from L2, 48 bytes a cycle or
// 24. Tiles of 128×128 would need a third more. Larger ones do not fit the registers, of which the sums take half.
//
// Two blocks, one after the other in the grid, make a square of 256×256; the lower block of the last row may have no rows. An
// H100's two blocks share the copies of the columns (gram_warpgroup.cu). A wave is 66 pairs of blocks. 4096 columns are 136
// squares: two waves and 4 squares, which uncut would take a third wave for themselves; 576 columns are 6 squares.
struct TensorCut {
	typedef bf16 Element;
	static const int side = 256, rows = 128;
	static const int depth = 64; // tokens of a step
	static const int wave = emulated ? 4 : 66, band = emulated ? 2 : 8;
	static const int leastTokens = emulated ? 64 : 128; // of a part
	// tileTokens is what it takes a block to begin, to write a tile and to read it again, in tokens that it could do meanwhile:
	// those of 132 blocks are 17 MB, by arithmetic some 8 µs for the memory, in which a block does about 500 tokens.
	static const int tileTokens = 512;
	static const int restRows = 8; // of a square, that a block of the second kernel adds up
	// A finished tile goes through shared memory on its way to the rows of a packed triangle, which are not aligned. With 8 more
	// the rows of a product's fragments begin in different banks.
	static const int outStride = side + 8, outLength = rows * outStride;
};

// FloatCut: a block makes a square of 128×128, and two blocks fit on a multiprocessor. 4096 columns are 528 squares, two waves;
// 576 columns are 15 squares, which are cut into parts by any number of tokens that is worth it. A tile is half of one of the
// tensor cores and takes 256 cycles a token beside another one: 55 tokens for the same 8 µs.
struct FloatCut {
	typedef float Element;
	static const int side = 128, rows = 128;
	static const int depth = 8;
	static const int wave = emulated ? 4 : 264, band = emulated ? 2 : 16;
	static const int leastTokens = emulated ? 32 : 64;
	static const int tileTokens = 64;
	// 576 columns and 2048 tokens are 15 squares in 16 parts: with 8 rows a block the second kernel would have 240 blocks, each
	// waiting 24 times for memory, 17 µs by arithmetic; the squares take about 30. (Reasoned, not measured.)
	static const int restRows = 1;
	static const int outStride = side + 4, outLength = rows * outStride;
};

template <class C> struct Plan {
	int whole;      // squares that are made whole, the first of all matrices
	int rest;       // squares made in parts, those after them
	int parts;      // of each
	int partTokens; // tokens of a part
	int blocks() const { return C::side / C::rows * (whole + rest * parts); }
	int64_t partials() const { return (int64_t)rest * parts * C::side * C::side; } // elements of all parts
};

// squareAt is the place of square number t of a matrix, counted in squares. Blocks that run together should read the same columns, so
// squares are numbered in bands of rows of squares, and down the band column after column: with bands of 8 rows a wave of 66 is about
// 8×8 squares and reads 4096 columns, not all that the longest row of squares needs. So does a wave of 264, 16×16 smaller ones.
//
//	 band 0   0
//	          1 2             bands of 2 rows of squares; the last of a row is on the diagonal
//	          ───────
//	 band 1   0 2 4
//	          1 3 5 6
struct Place {
	int i, j;
};
__host__ __device__ inline Place squareAt(int t, int across, int band) {
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
template <class C> struct Matrix {
	const typename C::Element *x;
	float *s;
	int n;
	int across; // squares in the longest row
	int first;  // number of its first square among those of all matrices
};

// Gram is a call: s ← α·xᵀx + β·s for each matrix, and the parts of squares into partial. It is a __grid_constant__ of kernels,
// in which a matrix can be looked up by a number without a copy of all in local memory.
template <class C> struct Gram {
	Plan<C> plan;
	int64_t tokens;
	float alpha, beta;
	float *partial;
	int count;
	Matrix<C> matrix[SURGEON_GRAM_MOST]; // first is INT_MAX beyond the last
};

// matrixOf is the number of the matrix that has square number t of all.
template <class C> __device__ __forceinline__ int matrixOf(const Gram<C> &g, int t) {
	int k = 0;
#pragma unroll
	for (int next = 1; next < SURGEON_GRAM_MOST; next++)
		k += t >= g.matrix[next].first;
	return k;
}

// Piece is what a block makes: the tile at (i0, j0) of a matrix from tokens t0 to t1−1.
template <class C> struct Piece {
	int matrix;
	int i0, j0;
	int64_t t0, t1;
	float *part; // where it goes, or nullptr for a whole tile
	__device__ __forceinline__ int tokens() const { return (int)(t1 - t0); }
	__device__ __forceinline__ bool onDiagonal() const { return i0 - j0 < C::side; } // its rows are among its columns
};

template <class C> __device__ __forceinline__ Piece<C> pieceOf(const Gram<C> &g, int block) {
	Piece<C> p = {};
	p.t1 = g.tokens;
	const int tiles = C::side / C::rows; // of a square
	int number = block / tiles, tile = block % tiles;
	if (number >= g.plan.whole) { // blocks that run together have the same tokens
		int part = (number - g.plan.whole) / g.plan.rest, square = (number - g.plan.whole) % g.plan.rest;
		p.t0 = (int64_t)part * g.plan.partTokens < g.tokens ? (int64_t)part * g.plan.partTokens : g.tokens;
		p.t1 = p.t0 + g.plan.partTokens < g.tokens ? p.t0 + g.plan.partTokens : g.tokens;
		p.part = g.partial + (((int64_t)part * g.plan.rest + square) * C::side + tile * C::rows) * C::side;
		number = g.plan.whole + square;
	}
	p.matrix = matrixOf(g, number);
	const Matrix<C> &m = g.matrix[p.matrix];
	Place place = squareAt(number - m.first, m.across, C::band);
	p.i0 = place.i * C::side + tile * C::rows;
	p.j0 = place.j * C::side;
	return p;
}

// tileEnd is the number of elements of row i that a tile beginning in column j0 has in the lower triangle.
template <class C> __device__ __forceinline__ int tileEnd(int i, int j0) { return i + 1 - j0 < C::side ? i + 1 - j0 : C::side; }

// writeTile writes the tile from shared memory, a row by each of the warps in turn.
template <class C> __device__ __forceinline__ void writeTile(const Gram<C> &g, const Piece<C> &p, const float *tile, int warps) {
	const Matrix<C> &m = g.matrix[p.matrix];
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	bool whole = p.part == nullptr;
	for (int row = warp; row < C::rows && p.i0 + row < m.n; row += warps) {
		int end = tileEnd<C>(p.i0 + row, p.j0);
		const float *out = tile + row * C::outStride;
		float *to = whole ? m.s + packedLength(p.i0 + row) + p.j0 : p.part + row * C::side;
		float old[C::side / 32];
#pragma unroll
		for (int u = 0; u < C::side / 32; u++)
			old[u] = whole && g.beta != 0 && 32 * u + lane < end ? g.beta * to[32 * u + lane] : 0;
#pragma unroll
		for (int u = 0; u < C::side / 32; u++)
			if (32 * u + lane < end)
				to[32 * u + lane] = whole ? g.alpha * out[32 * u + lane] + old[u] : out[32 * u + lane];
	}
}

int gramTensor(const Gram<TensorCut> &g, void *stream);    // on every GPU
int gramWarpgroup(const Gram<TensorCut> &g, void *stream); // on GPUs of compute capability 9.0
int gramFloat(const Gram<FloatCut> &g, void *stream);

#endif

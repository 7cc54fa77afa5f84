// The Gram matrix by tensor cores: how it is cut into tiles, and tiles into parts, for the kernels that make them,
// gram_tensor.cu and gram_warpgroup.cu. gram.cu says what is computed.
#ifndef SURGEON_GRAM_CUH
#define SURGEON_GRAM_CUH

#include "tensor.cuh"

const int chunk = 8;  // bfloat16 in 16 bytes, what is copied at a time
const int depth = 64; // tokens of a step

// A block makes a tile of 128 rows × 256 columns of s. Why this large: per 16 tokens that is 512 Ki multiplications and
// additions, 256 cycles of an H100's tensor cores at best, 512 of an A100's, for which 12 KiB come from L2, 48 bytes a cycle or
// 24. Tiles of 128×128 would need a third more. Larger ones do not fit the registers, of which the sums take half.
const int tileRows = 128, tileCols = 256;

// How tiles are given to blocks. An H100 has 132 multiprocessors: as many tiles as make whole waves of 132 blocks go each to
// one block; the sums of the rest, less than a wave, are cut into parts that fill the multiprocessors, each part made by a
// block into scratch memory and added up by a second kernel, in order. 4096 columns are 272 tiles: two waves and 8 tiles, which
// uncut would take a third wave for themselves; 576 columns are 9 tiles. The numbers are those of an H100 on every GPU. The
// emulated device has smaller ones: matrices small enough for it take every way.
#ifdef SURGEON_EMU
const int wave = 3, band = 4, partTokens = 64;
#else
const int wave = 132, band = 16, partTokens = 128;
#endif

struct Plan {
	int rowBlocks;  // tiles down
	int whole;      // tiles made by one block
	int rest;       // tiles made in parts
	int parts;      // of each
	int partTokens; // tokens of a part
	int blocks() const { return whole + rest * parts; }
	int64_t partials() const { return (int64_t)rest * parts * tileRows * tileCols; } // elements of all parts
};

// tileAt is the place of tile number t, counted in blocks of 128 rows and of 256 columns. Blocks that run together should
// read the same columns, so tiles are numbered in bands of 16 rows of tiles, and down the band column after column: a wave
// of 132 is about 16×8 tiles and reads 4096 columns, not all that the longest row of tiles needs. The tiles on the
// diagonal, which are faster, are the last of a band.
//
//	        0 ◣
//	 band 0   0 2 ◣           band of 4 rows of tiles
//	          ─────────
//	          0 4 8 11 ◣
//	 band 1   1 5 9 12 14 ◣
//
// A column of tiles is as wide as two rows are high: column j meets the diagonal in rows 2j and 2j + 1.
struct Place {
	int i, j;
};
__host__ __device__ inline Place tileAt(int t, int rowBlocks) {
	int top = 0, high;
	for (;; top += band) {
		high = rowBlocks - top < band ? rowBlocks - top : band;
		int tiles = high * (top / 2 + 1) + (high - 1) * (high - 1) / 4;
		if (t < tiles || high < band)
			break;
		t -= tiles;
	}
	int level = high * (top / 2 + 1); // columns that all rows of the band have
	if (t < level)
		return Place{top + t % high, t / high};
	t -= level;
	int c = 1; // columns after those: in the c-th the first 2c rows are missing
	for (; t >= high - 2 * c; c++)
		t -= high - 2 * c;
	return Place{top + 2 * c + t, top / 2 + c};
}

// Gram is a call: s ← α·xᵀx + β·s for x of tokens × n, and the parts of tiles into partial.
struct Gram {
	Plan plan;
	int64_t tokens;
	int n;
	float alpha, beta;
	const bf16 *x;
	float *s, *partial;
};

// Piece is what a block makes: the tile at (i0, j0) from tokens t0 to t1−1.
struct Piece {
	int i0, j0;
	int64_t t0, t1;
	float *part; // where it goes, or nullptr for a whole tile
	__device__ __forceinline__ int tokens() const { return (int)(t1 - t0); }
};

__device__ __forceinline__ Piece pieceOf(const Gram &g, int number) {
	Piece p = {};
	p.t1 = g.tokens;
	if (number >= g.plan.whole) { // blocks that run together have the same tokens
		int part = (number - g.plan.whole) / g.plan.rest, tile = (number - g.plan.whole) % g.plan.rest;
		p.t0 = (int64_t)part * g.plan.partTokens < g.tokens ? (int64_t)part * g.plan.partTokens : g.tokens;
		p.t1 = p.t0 + g.plan.partTokens < g.tokens ? p.t0 + g.plan.partTokens : g.tokens;
		p.part = g.partial + ((int64_t)part * g.plan.rest + tile) * tileRows * tileCols;
		number = g.plan.whole + tile;
	}
	Place place = tileAt(number, g.plan.rowBlocks);
	p.i0 = place.i * tileRows;
	p.j0 = place.j * tileCols;
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
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	bool whole = p.part == nullptr;
	for (int row = warp; row < tileRows && p.i0 + row < g.n; row += warps) {
		int end = tileEnd(p.i0 + row, p.j0);
		const float *out = tile + row * outStride;
		float *to = whole ? g.s + packedLength(p.i0 + row) + p.j0 : p.part + row * tileCols;
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

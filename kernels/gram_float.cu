// The tiles of Gram matrices without tensor cores: the way of float32, whose products and sums keep its precision. It has the
// blocking of Volkov and Demmel's GEMM (2008), numbers of a tile in registers and little in shared memory, and the lanes of CUTLASS's.
//
// Eight warps make 32×64 each of the block's 128×128, a lane 8×8: two times four rows, two times four columns.
//
//	            j0       j0+64                warp w: rows 32·(w/2), columns 64·(w%2)
//	   i0      | warp 0 | warp 1 |            lane l: rows 4·r…4·r+3 and 16 further down, r = l/16·2 + l%2,
//	   i0+32   | warp 2 | warp 3 |                    columns 4·c…4·c+3 and 32 further right, c = l%16/2
//	   i0+64   | warp 4 | warp 5 |
//	   i0+96   | warp 6 | warp 7 |
//
// Both operands are columns of x, and x is N×n: a step reads 8 tokens of two panels of 128 columns, one for the rows and one for
// the columns of the tile, as they lie in memory. On the diagonal they are the same, and it is read once; warps above the
// diagonal do nothing, nor do those below the last row: of 64 rows, all that the last tiles of 576 columns have, those of
// warps 0…3, one on each scheduler.
//
// Per token a warp issues 64 multiplications and additions and 4 loads of 16 bytes a lane; a step of it is 512 FFMA, 32 LDS.128
// and about 55 instructions for the rest (as nvcc 13.0 makes it for sm_90), so that 85 % of the rate can be reached. 16 lanes that
// load together want 8 or 2 different addresses, and where neighbours, or those two apart, want the same one, such a load takes 2
// cycles of shared memory: 64 cycles of it a token for the 128 in which a multiprocessor's 128 lanes do the products of a block.
// Lanes of one row of the tile side by side would take up to twice that. 1 KiB a token comes from L2, 8 bytes a cycle, a third of
// what L2 gives. So the products are the limit, and larger tiles would gain nothing: with 64 sums a thread two blocks of 128
// registers a thread fit on a multiprocessor, and one works where the other waits. (Reasoned for an H100, not measured.)
#include "gram.cuh"

namespace {

const int side = FloatCut::side, depth = FloatCut::depth, outStride = FloatCut::outStride;
const int stages = 4; // a power of two: remainders are cheap
const int floatThreads = 256;
const int warpRows = 32, warpCols = 64;
const int each = 8, group = 4;                                // elements of a side that a lane makes, and how many lie together
const int rowsApart = warpRows / 2, colsApart = warpCols / 2; // from a lane's first group to its second
const int panelLength = depth * side;

union FloatTile {
	float stage[stages][2 * panelLength]; // the panel of the rows and that of the columns, each token after token
	float out[FloatCut::outLength];
};

// copyChunk copies a chunk of 4 elements or of 1.
template <int chunk> __device__ __forceinline__ void copyChunk(float *to, const float *from, bool valid) {
	if (chunk == 4)
		copyAsync(to, from, valid);
	else
		copyAsync4(to, from, valid);
}

template <int chunk> __global__ void __launch_bounds__(floatThreads, 2) gram(const __grid_constant__ Gram<FloatCut> g) {
	auto &memory = shared<FloatTile>();
	auto p = pieceOf(g, blockIdx.x);
	int i0 = p.i0, j0 = p.j0, n = g.matrix[p.matrix].n;
	int steps = (int)ceilDiv(p.tokens(), depth);
	bool diagonal = i0 == j0;

	// What this thread copies: chunk `across` of tokens `down`, down + rowsAtOnce… of one panel, half of the threads each.
	const int rowsAtOnce = floatThreads / 2 / (side / chunk);
	bool forRows = threadIdx.x < floatThreads / 2;
	int across = threadIdx.x % (side / chunk) * chunk, down = threadIdx.x / (side / chunk) % rowsAtOnce;
	int to = (forRows ? 0 : panelLength) + down * side + across, column = (forRows ? i0 : j0) + across;
	bool wanted = column < n && !(forRows && diagonal); // else zeros arrive
	const float *from = g.matrix[p.matrix].x + (p.t0 + down) * n + column;
	int tokensLeft = p.tokens() - down; // from the thread's first token of the step that is copied next
	auto copy = [&](int step) {
		if (step < steps)
#pragma unroll
			for (int u = 0; u < depth; u += rowsAtOnce)
				copyChunk<chunk>(memory.stage[step % stages] + to + u * side, from + u * (int64_t)n, wanted && u < tokensLeft);
		copyCommit();
		from += depth * (int64_t)n;
		tokensLeft -= depth;
	};

	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int row = warp / 2 * warpRows + (lane / 16 * 2 + lane % 2) * group, col = warp % 2 * warpCols + lane % 16 / 2 * group;
	bool works = i0 + warp / 2 * warpRows < n && j0 + warp % 2 * warpCols < i0 + (warp / 2 + 1) * warpRows; // not below the last row nor above the diagonal
	int rowsAt = diagonal ? panelLength + row : row, colsAt = panelLength + col;

	__align__(16) float sum[each][each] = {}, a[2][each], b[2][each]; // read and written as float4
	auto load = [&](int buffer, int step, int k) {
		if (!works)
			return;
		const float *first = memory.stage[step % stages] + k * side;
#pragma unroll
		for (int h = 0; h < 2; h++) {
			*(float4 *)&a[buffer][h * group] = *(const float4 *)(first + rowsAt + h * rowsApart);
			*(float4 *)&b[buffer][h * group] = *(const float4 *)(first + colsAt + h * colsApart);
		}
	};
	auto multiply = [&](int buffer) {
		if (!works)
			return;
#pragma unroll
		for (int u = 0; u < each; u++)
#pragma unroll
			for (int w = 0; w < each; w++) {
				int v = u % 2 == 0 ? w : each - 1 - w; // to and fro: 28 of 512 instructions read three registers of one bank, not 59
				sum[u][v] += a[buffer][u] * b[buffer][v];
			}
	};

	// While a step is worked on the next is there, and those after it are on their way. Numbers are loaded one token ahead.
	for (int step = 0; step < stages - 1; step++)
		copy(step);
	copyWait<stages - 2>();
	__syncthreads();
	load(0, 0, 0);
	for (int step = 0; step < steps; step++) {
		copy(step + stages - 1); // to where all warps are done: they passed the barrier of the step before
#pragma unroll
		for (int k = 0; k < depth; k++) {
			if (k < depth - 1)
				load((k + 1) % 2, step, k + 1);
			else {
				copyWait<stages - 2>();
				__syncthreads(); // the next step is there, for all; and this one is loaded by all
				load(0, step + 1, 0);
			}
			multiply(k % 2);
		}
	}
	__syncthreads(); // the numbers of the step after the last, never used, were loaded from what is written now

	if (works)
#pragma unroll
		for (int u = 0; u < each; u++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float4 *)&memory.out[(row + u / group * rowsApart + u % group) * outStride + col + h * colsApart] = *(float4 *)&sum[u][h * group];
	__syncthreads(); // the tile is there
	writeTile(g, p, memory.out, floatThreads / 32);
}

} // namespace

int gramFloat(const Gram<FloatCut> &g, void *stream) {
	bool aligned = true;
	for (int k = 0; k < g.count; k++)
		aligned = aligned && g.matrix[k].n % 4 == 0 && (uintptr_t)g.matrix[k].x % 16 == 0;
	return launch(aligned ? gram<4> : gram<1>, dim3(g.plan.blocks()), floatThreads, sizeof(FloatTile), stream, g);
}

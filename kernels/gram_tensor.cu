// The tiles of Gram matrices by the tensor cores of a warp, mma.sync: the way of an A100, and of what has no better one. It has
// the tiling, the asynchronous pipeline and the fragments of CUTLASS's GEMM for the A100.
//
// Eight warps make 64×64 each of the block's 128×256, all in one row of tiles:
//
//	            j0       j0+64    j0+128   j0+192              warp w: rows 64·(w%2), columns 64·(w/2)
//	   i0      | warp 0 | warp 2 | warp 4 | warp 6 |
//	   i0+64   | warp 1 | warp 3 | warp 5 | warp 7 |
//
// Both operands are columns of x, and x is N×n: a step reads 64 tokens of three panels of 128 columns, one for the rows and
// two for the columns of the tile. On the diagonal the rows' panel is one of the columns', and is not read again; warps
// above the diagonal do nothing (the four warps of a half are on four schedulers, so the others gain).
//
// Per 16 tokens a tile takes some 410 cycles of an H100's mma.sync, 512 of an A100's, in which 32 KiB + 12 KiB go through
// shared memory, 352 cycles; warps of 64×32 would need more cycles of shared memory than of tensor cores.
#include "gram.cuh"

namespace {

const int depth = TensorCut::depth, outStride = TensorCut::outStride;
const int chunk = 8; // bfloat16 in 16 bytes, what is copied at a time
const int panelSide = 128, stages = 3, tensorThreads = 256, warpSide = 64;
const int rowsAtOnce = tensorThreads / (panelSide / chunk); // of a panel that the block copies, a chunk per thread
const int rowFragments = warpSide / 16, colFragments = warpSide / 8;

// A panel holds 64 tokens × 128 columns, chunk c of token t in place c ^ t%8: the eight tokens that ldmatrix takes together
// are 256 bytes apart, and so lie in different banks all the same.
struct Stage {
	bf16 panel[3][depth * panelSide];
};
const int stageLength = 3 * depth * panelSide;
__device__ __forceinline__ int placed(int token, int c) { return token * panelSide + (c ^ token % 8) * chunk; }

union TensorTile {
	Stage stage[stages];
	float out[TensorCut::outLength];
};

__global__ void __launch_bounds__(tensorThreads, 1)
gram(const __grid_constant__ Gram<TensorCut> g) {
	auto &memory = shared<TensorTile>();
	auto p = pieceOf(g, blockIdx.x);
	int i0 = p.i0, j0 = p.j0, n = g.matrix[p.matrix].n;
	if (i0 >= n) // the lower half of a square in the last row
		return;
	int steps = (int)ceilDiv(p.tokens(), depth);

	// Panels: 0 for the rows, 1 and 2 for the columns. On the diagonal the rows' one is among the columns'; where that is panel 1
	// all of panel 2 is above the diagonal.
	int rowsPanel = i0 == j0 ? 1 : i0 == j0 + panelSide ? 2 : 0;

	// What this thread copies: chunk `across` of tokens `down`, down+16, down+32, down+48 of each panel.
	int across = threadIdx.x % (panelSide / chunk) * chunk, down = threadIdx.x / (panelSide / chunk);
	int to = placed(down, across / chunk); // tokens 16 apart have the same swizzle
	const bf16 *from = g.matrix[p.matrix].x + (p.t0 + down) * n + across;
	int tokensLeft = p.tokens() - down; // from the thread's first token of the step that is copied next

	// copyPanel begins the copies of a panel for one step; copied ends those of a step.
	auto copyPanel = [&](int stage, int panel) {
		int col = panel == 0 ? i0 : j0 + (panel - 1) * panelSide;
		if (panel == 0 ? rowsPanel != 0 : panel == 2 && rowsPanel == 1)
			return;
		bf16 *at = &memory.stage[stage].panel[panel][to];
#pragma unroll
		for (int u = 0; u < depth / rowsAtOnce; u++)
			copyAsync(at + u * rowsAtOnce * panelSide, from + col + u * rowsAtOnce * (int64_t)n, col + across < n && u * rowsAtOnce < tokensLeft);
	};
	auto copied = [&] {
		copyCommit();
		from += depth * (int64_t)n;
		tokensLeft -= depth;
	};

	// What this thread loads for its warp: see loadMatrix4Transposed for the order of lanes, mma for that of fragments. A
	// fragment of rows is 16 columns of x × 16 tokens; its four matrices follow one another along the columns, then along the
	// tokens. Two fragments of columns are 16 columns × 16 tokens too, along the tokens first. The next 16 columns are two chunks
	// on, and as the chunk is even but for its last bit and the swizzle an exclusive or, so is the way there.
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int warpRow = warp % 2 * warpSide, warpCol = warp / 2 * warpSide;
	bool works = j0 + warpCol < i0 + warpRow + warpSide; // not above the diagonal
	int rowsAt = rowsPanel * depth * panelSide + placed(lane / 16 * 8 + lane % 8, warpRow / chunk + lane / 8 % 2);
	int colsAt = (1 + warpCol / panelSide) * depth * panelSide + placed(lane / 8 % 2 * 8 + lane % 8, warpCol % panelSide / chunk + lane / 16);

	float sum[rowFragments][colFragments][4] = {};
	uint32_t a[2][rowFragments][4], b[2][colFragments][2];
	auto load = [&](int buffer, int stage, int k) {
		if (!works)
			return;
		const bf16 *first = memory.stage[0].panel[0] + k * 16 * panelSide;
		int rows = stage * stageLength + rowsAt, cols = stage * stageLength + colsAt;
#pragma unroll
		for (int m = 0; m < rowFragments; m++)
			loadMatrix4Transposed(a[buffer][m], first + (rows ^ m * 2 * chunk));
#pragma unroll
		for (int m = 0; m < colFragments / 2; m++)
			loadMatrix4Transposed(b[buffer][2 * m], first + (cols ^ m * 2 * chunk));
	};
	auto multiply = [&](int buffer) {
		if (!works)
			return;
#pragma unroll
		for (int i = 0; i < rowFragments; i++)
#pragma unroll
			for (int j = 0; j < colFragments; j++)
				mma(sum[i][j], a[buffer][i], b[buffer][j]);
	};

	// While a step is worked on the next is there, and the one after it is on its way. Fragments are loaded one product ahead.
	for (int stage = 0; stage < stages - 1; stage++) {
		for (int panel = 0; panel < 3 && stage < steps; panel++)
			copyPanel(stage, panel);
		copied();
	}
	copyWait<stages - 2>();
	__syncthreads();
	load(0, 0, 0);
	int now = 0, later = stages - 1; // the stages that are worked on and copied to
	for (int step = 0; step < steps; step++) {
		bool more = step + stages - 1 < steps;
		load(1, now, 1);
		if (more)
			copyPanel(later, 0); // all warps are done with that stage: they passed the barrier of the step before
		multiply(0);
		load(0, now, 2);
		if (more)
			copyPanel(later, 1);
		multiply(1);
		load(1, now, 3);
		if (more)
			copyPanel(later, 2);
		copied();
		multiply(0);
		now = now + 1 < stages ? now + 1 : 0;
		later = later + 1 < stages ? later + 1 : 0;
		copyWait<stages - 2>();
		__syncthreads(); // the next step is there, for all; and this one is loaded by all
		load(0, now, 0);
		multiply(1);
	}
	copyWait<0>();
	__syncthreads(); // the fragments of the step after the last, never used, were loaded from what is written now

	if (works)
#pragma unroll
		for (int i = 0; i < rowFragments; i++)
#pragma unroll
			for (int j = 0; j < colFragments; j++) {
				float *out = &memory.out[(warpRow + 16 * i + lane / 4) * outStride + warpCol + 8 * j + 2 * (lane % 4)];
				*(float2 *)out = make_float2(sum[i][j][0], sum[i][j][1]);
				*(float2 *)(out + 8 * outStride) = make_float2(sum[i][j][2], sum[i][j][3]);
			}
	__syncthreads();
	writeTile(g, p, memory.out, tensorThreads / 32);
}

} // namespace

int gramTensor(const Gram<TensorCut> &g, void *stream) { return launch(gram, dim3(g.plan.blocks()), tensorThreads, sizeof(TensorTile), stream, g); }

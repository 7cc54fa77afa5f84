// The tiles of a Gram matrix by the tensor cores of a warpgroup, wgmma: the way of an H100, whose mma.sync has about 0.6 of
// this one's rate. It is the pipeline of producers and consumers of CUTLASS's GEMM for the H100.
//
// Three warpgroups: two make 64×256 each of the block's 128×256 in 128 registers a thread, the third copies. Both operands are
// columns of x, and x is N×n, so the products take them with k, the tokens, as rows; a step of 64 tokens is six panels of 64
// columns, two for the rows and four for the columns of the tile. On the diagonal the rows' panels are among the columns', and
// are not copied again; where all of the last two are above the diagonal they are not copied either, and what is multiplied
// with them is not written.
//
//	            panel 2    3      4      5
//	            j0       j0+64  j0+128 j0+192
//	  0  i0      |      group 0            |
//	  1  i0+64   |      group 1            |
//
// Copies are made by cp.async, 24 of 16 bytes a thread and step: 96 instructions of 4 warps beside the 1024 cycles that a
// step's products take, and no descriptors of tensors to make on the host. Per 16 tokens, 256 cycles, the products read
// 20 KiB of shared memory, and 12 KiB come in.
#include "gram.cuh"
#include "warpgroup.cuh"

namespace {

const int stages = 4, groupThreads = 128, consumers = 2, threads = (consumers + 1) * groupThreads;
const int panelLength = depth * panelCols;
const int rowPanels = tileRows / panelCols, colPanels = tileCols / panelCols;
// behind is how many steps the copies that have begun are ahead of those that have arrived. With the step that is multiplied
// there is one stage more, which is free when that step begins.
const int behind = stages - 2;

struct WarpgroupTile {
	union {
		bf16 panel[stages][rowPanels + colPanels][panelLength];
		float out[outLength];
	};
	Gate full[stages]; // opened by the producers' warps when all has arrived
	Gate free[stages]; // opened by the consumers' warps when all was multiplied
};

// Walk is a stage, and how often all of them were used before it.
struct Walk {
	int stage = 0, round = 0;
	__device__ __forceinline__ int parity() const { return round & 1; }
	__device__ __forceinline__ void next() {
		if (++stage == stages) {
			stage = 0;
			round++;
		}
	}
};

__device__ __forceinline__ void produce(const Gram &g, const Piece &p, WarpgroupTile &memory) {
	int thread = threadIdx.x % groupThreads, steps = (int)ceilDiv(p.tokens(), depth);
	// What this thread copies: chunk c of tokens down, down + 16, down + 32 and down + 48 of each panel, which have the same swizzle.
	const int apart = groupThreads / (panelCols / chunk);
	int c = thread % (panelCols / chunk), down = thread / (panelCols / chunk), to = placed(down, c);
	int first = p.i0 - p.j0 < tileCols ? rowPanels : 0, end = rowPanels + (p.i0 == p.j0 ? rowPanels : colPanels);
	const bf16 *from = g.x + (p.t0 + down) * g.n + c * chunk;
	Walk now, there;
	auto arrived = [&] { // for all threads: each shows its own
		showWarpgroup();
		openGate(memory.full[there.stage]);
		there.next();
	};
	for (int step = 0; step < steps; step++) {
		passGate(memory.free[now.stage], now.parity() ^ 1);
		int tokensLeft = p.tokens() - step * depth - down;
		for (int panel = first; panel < end; panel++) {
			int col = panel < rowPanels ? p.i0 + panel * panelCols : p.j0 + (panel - rowPanels) * panelCols;
			bf16 *at = &memory.panel[now.stage][panel][to];
#pragma unroll
			for (int u = 0; u < depth; u += apart)
				copyAsync(at + u * panelCols, from + col + u * (int64_t)g.n, col + c * chunk < g.n && u < tokensLeft);
		}
		copyCommit();
		from += depth * (int64_t)g.n;
		now.next();
		if (step >= behind) {
			copyWait<behind>();
			arrived();
		}
	}
	copyWait<0>();
	for (int left = steps < behind ? steps : behind; left > 0; left--)
		arrived();
}

__device__ __forceinline__ void consume(const Piece &p, WarpgroupTile &memory, int group, float (&sum)[128]) {
	int steps = (int)ceilDiv(p.tokens(), depth), lane = threadIdx.x % 32;
	int rows = p.i0 - p.j0 < tileCols ? rowPanels + (p.i0 - p.j0) / panelCols + group : group; // the panel of this group's rows
	Walk now, before;
	for (int step = 0; step < steps; step++) {
		passGate(memory.full[now.stage], now.parity());
		fenceWarpgroup();
#pragma unroll
		for (int k = 0; k < depth; k += 16)
			multiplyWarpgroup(sum, matrixAt(&memory.panel[now.stage][rows][k * panelCols], panelLength),
			                  matrixAt(&memory.panel[now.stage][rowPanels][k * panelCols], panelLength));
		commitWarpgroup();
		now.next();
		if (step > 0) { // while this step is multiplied, the one before it is done
			waitWarpgroup<1>(sum);
			if (lane == 0)
				openGate(memory.free[before.stage]);
			before.next();
		}
	}
	waitWarpgroup<0>(sum);
}

__global__ void __launch_bounds__(threads, 1) gram(Gram g) {
	auto &memory = shared<WarpgroupTile>();
	Piece p = pieceOf(g, blockIdx.x);
	int group = threadIdx.x / groupThreads, warp = threadIdx.x % groupThreads / 32, lane = threadIdx.x % 32;
	if (threadIdx.x == 0)
		for (int s = 0; s < stages; s++) {
			setGate(memory.full[s], groupThreads);
			setGate(memory.free[s], consumers * groupThreads / 32);
		}
	__syncthreads();

	float sum[128] = {};
	if (group == consumers)
		produce(g, p, memory);
	else
		consume(p, memory, group, sum);
	__syncthreads(); // all was multiplied, the panels are free
	if (group < consumers)
#pragma unroll
		for (int j = 0; j < tileCols / 8; j++) {
			float *out = &memory.out[(group * panelCols + warp * 16 + lane / 4) * outStride + 8 * j + 2 * (lane % 4)];
			*(float2 *)out = make_float2(sum[4 * j], sum[4 * j + 1]);
			*(float2 *)(out + 8 * outStride) = make_float2(sum[4 * j + 2], sum[4 * j + 3]);
		}
	__syncthreads();
	writeTile(g, p, memory.out, threads / 32);
}

} // namespace

int gramWarpgroup(const Gram &g, void *stream) { return launch(gram, dim3(g.plan.blocks()), threads, sizeof(WarpgroupTile), stream, g); }

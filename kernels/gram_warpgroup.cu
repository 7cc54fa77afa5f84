// The tiles of Gram matrices by the tensor cores of a warpgroup, wgmma: the way of an H100, whose mma.sync has about 0.6 of
// this one's rate. It is the pipeline of producers and consumers of CUTLASS's GEMM for the H100, in clusters of two blocks.
//
// Two warpgroups make 64×256 each of a block's 128×256 in 128 registers a thread; one thread of a ninth warp begins the copies.
// Both operands are columns of x, and x is N×n, so the products take them with k, the tokens, as rows; a step of 64 tokens is
// six panels of 64 columns, 8 KiB each: two for the rows and four for the columns of the tile.
//
// The two blocks of a square have the same columns: each copies two of the four panels into both, and its own rows' panels into
// itself. On the diagonal the rows' panels are among the columns', and are not copied again.
//
//	                      copied into both by
//	                     block 0  |  block 1
//	            panel  2      3   |  4      5
//	                   j0   j0+64   j0+128 j0+192
//	  0  i0           |   group 0                |  block 0
//	  1  i0+64        |   group 1                |
//	  0  i0+128       |   group 0                |  block 1
//	  1  i0+192       |   group 1                |
//
// So 32 KiB come from L2 for a block's step, 1024 cycles of the tensor cores at best: 32 bytes a cycle. Copied by each block for
// itself they were 48 KiB, and the kernel took what L2 gives, 6.3 TB/s, for 59 % of the time of the tensor cores (ncu on an H100,
// 16384×4096, commit 78d4d3e). Per 16 tokens, 256 cycles, the products read 20 KiB of shared memory, and 12 KiB come in.
#include "gram.cuh"
#include "warpgroup.cuh"

namespace {

const int depth = TensorCut::depth, tileRows = TensorCut::rows, tileCols = TensorCut::side, outStride = TensorCut::outStride;
const int stages = 4, groupThreads = 128, consumers = 2, threads = consumers * groupThreads + 32;
const int panelLength = depth * panelCols, panelBytes = panelLength * (int)sizeof(bf16);
const int rowPanels = tileRows / panelCols, colPanels = tileCols / panelCols;
const int cluster = 2; // blocks of a cluster
const unsigned both = 3;

struct WarpgroupTile {
	union {
		bf16 panel[stages][rowPanels + colPanels][panelLength];
		float out[TensorCut::outLength];
	};
	Gate full[stages]; // opened by this block's producer for the bytes that come from both blocks
	Gate free[stages]; // opened by the consumers' warps of both blocks: what is copied then goes into both
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

__device__ __forceinline__ void produce(const Piece<TensorCut> &p, const CUtensorMap &x, WarpgroupTile &memory, int block) {
	int steps = (int)ceilDiv(p.tokens(), depth), first = block * (colPanels / cluster);
	int bytes = (p.onDiagonal() ? colPanels : rowPanels + colPanels) * panelBytes;
	Walk now;
	for (int step = 0; step < steps; step++) {
		passGate(memory.free[now.stage], now.parity() ^ 1);
		Gate &full = memory.full[now.stage];
		openGateFor(full, bytes);
		int token = (int)p.t0 + step * depth;
		auto *panel = memory.panel[now.stage];
		if (!p.onDiagonal())
			for (int i = 0; i < rowPanels; i++)
				copyTile(panel[i], x, p.i0 + i * panelCols, token, full);
		for (int i = first; i < first + colPanels / cluster; i++)
			copyTileTo(both, panel[rowPanels + i], x, p.j0 + i * panelCols, token, full);
		now.next();
	}
}

__device__ __forceinline__ void consume(const Piece<TensorCut> &p, WarpgroupTile &memory, int group, float (&sum)[tileCols / 8][4]) {
	int steps = (int)ceilDiv(p.tokens(), depth), lane = threadIdx.x % 32;
	int rows = p.onDiagonal() ? rowPanels + (p.i0 - p.j0) / panelCols + group : group; // the panel of this group's rows
	Walk now, before;
	for (int step = 0; step < steps; step++) {
		passGate(memory.full[now.stage], now.parity());
		fenceWarpgroup();
#pragma unroll
		for (int k = 0; k < depth; k += 16)
			multiplyWarpgroup<kDown, kDown>(sum, matrixAt(&memory.panel[now.stage][rows][k * panelCols], panelLength),
			                                matrixAt(&memory.panel[now.stage][rowPanels][k * panelCols], panelLength), true);
		commitWarpgroup();
		now.next();
		if (step > 0) { // while this step is multiplied, the one before it is done
			waitWarpgroup<1>();
			if (lane < cluster) // one lane for each block
				openGateIn(memory.free[before.stage], lane);
			before.next();
		}
	}
	waitWarpgroup<0>(sum);
}

// Maps describe the x of every matrix of a call.
struct Maps {
	CUtensorMap x[SURGEON_GRAM_MOST];
};

__global__ void __launch_bounds__(threads, 1) gram(const __grid_constant__ Gram<TensorCut> g, const __grid_constant__ Maps maps) {
	auto &memory = shared<WarpgroupTile>();
	auto p = pieceOf(g, blockIdx.x);
	int group = threadIdx.x / groupThreads, warp = threadIdx.x % groupThreads / 32, lane = threadIdx.x % 32;
	if (threadIdx.x == 0) {
		for (int s = 0; s < stages; s++) {
			setGate(memory.full[s], 1);
			setGate(memory.free[s], cluster * consumers * groupThreads / 32);
		}
		showGates();
	}
	clusterArriveGates();
	clusterWait(); // the gates are set, in both blocks

	float sum[tileCols / 8][4] = {};
	if (group < consumers)
		consume(p, memory, group, sum);
	else if (lane == 0)
		produce(p, maps.x[p.matrix], memory, blockIdx.x % cluster);
	__syncthreads(); // all was multiplied, and so has arrived: the panels are free
	clusterArrive(); // this block opens no gate of the other any more, and copies nothing into it
	if (group < consumers)
#pragma unroll
		for (int j = 0; j < tileCols / 8; j++) {
			float *out = &memory.out[(group * panelCols + warp * 16 + lane / 4) * outStride + 8 * j + 2 * (lane % 4)];
			*(float2 *)out = make_float2(sum[j][0], sum[j][1]);
			*(float2 *)(out + 8 * outStride) = make_float2(sum[j][2], sum[j][3]);
		}
	__syncthreads();
	writeTile(g, p, memory.out, threads / 32);
	clusterWait(); // a block that ended has no gates
}

} // namespace

int gramWarpgroup(const Gram<TensorCut> &g, void *stream) {
	Maps maps = {};
	for (int k = 0; k < g.count; k++)
		if (int code = panelsOf(maps.x[k], g.matrix[k].x, g.tokens, g.matrix[k].n, depth); code != 0)
			return code;
	return launchClusters(cluster, gram, dim3(g.plan.blocks()), threads, sizeof(WarpgroupTile), stream, g, maps);
}

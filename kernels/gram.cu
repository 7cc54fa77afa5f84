// The Gram matrix of a batch, s ← α·xᵀx + β·s, into the packed lower triangle:
//
//	for i in 0…n, j in 0…i:  s[i(i+1)/2 + j] = α·Σ_t x[t,i]·x[t,j] + β·s[i(i+1)/2 + j]           t over N tokens
//
// With ones, x is read with a constant 1 appended to every row: the last row of s is α times the column sums, its corner α·N.
//
// N·n² FLOP, as the other triangle is left out; 16384×4096: 275 GFLOP, against 134 MB of x and 34 MB of s in float32. Sums are
// made in float32 from bfloat16 and float32, in float64 from float64, products exact or rounded once (fused).
//
// Two ways. The plain one is for every type, shape and address. The other is by tensor cores, for bfloat16 whose rows begin
// at multiples of 16 bytes. It is what BLAS calls SYRK, with the tiling, the asynchronous pipeline and the fragments of
// CUTLASS's GEMM for the A100, and NVIDIA's stream-K idea of cutting along the sum what does not fill the GPU.
#include "tensor.cuh"

namespace {

// ---- plain ----
//
// A block makes a 64×64 tile of the triangle, 256 threads 4×4 elements each, 16 tokens at a time through shared memory.
// What is above the diagonal is made with the tiles on the diagonal and not written.
const int plainSide = 64, plainDepth = 16, plainThreads = 256, plainEach = 4;
const int plainAcross = plainSide / plainEach; // threads along a side

template <class A> struct PlainTile {
	A i[plainDepth][plainSide], j[plainDepth][plainSide];
};

// triangleRow is the row of element number t of a triangle, row after row.
__host__ __device__ int64_t triangleRow(int64_t t) {
	int64_t i = (int64_t)((sqrt(8. * (double)t + 1) - 1) / 2);
	while (packedLength(i) > t)
		i--;
	while (packedLength(i + 1) <= t)
		i++;
	return i;
}

template <class T>
__global__ void __launch_bounds__(plainThreads) gramPlain(int64_t tokens, int64_t n, int64_t order, Acc<T> alpha, const T *x, Acc<T> beta, Acc<T> *s) {
	typedef Acc<T> A;
	auto &tile = shared<PlainTile<A>>();
	int64_t block = triangleRow(blockIdx.x);
	int64_t i0 = block * plainSide, j0 = (blockIdx.x - packedLength(block)) * plainSide;
	int col = threadIdx.x % plainSide, row = threadIdx.x / plainSide;            // of what this thread loads
	int tj = threadIdx.x % plainAcross * plainEach, ti = threadIdx.x / plainAcross * plainEach; // of what it makes
	A sum[plainEach][plainEach] = {};
	for (int64_t t0 = 0; t0 < tokens; t0 += plainDepth) {
#pragma unroll
		for (int k = 0; k < plainDepth; k += plainThreads / plainSide) {
			int64_t t = t0 + k + row;
			// Zeros on both sides beyond the last token: they add nothing. Beyond the last column anything will do.
			A one = t < tokens ? A(1) : A(0);
			tile.i[k + row][col] = t < tokens && i0 + col < n ? value(x[t * n + i0 + col]) : one;
			tile.j[k + row][col] = t < tokens && j0 + col < n ? value(x[t * n + j0 + col]) : one;
		}
		__syncthreads();
#pragma unroll
		for (int k = 0; k < plainDepth; k++) {
			A a[plainEach], b[plainEach];
#pragma unroll
			for (int u = 0; u < plainEach; u++) {
				a[u] = tile.i[k][ti + u];
				b[u] = tile.j[k][tj + u];
			}
#pragma unroll
			for (int u = 0; u < plainEach; u++)
#pragma unroll
				for (int v = 0; v < plainEach; v++)
					sum[u][v] += a[u] * b[v];
		}
		__syncthreads();
	}
	for (int u = 0; u < plainEach; u++)
		for (int v = 0; v < plainEach; v++) {
			int64_t i = i0 + ti + u, j = j0 + tj + v;
			if (i < order && j <= i) {
				A *to = &s[packedLength(i) + j];
				*to = beta == 0 ? alpha * sum[u][v] : alpha * sum[u][v] + beta * *to;
			}
		}
}

template <class T> int plain(int64_t tokens, int64_t n, int64_t order, double alpha, const void *x, double beta, void *s, void *stream) {
	typedef Acc<T> A;
	int64_t blocks = packedLength(ceilDiv(order, plainSide));
	if (blocks > 0x7fffffff)
		return (int)cudaErrorInvalidValue;
	return launch(gramPlain<T>, dim3((unsigned)blocks), plainThreads, sizeof(PlainTile<A>), stream, tokens, n, order, (A)alpha, (const T *)x, (A)beta, (A *)s);
}

// ---- by tensor cores ----
//
// A block makes a tile of 128 rows × 256 columns of s, eight warps 64×64 each, all in one row of tiles:
//
//	            j0       j0+64    j0+128   j0+192              warp w: rows 64·(w%2), columns 64·(w/2)
//	   i0      | warp 0 | warp 2 | warp 4 | warp 6 |
//	   i0+64   | warp 1 | warp 3 | warp 5 | warp 7 |
//
// Both operands are columns of x, and x is N×n: a step reads 64 tokens of three panels of 128 columns, one for the rows and
// two for the columns of the tile. On the diagonal the rows' panel is one of the columns', and is not read again; warps
// above the diagonal do nothing (the four warps of a half are on four schedulers, so the others gain).
//
// Why this large: per 16 tokens a tile is 512 Ki multiplications and additions, about 410 cycles of an H100's mma.sync (512
// of an A100's), for which 12 KiB come from L2, 29 bytes a cycle, and 32 KiB + 12 KiB go through shared memory, 352 cycles.
// Tiles of 128×128 would need 40 bytes a cycle, more than L2 gives to all multiprocessors at once; warps of 64×32 would
// need more cycles of shared memory than of tensor cores. Larger ones do not fit the registers: one block per
// multiprocessor, 128 of a thread's 255 registers are sums.
const int panelSide = 128, depth = 64, stages = 3, tensorThreads = 256, warpSide = 64;
const int tileRows = panelSide, tileCols = 2 * panelSide;
const int chunk = 8;                                        // bfloat16 in 16 bytes, what is copied and loaded at a time
const int rowsAtOnce = tensorThreads / (panelSide / chunk); // of a panel that the block copies, a chunk per thread
const int rowFragments = warpSide / 16, colFragments = warpSide / 8;

// A panel holds 64 tokens × 128 columns, chunk c of token t in place c ^ t%8: the eight tokens that ldmatrix takes together
// are 256 bytes apart, and so lie in different banks all the same.
struct Stage {
	bf16 panel[3][depth * panelSide];
};
const int stageLength = 3 * depth * panelSide;
__device__ __forceinline__ int placed(int token, int c) { return token * panelSide + (c ^ token % 8) * chunk; }

const int outStride = tileCols + 8; // float32; with 8 more the fragments' rows begin in different banks

union TensorTile {
	Stage stage[stages];
	float out[tileRows * outStride]; // the finished tile, on its way to rows that are not aligned
};

// How tiles are given to blocks. An H100 has 132 multiprocessors: as many tiles as make whole waves of 132 blocks go each to
// one block; the sums of the rest, less than a wave, are cut into parts that fill the multiprocessors, each part made by a
// block into scratch memory and added up by a second kernel, in order. 4096 columns are 272 tiles: two waves and 8 tiles, which
// uncut would take a third wave for themselves; 576 columns are 9 tiles. The numbers are those of an H100 on every GPU, so
// that the bits are the same too. The emulated device has smaller ones: matrices small enough for it take every way.
#ifdef SURGEON_EMU
const int wave = 3, band = 4, partTokens = 64;
#else
const int wave = 132, band = 16, partTokens = 128;
#endif
const int mostParts = 4 * wave; // bounds scratch memory, 128 KiB a part
// tileTokens is what it takes a block to begin, to write a tile and to read it again, in tokens that it could do meanwhile:
// 132 tiles are 17 MB, by arithmetic some 8 µs for the memory, in which a block does about 500 tokens.
const int tileTokens = 512;

struct Plan {
	int rowBlocks;  // tiles down
	int whole;      // tiles made by one block
	int rest;       // tiles made in parts
	int parts;      // of each
	int partTokens; // tokens of a part
};

Plan planOf(int64_t tokens, int64_t n) {
	Plan p = {};
	p.rowBlocks = (int)ceilDiv(n, tileRows);
	// Row i of tiles has i/2 + 1.
	int64_t r = p.rowBlocks, tiles = r + (r - 1) * (r - 1) / 4;
	int rest = (int)(tiles % wave);
	int64_t best = 0;
	int parts = 1;
	for (int k = 1; k == 1 || (k * rest <= mostParts && tokens >= (int64_t)k * partTokens); k++) {
		int64_t cost = ceilDiv(k * rest, wave) * (ceilDiv(tokens, k) + tileTokens);
		if (k == 1 || cost < best) {
			best = cost;
			parts = k;
		}
	}
	if (parts == 1)
		rest = 0;
	p.whole = (int)tiles - rest;
	p.rest = rest;
	p.parts = parts;
	p.partTokens = (int)(ceilDiv(ceilDiv(tokens, parts), depth) * depth);
	return p;
}

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
__host__ __device__ Place tileAt(int t, int rowBlocks) {
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

// tileEnd is the number of elements of row i that a tile beginning in column j0 has in the lower triangle.
__device__ __forceinline__ int tileEnd(int i, int j0) { return i + 1 - j0 < tileCols ? i + 1 - j0 : tileCols; }

__global__ void __launch_bounds__(tensorThreads, 1)
gramTensor(Plan plan, int64_t tokens, int n, float alpha, const bf16 *x, float beta, float *s, float *partial) {
	auto &memory = shared<TensorTile>();
	int number = blockIdx.x, part = 0;
	bool whole = number < plan.whole;
	int64_t t0 = 0, t1 = tokens;
	if (!whole) { // blocks that run together have the same tokens
		part = (number - plan.whole) / plan.rest;
		number = plan.whole + (number - plan.whole) % plan.rest;
		t0 = (int64_t)part * plan.partTokens < tokens ? (int64_t)part * plan.partTokens : tokens;
		t1 = t0 + plan.partTokens < tokens ? t0 + plan.partTokens : tokens;
	}
	Place place = tileAt(number, plan.rowBlocks);
	int i0 = place.i * tileRows, j0 = place.j * tileCols;
	int steps = (int)ceilDiv(t1 - t0, depth);

	// Panels: 0 for the rows, 1 and 2 for the columns. On the diagonal the rows' one is among the columns'; where that is panel 1
	// all of panel 2 is above the diagonal.
	int rowsPanel = i0 == j0 ? 1 : i0 == j0 + panelSide ? 2 : 0;

	// What this thread copies: chunk `across` of tokens `down`, down+16, down+32, down+48 of each panel.
	int across = threadIdx.x % (panelSide / chunk) * chunk, down = threadIdx.x / (panelSide / chunk);
	int to = placed(down, across / chunk); // tokens 16 apart have the same swizzle
	const bf16 *from = x + (t0 + down) * n + across;
	int tokensLeft = (int)(t1 - t0) - down; // from the thread's first token of the step that is copied next

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
	if (!whole)
		partial += ((int64_t)part * plan.rest + number - plan.whole) * tileRows * tileCols;
	for (int row = warp; row < tileRows && i0 + row < n; row += tensorThreads / 32) {
		int end = tileEnd(i0 + row, j0);
		const float *out = &memory.out[row * outStride];
		float *to = whole ? s + packedLength(i0 + row) + j0 : partial + row * tileCols;
		float old[tileCols / 32];
#pragma unroll
		for (int u = 0; u < tileCols / 32; u++)
			old[u] = whole && beta != 0 && 32 * u + lane < end ? beta * to[32 * u + lane] : 0;
#pragma unroll
		for (int u = 0; u < tileCols / 32; u++)
			if (32 * u + lane < end)
				to[32 * u + lane] = whole ? alpha * out[32 * u + lane] + old[u] : out[32 * u + lane];
	}
}

// gramRest adds up the parts of the tiles that were made in parts: 8 rows of a tile by a block, a column by a thread.
const int restRows = 8;
__global__ void __launch_bounds__(tileCols) gramRest(Plan plan, int n, float alpha, const float *partial, float beta, float *s) {
	int number = blockIdx.x / (tileRows / restRows);
	Place place = tileAt(plan.whole + number, plan.rowBlocks);
	int j0 = place.j * tileCols;
	int64_t between = (int64_t)plan.rest * tileRows * tileCols;
	int first = blockIdx.x % (tileRows / restRows) * restRows;
	for (int row = first; row < first + restRows; row++) {
		int i = place.i * tileRows + row;
		if (i >= n || (int)threadIdx.x >= tileEnd(i, j0))
			continue;
		const float *from = partial + ((int64_t)number * tileRows + row) * tileCols + threadIdx.x;
		float sum = 0;
#pragma unroll 8
		for (int part = 0; part < plan.parts; part++)
			sum += from[part * between];
		float *to = s + packedLength(i) + j0 + threadIdx.x;
		*to = beta == 0 ? alpha * sum : alpha * sum + beta * *to;
	}
}

// The last row, for the constant 1: column sums of some hundred tokens each, then their sums. One more reading of x, 1/20 of
// the time or less; a panel of ones in every block on the diagonal would be cheaper, and more to understand.
const int sumsThreads = 256, mostSums = 64;
int64_t sumsOf(int64_t tokens) { return min(max(ceilDiv(tokens, 128), (int64_t)1), (int64_t)mostSums); }

__global__ void __launch_bounds__(sumsThreads) columnSums(int64_t tokens, int64_t n, int64_t each, const bf16 *x, float *sums) {
	int64_t j = (int64_t)blockIdx.x * sumsThreads + threadIdx.x;
	if (j >= n)
		return;
	int64_t t0 = blockIdx.y * each, t1 = t0 + each < tokens ? t0 + each : tokens;
	float sum = 0;
#pragma unroll 8
	for (int64_t t = t0; t < t1; t++)
		sum += value(x[t * n + j]);
	sums[blockIdx.y * n + j] = sum;
}

__global__ void lastRow(int64_t n, int count, const float *sums, float alpha, float corner, float beta, float *row) {
	for (int64_t j = first(); j <= n; j += stride()) {
		float sum = 0;
		if (j < n)
			for (int c = 0; c < count; c++)
				sum += sums[c * n + j];
		float v = j < n ? alpha * sum : corner;
		row[j] = beta == 0 ? v : v + beta * row[j];
	}
}

int tensor(int64_t tokens, int64_t n, int ones, double alpha, const bf16 *x, double beta, float *s, float *scratch, void *stream) {
	Plan p = planOf(tokens, n);
	int code = launch(gramTensor, dim3(p.whole + p.rest * p.parts), tensorThreads, sizeof(TensorTile), stream,
	                  p, tokens, n, (float)alpha, x, (float)beta, s, scratch);
	if (code == 0)
		code = launch(gramRest, dim3(p.rest * (tileRows / restRows)), tileCols, 0, stream, p, n, (float)alpha, scratch, (float)beta, s);
	if (code != 0 || !ones)
		return code;
	float *sums = scratch + (int64_t)p.rest * p.parts * tileRows * tileCols;
	int count = (int)sumsOf(tokens);
	code = launch(columnSums, dim3((unsigned)ceilDiv(n, sumsThreads), count), sumsThreads, 0, stream, tokens, n, ceilDiv(tokens, count), x, sums);
	if (code == 0)
		code = launch(lastRow, elementGrid(n + 1), elementThreads, 0, stream, n, count, sums, (float)alpha, (float)(alpha * (double)tokens), (float)beta, s + packedLength(n));
	return code;
}

// forTensor says whether rows of x begin at multiples of 16 bytes if x does, and whether tiles and tokens can be counted in int.
bool forTensor(int type, int64_t tokens, int64_t n) { return type == SURGEON_BF16 && n % chunk == 0 && n > 0 && n <= 1 << 20 && tokens < 1 << 30; }

} // namespace

extern "C" int64_t surgeon_gram_scratch(int type, int64_t tokens, int64_t n, int ones) {
	if (!forTensor(type, tokens, n))
		return 0;
	Plan p = planOf(tokens, n);
	return (int64_t)sizeof(float) * ((int64_t)p.rest * p.parts * tileRows * tileCols + (ones ? sumsOf(tokens) * n : 0));
}

extern "C" int surgeon_gram(int type, int64_t tokens, int64_t n, int ones, double alpha, const void *x, double beta, void *s, void *scratch, void *stream) {
	if (forTensor(type, tokens, n) && (uintptr_t)x % 16 == 0)
		return tensor(tokens, n, ones, alpha, (const bf16 *)x, beta, (float *)s, (float *)scratch, stream);
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return plain<T>(tokens, n, n + ones, alpha, x, beta, s, stream);
	});
}

// The backward pass of attention (attention_backward.cu) by the tensor cores of warpgroups, wgmma: the way of an H100, for bfloat16
// and heads 64 or 128 wide. What is made, rounded and walked over is as in attention_backward_tensor.cu. A block has two
// warpgroups with 64 keys or query rows each, 16 to a warp; of what they walk over, 64 rows at a time are there for both.
//
// Products run beside the threads that began them. For a step of a warpgroup, from top to bottom, keyGradients has
//
//	tensor cores          threads meanwhile
//	dk += …               the barrier of the step; dk and dv are still those of the step before
//	sᵀ = k·qᵀ
//	dpᵀ = v·doutᵀ         pᵀ = 2^(sᵀ − lse), rounded
//	dv += pᵀ·dout         dsᵀ = pᵀ∘(dpᵀ − D), rounded
//	dk += dsᵀ·q           the barrier of the next step
//
// and queryGradients
//
//	dq += …               the barrier of the step
//	s = q·kᵀ
//	dp = dout·vᵀ          p = 2^(s − lse)
//	                      ds = p∘(dp − D), rounded
//	dq += ds·k            the barrier of the next step
//
// Rounded p and ds are left factors in the registers in which they were made, as are q and dout of queryGradients all the time, if
// heads are 128 wide. In keyGradients there is no room for k and v: dk and dv are d of the 255 registers of a thread, sᵀ and dpᵀ 64, pᵀ
// and dsᵀ as left factors 32.
//
// For heads 64 wide ptxas 13.0 puts ds into the registers of dout, which the next step needs: as many of them, in as many products (seen
// in its code, and as wrong dq on an H100). So there q and dout stay in shared memory. `make check-cuda` looks for the like
// (check-registers.sh).
//
// There are three buffers, as products of the step before still read theirs: the next step is copied into the third. Every
// warpgroup waits for those products within this step, and so before the barrier behind which their buffer is filled again.
//
// The scores of keyGradients, 64×64 by 16, read 4 KiB of shared memory in the 32 cycles that they take at best, all that it gives; the
// other products half as much a cycle. That is 96 bytes a cycle on average, and 16 come in. In queryGradients it is 64, and 21 come in, if
// heads are 128 wide.
#include "attention_tensor.cuh"
#include "warpgroup.cuh"

namespace {

const int groups = 2, groupRows = 64, blockRows = groups * groupRows, threads = groups * 128, buffers = 3;

// Panels is a tile as products of warpgroups take it (warpgroup.cuh): with the columns of a head as k, and with its rows.
template <int D, int Rows> struct __align__(1024) Panels {
	static const int length = Rows * panelCols; // of a panel
	bf16 panel[D / panelCols][length];

	// piece is where piece c of row r lies, 8 elements.
	__device__ __forceinline__ bf16 *piece(int r, int c) { return &panel[c / 8][r * panelCols + (c % 8 ^ r % 8) * 8]; }
	// from describes the tile from row r on, a multiple of 8.
	__device__ __forceinline__ uint64_t from(int r) const { return matrixAt(&panel[0][r * panelCols], length); }
};

// copyPanels begins to copy the first `there` rows at x to a tile, and zeros to the rows after them.
template <int D, int Rows> __device__ __forceinline__ void copyPanels(Panels<D, Rows> &tile, const bf16 *x, int64_t stride, int there) {
	const int pieces = D / 8, step = threads / pieces;
	static_assert(Rows % step == 0 && step % 8 == 0, "all threads copy equally much, and stay in their column");
	const int r = threadIdx.x / pieces, c = threadIdx.x % pieces;
	const bf16 *from = x + r * stride + c * 8;
	bf16 *to = tile.piece(r, c);
#pragma unroll
	for (int n = 0; n < Rows / step; n++, from += step * stride)
		copyAsync(to + n * step * panelCols, from, r + n * step < there);
}

// onwards is a matrix that begins so many elements later.
__device__ __forceinline__ uint64_t onwards(uint64_t matrix, int elements) { return matrix + elements / 8; }

// beginScores begins s ← x·yᵀ, for 64 rows of x and of y.
template <int D, int RowsX, int RowsY> __device__ __forceinline__ void beginScores(float (&s)[8][4], const Panels<D, RowsX> &x, int row, const Panels<D, RowsY> &y) {
	const uint64_t a = x.from(row), b = y.from(0);
	fenceWarpgroup();
#pragma unroll
	for (int k = 0; k < D; k += 16)
		multiplyWarpgroup<kAlong, kAlong>(s, onwards(a, k / panelCols * x.length + k % panelCols), onwards(b, k / panelCols * y.length + k % panelCols), k > 0);
	commitWarpgroup();
}

// beginScores with x in registers.
template <int D, int RowsY> __device__ __forceinline__ void beginScores(float (&s)[8][4], const uint32_t (&x)[D / 16][4], const Panels<D, RowsY> &y) {
	const uint64_t b = y.from(0);
	fenceWarpgroup();
#pragma unroll
	for (int k = 0; k < D; k += 16)
		multiplyWarpgroup<kAlong>(s, x[k / 16], onwards(b, k / panelCols * y.length + k % panelCols), k > 0);
	commitWarpgroup();
}

// beginSums begins o ← o + p·y, for 64 rows of y.
template <int D, int RowsY> __device__ __forceinline__ void beginSums(float (&o)[D / 8][4], const uint32_t (&p)[4][4], const Panels<D, RowsY> &y) {
	const uint64_t b = y.from(0);
	fenceWarpgroup();
#pragma unroll
	for (int k = 0; k < 4; k++)
		multiplyWarpgroup<kDown>(o, p[k], onwards(b, k * 16 * panelCols), true);
	commitWarpgroup();
}

template <int D> __device__ __forceinline__ void store(bf16 *x, int64_t stride, int there, const float (&o)[D / 8][4], float factor, bf16 *own) {
	const float factors[1][2] = {{factor, factor}};
	storeRows<D, 1>(x, stride, there, (const float(&)[1][D / 8][4])o, factors, own);
}

template <int D> struct KeyTiles {
	Panels<D, blockRows> k, v;
	Panels<D, tileRows> q[buffers], dout[buffers];
	float lse[buffers][tileRows], dot[buffers][tileRows];
};

template <int D> __global__ void __launch_bounds__(threads, 1) keyGradients(BackwardCall x) {
	auto &t = shared<KeyTiles<D>>();
	const Attend &h = x.h;
	const int lane = threadIdx.x % 32, warp = warpIndex(), row = warp / 4 * groupRows, eighth = lane / 4, quad = lane % 4;
	const Place at = placeOf(h, h.keyValue, (int)ceilDiv(h.length, blockRows), h.section / h.group, false);
	const int j0 = at.tile * blockRows, keys = h.length - j0 < blockRows ? h.length - j0 : blockRows, jGroup = j0 + row, jWarp = j0 + warp * 16;
	const int64_t begin = at.sequence * h.length, strideQ = h.strideQuery(), strideK = h.strideKey(), padded = paddedLength(h);
	const int64_t keysAt = (begin + j0) * strideK + (int64_t)at.head * D;
	// The steps: tiles of query rows, from the one with row j0 to that with row end−1, of each head in turn.
	const int first = j0 / tileRows * tileRows, end = h.endQuery(j0 + keys - 1), endHead = (at.head + 1) * h.group;

	auto fetch = [&](int buffer, int head, int i0) {
		const int64_t from = (begin + i0) * strideQ + (int64_t)head * D, stat = (at.sequence * h.query + head) * padded + i0;
		copyPanels(t.q[buffer], x.q + from, strideQ, h.length - i0);
		copyPanels(t.dout[buffer], x.dout + from, strideQ, h.length - i0);
		const int piece = threadIdx.x % 16 * 4;
		if (threadIdx.x < 16)
			copyAsync(&t.lse[buffer][piece], x.of.lse + stat + piece, true);
		else if (threadIdx.x < 32)
			copyAsync(&t.dot[buffer][piece], x.of.dot + stat + piece, true);
		copyCommit();
	};

	float dk[D / 8][4] = {}, dv[D / 8][4] = {};
	uint32_t left[4][4] = {}, leftDs[4][4] = {}; // pᵀ and dsᵀ, rounded
	copyPanels(t.k, x.k + keysAt, strideK, keys);
	copyPanels(t.v, x.v + keysAt, strideK, keys);
	fetch(0, at.head * h.group, first);
	int head = at.head * h.group, i0 = first, buffer = 0;
	do { // there is a first step, and the compiler should know it: else what comes before has a way around the products
		copyWait<0>();
		fenceCopies();
		__syncthreads(); // this step is there; products of the step before the last one are done
		const int i = i0, now = buffer;
		i0 += tileRows;
		if (i0 >= end) {
			i0 = first;
			head++;
		}
		buffer = buffer == buffers - 1 ? 0 : buffer + 1;
		if (head < endHead)
			fetch(buffer, head, i0);
		// Does a row of the tile see a key of this warpgroup, does each see all of this warp?
		const bool some = jGroup < h.length && jGroup < i + tileRows && i - (jGroup + groupRows - 1) < h.window;
		const bool all = jWarp + 15 <= i && i + tileRows - 1 - jWarp < h.window;
		if (!some) {
			waitWarpgroup<0>(left, leftDs);
			continue;
		}
		float p[8][4], ds[8][4]; // sᵀ and dpᵀ first
		beginScores(p, t.k, row, t.q[now]);
		beginScores(ds, t.v, row, t.dout[now]);
		waitWarpgroup<1>(p, left, leftDs); // all but dpᵀ
#pragma unroll
		for (int n = 0; n < 8; n++) {
			const float2 lse = *(const float2 *)&t.lse[now][n * 8 + quad * 2];
			p[n][0] = power2(fmaf(p[n][0], x.scale2, -lse.x));
			p[n][1] = power2(fmaf(p[n][1], x.scale2, -lse.y));
			p[n][2] = power2(fmaf(p[n][2], x.scale2, -lse.x));
			p[n][3] = power2(fmaf(p[n][3], x.scale2, -lse.y));
		}
		if (!all) {
#pragma unroll
			for (int n = 0; n < 8; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					if (!h.sees(i + n * 8 + quad * 2 + e % 2, jWarp + eighth + e / 2 * 8))
						p[n][e] = 0;
		}
		leftFactor<8>(left, p);
		beginSums(dv, left, t.dout[now]);
		waitWarpgroup<1>(ds);
#pragma unroll
		for (int n = 0; n < 8; n++) {
			const float2 dot = *(const float2 *)&t.dot[now][n * 8 + quad * 2];
			ds[n][0] = p[n][0] * (ds[n][0] - dot.x);
			ds[n][1] = p[n][1] * (ds[n][1] - dot.y);
			ds[n][2] = p[n][2] * (ds[n][2] - dot.x);
			ds[n][3] = p[n][3] * (ds[n][3] - dot.y);
		}
		leftFactor<8>(leftDs, ds);
		beginSums(dk, leftDs, t.q[now]);
	} while (head < endHead);
	waitWarpgroup<0>(dk, dv, left, leftDs);
	__syncthreads(); // all tiles were read

	bf16 *own = (bf16 *)&t + warp * 16 * tileStride<D>;
	const int64_t to = keysAt + warp * 16 * strideK;
	store<D>(x.dk + to, strideK, keys - warp * 16, dk, x.scale, own);
	store<D>(x.dv + to, strideK, keys - warp * 16, dv, 1, own);
}

template <int D> constexpr bool inRegisters = D == 128; // q and dout of queryGradients

template <int D> struct QueryTiles {
	Panels<D, blockRows> q, dout;
	Panels<D, tileRows> k[buffers], v[buffers];
};

template <int D> __global__ void __launch_bounds__(threads, 1) queryGradients(BackwardCall x) {
	auto &t = shared<QueryTiles<D>>();
	const Attend &h = x.h;
	const int lane = threadIdx.x % 32, warp = warpIndex(), group = warp / 4, eighth = lane / 4, quad = lane % 4;
	const Place at = placeOf(h, h.query, (int)ceilDiv(h.length, blockRows), h.section, true);
	const int i0 = at.tile * blockRows, rows = h.length - i0 < blockRows ? h.length - i0 : blockRows, iGroup = i0 + group * groupRows, iWarp = i0 + warp * 16;
	const int64_t begin = at.sequence * h.length, strideQ = h.strideQuery(), strideK = h.strideKey();
	const int64_t rowsAt = (begin + i0) * strideQ + (int64_t)at.head * D, keysAt = begin * strideK + (int64_t)(at.head / h.group) * D;

	auto fetch = [&](int buffer, int j0) {
		copyPanels(t.k[buffer], x.k + keysAt + j0 * strideK, strideK, h.length - j0);
		copyPanels(t.v[buffer], x.v + keysAt + j0 * strideK, strideK, h.length - j0);
		copyCommit();
	};

	int j0 = h.firstKey(i0) / tileRows * tileRows, buffer = 0;
	copyPanels(t.q, x.q + rowsAt, strideQ, rows);
	copyPanels(t.dout, x.dout + rowsAt, strideQ, rows);
	copyCommit();
	fetch(0, j0);
	float lse[2] = {INFINITY, INFINITY}, dot[2] = {};
	if (iGroup < h.length) { // beyond that they may not be padded
		const int64_t stat = (at.sequence * h.query + at.head) * paddedLength(h) + iWarp + eighth;
		lse[0] = x.of.lse[stat], lse[1] = x.of.lse[stat + 8];
		dot[0] = x.of.dot[stat], dot[1] = x.of.dot[stat + 8];
	}
	uint32_t q[D / 16][4], dout[D / 16][4], left[4][4] = {};
	if constexpr (inRegisters<D>) {
		copyWait<1>();
		__syncthreads(); // q and dout are there
#pragma unroll
		for (int n = 0; n < D / 16; n++) {
			const int r = warp * 16 + lane % 16, c = 2 * n + lane / 16;
			loadMatrix4(q[n], t.q.piece(r, c));
			loadMatrix4(dout[n], t.dout.piece(r, c));
		}
	}

	float dq[D / 8][4] = {};
	for (; j0 < i0 + rows; j0 += tileRows) {
		copyWait<0>();
		fenceCopies();
		__syncthreads(); // this tile is there; products of the step before the last one are done
		const int now = buffer;
		buffer = buffer == buffers - 1 ? 0 : buffer + 1;
		if (j0 + tileRows < i0 + rows)
			fetch(buffer, j0 + tileRows);
		const bool some = iGroup < h.length && j0 < iGroup + groupRows && iGroup - (j0 + tileRows - 1) < h.window;
		const bool all = j0 + tileRows - 1 <= iWarp && iWarp + 15 - j0 < h.window;
		if (!some) {
			waitWarpgroup<0>(left);
			continue;
		}
		float p[8][4], ds[8][4]; // s and dp first
		if constexpr (inRegisters<D>) {
			beginScores(p, q, t.k[now]);
			beginScores(ds, dout, t.v[now]);
		} else {
			beginScores(p, t.q, group * groupRows, t.k[now]);
			beginScores(ds, t.dout, group * groupRows, t.v[now]);
		}
		waitWarpgroup<1>(p, left);
#pragma unroll
		for (int n = 0; n < 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				p[n][e] = power2(fmaf(p[n][e], x.scale2, -lse[e / 2]));
		if (!all) {
#pragma unroll
			for (int n = 0; n < 8; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					if (!h.sees(iWarp + eighth + e / 2 * 8, j0 + n * 8 + quad * 2 + e % 2))
						p[n][e] = 0;
		}
		waitWarpgroup<0>(ds);
#pragma unroll
		for (int n = 0; n < 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				ds[n][e] = p[n][e] * (ds[n][e] - dot[e / 2]);
		leftFactor<8>(left, ds);
		beginSums(dq, left, t.k[now]);
	}
	waitWarpgroup<0>(dq, left);
	__syncthreads(); // all tiles were read
	store<D>(x.dq + rowsAt + warp * 16 * strideQ, strideQ, rows - warp * 16, dq, x.scale, (bf16 *)&t + warp * 16 * tileStride<D>);
}

} // namespace

bool warpgroupFits(int capability, const Attend &h) { return capability == 90 && (h.dim == 64 || h.dim == 128); }

int attentionBackwardWarpgroup(const BackwardCall &x, void *stream) {
	const Attend &h = x.h;
	auto both = [&](auto width) {
		const int D = decltype(width)::value;
		const unsigned tiles = (unsigned)ceilDiv(h.length, blockRows);
		int e = launch(keyGradients<D>, dim3((unsigned)(h.sequences * h.keyValue) * tiles), threads, sizeof(KeyTiles<D>), stream, x);
		if (e != 0)
			return e;
		return launch(queryGradients<D>, dim3((unsigned)h.pairs() * tiles), threads, sizeof(QueryTiles<D>), stream, x);
	};
	return h.dim == 64 ? both(std::integral_constant<int, 64>()) : both(std::integral_constant<int, 128>());
}

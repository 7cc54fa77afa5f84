// The backward pass of attention (attention_backward.cu) on tensor cores: bfloat16, heads 64, 80, 96 or 128 wide. An H100 has a
// faster way for 64 and 128 (attention_backward_warpgroup.cu).
//
// keyGradients: a block has 16 keys of a key/value head to each of its warps, and walks over the query rows that see them, 64
// at a time, of all query heads of the group. A warp makes the scores transposed, keys × query rows:
//
//	sᵀ = k·qᵀ   pᵀ = 2^(sᵀ − lse)   dv += pᵀ·dout   dpᵀ = v·doutᵀ   dsᵀ = pᵀ∘(dpᵀ − D)   dk += dsᵀ·q
//
// so that pᵀ and dsᵀ, rounded, are left factors in the registers in which they were made. dk and dv are 2·d of the 255
// registers of a thread, sᵀ and dpᵀ 64. There are two buffers for q and dout: those of the next step come while this one is
// worked on, with one barrier to a step.
//
// queryGradients: a block has 64 query rows, 16 to a warp, and walks over tiles of 64 keys; q and dout are left factors in
// registers all the time.
//
//	s = q·kᵀ   p = 2^(s − lse)   dp = dout·vᵀ   ds = p∘(dp − D)   dq += ds·k
//
// p and ds are rounded to bfloat16 before they are multiplied, sums are in float32. The scale of dq and dk comes last.
#include "attention_tensor.cuh"

namespace {

// keyWarps: at d = 128 a block of 8 warps is all that the registers of a multiprocessor hold, and takes 140 KB of shared memory,
// which an A100 has too; two of 4 warps would not fit there. At smaller widths two of 4 do.
template <int D> constexpr int keyWarps = D == 128 ? 8 : 4;

template <int D> struct KeyTiles {
	Tile<D, 16 * keyWarps<D>> k, v;
	Tile<D, tileRows> q[2], dout[2];
	float lse[2][tileRows], dot[2][tileRows];
};

template <int D> __global__ void __launch_bounds__(32 * keyWarps<D>, 8 / keyWarps<D>) keyGradients(BackwardCall x) {
	const int threads = 32 * keyWarps<D>, keyTile = 16 * keyWarps<D>;
	auto &t = shared<KeyTiles<D>>();
	const Attend &h = x.h;
	int lane = threadIdx.x % 32, warp = warpIndex(), group = lane / 4, quad = lane % 4;
	Place at = placeOf(h, h.keyValue, (int)ceilDiv(h.length, keyTile), h.section / h.group, false);
	const int j0 = at.tile * keyTile, keys = h.length - j0 < keyTile ? h.length - j0 : keyTile, jWarp = j0 + warp * 16;
	const int64_t begin = at.sequence * h.length, strideQ = h.strideQuery(), strideK = h.strideKey(), padded = paddedLength(h);
	const int64_t keysAt = (begin + j0) * strideK + (int64_t)at.head * D;
	// The steps: tiles of query rows, from the one with row j0 to that with row end−1, of each head in turn.
	const int first = j0 / tileRows * tileRows, end = h.endQuery(j0 + keys - 1), endHead = (at.head + 1) * h.group;

	auto fetch = [&](int buffer, int head, int i0) {
		int64_t from = (begin + i0) * strideQ + (int64_t)head * D, stat = (at.sequence * h.query + head) * padded + i0;
		copyTile<D, tileRows, threads>(t.q[buffer], x.q + from, strideQ, h.length - i0);
		copyTile<D, tileRows, threads>(t.dout[buffer], x.dout + from, strideQ, h.length - i0);
		int piece = threadIdx.x % 16 * 4;
		if (threadIdx.x < 16)
			copyAsync(&t.lse[buffer][piece], x.of.lse + stat + piece, true);
		else if (threadIdx.x < 32)
			copyAsync(&t.dot[buffer][piece], x.of.dot + stat + piece, true);
		copyCommit();
	};

	const bf16 *kAt = &t.k.row[warp * 16][0] + leftAt<D>(lane), *vAt = &t.v.row[warp * 16][0] + leftAt<D>(lane);
	float dk[1][D / 8][4], dv[1][D / 8][4];
#pragma unroll
	for (int n = 0; n < D / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			dk[0][n][e] = dv[0][n][e] = 0;

	copyTile<D, keyTile, threads>(t.k, x.k + keysAt, strideK, keys);
	copyTile<D, keyTile, threads>(t.v, x.v + keysAt, strideK, keys);
	fetch(0, at.head * h.group, first);
	for (int head = at.head * h.group, i0 = first, buffer = 0; head < endHead; buffer = 1 - buffer) {
		copyWait<0>();
		__syncthreads(); // this step is there; the other buffer was read
		const int i = i0;
		i0 += tileRows;
		if (i0 >= end) {
			i0 = first;
			head++;
		}
		if (head < endHead)
			fetch(1 - buffer, head, i0);
		// Does a row of the tile see a key of this warp, does each see all?
		const bool some = jWarp < h.length && jWarp < i + tileRows && i - (jWarp + 15) < h.window;
		const bool all = jWarp + 15 <= i && i + tileRows - 1 - jWarp < h.window;
		if (!some)
			continue;
		const bf16 *q = &t.q[buffer].row[0][0], *dout = &t.dout[buffer].row[0][0];
		float p[1][8][4], ds[1][8][4];
		scores<D, 1, 8>(p, kAt, q + rightAt<D>(lane));
		if (!all) {
#pragma unroll
			for (int n = 0; n < 8; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					if (!h.sees(i + n * 8 + quad * 2 + e % 2, jWarp + group + e / 2 * 8))
						p[0][n][e] = -INFINITY;
		}
#pragma unroll
		for (int n = 0; n < 8; n++) {
			const float2 lse = *(const float2 *)&t.lse[buffer][n * 8 + quad * 2];
			p[0][n][0] = power2(fmaf(p[0][n][0], x.scale2, -lse.x));
			p[0][n][1] = power2(fmaf(p[0][n][1], x.scale2, -lse.y));
			p[0][n][2] = power2(fmaf(p[0][n][2], x.scale2, -lse.x));
			p[0][n][3] = power2(fmaf(p[0][n][3], x.scale2, -lse.y));
		}
		uint32_t left[1][4][4];
		leftFactor<8>(left[0], p[0]);
		addProduct<D, 1, 4>(dv, left, dout + leftAt<D>(lane));
		scores<D, 1, 8>(ds, vAt, dout + rightAt<D>(lane));
#pragma unroll
		for (int n = 0; n < 8; n++) {
			const float2 dot = *(const float2 *)&t.dot[buffer][n * 8 + quad * 2];
			ds[0][n][0] = p[0][n][0] * (ds[0][n][0] - dot.x);
			ds[0][n][1] = p[0][n][1] * (ds[0][n][1] - dot.y);
			ds[0][n][2] = p[0][n][2] * (ds[0][n][2] - dot.x);
			ds[0][n][3] = p[0][n][3] * (ds[0][n][3] - dot.y);
		}
		leftFactor<8>(left[0], ds[0]);
		addProduct<D, 1, 4>(dk, left, q + leftAt<D>(lane));
	}

	const float scale[1][2] = {{x.scale, x.scale}}, one[1][2] = {{1, 1}};
	const int64_t to = keysAt + warp * 16 * strideK;
	storeRows<D, 1>(x.dk + to, strideK, keys - warp * 16, dk, scale, &t.k.row[warp * 16][0]);
	storeRows<D, 1>(x.dv + to, strideK, keys - warp * 16, dv, one, &t.v.row[warp * 16][0]);
}

const int queryThreads = 128;

template <int D> struct QueryTiles {
	Tile<D, tileRows> k[2], v[2];
};

template <int D> __global__ void __launch_bounds__(queryThreads, 2) queryGradients(BackwardCall x) {
	auto &t = shared<QueryTiles<D>>();
	const Attend &h = x.h;
	int lane = threadIdx.x % 32, warp = warpIndex(), group = lane / 4, quad = lane % 4;
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, tileRows), h.section, true);
	const int i0 = at.tile * tileRows, rows = h.length - i0 < tileRows ? h.length - i0 : tileRows, iWarp = i0 + warp * 16;
	const int64_t begin = at.sequence * h.length, strideQ = h.strideQuery(), strideK = h.strideKey();
	const int64_t rowsAt = (begin + i0) * strideQ + (int64_t)at.head * D, keysAt = begin * strideK + (int64_t)(at.head / h.group) * D;
	const int64_t stat = (at.sequence * h.query + at.head) * paddedLength(h) + iWarp + group;
	const float lse[2] = {x.of.lse[stat], x.of.lse[stat + 8]}, dot[2] = {x.of.dot[stat], x.of.dot[stat + 8]};

	auto fetch = [&](int buffer, int j0) {
		copyTile<D, tileRows, queryThreads>(t.k[buffer], x.k + keysAt + j0 * strideK, strideK, h.length - j0);
		copyTile<D, tileRows, queryThreads>(t.v[buffer], x.v + keysAt + j0 * strideK, strideK, h.length - j0);
		copyCommit();
	};

	// q and dout come by way of the second buffers.
	int j0 = h.firstKey(i0) / tileRows * tileRows, buffer = 0;
	copyTile<D, tileRows, queryThreads>(t.k[1], x.q + rowsAt, strideQ, rows);
	copyTile<D, tileRows, queryThreads>(t.v[1], x.dout + rowsAt, strideQ, rows);
	copyCommit();
	fetch(0, j0);
	copyWait<1>();
	__syncthreads();
	uint32_t q[D / 16][4], dout[D / 16][4];
#pragma unroll
	for (int n = 0; n < D / 16; n++) {
		loadMatrix4(q[n], &t.k[1].row[warp * 16][n * 16] + leftAt<D>(lane));
		loadMatrix4(dout[n], &t.v[1].row[warp * 16][n * 16] + leftAt<D>(lane));
	}
	float dq[1][D / 8][4];
#pragma unroll
	for (int n = 0; n < D / 8; n++)
		dq[0][n][0] = dq[0][n][1] = dq[0][n][2] = dq[0][n][3] = 0;

	for (; j0 < i0 + rows; j0 += tileRows, buffer = 1 - buffer) {
		copyWait<0>();
		__syncthreads(); // this tile is there; the other buffers were read
		if (j0 + tileRows < i0 + rows)
			fetch(1 - buffer, j0 + tileRows);
		const bool some = iWarp < h.length && j0 < iWarp + 16 && iWarp - (j0 + tileRows - 1) < h.window;
		const bool all = j0 + tileRows - 1 <= iWarp && iWarp + 15 - j0 < h.window;
		if (!some)
			continue;
		const bf16 *k = &t.k[buffer].row[0][0], *v = &t.v[buffer].row[0][0];
		float p[1][8][4], ds[1][8][4];
		scores<D, 8>(p, q, k + rightAt<D>(lane));
		scores<D, 8>(ds, dout, v + rightAt<D>(lane));
		if (!all) {
#pragma unroll
			for (int n = 0; n < 8; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					if (!h.sees(iWarp + group + e / 2 * 8, j0 + n * 8 + quad * 2 + e % 2))
						p[0][n][e] = -INFINITY;
		}
#pragma unroll
		for (int n = 0; n < 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				ds[0][n][e] = power2(fmaf(p[0][n][e], x.scale2, -lse[e / 2])) * (ds[0][n][e] - dot[e / 2]);
		uint32_t left[1][4][4];
		leftFactor<8>(left[0], ds[0]);
		addProduct<D, 1, 4>(dq, left, k + leftAt<D>(lane));
	}

	const float scale[1][2] = {{x.scale, x.scale}};
	__syncthreads(); // all tiles were read
	storeRows<D, 1>(x.dq + rowsAt + warp * 16 * strideQ, strideQ, rows - warp * 16, dq, scale, &t.k[0].row[warp * 16][0]);
}

} // namespace

int attentionBackwardTensor(const BackwardCall &x, void *stream) {
	const Attend &h = x.h;
	return byWidth(h.dim, [&](auto width) {
		const int D = decltype(width)::value;
		dim3 grid((unsigned)(h.sequences * h.keyValue * ceilDiv(h.length, 16 * keyWarps<D>)));
		int e = launch(keyGradients<D>, grid, 32 * keyWarps<D>, sizeof(KeyTiles<D>), stream, x);
		if (e != 0)
			return e;
		return launch(queryGradients<D>, dim3((unsigned)(h.pairs() * ceilDiv(h.length, tileRows))), queryThreads, sizeof(QueryTiles<D>), stream, x);
	});
}

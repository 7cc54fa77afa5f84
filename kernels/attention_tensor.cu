// Causal grouped attention (attention.cu) on tensor cores: bfloat16, heads 64, 80, 96 or 128 wide. The structure is that of
// FlashAttention-2 (Dao, arXiv 2307.08691).
//
// A block has 128 query rows of a head, each of its 4 warps 32 of them, and walks over tiles of 64 keys. Per tile a warp makes
// 32×64 scores and adds 32×d outputs, all in registers: d + 64 of them in float32. The probabilities are rounded to bfloat16
// in the registers that the scores were in and are a left factor there; their sum is made before that, in float32. 32 rows to a
// warp, not 16, because then a fragment of k or v that was read from shared memory serves two products:
//
//	bytes of shared memory per product (16×8×16)   16 rows 256, 32 rows 160 (256 → 192 for q·kᵀ, q being read again; 128 for p·v)
//
// There is one buffer for k and one for v, so that two blocks fit in a multiprocessor also where d is 128 (68 KB each); k of
// the next tile comes while probabilities and p·v are made, v while q·kᵀ is:
//
//	copies    │ v 0      │ k 1            │ v 1      │ k 2
//	products  │ q·k0ᵀ    │ softmax, p·v0  │ q·k1ᵀ    │ …          a barrier at each │
//
// Keys are walked upwards, so that blocks of a head that run at the same time read the same tiles.
#include "attention_tensor.cuh"

namespace {

const int threads = 128, queryTile = 128, warpRows = 32;

template <int D> struct Tiles {
	Tile<D, queryTile> q;
	Tile<D, tileRows> k, v;
};

struct Call {
	Attend h;
	const bf16 *q, *k, *v;
	bf16 *out;
	float *lse;   // or nullptr
	float scale2; // scale·log2 e
};

template <int D> __global__ void __launch_bounds__(threads, 2) attention(Call x) {
	auto &t = shared<Tiles<D>>();
	const Attend &h = x.h;
	int lane = threadIdx.x % 32, warp = warpIndex(), group = lane / 4, quad = lane % 4;
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, queryTile), h.section, true);
	const int i0 = at.tile * queryTile, rows = h.length - i0 < queryTile ? h.length - i0 : queryTile;
	const int64_t row = at.sequence * h.length + i0, strideQ = h.strideQuery(), strideK = h.strideKey();
	const int64_t keysAt = at.sequence * h.length * strideK + (int64_t)(at.head / h.group) * D;
	const bf16 *k = x.k + keysAt, *v = x.v + keysAt;

	const int iWarp = i0 + warp * warpRows; // the warp's first row
	const bf16 *qAt = &t.q.row[warp * warpRows][0] + leftAt<D>(lane), *kAt = &t.k.row[0][0] + rightAt<D>(lane), *vAt = &t.v.row[0][0] + leftAt<D>(lane);
	// top is the largest score so far of rows group + 16·m + 8·half, in units in which exp is a power of 2.
	float o[2][D / 8][4], top[2][2], sum[2][2];
#pragma unroll
	for (int m = 0; m < 2; m++) {
		top[m][0] = top[m][1] = -INFINITY;
		sum[m][0] = sum[m][1] = 0;
#pragma unroll
		for (int n = 0; n < D / 8; n++)
			o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
	}

	int j0 = h.firstKey(i0) / tileRows * tileRows;
	copyTile<D, queryTile, threads>(t.q, x.q + row * strideQ + (int64_t)at.head * D, strideQ, rows);
	copyTile<D, tileRows, threads>(t.k, k + j0 * strideK, strideK, h.length - j0);
	copyCommit();
	for (; j0 < i0 + rows; j0 += tileRows) {
		// Does a row of this warp see a key of the tile, does each see all?
		const bool some = iWarp < h.length && j0 < iWarp + warpRows && iWarp - (j0 + tileRows - 1) < h.window;
		const bool all = j0 + tileRows - 1 <= iWarp && iWarp + warpRows - 1 - j0 < h.window;
		float s[2][8][4];

		copyWait<0>();
		__syncthreads(); // k is there; v was read
		copyTile<D, tileRows, threads>(t.v, v + j0 * strideK, strideK, h.length - j0);
		copyCommit();
		if (some)
			scores<D, 2, 8>(s, qAt, kAt);
		copyWait<0>();
		__syncthreads(); // v is there; k was read
		if (j0 + tileRows < i0 + rows) {
			copyTile<D, tileRows, threads>(t.k, k + (j0 + tileRows) * strideK, strideK, h.length - j0 - tileRows);
			copyCommit();
		}
		if (!some)
			continue;
		uint32_t p[2][4][4];
		if (!all) {
#pragma unroll
			for (int m = 0; m < 2; m++)
#pragma unroll
				for (int n = 0; n < 8; n++)
#pragma unroll
					for (int e = 0; e < 4; e++)
						if (!h.sees(iWarp + m * 16 + group + e / 2 * 8, j0 + n * 8 + quad * 2 + e % 2))
							s[m][n][e] = -INFINITY;
		}
#pragma unroll
		for (int m = 0; m < 2; m++) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				float most = fmaxf(s[m][0][2 * half], s[m][0][2 * half + 1]); // of a NaN and a number the number; the NaN is still in s
#pragma unroll
				for (int n = 1; n < 8; n++)
					most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
				most = fmaxf(most, __shfl_xor_sync(allLanes, most, 1));
				most = fmaxf(most, __shfl_xor_sync(allLanes, most, 2));
				most = fmaxf(top[m][half], most * x.scale2);
				const float from = most == -INFINITY ? 0 : most; // nothing seen yet: 2^−∞, not 2^(−∞+∞)
				const float shrink = power2(top[m][half] - from);
				top[m][half] = most;
				float part = 0; // of this thread's columns
#pragma unroll
				for (int n = 0; n < 8; n++)
#pragma unroll
					for (int e = 2 * half; e < 2 * half + 2; e++) {
						s[m][n][e] = power2(fmaf(s[m][n][e], x.scale2, -from));
						part += s[m][n][e];
					}
				sum[m][half] = sum[m][half] * shrink + part;
#pragma unroll
				for (int n = 0; n < D / 8; n++) {
					o[m][n][2 * half] *= shrink;
					o[m][n][2 * half + 1] *= shrink;
				}
			}
			leftFactor<8>(p[m], s[m]); // here, where s[m] is not needed any more: after the loop registers would not do
		}
		addProduct<D, 2, 4>(o, p, vAt);
	}

	float inverse[2][2];
#pragma unroll
	for (int m = 0; m < 2; m++)
#pragma unroll
		for (int half = 0; half < 2; half++) {
			float l = sum[m][half];
			l += __shfl_xor_sync(allLanes, l, 1);
			l += __shfl_xor_sync(allLanes, l, 2);
			inverse[m][half] = 1 / l;
			int r = warp * warpRows + m * 16 + half * 8 + group;
			if (x.lse != nullptr && quad == 0 && r < rows)
				x.lse[(row + r) * h.query + at.head] = (top[m][half] + log2f(l)) * 0.6931471805599453f; // log 2
		}
	storeRows<D, 2>(x.out + (row + warp * warpRows) * strideQ + (int64_t)at.head * D, strideQ, rows - warp * warpRows, o, inverse, &t.q.row[warp * warpRows][0]);
}

} // namespace

bool tensorFits(int type, const Attend &h, const void *const *matrices, int n) {
	uintptr_t bits = 0; // of all addresses: pieces of 16 bytes are copied. Rows are whole pieces, as all the widths are.
	for (int i = 0; i < n; i++)
		bits |= (uintptr_t)matrices[i];
	return type == SURGEON_BF16 && bits % 16 == 0 && (h.dim == 64 || h.dim == 80 || h.dim == 96 || h.dim == 128);
}

int attentionTensor(Attend h, const void *q, const void *k, const void *v, void *out, float *lse, void *stream) {
	Call x{h, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, (bf16 *)out, lse, (float)(h.scale * log2e)};
	return byWidth(h.dim, [&](auto width) {
		const int D = decltype(width)::value;
		return launch(attention<D>, dim3((unsigned)(h.pairs() * ceilDiv(h.length, queryTile))), threads, sizeof(Tiles<D>), stream, x);
	});
}

// The backward pass of attention (attention.cu). With p made again from lse, per query head,
//
//	D_i = Σ dout_i∘out_i   dv_j ← Σ_i p_ij dout_i   ds_ij = p_ij (dout_i·v_j − D_i)   dq_i ← scale Σ_j ds_ij k_j   dk_j ← scale Σ_i ds_ij q_i
//
// and dk, dv summed over the query heads of a key/value head. Counted as 10·d FLOP for every pair i, j and head; done are 14,
// because scores and dout·v are made twice: by a kernel that keeps a tile of dk and dv and walks over query heads and rows,
// and by one that keeps a tile of dq and walks over keys. So every output has one owner that sums in one order, and bits are
// the same at every run without float32 copies of dq in memory.
//
// Before both, dots makes D, and lse in base 2, both in an order that suits them, padded to whole tiles: 2·(bytes of out)
// read, 8 bytes written per row and head.
//
// Here are the versions for any type and width; see attention_backward_tensor.cu.
#include "attention_plain.cuh"

namespace {

const int dotThreads = 256; // 8 warps, each with 8 rows of the same head

template <class T>
__global__ void __launch_bounds__(dotThreads) dots(Attend h, const T *out, const Acc<T> *lse, const T *dout, Statistics<Acc<T>> to) {
	typedef Acc<T> A;
	const int tiles = (int)ceilDiv(h.length, side), lane = threadIdx.x % 32;
	const int64_t pair = blockIdx.x / tiles, begin = pair / h.query * h.length, head = pair % h.query;
	for (int n = 0; n < 8; n++) {
		int i = (int)(blockIdx.x % tiles) * side + threadIdx.x / 32 * 8 + n;
		int64_t at = pair * tiles * side + i, x = (begin + i) * h.query + head; // x: of the rows of width dim
		A sum = 0;
		if (i < h.length)
			for (int d = lane; d < h.dim; d += 32)
				sum += value(out[x * h.dim + d]) * value(dout[x * h.dim + d]);
		sum = warpSum(sum);
		if (lane == 0) {
			to.lse[at] = i < h.length ? lse[x] * A(1.4426950408889634) : A(INFINITY); // log2 e
			to.dot[at] = sum;
		}
	}
}

template <class A> struct Tiles {
	Plain<A> a, b, p, ds;
};

// probabilities makes the tiles p and ds from s = q·kᵀ and dp = dout·vᵀ, for query rows from i0 and keys from j0.
template <class A>
__device__ void probabilities(const Attend &h, Tiles<A> &t, const A (&s)[4][4], const A (&dp)[4][4], Statistics<A> of, int i0, int j0) {
	int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const A scale = (A)(h.scale * 1.4426950408889634);
	for (int r = 0; r < 4; r++) {
		int i = i0 + ty + 16 * r;
		A lse = of.lse[i], dot = of.dot[i];
		for (int c = 0; c < 4; c++) {
			A p = h.sees(i, j0 + tx + 16 * c) ? power2(s[r][c] * scale - lse) : A(0);
			t.p[ty + 16 * r][tx + 16 * c] = p;
			t.ds[ty + 16 * r][tx + 16 * c] = p * (dp[r][c] - dot);
		}
	}
}

// Block: a tile of 64 keys of a key/value head, 128 columns of its dk and dv.
template <class T>
__global__ void __launch_bounds__(plainThreads)
keyGradients(Attend h, const T *q, const T *k, const T *v, const T *dout, Statistics<Acc<T>> of, T *dk, T *dv) {
	typedef Acc<T> A;
	auto &t = shared<Tiles<A>>();
	Place at = placeOf(h, h.keyValue, (int)ceilDiv(h.length, side), h.section / h.group, false);
	int j0 = at.tile * side, keys = lesser(h.length - j0, side), column0 = blockIdx.y * plainColumns;
	int64_t begin = at.sequence * h.length, padded = paddedLength(h);
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey(), keyAt = (begin + j0) * strideK + (int64_t)at.head * h.dim;

	A ok[2][4][4] = {}, ov[2][4][4] = {};
	for (int head = at.head * h.group; head < (at.head + 1) * h.group; head++) {
		int64_t pair = at.sequence * h.query + head;
		Statistics<A> ofPair{of.lse + pair * padded, of.dot + pair * padded};
		for (int i0 = j0; i0 < h.endQuery(j0 + keys - 1); i0 += side) {
			int rows = lesser(h.length - i0, side);
			int64_t rowAt = (begin + i0) * strideQ + (int64_t)head * h.dim;
			A s[4][4], dp[4][4];
			scores<T, A>(s, t.a, t.b, q + rowAt, strideQ, rows, k + keyAt, strideK, keys, h.dim);
			scores<T, A>(dp, t.a, t.b, dout + rowAt, strideQ, rows, v + keyAt, strideK, keys, h.dim);
			probabilities<A>(h, t, s, dp, ofPair, i0, j0);
#pragma unroll
			for (int half = 0; half < 2; half++) {
				int column = column0 + half * side;
				if (column < h.dim) {
					__syncthreads(); // a and b were read, p and ds are written
					load<T, A>(t.a, dout + rowAt + column, strideQ, rows, h.dim - column);
					load<T, A>(t.b, q + rowAt + column, strideQ, rows, h.dim - column);
					__syncthreads();
					addProduct<true, A>(ov[half], t.p, t.a);
					addProduct<true, A>(ok[half], t.ds, t.b);
				}
			}
			// p and ds are written again after the barriers of scores
		}
	}
	const A one[4] = {1, 1, 1, 1}, scale[4] = {(A)h.scale, (A)h.scale, (A)h.scale, (A)h.scale};
#pragma unroll
	for (int half = 0; half < 2; half++) {
		int column = column0 + half * side;
		store<T, A>(dk + keyAt + column, strideK, keys, h.dim - column, ok[half], scale);
		store<T, A>(dv + keyAt + column, strideK, keys, h.dim - column, ov[half], one);
	}
}

// Block: a tile of 64 query rows of a head, 128 columns of its dq.
template <class T>
__global__ void __launch_bounds__(plainThreads) queryGradients(Attend h, const T *q, const T *k, const T *v, const T *dout, Statistics<Acc<T>> of, T *dq) {
	typedef Acc<T> A;
	auto &t = shared<Tiles<A>>();
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, side), h.section, true);
	int i0 = at.tile * side, rows = lesser(h.length - i0, side), column0 = blockIdx.y * plainColumns;
	int64_t begin = at.sequence * h.length, padded = paddedLength(h), pair = at.sequence * h.query + at.head;
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey(), rowAt = (begin + i0) * strideQ + (int64_t)at.head * h.dim;
	Statistics<A> ofPair{of.lse + pair * padded, of.dot + pair * padded};

	A o[2][4][4] = {};
	for (int j0 = h.firstKey(i0) / side * side; j0 < i0 + rows; j0 += side) {
		int keys = lesser(h.length - j0, side);
		int64_t keyAt = (begin + j0) * strideK + (int64_t)(at.head / h.group) * h.dim;
		A s[4][4], dp[4][4];
		scores<T, A>(s, t.a, t.b, q + rowAt, strideQ, rows, k + keyAt, strideK, keys, h.dim);
		scores<T, A>(dp, t.a, t.b, dout + rowAt, strideQ, rows, v + keyAt, strideK, keys, h.dim);
		probabilities<A>(h, t, s, dp, ofPair, i0, j0);
#pragma unroll
		for (int half = 0; half < 2; half++) {
			int column = column0 + half * side;
			if (column < h.dim) {
				__syncthreads(); // b was read, ds is written
				load<T, A>(t.b, k + keyAt + column, strideK, keys, h.dim - column);
				__syncthreads();
				addProduct<false, A>(o[half], t.ds, t.b);
			}
		}
	}
	const A scale[4] = {(A)h.scale, (A)h.scale, (A)h.scale, (A)h.scale};
#pragma unroll
	for (int half = 0; half < 2; half++)
		store<T, A>(dq + rowAt + column0 + half * side, strideQ, rows, h.dim - column0 - half * side, o[half], scale);
}

template <class T>
int backward(const Attend &h, bool tensor, const T *q, const T *k, const T *v, const T *out, const Acc<T> *lse, const T *dout, T *dq, T *dk, T *dv, Acc<T> *scratch, void *stream) {
	typedef Acc<T> A;
	int64_t rows = h.pairs() * paddedLength(h);
	Statistics<A> of{scratch, scratch + rows};
	int e = launch(dots<T>, dim3((unsigned)(rows / side)), dotThreads, 0, stream, h, out, lse, dout, of);
	if (e != 0)
		return e;
	if constexpr (sizeof(T) == 2)
		if (tensor)
			return attentionBackwardTensor(h, q, k, v, dout, of, dq, dk, dv, stream);
	int64_t tiles = ceilDiv(h.length, side);
	unsigned columns = (unsigned)ceilDiv(h.dim, plainColumns);
	dim3 grid((unsigned)(h.sequences * h.keyValue * tiles), columns);
	e = launch(keyGradients<T>, grid, plainThreads, sizeof(Tiles<A>), stream, h, q, k, v, dout, of, dk, dv);
	if (e != 0)
		return e;
	grid.x = (unsigned)(h.pairs() * tiles);
	return launch(queryGradients<T>, grid, plainThreads, sizeof(Tiles<A>), stream, h, q, k, v, dout, of, dq);
}

} // namespace

extern "C" int64_t surgeon_attention_scratch(int type, surgeon_heads heads) {
	Attend h;
	if (!attend(type, heads, &h))
		return 0; // the launcher will refuse the call
	return 2 * h.pairs() * paddedLength(h) * (type == SURGEON_F64 ? 8 : 4);
}

extern "C" int surgeon_attention_backward(int type, surgeon_heads heads, const void *q, const void *k, const void *v, const void *out, const void *lse, const void *dout,
                                          void *dq, void *dk, void *dv, void *scratch, void *stream) {
	Attend h;
	if (!attend(type, heads, &h))
		return (int)cudaErrorInvalidValue;
	const void *matrices[] = {q, k, v, dout, dq, dk, dv};
	bool tensor = tensorFits(type, h, matrices, 7);
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return backward<T>(h, tensor, (const T *)q, (const T *)k, (const T *)v, (const T *)out, (const Acc<T> *)lse, (const T *)dout, (T *)dq, (T *)dk, (T *)dv,
		                   (Acc<T> *)scratch, stream);
	});
}

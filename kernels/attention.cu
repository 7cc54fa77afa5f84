// Causal grouped attention. For query head h of token i, over the tokens j of the same sequence with i−window < j ≤ i, and
// g = h / (query heads to a key/value head),
//
//	s_j = scale · q_ih·k_jg,   out_ih ← Σ_j p_j v_jg,   p_j = exp(s_j − lse_ih),   lse_ih ← log Σ_j exp(s_j).
//
// 4·d FLOP for every pair i, j and head; bytes of q, k, v and out, once each. Scores are never in memory: a block keeps a
// tile of query rows and walks over the tiles of keys that one of them sees,
//
//	            keys 0              from                  to
//	query rows  ·  ·  ·  ·  ·  ·  · ┌─────┬─────┬─────┬─────┐ ·
//	i0 … i0+63  ·  ·  ·  ·  ·  ·  · │ ▒ ▒ │     │     │ ▒ ▒ │ ·     ▒ holds pairs outside the band: their p is 0
//	            ·  ·  ·  ·  ·  ·  · └─────┴─────┴─────┴─────┘ ·
//
// with, for every row, the largest score m so far, l = Σ exp(s − m), and o = Σ exp(s − m)·v. A tile that raises m to m'
// first multiplies l and o by exp(m − m') (Milakov and Gimelshein, arXiv 1805.02867; Dao, arXiv 2307.08691). Exponentials
// are powers of 2, log2 e being a part of the scale. A v that is not finite in ▒ makes NaN: 0·NaN.
//
// Here is the version for any type and width; sums in float32, or float64 for float64. What it costs is reading shared
// memory: one number for two products. attention_tensor.cu has the version for bfloat16 and usual widths.
#include "attention_plain.cuh"

namespace {

template <class A> struct Tiles {
	Plain<A> a, b, p;
};

// Block: a tile of 64 query rows of a head, 128 columns of its output.
template <class T> __global__ void __launch_bounds__(plainThreads) attention(Attend h, const T *q, const T *k, const T *v, T *out, Acc<T> *lse) {
	typedef Acc<T> A;
	auto &t = shared<Tiles<A>>();
	int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, side), h.section, true);
	int i0 = at.tile * side, rows = lesser(h.length - i0, side), column0 = blockIdx.y * plainColumns;
	int64_t row = at.sequence * h.length + i0, begin = at.sequence * h.length;
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey();
	q += row * strideQ + (int64_t)at.head * h.dim;
	out += row * strideQ + (int64_t)at.head * h.dim;
	k += begin * strideK + (int64_t)(at.head / h.group) * h.dim;
	v += begin * strideK + (int64_t)(at.head / h.group) * h.dim;
	const A scale = (A)(h.scale * 1.4426950408889634); // log2 e

	A o[2][4][4] = {}, m[4], l[4] = {};
	for (int r = 0; r < 4; r++)
		m[r] = -INFINITY;
	for (int j0 = h.firstKey(i0) / side * side; j0 < i0 + rows; j0 += side) {
		int keys = lesser(h.length - j0, side);
		A s[4][4];
		scores<T, A>(s, t.a, t.b, q, strideQ, rows, k + j0 * strideK, strideK, keys, h.dim);
		for (int r = 0; r < 4; r++) {
			A top = m[r];
			for (int c = 0; c < 4; c++) {
				s[r][c] = h.sees(i0 + ty + 16 * r, j0 + tx + 16 * c) ? s[r][c] * scale : A(-INFINITY);
				top = fmax(top, s[r][c]); // of a NaN and a number the number; the NaN is still in s
			}
			for (int x = 8; x > 0; x >>= 1)
				top = fmax(top, __shfl_xor_sync(allLanes, top, x));
			A from = top == -INFINITY ? A(0) : top; // nothing seen yet: exponentials of −∞, not of −∞ + ∞
			A shrink = power2(m[r] - from);
			m[r] = top;
			l[r] *= shrink;
			for (int c = 0; c < 4; c++) {
				A p = power2(s[r][c] - from);
				l[r] += p; // of this thread's columns
				t.p[ty + 16 * r][tx + 16 * c] = p;
				o[0][r][c] *= shrink;
				o[1][r][c] *= shrink;
			}
		}
#pragma unroll
		for (int half = 0; half < 2; half++) {
			int column = column0 + half * side;
			if (column < h.dim) {
				__syncthreads(); // b was read, p is written
				load<T, A>(t.b, v + j0 * strideK + column, strideK, keys, h.dim - column);
				__syncthreads();
				addProduct<false, A>(o[half], t.p, t.b);
			}
		}
	}
	for (int r = 0; r < 4; r++) {
		for (int x = 8; x > 0; x >>= 1)
			l[r] += __shfl_xor_sync(allLanes, l[r], x);
		if (lse != nullptr && column0 == 0 && tx == 0 && ty + 16 * r < rows)
			lse[(row + ty + 16 * r) * h.query + at.head] = (m[r] + log2(l[r])) * A(0.6931471805599453); // log 2
		l[r] = 1 / l[r];
	}
	store<T, A>(out + column0, strideQ, rows, h.dim - column0, o[0], l);
	store<T, A>(out + column0 + side, strideQ, rows, h.dim - column0 - side, o[1], l);
}

} // namespace

extern "C" int surgeon_attention(int type, surgeon_heads heads, const void *q, const void *k, const void *v, void *out, void *lse, void *stream) {
	Attend h;
	if (!attend(type, heads, &h))
		return (int)cudaErrorInvalidValue;
	const void *matrices[] = {q, k, v, out};
	if (tensorFits(type, h, matrices, 4) && h.scale > 0) // there the largest product is the largest score
		return attentionTensor(h, q, k, v, out, (float *)lse, stream);
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		dim3 grid((unsigned)(h.pairs() * ceilDiv(h.length, side)), (unsigned)ceilDiv(h.dim, plainColumns));
		return launch(attention<T>, grid, plainThreads, sizeof(Tiles<Acc<T>>), stream, h, (const T *)q, (const T *)k, (const T *)v, (T *)out, (Acc<T> *)lse);
	});
}

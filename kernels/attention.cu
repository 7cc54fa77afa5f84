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
// Here is the version for any type and width; sums in float32, or float64 for float64. attention_plain.cuh says how the work is
// divided and what it costs: where heads are up to 64 wide, two warps have the even tiles of keys and two the odd ones, with an
// m, l and o of their own; these are brought to the larger m and added at the end. attention_tensor.cu has the version for
// bfloat16 and usual widths.
#include "attention_plain.cuh"

namespace {

// Block: a tile of 64 query rows of a head, 64 to 128 columns of its output.
template <class T, class P>
__global__ void __launch_bounds__(plainThreads, P::blocks) attention(Attend h, Acc<T> scale2, bool pieces, const T *q, const T *k, const T *v, T *out, Acc<T> *lse) {
	typedef Acc<T> A;
	const int R = P::rows;
	auto &t = shared<Tiles<P>>();
	const Lane<P> my;
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, P::left), h.section, true);
	const int i0 = at.tile * P::left, rows = lesser(h.length - i0, P::left), column0 = blockIdx.y * P::columns, iWarp = i0 + my.left;
	const int64_t row = at.sequence * h.length + i0, begin = at.sequence * h.length;
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey();
	q += row * strideQ + (int64_t)at.head * h.dim;
	k += begin * strideK + (int64_t)(at.head / h.group) * h.dim;
	v += begin * strideK + (int64_t)(at.head / h.group) * h.dim;

	// Steps: the columns of q and k, the keys of v. j0 is the first key of the first of the tiles beside each other.
	const int depths = (int)ceilDiv(h.dim, deep), steps = depths + side / deep, right = P::beside * side, end = i0 + rows;
	auto begins = [&](A *stage, int j0, int step) {
		const int j = j0 + my.beside * side; // of this warp's tile
		if (step < depths) {
			const int d = step * deep;
			fetch<P::left, deep, P::depthPitch, plainThreads>(stage, q + d, strideQ, rows, h.dim - d, pieces, threadIdx.x);
			fetch<side, deep, P::depthPitch, my.mates>(my.rightOf(stage), k + j * strideK + d, strideK, h.length - j, h.dim - d, pieces, my.mate);
		} else {
			const int n = (step - depths) * deep;
			fetch<deep, P::columns, P::columns, my.mates>(my.factorOf(stage), v + (j + n) * strideK + column0, strideK, h.length - j - n, h.dim - column0, pieces, my.mate);
		}
		copyCommit();
	};
	int buffer = 0, step = 0, next = h.firstKey(i0) / side * side; // of what is on its way
	begins(t.stage[0], next, 0);
	auto turn = [&]() -> const A * {
		copyWait<0>();
		__syncthreads(); // this step is there; the other buffer was read
		const A *stage = t.stage[buffer];
		buffer = 1 - buffer;
		if (++step == steps) {
			step = 0;
			next += right;
		}
		if (next < end)
			begins(t.stage[buffer], next, step);
		return stage;
	};

	A o[R][P::own] = {}, m[R], l[R][1] = {};
#pragma unroll
	for (int r = 0; r < R; r++)
		m[r] = -INFINITY;
	A *p = &t.p[my.warp][0][0];
	while (next < end) { // next is the tile whose first step is on its way
		// Does a row of this warp see a key of its tile, does each see all?
		const int j = next + my.beside * side;
		const bool some = iWarp < h.length && j < iWarp + 4 * R && iWarp - (j + side - 1) < h.window;
		const bool all = j + side - 1 <= iWarp && iWarp + 4 * R - 1 - j < h.window;
		A s[R][8] = {};
#pragma unroll 1
		for (int d = 0; d < depths; d++) {
			const A *stage = turn();
			if (some)
				addScores<Piece<A>::size>(s, my.leftOf(stage), my.rightOf(stage), my);
		}
		if (some) {
#pragma unroll
			for (int r = 0; r < R; r++) {
				A top = m[r];
#pragma unroll
				for (int c = 0; c < 8; c++) {
					s[r][c] = all || h.sees(iWarp + my.y + 4 * r, j + my.x + 8 * c) ? s[r][c] * scale2 : A(-INFINITY);
					top = fmax(top, s[r][c]); // of a NaN and a number the number; the NaN is still in s
				}
#pragma unroll
				for (int x = 8; x > 1; x >>= 1)
					top = fmax(top, __shfl_xor_sync(allLanes, top, x));
				A from = top == -INFINITY ? A(0) : top; // nothing seen yet: exponentials of −∞, not of −∞ + ∞
				A shrink = power2(m[r] - from);
				m[r] = top;
				l[r][0] *= shrink;
#pragma unroll
				for (int c = 0; c < P::own; c++)
					o[r][c] *= shrink;
#pragma unroll
				for (int c = 0; c < 8; c++) {
					A e = power2(s[r][c] - from);
					l[r][0] += e; // of this thread's columns
					p[(my.y + 4 * r) * P::pPitch + my.x + 8 * c] = e;
				}
			}
		}
#pragma unroll 1
		for (int n = 0; n < side / deep; n++) {
			const A *stage = turn();
			if (some)
				addProduct<P>(o, p + n * deep, my.factorOf(stage), my);
		}
	}

	if (P::beside > 1) {
		A *room = (A *)&t, common[R];
		__syncthreads(); // the stages were read
#pragma unroll
		for (int r = 0; r < R; r++)
			room[r * plainThreads + threadIdx.x] = m[r];
		__syncthreads(); // the tops are there
#pragma unroll
		for (int r = 0; r < R; r++) {
			common[r] = m[r];
#pragma unroll
			for (int b = 1; b < P::beside; b++)
				common[r] = fmax(common[r], room[r * plainThreads + (threadIdx.x + b * P::along * 32) % plainThreads]);
			A shrink = power2(m[r] - (common[r] == -INFINITY ? A(0) : common[r]));
			m[r] = common[r];
			l[r][0] *= shrink;
#pragma unroll
			for (int c = 0; c < P::own; c++)
				o[r][c] *= shrink;
		}
	}
	sumBeside<P>(t, l, my);
	sumBeside<P>(t, o, my);
	A inverse[R];
#pragma unroll
	for (int r = 0; r < R; r++) {
		A sum = l[r][0];
#pragma unroll
		for (int x = 8; x > 1; x >>= 1)
			sum += __shfl_xor_sync(allLanes, sum, x);
		int i = my.left + my.y + 4 * r;
		if (lse != nullptr && column0 == 0 && my.beside == 0 && my.x == 0 && i < rows)
			lse[(row + i) * h.query + at.head] = (m[r] + log2(sum)) * A(0.6931471805599453); // log 2
		inverse[r] = 1 / sum;
	}
	store<P>(out + row * strideQ + (int64_t)at.head * h.dim + column0, strideQ, rows, h.dim - column0, o, inverse, pieces, my);
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
		const Acc<T> scale2 = (Acc<T>)(h.scale * log2e);
		const bool pieces = inPieces<T>(h, {q, k, v, out});
		return byPlan<T, 2>(h.dim, [&](auto plan) {
			typedef decltype(plan) P;
			dim3 grid((unsigned)(h.pairs() * ceilDiv(h.length, P::left)), (unsigned)ceilDiv(h.dim, P::columns));
			return launch(attention<T, P>, grid, plainThreads, sizeof(Tiles<P>), stream, h, scale2, pieces, (const T *)q, (const T *)k, (const T *)v, (T *)out, (Acc<T> *)lse);
		});
	});
}

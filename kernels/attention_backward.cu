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
// Here are the versions for any type and width, made of attention_plain.cuh. For bfloat16 and usual widths there are those of
// attention_backward_tensor.cu, and on an H100 for heads 64 or 128 wide those of attention_backward_warpgroup.cu.
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
			to.lse[at] = i < h.length ? lse[x] * A(log2e) : A(INFINITY);
			to.dot[at] = sum;
		}
	}
}

// Block: a tile of 64 keys of a key/value head, 64 to 128 columns of its dk and dv. Where heads are up to 64 wide it has 32 keys,
// and each warp all of these and every fourth tile of query rows: there may be few key/value heads, and the longest block walks
// over all rows of all heads of its group. With 3 such heads and 2048 tokens, tiles of 64 would make 96 blocks for the 132
// multiprocessors of an H100.
//
// Scores are made transposed, keys × query rows, so that p and ds are left factors. p is in shared memory while dp is made, and
// becomes ds there.
template <class T, class P>
__global__ void __launch_bounds__(plainThreads, 2)
keyGradients(Attend h, Acc<T> scale2, bool pieces, const T *q, const T *k, const T *v, const T *dout, Statistics<Acc<T>> of, T *dk, T *dv) {
	typedef Acc<T> A;
	const int R = P::rows;
	auto &t = shared<Tiles<P>>();
	const Lane<P> my;
	Place at = placeOf(h, h.keyValue, (int)ceilDiv(h.length, P::left), h.section / h.group, false);
	const int j0 = at.tile * P::left, keys = lesser(h.length - j0, P::left), column0 = blockIdx.y * P::columns, jWarp = j0 + my.left;
	const int64_t begin = at.sequence * h.length, padded = paddedLength(h);
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey(), keysAt = (begin + j0) * strideK + (int64_t)at.head * h.dim;

	// The tiles of query rows, in a row: from the one with row j0 to that with row end−1, of each head of the group in turn.
	struct Walk {
		int head, i;
	};
	const int first = j0 / side * side, ofHead = (int)ceilDiv(h.endQuery(j0 + keys - 1) - first, side) * side, endHead = (at.head + 1) * h.group;
	auto after = [&](Walk w, int tiles) {
		for (w.i += tiles * side; w.i >= first + ofHead; w.i -= ofHead)
			w.head++;
		return w;
	};

	// Steps: the columns of k and q, the rows of dout, the columns of v and dout, the rows of q.
	const int depths = (int)ceilDiv(h.dim, deep), products = side / deep, steps = 2 * (depths + products);
	auto begins = [&](A *stage, Walk at, int step) {
		const bool second = step >= depths + products, scores = (second ? step - depths - products : step) < depths;
		const int n = step - (second ? depths + products : 0) - (scores ? 0 : depths);
		const T *left = second ? v : k, *right = scores == second ? dout : q;
		const Walk w = after(at, my.beside); // this warp's tile
		const int rows = w.head < endHead ? h.length - w.i : 0;
		const T *from = right + (begin + w.i) * strideQ + (int64_t)w.head * h.dim;
		if (scores) {
			fetch<P::left, deep, P::depthPitch, plainThreads>(stage, left + keysAt + n * deep, strideK, keys, h.dim - n * deep, pieces, threadIdx.x);
			fetch<side, deep, P::depthPitch, my.mates>(my.rightOf(stage), from + n * deep, strideQ, rows, h.dim - n * deep, pieces, my.mate);
		} else
			fetch<deep, P::columns, P::columns, my.mates>(my.factorOf(stage), from + n * deep * strideQ + column0, strideQ, rows - n * deep, h.dim - column0, pieces,
			                                              my.mate);
		copyCommit();
	};
	int buffer = 0, step = 0; // of what is on its way, as next is
	Walk next{at.head * h.group, first};
	begins(t.stage[0], next, 0);
	auto turn = [&]() -> const A * {
		copyWait<0>();
		__syncthreads(); // this step is there; the other buffer was read
		const A *stage = t.stage[buffer];
		buffer = 1 - buffer;
		if (++step == steps) {
			step = 0;
			next = after(next, P::beside);
		}
		if (next.head < endHead)
			begins(t.stage[buffer], next, step);
		return stage;
	};

	A ok[R][P::own] = {}, ov[R][P::own] = {};
	A *p = &t.p[my.warp][0][0], *mine = p + my.y * P::pPitch + my.x;
	while (next.head < endHead) { // next is the tile whose first step is on its way
		// own is this warp's tile. It is asked for again where it is needed, as are other numbers below: registers are short.
		auto own = [&] { return after(next, my.beside); };
		const Walk w = own(); // Does a row of it see a key of the warp? None does behind the last head.
		const bool some = w.head < endHead && jWarp < h.length && jWarp < w.i + side && w.i - (jWarp + 4 * R - 1) < h.window;
#pragma unroll 1
		for (int second = 0; second < 2; second++) {
			A s[R][8] = {}; // scores, then dp
#pragma unroll 1
			for (int d = 0; d < depths; d++) {
				const A *stage = turn();
				if (some) // half a piece at a time: dk, dv and scores leave no registers for whole ones
					addScores<Piece<A>::size / 2>(s, my.leftOf(stage), my.rightOf(stage), my);
			}
			if (some) {
				const Walk w = own(); // next is as it was: the products' steps are still to come
				const bool all = jWarp + 4 * R - 1 <= w.i && w.i + side - 1 - jWarp < h.window;
				const A *stat = (second ? of.dot : of.lse) + (at.sequence * h.query + w.head) * padded + w.i + my.x;
#pragma unroll
				for (int c = 0; c < 8; c++) {
					const A ofRow = stat[8 * c];
#pragma unroll
					for (int r = 0; r < R; r++) {
						A &to = mine[4 * r * P::pPitch + 8 * c];
						if (second)
							to *= s[r][c] - ofRow;
						else
							to = all || h.sees(w.i + my.x + 8 * c, jWarp + my.y + 4 * r) ? power2(s[r][c] * scale2 - ofRow) : A(0);
					}
				}
			}
#pragma unroll 1
			for (int n = 0; n < products; n++) {
				const A *stage = my.factorOf(turn());
				if (some && second)
					addProduct<P>(ok, p + n * deep, stage, my);
				else if (some)
					addProduct<P>(ov, p + n * deep, stage, my);
			}
		}
	}
	sumBeside<P>(t, ok, my);
	sumBeside<P>(t, ov, my);
	A one[R], scaled[R];
#pragma unroll
	for (int r = 0; r < R; r++) {
		one[r] = 1;
		scaled[r] = (A)h.scale;
	}
	store<P>(dk + keysAt + column0, strideK, keys, h.dim - column0, ok, scaled, pieces, my);
	store<P>(dv + keysAt + column0, strideK, keys, h.dim - column0, ov, one, pieces, my);
}

// Block: a tile of 64 query rows of a head, 64 to 128 columns of its dq.
template <class T, class P>
__global__ void __launch_bounds__(plainThreads, P::blocks)
queryGradients(Attend h, Acc<T> scale2, bool pieces, const T *q, const T *k, const T *v, const T *dout, Statistics<Acc<T>> of, T *dq) {
	typedef Acc<T> A;
	const int R = P::rows;
	auto &t = shared<Tiles<P>>();
	const Lane<P> my;
	Place at = placeOf(h, h.query, (int)ceilDiv(h.length, P::left), h.section, true);
	const int i0 = at.tile * P::left, rows = lesser(h.length - i0, P::left), column0 = blockIdx.y * P::columns, iWarp = i0 + my.left;
	const int64_t begin = at.sequence * h.length, stat = (at.sequence * h.query + at.head) * paddedLength(h) + iWarp + my.y;
	const int64_t strideQ = h.strideQuery(), strideK = h.strideKey(), rowsAt = (begin + i0) * strideQ + (int64_t)at.head * h.dim;
	const int64_t keysAt = begin * strideK + (int64_t)(at.head / h.group) * h.dim;

	// Steps: the columns of q and k, the columns of dout and v, the rows of k.
	const int depths = (int)ceilDiv(h.dim, deep), products = side / deep, steps = 2 * depths + products, right = P::beside * side, end = i0 + rows;
	auto begins = [&](A *stage, int j0, int step) {
		const int j = j0 + my.beside * side; // of this warp's tile
		if (step < 2 * depths) {
			const bool second = step >= depths;
			const int d = (second ? step - depths : step) * deep;
			fetch<P::left, deep, P::depthPitch, plainThreads>(stage, (second ? dout : q) + rowsAt + d, strideQ, rows, h.dim - d, pieces, threadIdx.x);
			fetch<side, deep, P::depthPitch, my.mates>(my.rightOf(stage), (second ? v : k) + keysAt + j * strideK + d, strideK, h.length - j, h.dim - d, pieces,
			                                             my.mate);
		} else {
			const int n = (step - 2 * depths) * deep;
			fetch<deep, P::columns, P::columns, my.mates>(my.factorOf(stage), k + keysAt + (j + n) * strideK + column0, strideK, h.length - j - n, h.dim - column0,
			                                              pieces, my.mate);
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

	A o[R][P::own] = {};
	A *p = &t.p[my.warp][0][0];
	while (next < end) { // next is the tile whose first step is on its way
		auto first = [&] { return next + my.beside * side; }; // key of this warp's tile
		const int j = first();
		const bool some = iWarp < h.length && j < iWarp + 4 * R && iWarp - (j + side - 1) < h.window;
#pragma unroll 1
		for (int second = 0; second < 2; second++) {
			A s[R][8] = {}; // scores, then dp
#pragma unroll 1
			for (int d = 0; d < depths; d++) {
				const A *stage = turn();
				if (some)
					addScores<Piece<A>::size>(s, my.leftOf(stage), my.rightOf(stage), my);
			}
			if (!some)
				continue;
			A *mine = p + my.y * P::pPitch + my.x;
			const int j = first(); // next is as it was; not kept, as registers are short
			const bool all = j + side - 1 <= iWarp && iWarp + 4 * R - 1 - j < h.window;
#pragma unroll
			for (int r = 0; r < R; r++) {
				const A ofRow = (second ? of.dot : of.lse)[stat + 4 * r];
#pragma unroll
				for (int c = 0; c < 8; c++) {
					A &to = mine[4 * r * P::pPitch + 8 * c];
					if (second)
						to *= s[r][c] - ofRow;
					else
						to = all || h.sees(iWarp + my.y + 4 * r, j + my.x + 8 * c) ? power2(s[r][c] * scale2 - ofRow) : A(0);
				}
			}
		}
#pragma unroll 1
		for (int n = 0; n < products; n++) {
			const A *stage = turn();
			if (some)
				addProduct<P>(o, p + n * deep, my.factorOf(stage), my);
		}
	}
	sumBeside<P>(t, o, my);
	A scaled[R];
#pragma unroll
	for (int r = 0; r < R; r++)
		scaled[r] = (A)h.scale;
	store<P>(dq + rowsAt + column0, strideQ, rows, h.dim - column0, o, scaled, pieces, my);
}

template <class T>
int backward(int capability, const Attend &h, bool tensor, const T *q, const T *k, const T *v, const T *out, const Acc<T> *lse, const T *dout, T *dq, T *dk, T *dv, Acc<T> *scratch, void *stream) {
	typedef Acc<T> A;
	int64_t rows = h.pairs() * paddedLength(h);
	Statistics<A> of{scratch, scratch + rows};
	int e = launch(dots<T>, dim3((unsigned)(rows / side)), dotThreads, 0, stream, h, out, lse, dout, of);
	if (e != 0)
		return e;
	const A scale2 = (A)(h.scale * log2e);
	if constexpr (sizeof(T) == 2)
		if (tensor)
			return (warpgroupFits(capability, h) ? attentionBackwardWarpgroup : attentionBackwardTensor)(BackwardCall{h, q, k, v, dout, of, dq, dk, dv, (float)h.scale, scale2}, stream);
	const bool pieces = inPieces<T>(h, {q, k, v, dout, dq, dk, dv});
	e = byPlan<T, 1>(h.dim, [&](auto plan) {
		typedef decltype(plan) P;
		dim3 grid((unsigned)(h.sequences * h.keyValue * ceilDiv(h.length, P::left)), (unsigned)ceilDiv(h.dim, P::columns));
		return launch(keyGradients<T, P>, grid, plainThreads, sizeof(Tiles<P>), stream, h, scale2, pieces, q, k, v, dout, of, dk, dv);
	});
	if (e != 0)
		return e;
	return byPlan<T, 2>(h.dim, [&](auto plan) {
		typedef decltype(plan) P;
		dim3 grid((unsigned)(h.pairs() * ceilDiv(h.length, P::left)), (unsigned)ceilDiv(h.dim, P::columns));
		return launch(queryGradients<T, P>, grid, plainThreads, sizeof(Tiles<P>), stream, h, scale2, pieces, q, k, v, dout, of, dq);
	});
}

} // namespace

extern "C" int64_t surgeon_attention_scratch(int type, surgeon_heads heads) {
	Attend h;
	if (!attend(type, heads, &h))
		return 0; // the launcher will refuse the call
	return 2 * h.pairs() * paddedLength(h) * (type == SURGEON_F64 ? 8 : 4);
}

extern "C" int surgeon_attention_backward(int type, int capability, surgeon_heads heads, const void *q, const void *k, const void *v, const void *out, const void *lse,
                                          const void *dout, void *dq, void *dk, void *dv, void *scratch, void *stream) {
	Attend h;
	if (!attend(type, heads, &h))
		return (int)cudaErrorInvalidValue;
	const void *matrices[] = {q, k, v, dout, dq, dk, dv};
	bool tensor = tensorFits(type, h, matrices, 7) && h.scale > 0; // as forward: what no query sees is −∞ before it is scaled
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return backward<T>(capability, h, tensor, (const T *)q, (const T *)k, (const T *)v, (const T *)out, (const Acc<T> *)lse, (const T *)dout, (T *)dq, (T *)dk, (T *)dv,
		                   (Acc<T> *)scratch, stream);
	});
}

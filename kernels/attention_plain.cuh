// Toolbox of the plain versions of attention: products of tiles without tensor cores, for any type, width and window.
//
// A block keeps a left tile (query rows, or keys) and walks over right tiles of 64 (keys, or query rows). Each of its 4 warps
// makes a part of what the left tile has with one right tile or several of them; a thread R×8 scores of that, and of the
// result R rows by C columns:
//
//	               right tile   next one
//	              ┌───────────┬───────────┐                        lane, bits 43210
//	  left  4·R   │  warp 0   │  warp 2   │  along 2, beside 2     y = bits 4 0     rows y + 4·r
//	        4·R   │  warp 1   │  warp 3   │  along 4: beside 1     x = bits 3 2 1   columns x + 8·c of scores, and of a
//	              └───────────┴───────────┘  along 1: beside 4                      result pieces x + 8·n of 16 bytes
//
// Warps beside each other have the same rows of the result, each from its own right tiles. They add them at the end, always in
// the same order. So a thread's part can be large and the left tile low: of 9 heads and 2048 tokens there are no more than 288
// blocks of 64 rows for 132 multiprocessors, and a block of 2 warps would leave half of one idle.
//
// What limits are multiply-adds and reads of shared memory. Numbers are read in pieces of 16 bytes: along k of both factors of
// scores and of the left one of a product. So one loop over 4 k has, as sm_90 code,
//
//	R C     scores: FFMA  LDS.128      product: FFMA  LDS.128      and 8 to 12 other instructions
//	8 8              256       16                256       16      heads up to 64 wide
//	4 12             128       12                192       16      up to 96
//	4 16             128       12                256       20      wider, 128 columns to a block
//
// A multiprocessor of an H100 does 4 multiply-adds of a warp in a clock, and one LDS.128 in 2 or 4 (2 if the 16 threads of half
// a warp together read no more than 128 bytes: why neighbouring bits of a lane are of x and y in turn). So reads take half to
// all of the time of the multiply-adds where R is 8, and up to one and a half of it where R is 4. Larger parts would not fit in
// the 255 registers of a thread. Multiply-adds are about three quarters of all instructions; copying, barriers and
// exponentials are what remains. All of this is reasoned from the code, not measured.
//
// What is multiplied comes through two stages in shared memory, 16 k at a time, the next step's while this one's is used, with
// a barrier to each step. A tile comes from the L2 cache again for each use; to keep it would take the room of the second
// block, and a known width.
#ifndef SURGEON_ATTENTION_PLAIN_CUH
#define SURGEON_ATTENTION_PLAIN_CUH

#include <initializer_list>

#include "attention.cuh"
#include "tensor.cuh"

namespace {

const int plainThreads = 128;
const int side = tileRows;
const int deep = 16; // k of a step: 1024 multiply-adds of a thread between two barriers, where R and C are 8

// Piece is what is read or written at once: 16 bytes, or fewer.
template <class A, int n = 16 / sizeof(A)> struct __align__(n * sizeof(A)) Piece {
	static const int size = n;
	A of[n];
};
template <class A, int n = 16 / sizeof(A)> __device__ __forceinline__ Piece<A, n> piece(const A *x) { return *(const Piece<A, n> *)x; }

// Plan is how the work is divided, see above. Shared memory and registers make two blocks on a multiprocessor where R is 8
// (66 KB and along 1 81 KB, which an A100 has twice too), three of the narrower plan where it is 4 (38 KB).
template <class Number, int R, int C, int alongLeft> struct Plan {
	typedef Number A;
	// Blocks on a multiprocessor, as far as registers go, where a thread has R·C results. With three there would be spills.
	static const int blocks = R * C * sizeof(A) >= 256 ? 2 : 3;
	static const int rows = R, own = C, columns = 8 * C; // columns: what one block makes of a result. Wider heads take more blocks, each with all scores
	static const int along = alongLeft, beside = plainThreads / 32 / along, left = along * 4 * R;
	// Lengths of rows in shared memory, so that what a warp reads or writes at once is in different banks: pieces of 8 rows of
	// depthPitch, an odd number of pieces; 8 numbers in each of 4 rows of pPitch.
	static const int depthPitch = deep + Piece<A>::size, pPitch = side + 8;
	static const int ofScores = (left + beside * side) * depthPitch, ofProduct = beside * deep * columns;
	static const int stage = ofScores > ofProduct ? ofScores : ofProduct;
};

template <class P> struct Tiles {
	typedef typename P::A A;
	__align__(16) A stage[2][P::stage];
	__align__(16) A p[plainThreads / 32][4 * P::rows][P::pPitch]; // a warp's own probabilities, or ds. Between writing and reading there is a step's barrier
};

// Lane is a thread's place: the warp's first row in the left tile, its right tile, the thread's number among the `mates` that have
// the same right tile, and see above.
template <class P> struct Lane {
	static const int mates = P::along * 32;
	int x, y, warp, left, beside, mate;
	__device__ __forceinline__ Lane() {
		int lane = threadIdx.x % 32;
		warp = __shfl_sync(allLanes, (int)threadIdx.x / 32, 0); // so that the compiler knows it to be the same in all of a warp
		x = lane / 2 % 8;
		y = lane % 2 + lane / 16 * 2;
		left = warp % P::along * 4 * P::rows;
		beside = warp / P::along;
		mate = warp % P::along * 32 + lane;
	}
	// In a stage: the warp's rows of the left factor of scores, and of the right one; and the right factor of a product.
	template <class A> __device__ __forceinline__ A *leftOf(A *stage) const { return stage + left * P::depthPitch; }
	template <class A> __device__ __forceinline__ A *rightOf(A *stage) const { return stage + (P::left + beside * side) * P::depthPitch; }
	template <class A> __device__ __forceinline__ A *factorOf(A *stage) const { return stage + beside * deep * P::columns; }
};

__device__ __forceinline__ float power2(float x) { return exp2f(x); }
__device__ __forceinline__ double power2(double x) { return exp2(x); }

// fetchByHand is fetch by way of registers, n numbers at once, and four pieces under way at a time.
template <int n, int Rows, int Columns, int Pitch, int Threads, class T, class A>
__device__ __forceinline__ void fetchByHand(A *to, const T *x, int64_t stride, int rows, int columns, int thread) {
	const int across = Columns / n, batch = n > 1 ? 4 : 1; // no usual width needs n = 1
#pragma unroll 1 // one after the other: registers are short
	for (int first = thread; first < Rows * across; first += batch * Threads) {
		Piece<T, n> held[batch];
#pragma unroll
		for (int u = 0; u < batch; u++) {
			int i = first + u * Threads, r = i / across, c = i % across * n;
			held[u] = i < Rows * across && r < rows && c < columns ? piece<T, n>(x + r * stride + c) : Piece<T, n>{};
		}
#pragma unroll
		for (int u = 0; u < batch; u++) {
			int i = first + u * Threads;
			Piece<A, n> v;
#pragma unroll
			for (int e = 0; e < n; e++)
				v.of[e] = value(held[u].of[e]);
			if (i < Rows * across)
				*(Piece<A, n> *)(to + i / across * Pitch + i % across * n) = v;
		}
	}
}

// fetch begins to copy the first rows×columns elements of x to a tile of Rows×Columns, and zeros beside them, with so many
// threads. Copies are asynchronous where elements need no conversion and are in pieces in x (see inPieces).
template <int Rows, int Columns, int Pitch, int Threads, class T, class A>
__device__ __forceinline__ void fetch(A *to, const T *x, int64_t stride, int rows, int columns, bool pieces, int thread) {
	const int size = Piece<A>::size, across = Columns / size;
	if (!pieces) {
		fetchByHand<1, Rows, Columns, Pitch, Threads>(to, x, stride, rows, columns, thread);
	} else if (sizeof(T) != sizeof(A)) {
		fetchByHand<size, Rows, Columns, Pitch, Threads>(to, x, stride, rows, columns, thread);
	} else if (Threads % across == 0) { // a thread stays in its column
		const int step = across < Threads ? Threads / across : 1;
		static_assert(Threads % across != 0 || Rows % step == 0, "all threads copy equally much");
		int r = thread / across, c = thread % across * size;
		const T *from = x + r * stride + c;
		rows = c < columns ? rows : 0;
#pragma unroll
		for (int n = 0; n < Rows; n += step, from += step * stride)
			copyAsync(to + (n + r) * Pitch + c, from, n + r < rows);
	} else {
#pragma unroll 1
		for (int i = thread; i < Rows * across; i += Threads) {
			int r = i / across, c = i % across * size;
			copyAsync(to + r * Pitch + c, x + r * stride + c, r < rows && c < columns);
		}
	}
}

// addScores is s ← s + x·yᵀ over the k of a step, read n at a time. x and y are the warp's first rows in the two tiles.
template <int n, class P>
__device__ __forceinline__ void addScores(typename P::A (&s)[P::rows][8], const typename P::A *x, const typename P::A *y, const Lane<P> &my) {
	typedef typename P::A A;
	x += my.y * P::depthPitch;
	y += my.x * P::depthPitch;
#pragma unroll 1
	for (int k = 0; k < deep; k += n) {
		Piece<A, n> a[P::rows];
#pragma unroll
		for (int r = 0; r < P::rows; r++)
			a[r] = piece<A, n>(x + 4 * r * P::depthPitch + k);
#pragma unroll
		for (int c = 0; c < 8; c++) {
			Piece<A, n> b = piece<A, n>(y + 8 * c * P::depthPitch + k);
#pragma unroll
			for (int e = 0; e < n; e++)
#pragma unroll
				for (int r = 0; r < P::rows; r++)
					s[r][c] += a[r].of[e] * b.of[e];
		}
	}
}

// addProduct is o ← o + p·y over the k of a step. p is the warp's, from the first k on; y has a row for every k.
template <class P> __device__ __forceinline__ void addProduct(typename P::A (&o)[P::rows][P::own], const typename P::A *p, const typename P::A *y, const Lane<P> &my) {
	typedef typename P::A A;
	const int size = Piece<A>::size;
	p += my.y * P::pPitch;
	y += my.x * size;
#pragma unroll 1
	for (int k = 0; k < deep; k += size) {
		Piece<A> a[P::rows];
#pragma unroll
		for (int r = 0; r < P::rows; r++)
			a[r] = piece(p + 4 * r * P::pPitch + k);
#pragma unroll
		for (int e = 0; e < size; e++)
#pragma unroll
			for (int n = 0; n < P::own / size; n++) {
				Piece<A> b = piece(y + (k + e) * P::columns + 8 * size * n);
#pragma unroll
				for (int f = 0; f < size; f++)
#pragma unroll
					for (int r = 0; r < P::rows; r++)
						o[r][n * size + f] += a[r].of[e] * b.of[f];
			}
	}
}

// sumBeside is x ← Σ x over the warps beside each other, for the first of them. It takes all of the block's shared memory.
template <class P, int M, int N> __device__ __forceinline__ void sumBeside(Tiles<P> &t, typename P::A (&x)[M][N], const Lane<P> &my) {
	static_assert(sizeof(typename P::A) * M * N * plainThreads <= sizeof t, "room for all numbers");
	if (P::beside == 1)
		return;
	auto *room = (typename P::A *)&t + threadIdx.x;
	__syncthreads(); // the stages, or the room, were read
	if (my.beside > 0)
#pragma unroll
		for (int i = 0; i < M * N; i++)
			room[i * plainThreads] = x[i / N][i % N];
	__syncthreads(); // the numbers are there
	if (my.beside == 0)
#pragma unroll
		for (int b = 1; b < P::beside; b++)
#pragma unroll
			for (int i = 0; i < M * N; i++)
				x[i / N][i % N] += room[i * plainThreads + b * P::along * 32];
}

// store is x ← factor_r·o_r, rounded, where that is inside rows×columns. x, rows and columns: from the block's first on.
template <class P, class T>
__device__ __forceinline__ void store(T *x, int64_t stride, int rows, int columns, const typename P::A (&o)[P::rows][P::own], const typename P::A (&factor)[P::rows],
                                      bool pieces, const Lane<P> &my) {
	typedef typename P::A A;
	const int size = Piece<A>::size;
	if (my.beside > 0)
		return;
#pragma unroll
	for (int r = 0; r < P::rows; r++) {
		int row = my.left + my.y + 4 * r;
		if (row >= rows)
			continue;
#pragma unroll
		for (int n = 0; n < P::own / size; n++) {
			int column = (my.x + 8 * n) * size;
			T *to = x + row * stride + column;
			if (sizeof(T) == sizeof(A) && pieces) {
				Piece<A> v;
#pragma unroll
				for (int e = 0; e < size; e++)
					v.of[e] = o[r][n * size + e] * factor[r];
				if (column < columns)
					*(Piece<A> *)to = v;
			} else {
#pragma unroll
				for (int e = 0; e < size; e++)
					if (column + e < columns)
						to[e] = rounded<T>(o[r][n * size + e] * factor[r]);
			}
		}
	}
}

__host__ __device__ inline int lesser(int a, int b) { return a < b ? a : b; }

// inPieces: in the matrices, the rows of all heads begin, and end, where as many elements as a piece has numbers do.
template <class T> bool inPieces(const Attend &h, std::initializer_list<const void *> matrices) {
	uintptr_t bits = (uintptr_t)h.dim * sizeof(T);
	for (const void *x : matrices)
		bits |= (uintptr_t)x;
	return bits % (Piece<Acc<T>>::size * sizeof(T)) == 0;
}

// byPlan calls f with a Plan for elements T and heads of that width. along is for narrow heads. float64 is for comparing: one plan
// that fits the registers. R = 8 with more than 64 columns would not.
template <class T, int along, class F> int byPlan(int dim, F f) {
	if constexpr (sizeof(T) == 8) {
		return f(Plan<double, 4, 8, 4>());
	} else {
		if (dim <= 64)
			return f(Plan<float, 8, 8, along>());
		if (dim <= 96)
			return f(Plan<float, 4, 12, 4>());
		return f(Plan<float, 4, 16, 4>());
	}
}

} // namespace

#endif

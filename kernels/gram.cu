// Gram matrices of a batch, s ← α·xᵀx + β·s for some matrices x of as many tokens, into the packed lower triangle:
//
//	for i in 0…n, j in 0…i:  s[i(i+1)/2 + j] = α·Σ_t x[t,i]·x[t,j] + β·s[i(i+1)/2 + j]           t over N tokens
//
// With ones, x is read with a constant 1 appended to every row: the last row of s is α times the column sums, its corner α·N.
//
// N·n² FLOP, as the other triangle is left out; 16384×4096: 275 GFLOP, against 134 MB of x and 34 MB of s in float32. Sums are
// made in float32 from bfloat16 and float32, in float64 from float64, products exact or rounded once (fused).
//
// There is a fast way by tensor cores, for bfloat16 whose rows begin at multiples of 16 bytes (gram_tensor.cu, gram_warpgroup.cu),
// and one without for float32 (gram_float.cu), which is for every shape and address and keeps float32's precision. They are what
// BLAS calls SYRK, with NVIDIA's stream-K idea of cutting along the sum what does not fill the GPU. One launch makes all matrices
// of a call: q, k and v of a small model are a few squares each, and one after the other they would leave most of the GPU idle
// three times. The plain way is for float64 and for other bfloat16; a launch of it makes one matrix.
#include "gram.cuh"

#include <limits.h>

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

template <class T> int plain(int64_t tokens, const surgeon_gram_matrix &m, double alpha, double beta, void *stream) {
	typedef Acc<T> A;
	int64_t order = m.n + m.ones, blocks = packedLength(ceilDiv(order, plainSide));
	if (blocks > 0x7fffffff)
		return (int)cudaErrorInvalidValue;
	return launch(gramPlain<T>, dim3((unsigned)blocks), plainThreads, sizeof(PlainTile<A>), stream, tokens, m.n, order, (A)alpha, (const T *)m.x, (A)beta, (A *)m.s);
}

// ---- fast ----

// planOf counts with a cut's waves. Scratch memory is at most 4 waves of squares: 66 MiB.
template <class C> Plan<C> planOf(int64_t tokens, int squares) {
	Plan<C> p = {};
	int rest = squares % C::wave;
	int64_t best = 0;
	int parts = 1;
	for (int k = 1; k == 1 || (k * rest <= 4 * C::wave && tokens >= (int64_t)k * C::leastTokens); k++) {
		int64_t cost = ceilDiv(k * rest, C::wave) * (ceilDiv(tokens, k) + C::tileTokens);
		if (k == 1 || cost < best) {
			best = cost;
			parts = k;
		}
	}
	if (parts == 1)
		rest = 0;
	p.whole = squares - rest;
	p.rest = rest;
	p.partTokens = (int)(ceilDiv(ceilDiv(tokens, parts), C::depth) * C::depth);
	p.parts = parts == 1 ? 1 : (int)ceilDiv(tokens, p.partTokens); // fewer where whole steps make longer parts
	return p;
}

// gramRest adds up the parts of the squares that were made in parts: restRows rows of a square by a block, a column by a thread.
template <class C> __global__ void __launch_bounds__(C::side) gramRest(const __grid_constant__ Gram<C> g) {
	int number = blockIdx.x / (C::side / C::restRows);
	const Matrix<C> &m = g.matrix[matrixOf(g, g.plan.whole + number)];
	Place place = squareAt(g.plan.whole + number - m.first, m.across, C::band);
	int j0 = place.j * C::side;
	int64_t between = (int64_t)g.plan.rest * C::side * C::side;
	int first = blockIdx.x % (C::side / C::restRows) * C::restRows;
	for (int row = first; row < first + C::restRows; row++) {
		int i = place.i * C::side + row;
		if (i >= m.n || (int)threadIdx.x >= tileEnd<C>(i, j0))
			continue;
		const float *from = g.partial + ((int64_t)number * C::side + row) * C::side + threadIdx.x;
		float sum = 0;
#pragma unroll 8
		for (int part = 0; part < g.plan.parts; part++)
			sum += from[part * between];
		float *to = m.s + packedLength(i) + j0 + threadIdx.x;
		*to = g.beta == 0 ? g.alpha * sum : g.alpha * sum + g.beta * *to;
	}
}

// The last row, for the constant 1: column sums of some hundred tokens each, then their sums. One more reading of x, 1/20 of
// the time or less; a panel of ones in every block on the diagonal would be cheaper, and more to understand.
const int sumsThreads = 256, mostSums = 64;
int64_t sumsOf(int64_t tokens) { return min(max(ceilDiv(tokens, 128), (int64_t)1), (int64_t)mostSums); }

template <class T> __global__ void __launch_bounds__(sumsThreads) columnSums(int64_t tokens, int64_t n, int64_t each, const T *x, float *sums) {
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

// fits says whether a kind of kernels makes a matrix: whether rows of x begin at multiples of 16 bytes for tensor cores. Squares
// and tokens are counted in int.
template <class C> bool fits(int64_t tokens, const surgeon_gram_matrix &m);
template <> bool fits<TensorCut>(int64_t tokens, const surgeon_gram_matrix &m) {
	return m.n % 8 == 0 && m.n > 0 && m.n <= 1 << 20 && tokens > 0 && tokens < 1 << 30 && (uintptr_t)m.x % 16 == 0;
}
template <> bool fits<FloatCut>(int64_t tokens, const surgeon_gram_matrix &m) { return m.n <= 1 << 20 && tokens < 1 << 30; }

// callOf is the call for those matrices of a list that fit.
template <class C> Gram<C> callOf(int64_t tokens, int count, const surgeon_gram_matrix *matrices) {
	Gram<C> g = {};
	g.tokens = tokens;
	int squares = 0;
	for (int k = 0; k < count; k++)
		if (const surgeon_gram_matrix &m = matrices[k]; fits<C>(tokens, m)) {
			int across = (int)ceilDiv(m.n, C::side);
			g.matrix[g.count++] = Matrix<C>{(const typename C::Element *)m.x, (float *)m.s, (int)m.n, across, squares};
			squares += (int)packedLength(across);
		}
	for (int k = g.count; k < SURGEON_GRAM_MOST; k++)
		g.matrix[k].first = INT_MAX;
	g.plan = planOf<C>(tokens, squares);
	return g;
}

template <class C> int64_t fastScratch(int64_t tokens, int count, const surgeon_gram_matrix *matrices) {
	int64_t sums = 0; // of one matrix after the other
	for (int k = 0; k < count; k++)
		if (matrices[k].ones && fits<C>(tokens, matrices[k]))
			sums = max(sums, sumsOf(tokens) * matrices[k].n);
	return (int64_t)sizeof(float) * (callOf<C>(tokens, count, matrices).plan.partials() + sums);
}

template <class T> int ones(int64_t tokens, const surgeon_gram_matrix &m, double alpha, float beta, float *sums, void *stream) {
	int count = (int)sumsOf(tokens);
	int code = launch(columnSums<T>, dim3((unsigned)ceilDiv(m.n, sumsThreads), count), sumsThreads, 0, stream, tokens, m.n, ceilDiv(tokens, count), (const T *)m.x, sums);
	if (code != 0)
		return code;
	return launch(lastRow, elementGrid(m.n + 1), elementThreads, 0, stream, m.n, count, sums, (float)alpha, (float)(alpha * (double)tokens), beta, (float *)m.s + packedLength(m.n));
}

int tiles(int capability, const Gram<TensorCut> &g, void *stream) { return capability == 90 ? gramWarpgroup(g, stream) : gramTensor(g, stream); }
int tiles(int, const Gram<FloatCut> &g, void *stream) { return gramFloat(g, stream); }

// fast makes those matrices of a list that fit.
template <class C> int fast(int capability, int64_t tokens, int count, const surgeon_gram_matrix *matrices, double alpha, double beta, void *scratch, void *stream) {
	Gram<C> g = callOf<C>(tokens, count, matrices);
	g.alpha = (float)alpha;
	g.beta = (float)beta;
	g.partial = (float *)scratch;
	int code = tiles(capability, g, stream);
	if (code == 0)
		code = launch(gramRest<C>, dim3(g.plan.rest * (C::side / C::restRows)), C::side, 0, stream, g);
	for (int k = 0; k < count && code == 0; k++)
		if (matrices[k].ones && fits<C>(tokens, matrices[k]))
			code = ones<typename C::Element>(tokens, matrices[k], alpha, g.beta, g.partial + g.plan.partials(), stream);
	return code;
}

} // namespace

extern "C" int64_t surgeon_gram_scratch(int type, int64_t tokens, int count, const surgeon_gram_matrix *matrices) {
	if (count < 0 || count > SURGEON_GRAM_MOST)
		return 0;
	switch (type) {
	case SURGEON_F32: return fastScratch<FloatCut>(tokens, count, matrices);
	case SURGEON_BF16: return fastScratch<TensorCut>(tokens, count, matrices);
	}
	return 0;
}

extern "C" int surgeon_gram(int type, int capability, int64_t tokens, int count, const surgeon_gram_matrix *matrices, double alpha, double beta, void *scratch, void *stream) {
	if (count < 0 || count > SURGEON_GRAM_MOST)
		return (int)cudaErrorInvalidValue;
	int code = (int)cudaErrorInvalidValue;
	switch (type) {
	case SURGEON_F32: code = fast<FloatCut>(capability, tokens, count, matrices, alpha, beta, scratch, stream); break;
	case SURGEON_BF16: code = fast<TensorCut>(capability, tokens, count, matrices, alpha, beta, scratch, stream); break;
	case SURGEON_F64: code = 0;
	}
	for (int k = 0; k < count && code == 0; k++) { // what is left of the list
		const surgeon_gram_matrix &m = matrices[k];
		if (type == SURGEON_F64)
			code = plain<double>(tokens, m, alpha, beta, stream);
		else if (type == SURGEON_BF16 && !fits<TensorCut>(tokens, m))
			code = plain<bf16>(tokens, m, alpha, beta, stream);
		else if (type == SURGEON_F32 && !fits<FloatCut>(tokens, m))
			code = (int)cudaErrorInvalidValue;
	}
	return code;
}

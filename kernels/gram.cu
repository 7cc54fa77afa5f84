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

} // namespace

extern "C" int64_t surgeon_gram_scratch(int type, int64_t tokens, int64_t n, int ones) { return 0; }

extern "C" int surgeon_gram(int type, int64_t tokens, int64_t n, int ones, double alpha, const void *x, double beta, void *s, void *scratch, void *stream) {
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return plain<T>(tokens, n, n + ones, alpha, x, beta, s, stream);
	});
}

// Rotary position embedding, in place, x: N×(heads·d), N whole sequences of T, h = d/2, cos and sin T×h:
//
//	for row i, head, j < h:  a, b = x[i, head·d + j], x[i, head·d + j + h];  c, s = cos[i mod T, j], sin[i mod T, j]
//	    x[i, head·d + j], x[i, head·d + j + h] ← a·c − b·s, b·c + a·s        s → −s turns back
//
// Read 1, written 1 element, 3 FLOP each; the tables, 2 MB for T = 4096 and d = 128, stay in the L2 cache. A block has one
// position of the sequences; a thread has V neighbouring pairs, the same in every sequence the block comes to.
#include "wide.cuh"

namespace {

template <int V, class A> __device__ __forceinline__ void loadAngles(A *v, const A *p) {
	const int W = V < wide<A> ? V : wide<A>;
#pragma unroll
	for (int k = 0; k < V; k += W)
		load<W>(v + k, p + k);
}

template <class T, int V>
__global__ void __launch_bounds__(elementThreads) rope(int64_t length, int64_t sequences, int heads, int half, const Acc<T> *cos, const Acc<T> *sin, bool inverse, T *x) {
	int chunks = half / V;
	int64_t cols = (int64_t)heads * 2 * half;
	for (int64_t t = blockIdx.x; t < length; t += gridDim.x)
		for (int item = threadIdx.x; item < heads * chunks; item += blockDim.x) {
			int head = item / chunks, j = (item - head * chunks) * V;
			Acc<T> c[V], s[V];
			loadAngles<V>(c, cos + t * half + j);
			loadAngles<V>(s, sin + t * half + j);
			for (int64_t q = blockIdx.y; q < sequences; q += gridDim.y) {
				T *lo = x + (q * length + t) * cols + head * 2 * half + j, *hi = lo + half;
				Acc<T> a[V], b[V];
				load<V>(a, lo);
				load<V>(b, hi);
#pragma unroll
				for (int k = 0; k < V; k++) {
					Acc<T> u = a[k], v = b[k], r = inverse ? -s[k] : s[k];
					a[k] = u * c[k] - v * r;
					b[k] = v * c[k] + u * r;
				}
				store<V>(lo, a);
				store<V>(hi, b);
			}
		}
}

} // namespace

extern "C" int surgeon_rope(int type, int64_t length, int64_t sequences, int heads, int half, const void *cos, const void *sin, int inverse, void *x, void *stream) {
	if (heads == 0)
		return 0; // a block without threads is refused
	return dispatch(type, [&](auto t) {
		typedef decltype(t) T;
		return byWidth<T>(wideRows<T>(half, cos, sin, x), [&](auto v) {
			constexpr int V = decltype(v)::value;
			dim3 grid(gridOf(length), gridOf(sequences, maxGridY));
			return launch(rope<T, V>, grid, columnBlock((int64_t)heads * (half / V)), 0, stream, length, sequences, heads, half, (const Acc<T> *)cos, (const Acc<T> *)sin,
			              inverse != 0, (T *)x);
		});
	});
}

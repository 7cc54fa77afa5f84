// Memory in pieces of 16 bytes, the most that a thread loads or stores at once: with those a GPU's memory is kept busy by the
// fewest threads and instructions. Kernels that only wait for memory are written for packs of V elements: V = wide<T>
// where addresses allow it, else 1, which is the plain version of the same kernel.
#ifndef SURGEON_WIDE_CUH
#define SURGEON_WIDE_CUH

#include <type_traits>

#include "tensor.cuh"

template <class T> constexpr int wide = 16 / (int)sizeof(T);

// Pack<T, V> is V elements as they are stored: read puts them into registers, unpack makes numbers of them.
template <class T, int V> struct Pack;

template <class T> struct Pack<T, 1> {
	T x;
	__device__ __forceinline__ void read(const T *p) { x = *p; }
	__device__ __forceinline__ void unpack(Acc<T> *v) const { v[0] = value(x); }
};

template <> struct Pack<float, 4> {
	float4 x;
	__device__ __forceinline__ void read(const float *p) { x = *(const float4 *)p; }
	__device__ __forceinline__ void unpack(float *v) const { v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w; }
};

template <> struct Pack<double, 2> {
	double2 x;
	__device__ __forceinline__ void read(const double *p) { x = *(const double2 *)p; }
	__device__ __forceinline__ void unpack(double *v) const { v[0] = x.x, v[1] = x.y; }
};

template <> struct Pack<bf16, 8> {
	uint4 x;
	__device__ __forceinline__ void read(const bf16 *p) { x = *(const uint4 *)p; }
	__device__ __forceinline__ void unpack(float *v) const {
		const uint32_t two[4] = {x.x, x.y, x.z, x.w};
		for (int k = 0; k < 4; k++) {
			v[2 * k] = __uint_as_float(two[k] << 16);
			v[2 * k + 1] = __uint_as_float(two[k] & 0xffff0000u);
		}
	}
};

// load is v_k ← p_k, k < V.
template <int V, class T> __device__ __forceinline__ void load(Acc<T> *v, const T *p) {
	Pack<T, V> x;
	x.read(p);
	x.unpack(v);
}

// store is p_k ← v_k, rounded, k < V.
template <int V> __device__ __forceinline__ void store(float *p, const float *v) {
	if constexpr (V == 1)
		*p = v[0];
	else
		*(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
}
template <int V> __device__ __forceinline__ void store(double *p, const double *v) {
	if constexpr (V == 1)
		*p = v[0];
	else
		*(double2 *)p = make_double2(v[0], v[1]);
}
template <int V> __device__ __forceinline__ void store(bf16 *p, const float *v) {
	if constexpr (V == 1)
		*p = rounded<bf16>(v[0]);
	else
		*(uint4 *)p = make_uint4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

// aligned says whether all the addresses are multiples of 16.
template <class... P> bool aligned(P... p) { return ((uintptr_t)p | ...) % 16 == 0; }

// wideRows says whether every row of matrices with so many columns begins at a multiple of 16.
template <class T, class... P> bool wideRows(int64_t cols, P... p) { return cols % wide<T> == 0 && aligned(p...); }

// byWidth calls f with a constant that is V.
template <class T, class F> int byWidth(bool allowed, F f) {
	if (allowed)
		return f(std::integral_constant<int, wide<T>>());
	return f(std::integral_constant<int, 1>());
}

// eachElement calls f.at<V>(i), which works on elements i to i+V−1, for all of n elements; the last n mod V one by one.
template <int V, class F> __global__ void __launch_bounds__(elementThreads) eachElement(int64_t n, F f) {
	int64_t packs = n / V;
	for (int64_t i = first(); i < packs; i += stride())
		f.template at<V>(i * V);
	if (V > 1)
		for (int64_t i = packs * V + first(); i < n; i += stride())
			f.template at<1>(i);
}

// launchElements does so for f on elements of T; wideAllowed says that all addresses are multiples of 16.
template <class T, class F> int launchElements(int64_t n, bool wideAllowed, F f, void *stream) {
	return byWidth<T>(wideAllowed, [&](auto v) {
		constexpr int V = decltype(v)::value;
		return launch(eachElement<V, F>, elementGrid(ceilDiv(n, V)), elementThreads, 0, stream, n, f);
	});
}

// roundUp is the next multiple of m.
__host__ __device__ constexpr int64_t roundUp(int64_t a, int64_t m) { return ceilDiv(a, m) * m; }

// gridOf is a grid of so many blocks, or of the most there can be: kernels walk on by gridDim.
inline unsigned gridOf(int64_t blocks, int64_t most = 0x7fffffff) { return (unsigned)(blocks < most ? blocks : most); }
const int64_t maxGridY = 65535;

// columnBlock is the block for work on columns, in packs, where a block is no wider than it need be; the rest of the columns
// is the grid's x.
inline unsigned columnBlock(int64_t packs) { return (unsigned)(packs < elementThreads ? roundUp(packs, 32) : elementThreads); }

#endif

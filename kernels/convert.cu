// y_i ← x_i, n elements of any two types, rounding to nearest even. n·(size of x + size of y) bytes, no FLOP.
//
// From float64 to bfloat16 there is one rounding, not two: by way of the nearest float32 a value close to the middle between
// two bfloat16 could be rounded to that middle and then to the wrong side. So the float32 between is the one towards zero,
// its last bit set where anything was cut off: it lies on the same side of every middle as the value itself.
#include "common.cuh"

namespace {

template <class To, class From> struct Convert {
	static __device__ To of(From x) { return rounded<To>((Acc<To>)value(x)); }
};

template <> struct Convert<bf16, double> {
	static __device__ bf16 of(double x) {
		float f = (float)x;
		if (x != x || (double)f == x)
			return rounded<bf16>(f);
		uint32_t b = __float_as_uint(f);
		if (fabs((double)f) > fabs(x))
			b--;
		return rounded<bf16>(__uint_as_float(b | 1));
	}
};

template <class From, class To> __global__ void convert(int64_t n, const From *x, To *y) {
	for (int64_t i = first(); i < n; i += stride())
		y[i] = Convert<To, From>::of(x[i]);
}

} // namespace

extern "C" int surgeon_convert(int from, int to, int64_t n, const void *x, void *y, void *stream) {
	return dispatch(from, [&](auto a) {
		return dispatch(to, [&](auto b) {
			typedef decltype(a) From;
			typedef decltype(b) To;
			return launch(convert<From, To>, elementGrid(n), elementThreads, 0, stream, n, (const From *)x, (To *)y);
		});
	});
}

// x_i ← β·x_i, n elements; β = 0 does not read x. 2·n·(size of x) bytes, n FLOP, in the type in which sums are kept: what is
// left of a product without terms.
#include "common.cuh"

namespace {

template <class T> __global__ void scale(int64_t n, Acc<T> beta, T *x) {
	for (int64_t i = first(); i < n; i += stride())
		x[i] = rounded<T>(beta == 0 ? 0 : beta * value(x[i]));
}

} // namespace

extern "C" int surgeon_scale(int type, int64_t n, double beta, void *x, void *stream) {
	return dispatch(type, [&](auto e) {
		typedef decltype(e) T;
		return launch(scale<T>, elementGrid(n), elementThreads, 0, stream, n, (Acc<T>)beta, (T *)x);
	});
}

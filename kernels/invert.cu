// Inverses of the blocks on the diagonal of a triangular matrix, which triangle.cpp puts together to larger ones.
//
// Block b of 128 rows gets a block of threads, thread j column j of the inverse: forward substitution,
//
//	x_ij = (δ_ij − Σ_j≤k<i l_ik·x_kj) / l_ii       i ≥ j
//
// A thread reads only the column of x that it wrote, so nobody waits for anybody. 128²/2 dependent steps, whatever the order of the
// matrix, as long as there are multiprocessors.
#include "common.cuh"

namespace {

const int base = SURGEON_TRIANGLE_BASE, block = SURGEON_TRIANGLE_BLOCK;

struct Inverse {
	double x[base][base];
};

__global__ void __launch_bounds__(base) invert(int64_t n, const double *l, int width, double *inverses) {
	auto &s = shared<Inverse>();
	const int64_t p = (int64_t)blockIdx.x * base;
	const int size = n - p < base ? (int)(n - p) : base, j = threadIdx.x;
	for (int i = 0; i < size; i++) {
		const double *row = l + (p + i) * n + p;
		double sum = i == j ? 1 : 0;
#pragma unroll 8
		for (int k = j; k < i; k++)
			sum -= row[k] * s.x[k][j];
		s.x[i][j] = i < j ? 0 : sum / row[i];
	}
	// The whole rows of the larger block: zeros above the diagonal, and below it until the products come there.
	const int from = (int)(p % block);
	double *to = inverses + p * width;
	for (int i = 0; i < size; i++)
		for (int c = j; c < width; c += base)
			to[(int64_t)i * width + c] = c - from == j ? s.x[i][j] : 0;
}

} // namespace

extern "C" int surgeon_invert_blocks(int64_t n, const double *l, int64_t width, double *inverses, void *stream) {
	return launch(invert, dim3((unsigned)ceilDiv(n, base)), base, sizeof(Inverse), stream, n, l, (int)width, inverses);
}

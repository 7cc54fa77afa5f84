// Quadratic forms of the rows or columns of a matrix by products of cuBLAS, float64.
//
// With H the blocks of s on one side of those on its diagonal twice, and those on the diagonal, xᵀ·s·x is xᵀ·H·x, and so half of the product with
// s is enough: n²·m·(1 + block/n) FLOP for s of order n and m rows or columns, against 2·n²·m. y = H·x, or x·H, is m·n numbers of scratch memory,
// written and read once.
#include "kernels.h"

#include "library.h"

namespace {

// blockOf is the rows of s of a block. Below 2048 half of a product in blocks takes longer than the whole on an H100: 95 µs against 59 for 1536×576
// (surgeon bench ops --filter '^Energies|^Gemm NN', commit 4c936ec). Each block's products should be large, and few be whole squares.
int64_t blockOf(int64_t order) {
#ifdef SURGEON_EMU
	return 16; // so that small matrices have several
#else
	return order < 2048 ? order : 512;
#endif
}

} // namespace

extern "C" int64_t surgeon_energies_scratch(int right, int64_t m, int64_t n) {
	return m * n * (int64_t)sizeof(double) + (right ? surgeon_row_dot_scratch(m, n) : surgeon_col_dot_scratch(m, n));
}

extern "C" int surgeon_energies(void *library, int right, int64_t m, int64_t n, const double *s, const double *x, double *e, void *scratch, void *stream) {
	double *y = (double *)scratch, *sums = y + m * n;
	const int64_t order = right ? n : m, most = blockOf(order);
	for (int64_t i = 0; m > 0 && n > 0 && i < order; i += most) {
		const int64_t block = order - i < most ? order - i : most, after = i + block, left = order - after;
		const double *square = s + i * order + i, *rest = s + (right ? after * order + i : i * order + after);
		int code = right ? product(library, false, false, m, block, block, 1, x + i, n, square, order, 0, y + i, n)
		                 : product(library, false, false, block, n, block, 1, square, order, x + i * n, n, 0, y + i * n, n);
		if (code == 0 && left > 0)
			code = right ? product(library, false, false, m, block, left, 2, x + after, n, rest, order, 1, y + i, n)
			             : product(library, false, false, block, n, left, 2, rest, order, x + after * n, n, 1, y + i * n, n);
		if (code != 0)
			return code;
	}
	return right ? surgeon_row_dot(SURGEON_F64, m, n, x, y, e, sums, stream) : surgeon_col_dot(SURGEON_F64, m, n, x, y, e, sums, stream);
}

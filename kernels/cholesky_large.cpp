// Cholesky factors of matrices too large for the cache, float64, by products of cuBLAS around cholesky.cu and triangles.cu:
//
//	┌────┐                     D    a block of 1024 columns, by cholesky.cu, those of all matrices of a call side by side
//	│ D  ├────┐                D⁻¹  its inverse, by triangles.cu, likewise
//	│ L  │ R  ├────┐           L  ← A·D⁻ᵀ          256 columns at a time, as far as D⁻¹ is not zero
//	│ L  │ R  │ R  │           R  ← R − L·Lᵀ       1024 columns at a time, on and below the diagonal
//	└────┴────┴────┘           and so on with the first block of R
//
// What is above the diagonal of a block of R on the diagonal is lost. n³/3 FLOP and up to 640·n² more, all but the D's by large products.
// cholesky.cu alone reads and writes all of R for each 64 columns; cuSOLVER has one matrix at a time. On an H100 it took 4.90 and 25.1 ms for one
// matrix of order 4096 and 11008 (commit 9609928), this takes 2.95 and 16.9 (4c936ec; surgeon bench ops --filter '^Cholesky of').
//
// L comes of products with an inverse, so the error is that of Cholesky's method times the condition of D's at most.
#include "kernels.h"
#include "library.h"

#include <algorithm>

extern "C" int surgeon_cholesky_below(void *library, int64_t n, int64_t p, int64_t block, double *a, const double *inverse, double *scratch, void *stream) {
	const int64_t part = std::min(block, std::max<int64_t>(block / 4, 128)), at = p + block, rest = n - at;
	double *l = a + at * n + p;
	if (int code = surgeon_copy_rows(rest, block, l, n, scratch, stream))
		return code;
	for (int64_t j = 0; j < block; j += part)
		if (int code = product(library, false, true, rest, std::min(part, block - j), std::min(j + part, block), 1, scratch, block, inverse + j * block, block, 0, l + j, n))
			return code;
	for (int64_t j = 0; j < rest; j += block)
		if (int code = product(library, false, true, rest - j, std::min(block, rest - j), block, -1, l + j * n, n, l + j * n, n, 1, a + (at + j) * (n + 1), n))
			return code;
	return 0;
}

/* What the files that call cuBLAS and cuBLASLt share. */
#ifndef SURGEON_LIBRARY_H
#define SURGEON_LIBRARY_H

#include <stdint.h>

/* library.cpp: products of parts of matrices, float64, row-major, ld the elements from a row to the next: c ← α·op(a)·op(b) + β·c, c m×n, k the inner
 * size, none of them 0. */
int product(void *library, bool transA, bool transB, int64_t m, int64_t n, int64_t k, double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
            double beta, double *c, int64_t ldc);

/* linear.cpp: what a library has of cuBLASLt; the workspace is cuBLAS's as well, on the same stream. *linear is set also where the code is not 0. */
struct Linear;
int openLinear(void *workspace, int64_t bytes, Linear **linear);
int closeLinear(Linear *linear);
Linear *linearOf(void *library); /* library.cpp */

/* Scalars are α and β of a product into bfloat16 as the libraries take them: where they lie, on the device or not.
 *
 * Where the host says that β is 1, cuBLAS and cuBLASLt of CUDA 13.0 round the product to bfloat16 before they add c, and the sum again. So on an
 * H100 integers whose sums bfloat16 does not hold came out one step off, many of them (TestParity/Linear_beta=1/bfloat16_8×24×2000, commit 9609928).
 * Where α and β lie on the device it is rounded once, as for any other β. */
struct Scalars {
	float host[2];
	bool onDevice;
	const float *alpha, *beta;
};
int scalarsOf(void *library, double alpha, double beta, Scalars *scalars, void *stream); /* library.cpp */
int surgeon_scalars(float alpha, float beta, float *scalars, void *stream);              /* scalars.cu */

#endif

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

#endif

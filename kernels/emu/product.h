// What the stand-ins for NVIDIA's libraries share: products as plain loops over main memory.
//
// Every operand is looked at whole before the loops begin, by AddressSanitizer where it is there; the loops themselves, which
// do most of the arithmetic of a run, go without it. All products are made, those with zeros too.
#ifndef SURGEON_EMU_PRODUCT_H
#define SURGEON_EMU_PRODUCT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#define fast __attribute__((no_sanitize("address", "undefined")))

namespace {

// look makes sure that a matrix of columns×rows elements, the columns ld elements apart, is memory of the device.
inline void look(const char *what, const void *x, int64_t rows, int64_t cols, int64_t ld, int64_t size) {
	if (rows == 0 || cols == 0)
		return;
	if (ld < rows) {
		fprintf(stderr, "emulated library: the columns of %s are %ld elements long and %ld apart\n", what, (long)rows, (long)ld);
		abort();
	}
#ifdef __SANITIZE_ADDRESS__
	int64_t bytes = ((cols - 1) * ld + rows) * size;
	if (void *bad = __asan_region_is_poisoned((void *)x, bytes)) {
		fprintf(stderr, "emulated library: %s, %ld bytes at %p, leaves its allocation at %p\n", what, (long)bytes, x, bad);
		__asan_describe_address(bad);
		abort();
	}
#endif
}

struct Bits {
	uint16_t bits; // a bfloat16
};

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(Bits x) {
	uint32_t u = (uint32_t)x.bits << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}
inline void store(float *to, float x) { *to = x; }
inline void store(double *to, double x) { *to = x; }
inline void store(Bits *to, float x) {
	uint32_t u;
	memcpy(&u, &x, 4);
	to->bits = x != x ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

// packed is op(x), rows×cols, row after row.
template <class A, class T> fast std::vector<A> packed(const T *x, bool trans, int64_t rows, int64_t cols, int64_t ld) {
	std::vector<A> y(rows * cols);
	A *to = y.data();
	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < cols; j++)
			*to++ = number(trans ? x[i * ld + j] : x[j * ld + i]);
	return y;
}

// rowTimes is sum ← Σ_k a_k·(row k of b), four rows at a time.
template <class A> fast void rowTimes(int64_t k, int64_t n, const A *a, const A *b, A *sum) {
	for (int64_t j = 0; j < n; j++)
		sum[j] = 0;
	int64_t i = 0;
	for (; i + 4 <= k; i += 4) {
		const A *b0 = b + i * n, *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n;
		A a0 = a[i], a1 = a[i + 1], a2 = a[i + 2], a3 = a[i + 3];
		for (int64_t j = 0; j < n; j++)
			sum[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
	}
	for (; i < k; i++)
		for (int64_t j = 0; j < n; j++)
			sum[j] += a[i] * b[i * n + j];
}

// gemm is c ← α·op(a)·op(b) + β·c by columns, that is cᵀ ← α·op(b)ᵀ·op(a)ᵀ + β·cᵀ by rows; where there is a bias, its element i is added to
// all of row i of c, before anything is rounded. With roundsFirst the product and the bias are rounded before β·c is added.
template <class A, class T, class C>
fast void gemm(bool transA, bool transB, int64_t m, int64_t n, int64_t k, A alpha, const T *a, int64_t lda, const T *b, int64_t ldb, A beta, C *c, int64_t ldc,
                bool roundsFirst = false, const C *bias = nullptr) {
	std::vector<A> left = packed<A>(b, !transB, n, k, ldb), right = packed<A>(a, !transA, k, m, lda), sum(m);
	for (int64_t j = 0; j < n; j++) {
		rowTimes(k, m, left.data() + j * k, right.data(), sum.data());
		for (int64_t i = 0; i < m; i++) {
			A product = alpha * sum[i] + (bias ? number(bias[i]) : 0);
			if (roundsFirst) {
				C rounded;
				store(&rounded, product);
				product = number(rounded);
			}
			store(&c[j * ldc + i], product + (beta == 0 ? 0 : beta * number(c[j * ldc + i])));
		}
	}
}

} // namespace

#endif

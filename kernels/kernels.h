/* The C interface of the kernels: what package cgo calls. One launcher per operation of engine/device.
 *
 * Every launcher queues its work on a CUDA stream and returns at once: 0, or a code that surgeon_error puts into words. It
 * never prints, waits (unless it says so) or exits. Pointers are device pointers unless they are called host. Matrices are
 * row-major, shapes and meaning are those of engine/device/device.go; sizes of 0 are allowed. type is one of the values
 * below, and stands for the elements of all matrices that are not given a type of their own. Sums are kept in, and vectors
 * called acc have, the type float32 for bfloat16, else the type itself.
 *
 * A launcher gets the calling thread's current context; package cgo sets it. */
#ifndef SURGEON_KERNELS_H
#define SURGEON_KERNELS_H

#include <stdint.h>

/* Raised with every change of this file. Package cgo refuses a library with another number. */
#define SURGEON_INTERFACE 17

#ifdef __cplusplus
extern "C" {
#endif

enum { SURGEON_F32 = 1, SURGEON_F64 = 2, SURGEON_BF16 = 3 }; /* device.Type */

/* error.cpp */
int surgeon_interface(void);
const char *surgeon_error(int code); /* name of a code: "an illegal memory access was encountered" */
int surgeon_emulated(void);          /* 1 in the library that runs kernels on the CPU (kernels/emu), else 0 */

/* driver/driver.c: the CUDA driver is looked up at run time, so that the program starts without one. */
const char *surgeon_driver_problem(void); /* NULL, or why there is no driver to work with */

/* host.cpp: pinned host memory, for copies that run beside kernels. */
int surgeon_pinned_alloc(int64_t bytes, void **host);
int surgeon_pinned_free(void *host);

/* convert.cu: y ← x, n elements, rounding to nearest even. */
int surgeon_convert(int from, int to, int64_t n, const void *x, void *y, void *stream);

/* vector.cu: sums and maxima of rows and columns */
int surgeon_axpy(int type, int64_t n, double alpha, const void *x, void *y, void *stream);
int surgeon_row_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *scratch, void *stream); /* d acc */
int64_t surgeon_row_dot_scratch(int64_t rows, int64_t cols); /* bytes */
int surgeon_col_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *scratch, void *stream); /* d acc */
int64_t surgeon_col_dot_scratch(int64_t rows, int64_t cols); /* bytes */
int surgeon_max_abs(int type, int64_t rows, int64_t cols, const void *x, void *r, void *c, void *scratch, void *stream);
int64_t surgeon_max_abs_scratch(int64_t rows, int64_t cols); /* bytes */

/* root.cu: y_i ← √max(sign·w_i, 0)·x_i, w acc; y ← x∘x. y may be x. */
int surgeon_scale_root(int type, int64_t rows, int64_t cols, double sign, const void *w, const void *x, void *y, void *stream);
int surgeon_square(int type, int64_t n, const void *x, void *y, void *stream);

/* gram.cu: s ← α·xᵀx + β·s, x N×n, s packed of order n, or n+1 with ones = 1, for count matrices side by side; the list is the
 * host's. scratch is of at least so many bytes. capability is the GPU's, 90 for 9.0: which tensor cores it has. */
enum { SURGEON_GRAM_MOST = 4 }; /* the longest list */
typedef struct {
	int64_t n;
	int ones;
	const void *x;
	void *s;
} surgeon_gram_matrix;
int64_t surgeon_gram_scratch(int type, int64_t tokens, int count, const surgeon_gram_matrix *matrices);
int surgeon_gram(int type, int capability, int64_t tokens, int count, const surgeon_gram_matrix *matrices, double alpha, double beta, void *scratch, void *stream);

/* pack.cu: packed triangles, index lists. A list is of int32, NULL for all indices; stride is the columns of the matrix that
 * the lists point into, m×n the shape of the other one. */
int surgeon_gather(int type, int64_t m, int64_t n, const void *x, int64_t stride, const int32_t *rows, const int32_t *cols, void *y, void *stream);
int surgeon_scatter(int type, int64_t m, int64_t n, const void *x, const int32_t *rows, const int32_t *cols, int64_t stride, void *y, void *stream);
int surgeon_extract(int from, int to, const void *s, int64_t m, const int32_t *rows, int64_t n, const int32_t *cols, void *y, void *stream);
int surgeon_add_diagonal(int type, int64_t n, double lambda, void *a, void *stream);
int surgeon_diagonal(int type, int64_t n, const void *s, double *d, void *stream);
/* smallest: one number on the device, the smallest tag of a matrix with a diagonal that is not finite, INT64_MAX for none. */
int surgeon_watch_finite(int type, int64_t n, const void *s, int64_t tag, int64_t *smallest, void *stream);
int surgeon_watch_forget(int64_t *smallest, void *stream);

/* elements.cu: float64. */
enum { SURGEON_MORE = 0, SURGEON_LESS = 1, SURGEON_EQUAL = 2 }; /* device.Order */
int surgeon_element_costs(int64_t rows, int64_t cols, const double *w, const double *r, const double *c, double *cost, void *stream);
int surgeon_divide(int64_t n, const double *x, const double *y, double *z, void *stream);
int surgeon_divide_outer(int64_t rows, int64_t cols, double alpha, const double *s, const double *t, double *x, void *stream);
int surgeon_compare(int64_t n, const double *x, double limit, uint8_t *marks, void *stream);

/* histogram.cu: counts[the next width bits of the key of x_i] goes up by one where the first read bits are prefix; width is at
 * most 13. */
int surgeon_histogram(int64_t n, const double *x, uint64_t prefix, int read, int width, uint64_t *counts, void *stream);

/* smallest.cu: the n smallest of count runs of m. sums or marks may be NULL. */
enum { SURGEON_SMALLEST_ORDERED = 32 }; /* device.SmallestOrdered */
int surgeon_smallest(int64_t count, int64_t n, int64_t m, const double *x, double *sums, uint8_t *marks, void *stream);

/* embed.cu */
int surgeon_embed(int type, int64_t rows, int64_t cols, const void *table, const int32_t *ids, double beta, void *x, void *stream);
/* x_i ← b + β·x_i */
int surgeon_bias(int type, int64_t rows, int64_t cols, const void *b, double beta, void *x, void *stream);

/* norm.cu */
int surgeon_rms_norm(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, void *y, void *stream);
int surgeon_layer_norm(int type, int64_t rows, int64_t n, const void *x, const void *gain, const void *bias, double eps, void *y, void *stream);
int surgeon_rms_norm_backward(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, const void *dy, double beta, void *dx, void *stream);
int surgeon_layer_norm_backward(int type, int64_t rows, int64_t n, const void *x, const void *gain, double eps, const void *dy, double beta, void *dx, void *stream);

/* rope.cu */
/* x: sequences·length rows of heads·2·half; cos and sin, length×half, acc. */
int surgeon_rope(int type, int64_t length, int64_t sequences, int heads, int half, const void *cos, const void *sin, int inverse, void *x, void *stream);

/* activation.cu */
int surgeon_swiglu(int type, int64_t n, const void *gate, const void *up, void *y, void *stream);
int surgeon_swiglu_backward(int type, int64_t n, const void *gate, const void *up, const void *dy, void *dgate, void *dup, void *stream);
int surgeon_relu(int type, int64_t n, const void *x, void *y, void *stream);
int surgeon_relu_backward(int type, int64_t n, const void *y, const void *dy, void *dx, void *stream);

/* entropy.cu */
int surgeon_cross_entropy(int type, int64_t rows, int64_t vocabulary, void *logits, const int32_t *targets, int grad, void *losses, void *stream); /* losses acc */

/* sample.cu: ids drawn from the softmax of each row by uniform, a number 0 ≤ u < 1 for each. */
int surgeon_sample(int type, int64_t rows, int64_t vocabulary, const void *logits, const double *uniform, int32_t *ids, void *stream);

/* attention.cu, attention_backward.cu and the others of that name: causal grouped attention, engine/device.Heads. lse may be NULL in the forward pass.
 * scratch is surgeon_attention_scratch bytes, which the backward pass works with. capability as for surgeon_gram. */
typedef struct {
	int64_t sequences, length, window; /* window 0: all earlier tokens */
	int query, key_value, dim;
	double scale;
} surgeon_heads;
int surgeon_attention(int type, surgeon_heads h, const void *q, const void *k, const void *v, void *out, void *lse, void *stream);
int64_t surgeon_attention_scratch(int type, surgeon_heads h);
int surgeon_attention_backward(int type, int capability, surgeon_heads h, const void *q, const void *k, const void *v, const void *out, const void *lse,
                               const void *dout, void *dq, void *dk, void *dv, void *scratch, void *stream);

/* library.cpp: cuBLAS, cuBLASLt and cuSOLVER, on one stream. The workspace, and scalars, two numbers for α and β, are device memory that stays
 * theirs until close. */
int surgeon_library_open(void *stream, void *workspace, int64_t bytes, float *scalars, void **library);
int surgeon_library_close(void *library);
void surgeon_library_versions(void *library, int *blas, int *solver); /* 130100 is 13.1.0 */
/* c ← α·op(a)·op(b) + β·c, c m×n, k the inner size; cType is type, or float32 where type is bfloat16. */
int surgeon_gemm(void *library, int transA, int transB, int type, int cType, int64_t m, int64_t n, int64_t k, double alpha, const void *a, const void *b,
                 double beta, void *c, void *stream);
/* linear.cpp: y ← x·wᵀ + b + β·y, x m×k, w n×k, b 1×n, y m×n. In bfloat16 by cuBLASLt where n and k are multiples of 8, all
 * addresses of 16, and the product is not large; else it is surgeon_linear_apart, which is surgeon_bias and surgeon_gemm. */
int surgeon_linear(void *library, int type, int64_t m, int64_t n, int64_t k, const void *x, const void *w, const void *b, double beta, void *y, void *stream);
int surgeon_linear_apart(void *library, int type, int64_t m, int64_t n, int64_t k, const void *x, const void *w, const void *b, double beta, void *y, void *stream);
/* energies.cpp: float64, s symmetric. e_j ← x_jᵀ·s·x_j of the columns of x m×n, s m×m; or, right, e_i ← x_i·s·x_iᵀ of its rows, s n×n. scratch
 * is surgeon_energies_scratch bytes. */
int64_t surgeon_energies_scratch(int right, int64_t m, int64_t n);
int surgeon_energies(void *library, int right, int64_t m, int64_t n, const double *s, const double *x, double *e, void *scratch, void *stream);
/* cholesky_large.cpp: float64, a of order n whose first p columns are done, and of the next ones, `block` of them, what is on the
 * diagonal: l below it, given that block's inverse with zeros above the diagonal, and what it does taken off the rest. scratch has room for
 * the rows below times the block's columns. */
int surgeon_cholesky_below(void *library, int64_t n, int64_t p, int64_t block, double *a, const double *inverse, double *scratch, void *stream);
/* triangle.cpp: float64, one large triangle, by products of cuBLAS. b ← (l·lᵀ)⁻¹·b for b n×m, or, right, b ← b·(l·lᵀ)⁻¹ for b m×n. scratch has
 * room for so many numbers. */
int64_t surgeon_cholesky_solve_scratch(int64_t n, int64_t m);
int surgeon_cholesky_solve(void *library, int right, int64_t n, int64_t m, const double *l, double *b, double *scratch, void *stream);
/* d_j ← [(l·lᵀ)⁻¹]_jj */
int64_t surgeon_cholesky_inverse_scratch(int64_t n);
int surgeon_cholesky_inverse_diagonal(void *library, int64_t n, const double *l, double *d, double *scratch, void *stream);

/* invert.cu: the inverses of the blocks of SURGEON_TRIANGLE_BASE rows on the diagonal of l, each where it stands in the inverse of the block of
 * SURGEON_TRIANGLE_BLOCK rows that it is in, of which zero is the rest. Such a block has width columns, and the next follows it. The
 * emulated device has smaller ones, so that small matrices have several. */
#ifdef SURGEON_EMU
enum { SURGEON_TRIANGLE_BASE = 4, SURGEON_TRIANGLE_BLOCK = 16 };
#else
enum { SURGEON_TRIANGLE_BASE = 128, SURGEON_TRIANGLE_BLOCK = 512 };
#endif
int surgeon_invert_blocks(int64_t n, const double *l, int64_t width, double *inverses, void *stream);

/* scale.cu: x ← β·x, n elements; β = 0 does not read x. */
int surgeon_scale(int type, int64_t n, double beta, void *x, void *stream);

/* cholesky.cu and triangles.cu: float64, many matrices of an order up to these side by side. The lists are on the device, with
 * the largest orders first; orders is the same orders on the host. */
enum { SURGEON_CHOLESKY_MANY = 2048, SURGEON_TRIANGLES_MANY = 2048 };

/* cholesky.cu: a = l·lᵀ */
typedef struct {
	int64_t n, stride; /* order, and the elements from a row to the next */
	double *a;
	int *info;       /* 0 where the factorisation went well */
	double *scratch; /* surgeon_cholesky_scratch(n) numbers */
} surgeon_matrix;

int64_t surgeon_cholesky_scratch(int64_t n);
int surgeon_cholesky_many(int64_t count, const surgeon_matrix *matrices, const int64_t *orders, void *stream);
/* y ← x, x m×w with rows that are so many elements apart. */
int surgeon_copy_rows(int64_t m, int64_t w, const double *x, int64_t stride, double *y, void *stream);
/* x ← the first w columns of the identity, x m×w. */
int surgeon_identity(int64_t m, int64_t w, double *x, void *stream);
/* d_j ← Σ_i x_ij², x m×w; partials has room for surgeon_squares_partials(m, w) numbers. */
int64_t surgeon_squares_partials(int64_t m, int64_t w);
int surgeon_squares(int64_t m, int64_t w, const double *x, double *partials, double *d, void *stream);

/* triangles.cu: d_j ← [(l·lᵀ)⁻¹]_jj into b; or b ← (l·lᵀ)⁻¹·b for b n×m, or, right, b ← b·(l·lᵀ)⁻¹ for b m×n, none of more right sides
 * than others. */
typedef struct {
	int64_t n, m, stride; /* order, right sides, and the elements from a row of l to the next */
	const double *l;
	double *b;
	double *inverse; /* n·n numbers of scratch, */
	double *between; /* and n·m behind them, none for the diagonal */
} surgeon_triangle;

int64_t surgeon_triangles_scratch(int64_t n, int64_t m); /* numbers */
/* l⁻¹ into inverse, with zeros above the diagonal; m, b and between are not looked at. */
int surgeon_triangles_invert(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, void *stream);
int surgeon_triangles_inverse_diagonal(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, void *stream);
int surgeon_triangles_solve(int right, int64_t count, const surgeon_triangle *triangles, const int64_t *orders, int64_t others, void *stream);

/* solve.cu: b ← (l·lᵀ)⁻¹·b, float32 or float64, for count systems of one right side; the list is on the device. */
typedef struct {
	int64_t n; /* order */
	const void *l;
	void *b;
} surgeon_system;
int surgeon_cholesky_solve_many(int type, int64_t count, const surgeon_system *systems, int64_t largest, void *stream); /* none of a larger order */

/* eigh.cu: float64. a = V·diag(w)·Vᵀ; the order of the calls is begin, rotate where warm, check, then sweep and check until no
 * status is "running", end. */
typedef struct {
	int64_t n;       /* order */
	double *a;       /* n×n; destroyed */
	double *v;       /* n×n scratch, not for cuSOLVER */
	double *values;  /* n, ascending */
	double *vectors; /* n×n, eigenvector j in column j */
	double *scratch; /* surgeon_eigh_scratch(n) numbers */
	int *status;
} surgeon_eigen;

enum { SURGEON_EIGH_RUNNING = -1, SURGEON_EIGH_DONE = 0, SURGEON_EIGH_FAILED = 1 };

int64_t surgeon_eigh_scratch(int64_t n);
int surgeon_eigh_begin(int64_t count, const surgeon_eigen *matrices, int64_t largest, int warm, void *stream);
int surgeon_eigh_check(int64_t count, const surgeon_eigen *matrices, int64_t largest, int isFirst, void *stream);
int surgeon_eigh_sweep(int64_t count, const surgeon_eigen *matrices, int64_t largest, void *stream);
int surgeon_eigh_end(int64_t count, const surgeon_eigen *matrices, int64_t largest, void *stream);
int surgeon_eigh_end_large(const surgeon_eigen *matrix, int64_t n, void *stream);
/* library.cpp: v ← vectors made orthogonal, a ← vᵀ·a·v; v holds the vectors, w is n×n scratch, vectors are destroyed. */
int surgeon_eigh_rotate(void *library, int64_t n, double *a, double *v, double *vectors, double *w, void *stream);
/* library.cpp: by cuSOLVER, eigenvector j in row j of a. info is an int on the device, 0 where it went well. */
int surgeon_eigh_workspace(void *library, int64_t n, const double *a, const double *values, int64_t *bytes);
int surgeon_eigh_large(void *library, int64_t n, double *a, double *values, void *workspace, int64_t bytes, int *info);
/* The same of count matrices, and values and infos, that follow one another; no part of a run, but what eigh.cu is measured against. */
int surgeon_eigh_batch_workspace(void *library, int64_t n, int64_t count, const double *a, const double *values, int64_t *bytes);
int surgeon_eigh_batch(void *library, int64_t n, int64_t count, double *a, double *values, void *workspace, int64_t bytes, int *infos);

#ifdef __cplusplus
}
#endif
#endif

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
#define SURGEON_INTERFACE 1

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
int surgeon_row_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *stream); /* d acc */
int surgeon_col_dot(int type, int64_t rows, int64_t cols, const void *x, const void *y, void *d, void *scratch, void *stream); /* d acc */
int64_t surgeon_col_dot_scratch(int64_t rows, int64_t cols); /* bytes */
int surgeon_max_abs(int type, int64_t rows, int64_t cols, const void *x, void *r, void *c, void *scratch, void *stream);
int64_t surgeon_max_abs_scratch(int64_t rows, int64_t cols); /* bytes */

/* gram.cu */

/* pack.cu: packed triangles, index lists */

/* embed.cu */
int surgeon_embed(int type, int64_t rows, int64_t cols, const void *table, const int32_t *ids, double beta, void *x, void *stream);
int surgeon_add_row(int type, int64_t rows, int64_t cols, const void *b, void *x, void *stream);

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

/* attention.cu */

/* library.cpp: cuBLAS and cuSOLVER */

/* costs.cu */

/* update.cu */

/* eigh.cu */

#ifdef __cplusplus
}
#endif
#endif

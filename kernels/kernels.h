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

/* gram.cu */

/* pack.cu: packed triangles, index lists */

/* embed.cu */

/* norm.cu */

/* rope.cu */

/* activation.cu */

/* entropy.cu */

/* attention.cu, attention_backward.cu: causal grouped attention, engine/device.Heads. lse may be NULL in the forward pass.
 * scratch is surgeon_attention_scratch bytes, which the backward pass works with. */
typedef struct {
	int64_t sequences, length, window; /* window 0: all earlier tokens */
	int query, key_value, dim;
	double scale;
} surgeon_heads;
int surgeon_attention(int type, surgeon_heads h, const void *q, const void *k, const void *v, void *out, void *lse, void *stream);
int64_t surgeon_attention_scratch(int type, surgeon_heads h);
int surgeon_attention_backward(int type, surgeon_heads h, const void *q, const void *k, const void *v, const void *out, const void *lse, const void *dout,
                               void *dq, void *dk, void *dv, void *scratch, void *stream);

/* library.cpp: cuBLAS and cuSOLVER */

/* costs.cu */

/* update.cu */

/* eigh.cu */

#ifdef __cplusplus
}
#endif
#endif

// Tensor-core products and asynchronous copies, as thin names over PTX. The emulated device has the same names (emu/tensor.h).
#ifndef SURGEON_TENSOR_CUH
#define SURGEON_TENSOR_CUH

#include "common.cuh"

#ifndef __CUDACC__
#include "emu/tensor.h"
#else

// mma is d ← a·b + d, 16×8 += 16×16 · 16×8, bfloat16 into float32, by the 32 threads of a warp. With g = lane/4, t = lane%4
// a thread holds, two neighbouring k in one register, the first in the low half,
//
//	a[0] (g, 2t…)  a[1] (g+8, 2t…)  a[2] (g, 2t+8…)  a[3] (g+8, 2t+8…)     rows of a, k
//	b[0] (2t…, g)  b[1] (2t+8…, g)                                          k, columns of b
//	d[0] (g, 2t)   d[1] (g, 2t+1)   d[2] (g+8, 2t)   d[3] (g+8, 2t+1)
__device__ __forceinline__ void mma(float *d, const uint32_t *a, const uint32_t *b) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// mma is d ← a·b + d in float64, 8×8 += 8×4 · 4×8. With g = lane/4, t = lane%4 a thread holds a (g, t), b (t, g) and
// d[0] (g, 2t), d[1] (g, 2t+1).
__device__ __forceinline__ void mma(double *d, double a, double b) {
	asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1},{%2},{%3},{%0,%1};" : "+d"(d[0]), "+d"(d[1]) : "d"(a), "d"(b));
}

// loadMatrix4 loads four 8×8 matrices of bfloat16 from shared memory: lane l gives the address of row l%8 of matrix l/8 (16
// bytes, aligned), and gets in r[m] the elements (lane/4, 2·(lane%4)) and its right neighbour of matrix m.
__device__ __forceinline__ void loadMatrix4(uint32_t *r, const bf16 *row) {
	uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// loadMatrix4Transposed is loadMatrix4 of the transposed matrices: r[m] holds (2·(lane%4), lane/4) and the one below it.
__device__ __forceinline__ void loadMatrix4Transposed(uint32_t *r, const bf16 *row) {
	uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// copyAsync copies 16 bytes from global to shared memory behind the thread's back; both addresses are multiples of 16. Where
// !valid nothing is read and zeros arrive.
__device__ __forceinline__ void copyAsync(void *to, const void *from, bool valid) {
	uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
	int bytes = valid ? 16 : 0;
	asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// copyAsync8 is copyAsync of 8 bytes, which come by way of the first cache.
__device__ __forceinline__ void copyAsync8(void *to, const void *from, bool valid) {
	uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
	int bytes = valid ? 8 : 0;
	asm volatile("cp.async.ca.shared.global [%0],[%1],8,%2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// copyAsync4 is copyAsync8 of 4 bytes.
__device__ __forceinline__ void copyAsync4(void *to, const void *from, bool valid) {
	uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
	int bytes = valid ? 4 : 0;
	asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// copyCommit closes a group of copies. copyWait<n> waits until all but the last n groups of the thread have arrived; other
// threads' copies are there after a __syncthreads that follows.
__device__ __forceinline__ void copyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> __device__ __forceinline__ void copyWait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }

#endif

// pair packs two values, rounded to bfloat16, the first in the low half.
__device__ __forceinline__ uint32_t pair(float low, float high) {
#ifdef __CUDACC__
	uint32_t r; // one instruction for both
	asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
	return r;
#else
	return (uint32_t)rounded<bf16>(low).bits | (uint32_t)rounded<bf16>(high).bits << 16;
#endif
}

#endif

// Linear layers with a bias, y ← x·wᵀ + b + β·y: x m×k, w n×k, b 1×n, y m×n.
//
// In bfloat16 by cuBLASLt, whose epilogue adds b to the sums before they are rounded and stored. Otherwise b + β·y is put into y first, and
// the product added to that. Counted, β = 0 and β ≠ 0:
//
//	              elements of y read and written     roundings to bfloat16
//	cuBLASLt      m·n     2·m·n                      1    1
//	apart         3·m·n   4·m·n                      1    2
//
// By columns (library.cpp) Y = op(W)·X, n×m with op transposing, and b runs down its columns, as EPILOGUE_BIAS wants it.
//
// Rows that begin at multiples of 16 bytes are what the kernels for tensor cores are made for, and what real layers have: only those go to
// cuBLASLt, n and k multiples of 8 and all addresses of 16. So do only small ones: on an H100 it took 0.73 to 0.95 of the time at the layers of
// OPT-125M, 0.91 to 1.06 for 8192×4096×4096, and 0.92 to 1.14 for the two others of OPT-6.7B, 1.04 and 1.09 in the middle, where the bias is little
// beside the product (surgeon bench ops --filter '^Linear', six rounds, commit 4c936ec). A shape that it has no algorithm for is an error, not made in another way without a
// word. float32 stays with cuBLAS, where COMPUTE_32F_PEDANTIC keeps it from other arithmetic, and float64 with it.
//
// EPILOGUE_RELU_BIAS, which could make OPT's activation as well, is left alone: it is max(x, 0), and a NaN has to stay one.
#include "kernels.h"

#include "error.h"
#include "library.h"

#include <cublasLt.h>

#include <array>
#include <map>

namespace {

typedef std::array<int64_t, 4> Shape; // m, n, k, and whether α and β lie on the device

const uint32_t alignment = 16; // of all addresses, in bytes
#ifdef SURGEON_EMU
const double epilogueMost = 0x1p20; // so that some of what tests multiply is beyond it
#else
const double epilogueMost = 0x1p37; // m·n·k of a product that the epilogue pays for
#endif

} // namespace

struct Linear {
	cublasLtHandle_t handle = nullptr;
	cublasLtMatmulDescOpaque_t operation;
	cublasLtMatmulPreferenceOpaque_t preference;
	void *workspace;
	int64_t bytes;
	std::map<Shape, cublasLtMatmulAlgo_t> algorithms;
};

namespace {

template <class T> int set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, T value) {
	return blasCode(cublasLtMatmulDescSetAttribute(d, attribute, &value, sizeof value));
}

template <class T> int set(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
	return blasCode(cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value));
}

int open(Linear *l) {
	if (int code = blasCode(cublasLtCreate(&l->handle)))
		return code;
	auto d = &l->operation;
	if (int code = blasCode(cublasLtMatmulDescInit(d, CUBLAS_COMPUTE_32F, CUDA_R_32F)))
		return code;
	if (int code = set(d, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_T))
		return code;
	if (int code = set(d, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS))
		return code;
	auto p = &l->preference;
	if (int code = blasCode(cublasLtMatmulPreferenceInit(p)))
		return code;
	if (int code = set(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)l->bytes))
		return code;
	// A sum that is split among blocks is put together from parts in float32, in a fixed order: the other schemes round parts to bfloat16.
	if (int code = set(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE))
		return code;
	for (auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
	                     CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
		if (int code = set(p, operand, alignment))
			return code;
	return 0;
}

// Layouts are those of w, x and y.
struct Layouts {
	cublasLtMatrixLayoutOpaque_t w, x, y;
};

int layOut(int64_t m, int64_t n, int64_t k, Layouts *l) {
	if (int code = blasCode(cublasLtMatrixLayoutInit(&l->w, CUDA_R_16BF, k, n, k)))
		return code;
	if (int code = blasCode(cublasLtMatrixLayoutInit(&l->x, CUDA_R_16BF, k, m, k)))
		return code;
	return blasCode(cublasLtMatrixLayoutInit(&l->y, CUDA_R_16BF, n, m, n));
}

// choose asks for the algorithm of a shape, once: the same at every run, as it depends on nothing else. That of b's address is its
// alignment, so it is told one that has no more than what is promised of all.
int choose(Linear *l, Layouts *at, const Shape &shape) {
	if (int code = set(&l->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)(uintptr_t)alignment))
		return code;
	cublasLtMatmulHeuristicResult_t best;
	int found = 0;
	cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(l->handle, &l->operation, &at->w, &at->x, &at->y, &at->y, &l->preference, 1, &best, &found);
	if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && (found == 0 || best.state != CUBLAS_STATUS_SUCCESS)))
		return noAlgorithm;
	if (status != CUBLAS_STATUS_SUCCESS)
		return blasCode(status);
	l->algorithms[shape] = best.algo;
	return 0;
}

bool isAligned(const void *p) { return (uintptr_t)p % alignment == 0; }

} // namespace

int openLinear(void *workspace, int64_t bytes, Linear **linear) {
	Linear *l = new Linear;
	l->workspace = workspace;
	l->bytes = bytes;
	*linear = l;
	return open(l);
}

int closeLinear(Linear *l) {
	int code = l->handle ? blasCode(cublasLtDestroy(l->handle)) : 0;
	delete l;
	return code;
}

extern "C" int surgeon_linear(void *library, int type, int64_t m, int64_t n, int64_t k, const void *x, const void *w, const void *b, double beta, void *y, void *stream) {
	if (m == 0 || n == 0)
		return 0;
	if (type != SURGEON_BF16 || k == 0 || n % 8 != 0 || k % 8 != 0 || !isAligned(x) || !isAligned(w) || !isAligned(b) || !isAligned(y) ||
	    (double)m * (double)n * (double)k > epilogueMost)
		return surgeon_linear_apart(library, type, m, n, k, x, w, b, beta, y, stream);
	Linear *l = linearOf(library);
	Layouts at;
	if (int code = layOut(m, n, k, &at))
		return code;
	Scalars s;
	if (int code = scalarsOf(library, 1, beta, &s, stream))
		return code;
	if (int code = set(&l->operation, CUBLASLT_MATMUL_DESC_POINTER_MODE, (int32_t)(s.onDevice ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST)))
		return code;
	const Shape shape = {m, n, k, s.onDevice};
	if (l->algorithms.count(shape) == 0)
		if (int code = choose(l, &at, shape))
			return code;
	if (int code = set(&l->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, b))
		return code;
	return blasCode(cublasLtMatmul(l->handle, &l->operation, s.alpha, w, &at.w, x, &at.x, s.beta, y, &at.y, y, &at.y, &l->algorithms[shape], l->workspace, l->bytes,
	                               (cudaStream_t)stream));
}

extern "C" int surgeon_linear_apart(void *library, int type, int64_t m, int64_t n, int64_t k, const void *x, const void *w, const void *b, double beta, void *y, void *stream) {
	if (int code = surgeon_bias(type, m, n, b, beta, y, stream))
		return code;
	return surgeon_gemm(library, 0, 1, type, type, m, n, k, 1, x, w, 1, y, stream);
}

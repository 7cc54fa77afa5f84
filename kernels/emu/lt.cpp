// cuBLASLt of the emulated device: the functions that ../linear.cpp calls. What the library would refuse is refused, and more than that:
// attributes that nobody has set have the defaults of cublasLt.h; an algorithm is for the one shape, epilogue, pointer mode and alignment that it was
// found for, and wants all of the workspace that was promised; there is none for rows or addresses that are no multiples of 16 bytes, nor where
// parts of sums might be rounded to bfloat16.
//
// With SURGEON_EMU_LT set to 0 there is none for anything.
#include <cublasLt.h>

#include "product.h"

struct cublasLtContext {};

namespace {

struct Operation { // in a cublasLtMatmulDescOpaque_t
	cublasComputeType_t compute;
	cudaDataType_t scale;
	int32_t transA, transB;
	uint32_t epilogue;
	const void *bias;
	int32_t pointers;
};

struct Layout { // in a cublasLtMatrixLayoutOpaque_t
	cudaDataType type;
	int64_t rows, cols, ld;
};

struct Preference { // in a cublasLtMatmulPreferenceOpaque_t
	uint64_t workspace;
	uint32_t reductions, alignment[4]; // of a, b, c and d
};

struct Algorithm { // in a cublasLtMatmulAlgo_t
	uint64_t known; // that it is one
	int64_t m, n, k;
	uint64_t workspace;
	uint32_t epilogue;
	int32_t pointers;
	uint32_t alignment[4];
};
const uint64_t known = 0x616c676f;

static_assert(sizeof(Operation) <= sizeof(cublasLtMatmulDescOpaque_t) && sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t) &&
                  sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t) && sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t),
              "the descriptors hold what is kept in them");

template <class T> cublasStatus_t get(T *to, const void *from, size_t bytes) {
	if (!from || bytes != sizeof *to)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(to, from, bytes);
	return CUBLAS_STATUS_SUCCESS;
}

// valid says whether d = op(a)·op(b) + c fit together, are of bfloat16 with sums in float32, and there is a bias.
bool valid(const Operation &o, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
	for (const Layout *l : {&a, &b, &c, &d})
		if (l->type != CUDA_R_16BF || l->rows <= 0 || l->cols <= 0 || l->ld < l->rows)
			return false;
	bool tA = o.transA == CUBLAS_OP_T, tB = o.transB == CUBLAS_OP_T;
	return o.compute == CUBLAS_COMPUTE_32F && o.scale == CUDA_R_32F && o.epilogue == CUBLASLT_EPILOGUE_BIAS && o.bias && (tA || o.transA == CUBLAS_OP_N) &&
	       (tB || o.transB == CUBLAS_OP_N) && (tA ? a.cols : a.rows) == d.rows && (tB ? b.rows : b.cols) == d.cols &&
	       (tA ? a.rows : a.cols) == (tB ? b.cols : b.rows) && c.rows == d.rows && c.cols == d.cols && c.ld == d.ld;
}

bool multiple(const void *p, uint32_t of) { return of > 0 && (uintptr_t)p % of == 0; }

} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
	*handle = new cublasLtContext;
	return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
	delete handle;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld) {
	if (size != sizeof *layout)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*(Layout *)layout = {type, (int64_t)rows, (int64_t)cols, ld};
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t operation, size_t size, cublasComputeType_t compute, cudaDataType_t scale) {
	if (size != sizeof *operation)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*(Operation *)operation = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, CUBLASLT_POINTER_MODE_HOST};
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes) {
	Operation *o = (Operation *)operation;
	switch (attribute) {
	case CUBLASLT_MATMUL_DESC_TRANSA: return get(&o->transA, value, bytes);
	case CUBLASLT_MATMUL_DESC_TRANSB: return get(&o->transB, value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE: return get(&o->epilogue, value, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return get(&o->bias, value, bytes);
	case CUBLASLT_MATMUL_DESC_POINTER_MODE: return get(&o->pointers, value, bytes);
	default: return CUBLAS_STATUS_NOT_SUPPORTED;
	}
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size) {
	if (size != sizeof *preference)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*(Preference *)preference = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
	Preference *p = (Preference *)preference;
	switch (attribute) {
	case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return get(&p->workspace, value, bytes);
	case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return get(&p->reductions, value, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return get(&p->alignment[0], value, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return get(&p->alignment[1], value, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return get(&p->alignment[2], value, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return get(&p->alignment[3], value, bytes);
	default: return CUBLAS_STATUS_NOT_SUPPORTED;
	}
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t aLayout, cublasLtMatrixLayout_t bLayout,
                                              cublasLtMatrixLayout_t cLayout, cublasLtMatrixLayout_t dLayout, cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
	const Operation &o = *(Operation *)operation;
	const Layout &a = *(Layout *)aLayout, &b = *(Layout *)bLayout, &c = *(Layout *)cLayout, &d = *(Layout *)dLayout;
	const Preference &p = *(Preference *)preference;
	*found = 0;
	if (most <= 0 || !valid(o, a, b, c, d))
		return CUBLAS_STATUS_INVALID_VALUE;
	const char *there = getenv("SURGEON_EMU_LT");
	if (there && strcmp(there, "0") == 0)
		return CUBLAS_STATUS_SUCCESS; // without a result
	if (p.reductions & ~CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE || !multiple(o.bias, 16))
		return CUBLAS_STATUS_NOT_SUPPORTED;
	for (const Layout *l : {&a, &b, &c, &d})
		if (l->ld % 8 != 0)
			return CUBLAS_STATUS_NOT_SUPPORTED;
	Algorithm algorithm = {known, d.rows, d.cols, o.transA == CUBLAS_OP_T ? a.rows : a.cols, p.workspace, o.epilogue, o.pointers, {}};
	for (int i = 0; i < 4; i++) {
		if (p.alignment[i] < 16)
			return CUBLAS_STATUS_NOT_SUPPORTED;
		algorithm.alignment[i] = p.alignment[i];
	}
	memset(results, 0, sizeof *results);
	memcpy(&results->algo, &algorithm, sizeof algorithm);
	results->workspaceSize = p.workspace;
	results->state = CUBLAS_STATUS_SUCCESS;
	*found = 1;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void *alpha, const void *aMatrix, cublasLtMatrixLayout_t aLayout, const void *bMatrix,
                              cublasLtMatrixLayout_t bLayout, const void *beta, const void *cMatrix, cublasLtMatrixLayout_t cLayout, void *dMatrix,
                              cublasLtMatrixLayout_t dLayout, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes, cudaStream_t) {
	const Operation &o = *(Operation *)operation;
	const Layout &a = *(Layout *)aLayout, &b = *(Layout *)bLayout, &c = *(Layout *)cLayout, &d = *(Layout *)dLayout;
	bool tA = o.transA == CUBLAS_OP_T, tB = o.transB == CUBLAS_OP_T;
	int64_t k = tA ? a.rows : a.cols;
	if (!valid(o, a, b, c, d) || !algo || cMatrix != dMatrix)
		return CUBLAS_STATUS_INVALID_VALUE;
	Algorithm algorithm;
	memcpy(&algorithm, algo, sizeof algorithm);
	if (algorithm.known != known || algorithm.m != d.rows || algorithm.n != d.cols || algorithm.k != k || algorithm.epilogue != o.epilogue || algorithm.pointers != o.pointers ||
	    bytes < algorithm.workspace)
		return CUBLAS_STATUS_INVALID_VALUE;
	const void *operands[] = {aMatrix, bMatrix, cMatrix, dMatrix};
	for (int i = 0; i < 4; i++)
		if (!multiple(operands[i], algorithm.alignment[i]))
			return CUBLAS_STATUS_INVALID_VALUE;
	if (!multiple(o.bias, 16) || !multiple(workspace, 256))
		return CUBLAS_STATUS_INVALID_VALUE;
	look("a", aMatrix, a.rows, a.cols, a.ld, 2);
	look("b", bMatrix, b.rows, b.cols, b.ld, 2);
	look("d", dMatrix, d.rows, d.cols, d.ld, 2);
	look("the bias", o.bias, d.rows, 1, d.rows, 2);
	look("the workspace", workspace, algorithm.workspace, 1, algorithm.workspace, 1);
	const bool onDevice = o.pointers == CUBLASLT_POINTER_MODE_DEVICE;
	if (onDevice) {
		look("α", alpha, 1, 1, 1, sizeof(float));
		look("β", beta, 1, 1, 1, sizeof(float));
	}
	for (uint64_t i = 0; i < algorithm.workspace; i += 4096)
		((unsigned char *)workspace)[i] = 0xff; // it may be written
	const float alpha32 = *(const float *)alpha, beta32 = *(const float *)beta;
	gemm(tA, tB, d.rows, d.cols, k, alpha32, (const Bits *)aMatrix, a.ld, (const Bits *)bMatrix, b.ld, beta32, (Bits *)dMatrix, d.ld,
	     !onDevice && beta32 == 1, (const Bits *)o.bias); // library.h
	return CUBLAS_STATUS_SUCCESS;
}

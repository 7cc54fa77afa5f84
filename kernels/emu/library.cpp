// cuBLAS and cuSOLVER of the emulated device: the functions that ../library.cpp calls, as plain loops over main memory. What
// is asked for beyond that is refused, so that nothing is thought to be tested that is not.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include "product.h"

#include <math.h>

#include <algorithm>
#include <numeric>

struct cublasContext {
	bool onDevice = false; // α and β
};
struct cusolverDnContext {};
struct cusolverDnParams {};

namespace {

fast double dot(int64_t n, const double *x, const double *y) {
	double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
	int64_t i = 0;
	for (; i + 4 <= n; i += 4) {
		s0 += x[i] * y[i];
		s1 += x[i + 1] * y[i + 1];
		s2 += x[i + 2] * y[i + 2];
		s3 += x[i + 3] * y[i + 3];
	}
	for (; i < n; i++)
		s0 += x[i] * y[i];
	return (s0 + s1) + (s2 + s3);
}

} // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
	*handle = new cublasContext;
	return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
	delete handle;
	return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *v) { return *v = 0, CUBLAS_STATUS_SUCCESS; }
cusolverStatus_t cusolverGetVersion(int *v) { return *v = 0, CUSOLVER_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *workspace, size_t bytes) {
	look("cuBLAS's workspace", workspace, bytes, 1, bytes, 1);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
	handle->onDevice = mode == CUBLAS_POINTER_MODE_DEVICE;
	return CUBLAS_STATUS_SUCCESS;
}

// As the library does, products into bfloat16 are rounded before c is added where the host says that β is 1 (../library.h).
cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transA, cublasOperation_t transB, int64_t m, int64_t n, int64_t k, const void *alpha, const void *a,
                               cudaDataType aType, int64_t lda, const void *b, cudaDataType bType, int64_t ldb, const void *beta, void *c, cudaDataType cType, int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t) {
	bool tA = transA != CUBLAS_OP_N, tB = transB != CUBLAS_OP_N;
	auto size = [](cudaDataType t) { return t == CUDA_R_64F ? 8 : t == CUDA_R_32F ? 4 : 2; };
	look("a", a, tA ? k : m, tA ? m : k, lda, size(aType));
	look("b", b, tB ? n : k, tB ? k : n, ldb, size(bType));
	look("c", c, m, n, ldc, size(cType));
	if (handle->onDevice) {
		look("α", alpha, 1, 1, 1, size(cType == CUDA_R_16BF ? CUDA_R_32F : cType));
		look("β", beta, 1, 1, 1, size(cType == CUDA_R_16BF ? CUDA_R_32F : cType));
	}
	float alpha32 = *(const float *)alpha, beta32 = *(const float *)beta;
	if (aType == CUDA_R_64F && bType == CUDA_R_64F && cType == CUDA_R_64F && compute == CUBLAS_COMPUTE_64F)
		gemm(tA, tB, m, n, k, *(const double *)alpha, (const double *)a, lda, (const double *)b, ldb, *(const double *)beta, (double *)c, ldc);
	else if (aType == CUDA_R_32F && bType == CUDA_R_32F && cType == CUDA_R_32F && compute == CUBLAS_COMPUTE_32F_PEDANTIC)
		gemm(tA, tB, m, n, k, alpha32, (const float *)a, lda, (const float *)b, ldb, beta32, (float *)c, ldc);
	else if (aType == CUDA_R_16BF && bType == CUDA_R_16BF && cType == CUDA_R_16BF && compute == CUBLAS_COMPUTE_32F)
		gemm(tA, tB, m, n, k, alpha32, (const Bits *)a, lda, (const Bits *)b, ldb, beta32, (Bits *)c, ldc, !handle->onDevice && beta32 == 1);
	else if (aType == CUDA_R_16BF && bType == CUDA_R_16BF && cType == CUDA_R_32F && compute == CUBLAS_COMPUTE_32F)
		gemm(tA, tB, m, n, k, alpha32, (const Bits *)a, lda, (const Bits *)b, ldb, beta32, (float *)c, ldc);
	else
		return CUBLAS_STATUS_NOT_SUPPORTED;
	return CUBLAS_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
	*handle = new cusolverDnContext;
	return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
	delete handle;
	return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t) { return CUSOLVER_STATUS_SUCCESS; }
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t, cusolverDeterministicMode_t) { return CUSOLVER_STATUS_SUCCESS; }
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
	*params = new cusolverDnParams;
	return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
	delete params;
	return CUSOLVER_STATUS_SUCCESS;
}

// The workspaces hold a row, and are written, so that one that is too small, or not there, is noticed.
static cusolverStatus_t workspaces(int64_t n, cublasFillMode_t uplo, cudaDataType type, void *device, size_t deviceBytes, void *host, size_t hostBytes, int *info) {
	if (uplo != CUBLAS_FILL_MODE_UPPER || type != CUDA_R_64F || deviceBytes < n * sizeof(double) || hostBytes < n * sizeof(double))
		return CUSOLVER_STATUS_INVALID_VALUE;
	memset(device, 0xff, n * sizeof(double));
	memset(host, 0xff, n * sizeof(double));
	look("info", info, 1, 1, 1, 4);
	return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t, cublasFillMode_t, int64_t n, cudaDataType, const void *, int64_t,
                                             cudaDataType, const void *, cudaDataType, size_t *device, size_t *host) {
	*device = *host = n * sizeof(double);
	return CUSOLVER_STATUS_SUCCESS;
}

// syevd is the classical method of Jacobi, row after row: a, full, ← its rotations, row j of v ← eigenvector j.
fast static bool syevd(int64_t n, std::vector<double> &a, std::vector<double> &v) {
	for (int sweep = 0; sweep < 50; sweep++) {
		double off = 0, all = 0;
		for (int64_t i = 0; i < n; i++)
			for (int64_t j = 0; j < n; j++)
				(i == j ? all : off) += a[i * n + j] * a[i * n + j];
		if (off <= 1e-30 * (all + off))
			return true;
		for (int64_t p = 0; p < n; p++)
			for (int64_t q = p + 1; q < n; q++) {
				double x = a[p * n + q];
				if (x == 0)
					continue;
				double tau = (a[q * n + q] - a[p * n + p]) / (2 * x), t = copysign(1 / (fabs(tau) + sqrt(1 + tau * tau)), tau), c = 1 / sqrt(1 + t * t), s = t * c;
				for (int64_t i = 0; i < n; i++) {
					double f = a[i * n + p], g = a[i * n + q];
					a[i * n + p] = c * f - s * g;
					a[i * n + q] = s * f + c * g;
				}
				for (auto *m : {&a, &v})
					for (int64_t i = 0; i < n; i++) {
						double f = (*m)[p * n + i], g = (*m)[q * n + i];
						(*m)[p * n + i] = c * f - s * g;
						(*m)[q * n + i] = s * f + c * g;
					}
			}
	}
	return false;
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n, cudaDataType type, void *matrix,
                                  int64_t lda, cudaDataType, void *values, cudaDataType, void *device, size_t deviceBytes, void *host, size_t hostBytes, int *info) {
	if (cusolverStatus_t bad = workspaces(n, uplo, type, device, deviceBytes, host, hostBytes, info))
		return bad;
	look("a", matrix, n, n, lda, 8);
	look("the values", values, n, 1, n, 8);
	double *a = (double *)matrix, *w = (double *)values;
	std::vector<double> full(n * n), v(n * n);
	for (int64_t j = 0; j < n; j++) {
		v[j * n + j] = 1;
		for (int64_t i = 0; i <= j; i++)
			full[i * n + j] = full[j * n + i] = a[j * lda + i];
	}
	*info = syevd(n, full, v) ? 0 : 1;
	std::vector<int64_t> by(n);
	std::iota(by.begin(), by.end(), 0);
	std::sort(by.begin(), by.end(), [&](int64_t i, int64_t j) { return full[i * n + i] < full[j * n + j]; });
	for (int64_t j = 0; j < n; j++) {
		w[j] = full[by[j] * n + by[j]];
		memcpy(a + j * lda, v.data() + by[j] * n, n * sizeof(double));
	}
	return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t, cublasFillMode_t, int64_t n, cudaDataType, const void *,
                                                   int64_t, cudaDataType, const void *, cudaDataType, size_t *device, size_t *host, int64_t) {
	*device = *host = n * sizeof(double);
	return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t parameters, cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n,
                                        cudaDataType type, void *matrices, int64_t lda, cudaDataType typeOfValues, void *values, cudaDataType compute, void *device,
                                        size_t deviceBytes, void *host, size_t hostBytes, int *infos, int64_t count) {
	for (int64_t k = 0; k < count; k++)
		if (cusolverStatus_t bad = cusolverDnXsyevd(handle, parameters, mode, uplo, n, type, (double *)matrices + k * n * lda, lda, typeOfValues, (double *)values + k * n,
		                                            compute, device, deviceBytes, host, hostBytes, infos + k))
			return bad;
	return CUSOLVER_STATUS_SUCCESS;
}

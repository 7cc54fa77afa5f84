// Products by cuBLAS, large eigendecompositions by cuSOLVER.
//
// Both libraries store by columns. A row-major matrix is, read by columns, its transpose: no data is moved, but every call
// here is about transposes. With A the a of this program as a library sees it (A = aᵀ, and so on):
//
//	c = op(a)·op(b)          C = op(B)·op(A)
//
// Precision: float32 by float32 arithmetic alone, which COMPUTE_32F_PEDANTIC keeps so whatever the environment asks for;
// bfloat16 with sums in float32 from end to end, also where a sum is split among blocks, and β·c in them (Scalars in library.h); float64 on
// tensor cores, which round like any other unit. Bits are the same at every run on one kind of GPU: one stream, a workspace of our own, no algorithm
// that uses atomics.
//
// Products with a bias are in linear.cpp, by cuBLASLt.
#include "kernels.h"

#include "error.h"
#include "library.h"

#include <cublas_v2.h>
#include <cusolverDn.h>
#include <math.h>

#include <vector>

namespace {

struct Library {
	cublasHandle_t blas = nullptr;
	Linear *linear = nullptr;
	cusolverDnHandle_t solver = nullptr;
	cusolverDnParams_t parameters = nullptr;
	std::vector<char> host; // cuSOLVER's workspace on this side, not used after its calls return
	float *scalars;         // α and 1, on the device
	float alpha = NAN;      // the α that was written there last
};

cudaDataType dataType(int type) { return type == SURGEON_F64 ? CUDA_R_64F : type == SURGEON_F32 ? CUDA_R_32F : CUDA_R_16BF; }

cublasOperation_t operation(bool trans) { return trans ? CUBLAS_OP_T : CUBLAS_OP_N; }

int open(Library *l, void *stream, void *workspace, int64_t bytes) {
	if (int code = blasCode(cublasCreate(&l->blas)))
		return code;
	if (int code = blasCode(cublasSetStream(l->blas, (cudaStream_t)stream)))
		return code;
	if (int code = blasCode(cublasSetWorkspace(l->blas, workspace, bytes))) // after the stream, which resets it
		return code;
	if (int code = blasCode(cublasSetMathMode(l->blas, (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION))))
		return code;
	if (int code = openLinear(workspace, bytes, &l->linear))
		return code;
	if (int code = solverCode(cusolverDnCreate(&l->solver)))
		return code;
	if (int code = solverCode(cusolverDnSetStream(l->solver, (cudaStream_t)stream)))
		return code;
	if (int code = solverCode(cusolverDnSetDeterministicMode(l->solver, CUSOLVER_DETERMINISTIC_RESULTS)))
		return code;
	return solverCode(cusolverDnCreateParams(&l->parameters));
}

} // namespace

Linear *linearOf(void *library) { return ((Library *)library)->linear; }

int scalarsOf(void *library, double alpha, double beta, Scalars *s, void *stream) {
	Library *l = (Library *)library;
	s->host[0] = (float)alpha;
	s->host[1] = (float)beta;
	s->onDevice = beta == 1;
	s->alpha = s->onDevice ? l->scalars : s->host;
	s->beta = s->alpha + 1;
	if (!s->onDevice || l->alpha == s->host[0])
		return 0;
	if (int code = surgeon_scalars(s->host[0], 1, l->scalars, stream))
		return code;
	l->alpha = s->host[0];
	return 0;
}

extern "C" int surgeon_library_open(void *stream, void *workspace, int64_t bytes, float *scalars, void **library) {
	Library *l = new Library;
	l->scalars = scalars;
	if (int code = open(l, stream, workspace, bytes)) {
		surgeon_library_close(l);
		return code;
	}
	*library = l;
	return 0;
}

extern "C" void surgeon_library_versions(void *library, int *blas, int *solver) {
	*blas = *solver = 0;
	cublasGetVersion(((Library *)library)->blas, blas);
	cusolverGetVersion(solver);
}

extern "C" int surgeon_library_close(void *library) {
	Library *l = (Library *)library;
	int code = 0;
	if (l->parameters)
		code = solverCode(cusolverDnDestroyParams(l->parameters));
	if (l->solver)
		if (int c = solverCode(cusolverDnDestroy(l->solver)))
			code = c;
	if (l->linear)
		if (int c = closeLinear(l->linear))
			code = c;
	if (l->blas)
		if (int c = blasCode(cublasDestroy(l->blas)))
			code = c;
	delete l;
	return code;
}

extern "C" int surgeon_gemm(void *library, int transA, int transB, int type, int cType, int64_t m, int64_t n, int64_t k, double alpha, const void *a, const void *b,
                            double beta, void *c, void *stream) {
	if (m == 0 || n == 0)
		return 0;
	if (k == 0 || alpha == 0)
		return beta == 1 ? 0 : surgeon_scale(cType, m * n, beta, c, stream);
	const int64_t lda = transA ? m : k, ldb = transB ? k : n;
	if (type == SURGEON_F64)
		return product(library, transA, transB, m, n, k, alpha, (const double *)a, lda, (const double *)b, ldb, beta, (double *)c, n);
	cublasHandle_t blas = ((Library *)library)->blas;
	auto product = [&](const float *alpha, const float *beta) {
		return blasCode(cublasGemmEx_64(blas, operation(transB), operation(transA), n, m, k, alpha, b, dataType(type), ldb, a, dataType(type), lda, beta, c, dataType(cType), n,
		                                type == SURGEON_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
	};
	const float alpha32 = (float)alpha, beta32 = (float)beta;
	if (cType != SURGEON_BF16)
		return product(&alpha32, &beta32);
	Scalars s;
	if (int code = scalarsOf(library, alpha, beta, &s, stream))
		return code;
	if (!s.onDevice)
		return product(s.alpha, s.beta);
	if (int code = blasCode(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE)))
		return code;
	int code = product(s.alpha, s.beta);
	if (int c = blasCode(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_HOST)))
		return c;
	return code;
}

int product(void *library, bool transA, bool transB, int64_t m, int64_t n, int64_t k, double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
            double beta, double *c, int64_t ldc) {
	return blasCode(cublasGemmEx_64(((Library *)library)->blas, operation(transB), operation(transA), n, m, k, &alpha, b, CUDA_R_64F, ldb, a, CUDA_R_64F, lda, &beta, c,
	                                CUDA_R_64F, ldc, CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT));
}

// sized makes room on this side for what cuSOLVER asks for, and tells what is to be there on the device.
static int sized(Library *l, size_t device, size_t host, int64_t *bytes) {
	if (host > l->host.size())
		l->host.resize(host);
	*bytes = (int64_t)device;
	return 0;
}

// A given V may have lost digits: one step of Newton and Schulz, V ← V·(3·I − VᵀV)/2, squares what it lacks to be orthogonal.
extern "C" int surgeon_eigh_rotate(void *library, int64_t n, double *a, double *v, double *vectors, double *w, void *stream) {
	auto product = [&](bool trans, double alpha, const double *x, const double *y, double beta, double *z) {
		return surgeon_gemm(library, trans, 0, SURGEON_F64, SURGEON_F64, n, n, n, alpha, x, y, beta, z, stream);
	};
	if (int code = product(true, 1, vectors, vectors, 0, w))
		return code;
	if (int code = product(false, -0.5, vectors, w, 1.5, v))
		return code;
	if (int code = product(false, 1, a, v, 0, vectors))
		return code;
	return product(true, 1, v, vectors, 0, a);
}

extern "C" int surgeon_eigh_workspace(void *library, int64_t n, const double *a, const double *values, int64_t *bytes) {
	Library *l = (Library *)library;
	size_t device = 0, host = 0;
	if (int code = solverCode(cusolverDnXsyevd_bufferSize(l->solver, l->parameters, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, n,
	                                                      CUDA_R_64F, values, CUDA_R_64F, &device, &host)))
		return code;
	return sized(l, device, host, bytes);
}

extern "C" int surgeon_eigh_large(void *library, int64_t n, double *a, double *values, void *workspace, int64_t bytes, int *info) {
	Library *l = (Library *)library;
	return solverCode(cusolverDnXsyevd(l->solver, l->parameters, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, n, CUDA_R_64F, values, CUDA_R_64F,
	                                   workspace, (size_t)bytes, l->host.data(), l->host.size(), info));
}

extern "C" int surgeon_eigh_batch_workspace(void *library, int64_t n, int64_t count, const double *a, const double *values, int64_t *bytes) {
	Library *l = (Library *)library;
	size_t device = 0, host = 0;
	if (int code = solverCode(cusolverDnXsyevBatched_bufferSize(l->solver, l->parameters, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a,
	                                                            n, CUDA_R_64F, values, CUDA_R_64F, &device, &host, count)))
		return code;
	return sized(l, device, host, bytes);
}

extern "C" int surgeon_eigh_batch(void *library, int64_t n, int64_t count, double *a, double *values, void *workspace, int64_t bytes, int *infos) {
	Library *l = (Library *)library;
	return solverCode(cusolverDnXsyevBatched(l->solver, l->parameters, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, n, CUDA_R_64F, values,
	                                         CUDA_R_64F, workspace, (size_t)bytes, l->host.data(), l->host.size(), infos, count));
}

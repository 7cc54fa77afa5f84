// Codes and their words.
#include "error.h"

#include "kernels.h"

#ifndef SURGEON_EMU
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#endif

static const char *ownWords(int code) {
	return code == noAlgorithm ? "cuBLASLt has no algorithm for a product of this shape with a bias" : "failed";
}

extern "C" int surgeon_interface(void) { return SURGEON_INTERFACE; }

#ifdef SURGEON_EMU

extern "C" int surgeon_emulated(void) { return 1; }
extern "C" const char *surgeon_error(int code) { return code >= ownCodes ? ownWords(code) : code == 719 ? "unspecified launch failure" : "emulated failure"; }

#else

extern "C" int surgeon_emulated(void) { return 0; }

extern "C" const char *surgeon_error(int code) {
	if (code >= ownCodes)
		return ownWords(code);
	if (code >= solverCodes) {
		static const char *names[] = {"success", "not initialised", "out of memory for its work", "invalid value", "architecture mismatch", "mapping error", "execution failed", "internal error", "matrix type not supported"};
		return code - solverCodes < 9 ? names[code - solverCodes] : "cuSOLVER failed";
	}
	if (code >= blasCodes)
		return cublasGetStatusString((cublasStatus_t)(code - blasCodes));
	return cudaGetErrorString((cudaError_t)code);
}

#endif

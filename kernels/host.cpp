// Pinned host memory: pages that the GPU copies from and to by itself, while kernels run.
#include "kernels.h"

#ifdef SURGEON_EMU
#include <stdlib.h>

extern "C" int surgeon_pinned_alloc(int64_t bytes, void **host) {
	*host = malloc(bytes);
	return *host == nullptr ? 2 : 0;
}
extern "C" int surgeon_pinned_free(void *host) {
	free(host);
	return 0;
}

#else
#include <cuda_runtime_api.h>

extern "C" int surgeon_pinned_alloc(int64_t bytes, void **host) { return cudaHostAlloc(host, bytes, cudaHostAllocDefault); }
extern "C" int surgeon_pinned_free(void *host) { return cudaFreeHost(host); }

#endif

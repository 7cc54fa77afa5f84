// The driver of the emulated device: the few calls that package cgo makes, by way of gorgonia.org/cu, over main memory. There
// is one device. Everything else answers "not supported".
//
// SURGEON_EMU_MEMORY is the memory of the device in bytes, SURGEON_EMU_DEVICES the number of devices, and
// SURGEON_EMU_CAPABILITY its compute capability, for example 75, SURGEON_EMU_DRIVER the version of the driver: they let tests see a full, a missing and an old GPU.
#include "../driver/driver.h"
#include "../warpgroup.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string_view>

namespace {

std::map<CUdeviceptr, size_t> allocations;
size_t used;

size_t number(const char *name, size_t otherwise) {
	const char *s = getenv(name);
	return s ? strtoull(s, nullptr, 10) : otherwise;
}

size_t total() { return number("SURGEON_EMU_MEMORY", (size_t)4 << 30); }

CUresult init(unsigned) { return CUDA_SUCCESS; }
CUresult version(int *v) { *v = (int)number("SURGEON_EMU_DRIVER", 13000); return CUDA_SUCCESS; }
CUresult count(int *n) { *n = (int)number("SURGEON_EMU_DEVICES", 1); return CUDA_SUCCESS; }
CUresult device(CUdevice *d, int i) { *d = i; return i < (int)number("SURGEON_EMU_DEVICES", 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult name(char *s, int n, CUdevice) { snprintf(s, n, "emulated"); return CUDA_SUCCESS; }
CUresult totalMemory(size_t *bytes, CUdevice) { *bytes = total(); return CUDA_SUCCESS; }
CUresult attribute(int *v, CUdevice_attribute a, CUdevice) {
	int capability = (int)number("SURGEON_EMU_CAPABILITY", 90);
	switch (a) {
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = capability / 10; break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = capability % 10; break;
	case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = capability % 10 ? 99 << 10 : capability == 90 ? 227 << 10 : 163 << 10; break; // emu.cpp holds launches to it
	default: *v = 0;
	}
	return CUDA_SUCCESS;
}
CUresult retainContext(CUcontext *c, CUdevice) { *c = (CUcontext)&used; return CUDA_SUCCESS; }
CUresult releaseContext(CUdevice) { return CUDA_SUCCESS; }
CUresult setContext(CUcontext) { return CUDA_SUCCESS; }
CUresult getContext(CUcontext *c) { *c = (CUcontext)&used; return CUDA_SUCCESS; }
CUresult popContext(CUcontext *c) { *c = (CUcontext)&used; return CUDA_SUCCESS; }
CUresult synchronize() { return CUDA_SUCCESS; }

CUresult alloc(CUdeviceptr *p, size_t n) {
	if (used + n > total())
		return CUDA_ERROR_OUT_OF_MEMORY;
	void *m = nullptr;
	if (posix_memalign(&m, 256, n) != 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memset(m, 0xff, n); // NaN
	*p = (CUdeviceptr)m;
	allocations[*p] = n;
	emu::raceTrack(m, n);
	used += n;
	return CUDA_SUCCESS;
}
CUresult freeMemory(CUdeviceptr p) {
	auto a = allocations.find(p);
	if (a == allocations.end())
		return CUDA_ERROR_INVALID_VALUE;
	used -= a->second;
	allocations.erase(a);
	emu::raceForget((void *)p);
	free((void *)p);
	return CUDA_SUCCESS;
}
CUresult info(size_t *free, size_t *all) { *all = total(); *free = total() - used; return CUDA_SUCCESS; }
CUresult toDevice(CUdeviceptr d, const void *s, size_t n, CUstream) { memcpy((void *)d, s, n); return CUDA_SUCCESS; }
CUresult toHost(void *d, CUdeviceptr s, size_t n, CUstream) { memcpy(d, (void *)s, n); return CUDA_SUCCESS; }
CUresult within(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream) { memmove((void *)d, (void *)s, n); return CUDA_SUCCESS; }
CUresult set8(CUdeviceptr d, unsigned char v, size_t n, CUstream) { memset((void *)d, v, n); return CUDA_SUCCESS; }
CUresult createStream(CUstream *s, unsigned) { *s = (CUstream)&used; return CUDA_SUCCESS; }
CUresult streamOk(CUstream) { return CUDA_SUCCESS; }
CUresult createEvent(CUevent *e, unsigned) { *e = (CUevent)&used; return CUDA_SUCCESS; }
CUresult eventOk(CUevent) { return CUDA_SUCCESS; }
CUresult record(CUevent, CUstream) { return CUDA_SUCCESS; }
CUresult elapsed(float *ms, CUevent, CUevent) { *ms = 0; return CUDA_SUCCESS; }
CUresult errorName(CUresult e, const char **s) { *s = e == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "emulated error"; return CUDA_SUCCESS; }
// encodeTiled takes what the copies of tiles of emu.cpp can do: matrices of bfloat16.
CUresult encodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *x, const cuuint64_t *dim, const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step,
                     CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
	if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || step[0] != 1 || step[1] != 1 ||
	    (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && swizzle != CU_TENSOR_MAP_SWIZZLE_128B))
		return CUDA_ERROR_NOT_SUPPORTED;
	if ((uintptr_t)map % 64 != 0 || (uintptr_t)x % 16 != 0 || dim[0] == 0 || dim[1] == 0 || dim[0] > 1ull << 32 || dim[1] > 1ull << 32 || stride[0] % 16 != 0 || stride[0] < dim[0] * 2 ||
	    box[0] == 0 || box[0] > 256 || box[1] == 0 || box[1] > 256 || box[0] * 2 % 16 != 0 || (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * 2 > 128))
		return CUDA_ERROR_INVALID_VALUE;
	*(TileMap *)map = TileMap{(const char *)x, dim[0], dim[1], stride[0], box[0], box[1], swizzle == CU_TENSOR_MAP_SWIZZLE_128B};
	return CUDA_SUCCESS;
}
CUresult unsupported() { return CUDA_ERROR_NOT_SUPPORTED; }

// A variable of the function, because it is asked for before the variables of this file are made.
const std::map<std::string_view, void *> &functions() {
	static const std::map<std::string_view, void *> all = {
		{"cuInit", (void *)init}, {"cuDriverGetVersion", (void *)version}, {"cuDeviceGetCount", (void *)count}, {"cuDeviceGet", (void *)device},
		{"cuDeviceGetName", (void *)name}, {"cuDeviceTotalMem_v2", (void *)totalMemory}, {"cuDeviceGetAttribute", (void *)attribute},
		{"cuDevicePrimaryCtxRetain", (void *)retainContext}, {"cuDevicePrimaryCtxRelease_v2", (void *)releaseContext}, {"cuCtxSetCurrent", (void *)setContext},
		{"cuCtxGetCurrent", (void *)getContext}, {"cuCtxPopCurrent_v2", (void *)popContext}, {"cuCtxSynchronize", (void *)synchronize},
		{"cuMemAlloc_v2", (void *)alloc}, {"cuMemFree_v2", (void *)freeMemory}, {"cuMemGetInfo_v2", (void *)info},
		{"cuMemcpyHtoDAsync_v2", (void *)toDevice}, {"cuMemcpyDtoHAsync_v2", (void *)toHost}, {"cuMemcpyDtoDAsync_v2", (void *)within},
		{"cuMemsetD8Async", (void *)set8}, {"cuStreamCreate", (void *)createStream}, {"cuStreamSynchronize", (void *)streamOk},
		{"cuStreamDestroy_v2", (void *)streamOk}, {"cuEventCreate", (void *)createEvent}, {"cuEventDestroy_v2", (void *)eventOk},
		{"cuEventRecord", (void *)record}, {"cuEventSynchronize", (void *)eventOk}, {"cuEventElapsedTime", (void *)elapsed},
		{"cuEventElapsedTime_v2", (void *)elapsed}, {"cuGetErrorName", (void *)errorName},
		{"cuTensorMapEncodeTiled", (void *)encodeTiled},
	};
	return all;
}

} // namespace

extern "C" const char *surgeon_driver_open(void) { return nullptr; }

extern "C" void *surgeon_driver_find(const char *name) {
	auto f = functions().find(name);
	return f != functions().end() ? f->second : (void *)unsupported;
}

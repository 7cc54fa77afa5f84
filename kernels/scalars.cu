// α and β of products that take them from device memory (library.h), written in the order of the stream.
#include "common.cuh"
#include "library.h"

namespace {

__global__ void write(float alpha, float beta, float *to) {
	to[0] = alpha;
	to[1] = beta;
}

} // namespace

int surgeon_scalars(float alpha, float beta, float *scalars, void *stream) { return launch(write, dim3(1), dim3(1), 0, stream, alpha, beta, scalars); }

// Triangular solves of single right sides, many at once.
//
//	b ← (l·lᵀ)⁻¹·b:   y_i = (b_i − Σ_k<i l_ik·y_k) / l_ii,   then   x_k = (y_k − Σ_i>k l_ik·x_i) / l_kk        order n, float32 or float64
//
// 2·n² FLOP and n² numbers read: each of both halves reads the triangle once, and there is nothing else to do. triangles.cu and
// triangle.cpp make inverses for it, which for one column take longer than it; here every system has a block of threads,
// and what waits is the solve with a block of 32×32 on the diagonal by one warp. All else is sums along rows, which all warps
// read ahead:
//
//	┌────┐                   l·y = b       a warp for each of the panel's rows adds up l_ik·y_k, lanes along the row
//	│    ├────┐              lᵀ·x = y      lane j adds up column j of the panel, each warp every sixteenth row below it; the
//	├────┼────┤                            warps' sums are added in their order
//	│  → │ 32 │
//	└────┴────┘              What is above the diagonal is not read.
//
// One block of threads does not read fast enough for a GPU whose other multiprocessors are idle. So where there are few systems,
// and large ones, only strips of 256 unknowns are solved that way, and what they do to all other unknowns is a launch for as many
// blocks as there is work:
//
//	┌──┐                     l·y = b       once y of a strip is there, b_i −= Σ_k l_ik·y_k below it: a warp for a row
//	│▚▚├──┐                  lᵀ·x = y      once x of a strip is there, y_k −= Σ_i l_ik·x_i above it: a thread for an unknown,
//	│▚▚│▚▚├──┐                             lanes side by side in the strip's rows
#include "common.cuh"

namespace {

const int width = 32;    // of a panel: a row of the block on the diagonal for each lane of a warp
const int threads = 512; // a block should fill a multiprocessor with loads
const int warps = threads / 32;

// Reasoned, not measured.
const int strip = 256;        // unknowns, a multiple of width
const int largeOrder = 512;   // from here on there are strips,
const int systemsEnough = 264; // unless so many systems keep a GPU busy, two for each multiprocessor

template <class T> struct Panel {
	T l[width][width + 1];
	T v[width];           // what the panel's rows have of the sums
	T sums[warps][width]; // what each warp has of the panel's columns
};

// diagonal brings the block on the diagonal at k0, of order w, to shared memory.
template <class T> __device__ void diagonal(Panel<T> &s, int64_t n, const T *l, int64_t k0, int w, int warp, int lane) {
	for (int r = warp; r < w; r += warps)
		if (lane <= r)
			s.l[r][lane] = l[(k0 + r) * n + k0 + lane];
}

// forward is y ← l⁻¹·b for the unknowns from from to to−1, by a whole block, with what earlier unknowns do to them done already.
template <class T> __device__ void forward(Panel<T> &s, int64_t n, const T *l, T *b, int64_t from, int64_t to) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	for (int64_t k0 = from; k0 < to; k0 += width) {
		int w = to - k0 < width ? (int)(to - k0) : width;
		diagonal(s, n, l, k0, w, warp, lane);
		for (int r = warp; r < w; r += warps) {
			const T *row = l + (k0 + r) * n;
			T sum = 0;
#pragma unroll 8
			for (int64_t k = from + lane; k < k0; k += 32)
				sum += row[k] * b[k];
			sum = warpSum(sum);
			if (lane == 0)
				s.v[r] = b[k0 + r] - sum;
		}
		__syncthreads(); // the panel is there
		if (warp == 0) {
			T v = lane < w ? s.v[lane] : 0, inverse = lane < w ? 1 / s.l[lane][lane] : 0;
#pragma unroll 1
			for (int j = 0; j < w; j++) {
				T y = __shfl_sync(allLanes, v, j) * __shfl_sync(allLanes, inverse, j);
				if (lane == j)
					v = y;
				else if (lane > j && lane < w)
					v -= s.l[lane][j] * y;
			}
			if (lane < w)
				b[k0 + lane] = v;
		}
		__syncthreads(); // y is there, the panel was read
	}
}

// backward is x ← l⁻ᵀ·b for them, with what later unknowns do to them done already.
template <class T> __device__ void backward(Panel<T> &s, int64_t n, const T *l, T *b, int64_t from, int64_t to) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	for (int64_t k0 = from + (to - from - 1) / width * width; k0 >= from; k0 -= width) {
		int w = to - k0 < width ? (int)(to - k0) : width;
		diagonal(s, n, l, k0, w, warp, lane);
		T sum = 0;
#pragma unroll 4
		for (int64_t i = k0 + w + warp; i < to; i += warps)
			sum += lane < w ? l[i * n + k0 + lane] * b[i] : 0;
		s.sums[warp][lane] = sum;
		__syncthreads(); // the sums are there
		if (warp == 0) {
			T v = lane < w ? b[k0 + lane] : 0, inverse = lane < w ? 1 / s.l[lane][lane] : 0;
			for (int u = 0; u < warps; u++)
				v -= s.sums[u][lane];
#pragma unroll 1
			for (int j = w - 1; j >= 0; j--) {
				T x = __shfl_sync(allLanes, v, j) * __shfl_sync(allLanes, inverse, j);
				if (lane == j)
					v = x;
				else if (lane < j)
					v -= s.l[j][lane] * x;
			}
			if (lane < w)
				b[k0 + lane] = v;
		}
		__syncthreads(); // x is there, the sums were read
	}
}

// solve: block i solves system i.
template <class T> __global__ void __launch_bounds__(threads) solve(const surgeon_system *systems) {
	auto &s = shared<Panel<T>>();
	const surgeon_system system = systems[blockIdx.x];
	forward(s, system.n, (const T *)system.l, (T *)system.b, 0, system.n);
	backward(s, system.n, (const T *)system.l, (T *)system.b, 0, system.n);
}

// The strip that begins at from, of every system that has one there: block i solves with that of system i.
template <class T, bool isForward> __global__ void __launch_bounds__(threads) solveStrip(const surgeon_system *systems, int64_t from) {
	auto &s = shared<Panel<T>>();
	const surgeon_system system = systems[blockIdx.x];
	if (from >= system.n)
		return;
	int64_t to = from + strip < system.n ? from + strip : system.n;
	if (isForward)
		forward(s, system.n, (const T *)system.l, (T *)system.b, from, to);
	else
		backward(s, system.n, (const T *)system.l, (T *)system.b, from, to);
}

// below is b_i ← b_i − Σ_k l_ik·b_k for the unknowns k of a strip and i after it. Blocks (·, i) are for system i.
template <class T> __global__ void __launch_bounds__(threads) below(const surgeon_system *systems, int64_t from) {
	const surgeon_system system = systems[blockIdx.y];
	const T *l = (const T *)system.l;
	T *b = (T *)system.b;
	const int lane = threadIdx.x % 32;
	for (int64_t i = from + strip + (int64_t)blockIdx.x * warps + threadIdx.x / 32; i < system.n; i += (int64_t)gridDim.x * warps) {
		const T *row = l + i * system.n + from;
		T sum = 0;
#pragma unroll
		for (int k = 0; k < strip; k += 32)
			sum += row[k + lane] * b[from + k + lane];
		sum = warpSum(sum);
		if (lane == 0)
			b[i] -= sum;
	}
}

const int aboveThreads = 64; // few, so that there are many blocks

// above is b_k ← b_k − Σ_i l_ik·b_i for the unknowns i of a strip and k before it.
template <class T> __global__ void __launch_bounds__(aboveThreads) above(const surgeon_system *systems, int64_t from) {
	const surgeon_system system = systems[blockIdx.y];
	const T *l = (const T *)system.l;
	T *b = (T *)system.b;
	if (from >= system.n)
		return;
	int64_t to = from + strip < system.n ? from + strip : system.n;
	for (int64_t k = (int64_t)blockIdx.x * aboveThreads + threadIdx.x; k < from; k += (int64_t)gridDim.x * aboveThreads) {
		T sum = 0;
#pragma unroll 16
		for (int64_t i = from; i < to; i++)
			sum += l[i * system.n + k] * b[i];
		b[k] -= sum;
	}
}

template <class T> int solveMany(int64_t count, const surgeon_system *systems, int64_t largest, void *stream) {
	const dim3 each((unsigned)count);
	if (largest < largeOrder || count >= systemsEnough)
		return launch(solve<T>, each, threads, sizeof(Panel<T>), stream, systems);
	int code = 0;
	for (int64_t from = 0; from < largest && code == 0; from += strip) {
		code = launch(solveStrip<T, true>, each, threads, sizeof(Panel<T>), stream, systems, from);
		if (int64_t rest = largest - from - strip; rest > 0 && code == 0)
			code = launch(below<T>, dim3((unsigned)ceilDiv(rest, warps), (unsigned)count), threads, 0, stream, systems, from);
	}
	for (int64_t from = (largest - 1) / strip * strip; from >= 0 && code == 0; from -= strip) {
		code = launch(solveStrip<T, false>, each, threads, sizeof(Panel<T>), stream, systems, from);
		if (from > 0 && code == 0)
			code = launch(above<T>, dim3((unsigned)ceilDiv(from, aboveThreads), (unsigned)count), aboveThreads, 0, stream, systems, from);
	}
	return code;
}

} // namespace

extern "C" int surgeon_cholesky_solve_many(int type, int64_t count, const surgeon_system *systems, int64_t largest, void *stream) {
	return type == SURGEON_F32 ? solveMany<float>(count, systems, largest, stream) : solveMany<double>(count, systems, largest, stream);
}

// The n smallest of every run of m consecutive float64: their sum, and which they are.
//
//	for each run v:  sum ← Σ of the n smallest v_k,   marks_k ← v_k is one of them        8 bytes read, 1 byte written for an element
//
// Of equal ones the first count as smaller, and NaN as larger than all numbers. Elements are compared by keys whose order is that.
// sums or marks may be NULL.
//
// Short runs, up to SURGEON_SMALLEST_ORDERED, belong to one thread each, which takes the smallest out one after the other, and
// adds them up in that order, as the CPU does. They come through shared memory, so that warps read whole pieces of memory.
//
// A long run belongs to a block. It finds the key of its n-th smallest digit by digit: it counts the keys by their first eight
// bits, which tells that of the n-th, then those that begin with it by the next eight, and so on. Then it adds up all that
// are smaller, each thread its own and then over the block, and of those that are equal takes the first. The run is read nine or ten
// times, but for the first time from a cache.
#include "digits.cuh"
#include "wide.cuh"

namespace {

// ordered is the key of x: negative numbers before positive ones, −0 as 0, NaN after infinity and below the key of nothing.
const Key ofNaN = 0xfff8000000000000ull, nothing = ~0ull;
__device__ __forceinline__ Key ordered(double x) {
	if (x != x)
		return ofNaN;
	Key k = x == 0 ? 0 : bitsOf(x);
	return k & signBit ? ~k : k | signBit;
}

// numberOf is the x of a key.
__device__ __forceinline__ double numberOf(Key k) { return __longlong_as_double((long long)(k & signBit ? k ^ signBit : ~k)); }

// ---- short runs ----

const int runs = 128; // of a block: a thread each

// spread leaves out every 17th place, so that threads that walk along runs of 2, 4, 8 or 16 keys are in different banks.
__host__ __device__ constexpr int spread(int i) { return i + i / 16; }

// The keys of a block's runs, and after them the marks of a run as bits.
__global__ void __launch_bounds__(runs) shortRuns(int64_t count, int n, int m, const double *x, double *sums, uint8_t *marks) {
	Key *keys = &shared<Key>();
	uint32_t *chosen = (uint32_t *)(keys + spread(runs * m));
	for (int64_t from = (int64_t)blockIdx.x * runs; from < count; from += (int64_t)gridDim.x * runs) {
		int here = (int)(count - from < runs ? count - from : runs);
#pragma unroll 4
		for (int i = threadIdx.x; i < here * m; i += runs)
			keys[spread(i)] = ordered(x[from * m + i]);
		__syncthreads();
		if ((int)threadIdx.x < here) {
			uint32_t taken = 0;
			double sum = 0;
			for (int u = 0; u < n; u++) {
				Key least = nothing;
				int at = 0;
				for (int k = 0; k < m; k++) {
					Key key = keys[spread(threadIdx.x * m + k)];
					if (key < least && !(taken >> k & 1))
						least = key, at = k;
				}
				taken |= 1u << at;
				sum += numberOf(least);
			}
			chosen[threadIdx.x] = taken;
			if (sums)
				sums[from + threadIdx.x] = sum;
		}
		__syncthreads();
		if (marks)
			for (int i = threadIdx.x; i < here * m; i += runs)
				marks[from * m + i] = chosen[i / m] >> (i % m) & 1;
		__syncthreads(); // keys and chosen were read
	}
}

// ---- long runs ----

const int threads = 256, warps = threads / 32;
const int digitBits = 8; // a count for each thread
static_assert(1 << digitBits == threads, "one thread looks at one count");

struct LongRun {
	uint32_t counts[threads];
	int64_t ofWarp[warps];
	Key prefix;    // of the n-th smallest key, as far as it is known
	int64_t among; // its place among the keys with that prefix, from 1
	double partial[32];
};

// upTo is the sum of v over the threads up to this one. Before s.ofWarp is used again there is a __syncthreads.
__device__ __forceinline__ int64_t upTo(int64_t v, LongRun &s) {
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	for (int d = 1; d < 32; d *= 2) {
		int64_t before = __shfl_up_sync(allLanes, v, d);
		v += lane >= d ? before : 0;
	}
	if (lane == 31)
		s.ofWarp[warp] = v;
	__syncthreads();
	for (int w = 0; w < warp; w++)
		v += s.ofWarp[w];
	return v;
}

// nth leaves the key of the n-th smallest in s.prefix, 1 ≤ n ≤ m, and in s.among how many of the equal ones belong to the n.
__device__ __forceinline__ void nth(LongRun &s, int64_t n, int64_t m, const double *x) {
	if (threadIdx.x == 0)
		s.prefix = 0, s.among = n;
	for (int read = 0; read < 64; read += digitBits) {
		s.counts[threadIdx.x] = 0;
		__syncthreads(); // counts are cleared; the prefix is there
		Digit digit{s.prefix, read, digitBits};
		int64_t among = s.among;
		for (int64_t base = 0; base < m; base += threads) { // the same for a whole warp
			int64_t i = base + threadIdx.x;
			unsigned place = noPlace;
			if (i < m) {
				Key key = ordered(x[i]);
				if (digit.has(key))
					place = digit.of(key);
			}
			countWarp(s.counts, place);
		}
		__syncthreads(); // all is counted; prefix and among were read
		int64_t count = s.counts[threadIdx.x], last = upTo(count, s);
		if (last - count < among && among <= last)
			s.prefix = digit.prefix << digitBits | threadIdx.x, s.among = among - (last - count);
	}
	__syncthreads();
}

__global__ void __launch_bounds__(threads) longRuns(int64_t count, int64_t n, int64_t m, const double *x, double *sums, uint8_t *marks) {
	auto &s = shared<LongRun>();
	for (int64_t run = blockIdx.x; run < count; run += gridDim.x) {
		const double *v = x + run * m;
		if (n > 0)
			nth(s, n, m, v);
		Key last = n > 0 ? s.prefix : 0; // no key is below 0
		int64_t equal = n > 0 ? s.among : 0;
		if (sums) {
			double sum = 0;
			for (int64_t i = threadIdx.x; i < m; i += threads)
				if (ordered(v[i]) < last)
					sum += v[i];
			sum = blockSum(sum, s.partial);
			if (threadIdx.x == 0)
				sums[run] = n > 0 ? sum + (double)equal * numberOf(last) : 0;
		}
		if (marks)
			for (int64_t base = 0; base < m; base += threads) {
				int64_t i = base + threadIdx.x;
				Key key = i < m ? ordered(v[i]) : nothing;
				int64_t before = upTo(key == last, s) - (key == last); // equal ones in this piece
				if (i < m)
					marks[run * m + i] = key < last || (key == last && before < equal);
				int64_t here = 0;
				for (int w = 0; w < warps; w++)
					here += s.ofWarp[w];
				equal -= here;
				__syncthreads(); // s.ofWarp was read
			}
		__syncthreads(); // s was read
	}
}

} // namespace

extern "C" int surgeon_smallest(int64_t count, int64_t n, int64_t m, const double *x, double *sums, uint8_t *marks, void *stream) {
	if (m <= SURGEON_SMALLEST_ORDERED)
		return launch(shortRuns, gridOf(ceilDiv(count, runs)), runs, sizeof(Key) * spread(runs * (int)m) + sizeof(uint32_t) * runs, stream,
		              count, (int)n, (int)m, x, sums, marks);
	return launch(longRuns, gridOf(count), threads, sizeof(LongRun), stream, count, n, m, x, sums, marks);
}

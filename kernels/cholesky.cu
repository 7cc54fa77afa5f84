// Cholesky factors of small matrices, many at once, and what stands around cuSOLVER and cuBLAS for large ones.
//
//	a = l·lᵀ:   l_jj = √(a_jj − Σ_k<j l_jk²),   l_ij = (a_ij − Σ_k<j l_ik·l_jk) / l_jj        lower triangle, in place, float64
//
// n³/3 FLOP each and, as it is done here, some n³/12 bytes of traffic with the cache: right-looking, in panels of 32 columns,
// one block of threads for each matrix. cuSOLVER takes one matrix at a time, and below n ≈ 500 spends its time on launches and
// on one column after the other; here as many matrices as the GPU has multiprocessors do that side by side.
//
//	k →  ┌────┐                        1  one warp factors the 32×32 block on the diagonal, a row in the registers of each lane
//	     │ 1  ├────┐                   2  one thread for each row below solves against it
//	     ├────┤ 3  ├────┐              3  the rest ← rest − panel·panelᵀ on float64 tensor cores, a 32×32 tile for each warp
//	     │ 2  │ 3  │ 3  ├───┐
//	     │ 2  │ 3  │ 3  │ 3 │          The panel stands in shared memory, the rest in global memory, that is in the cache.
//	     └────┴────┴────┴───┘
//
// What is above the diagonal is neither read nor written. A pivot that is not a positive finite number ends the matrix; a NaN
// or an infinity in row i comes into pivot i.
#include "tensor.cuh"

namespace {

const int width = 32;   // of a panel: a row of the block on the diagonal for each lane of a warp
const int threads = 256;
// A row of the panel is 4 modulo 16 doubles long, so that the 8 rows × 4 columns of a fragment lie in different banks.
const int pitch = 36;

template <int rows> struct Panel {
	double l[rows][pitch];
	double column[2][width];
	double inverse[width]; // 1/l_jj
	int failed;
};

// factorBlock is step 1, by one warp: lane i holds row i. Lanes above the column at work compute with them what nobody reads.
template <int rows> __device__ void factorBlock(Panel<rows> &s, int lane) {
	double x[width];
#pragma unroll
	for (int j = 0; j < width; j++)
		x[j] = s.l[lane][j];
	bool good = true;
#pragma unroll
	for (int j = 0; j < width; j++) {
		double *column = s.column[j & 1]; // the one before may still be read
		column[lane] = x[j];
		__syncwarp();
		double pivot = column[j];
		good = good && pivot > 0 && pivot <= 1.7976931348623157e308;
		double root = sqrt(pivot), inverse = 1 / root;
		x[j] = lane == j ? root : x[j] * inverse;
		if (lane == j)
			s.inverse[j] = inverse;
#pragma unroll
		for (int k = j + 1; k < width; k++)
			x[k] -= x[j] * (column[k] * inverse);
	}
#pragma unroll
	for (int j = 0; j < width; j++)
		if (j <= lane)
			s.l[lane][j] = x[j];
	if (lane == 0 && !good)
		s.failed = 1;
}

// solveRow is step 2: row ← row · (block on the diagonal)⁻ᵀ.
template <int rows> __device__ void solveRow(Panel<rows> &s, int r) {
	double x[width];
#pragma unroll
	for (int j = 0; j < width; j++)
		x[j] = s.l[r][j];
#pragma unroll
	for (int j = 0; j < width; j++) {
		x[j] *= s.inverse[j];
#pragma unroll
		for (int k = j + 1; k < width; k++)
			x[k] -= x[j] * s.l[k][j];
	}
#pragma unroll
	for (int j = 0; j < width; j++)
		s.l[r][j] = x[j];
}

// updateTile is step 3 for the tile whose rows and columns stand from r0 and c0 on in the panel, k0 columns behind the matrix.
template <int rows> __device__ void updateTile(Panel<rows> &s, int lane, int64_t n, int64_t k0, int r0, int c0, double *a) {
	int g = lane / 4, t = lane % 4;
	double tile[4][4][2];
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < 4; j++)
			for (int e = 0; e < 2; e++) {
				int64_t row = k0 + r0 + 8 * i + g, col = k0 + c0 + 8 * j + 2 * t + e;
				tile[i][j][e] = row < n && col <= row ? a[row * n + col] : 0;
			}
	for (int k = 0; k < width; k += 4) {
		double left[4], right[4];
		for (int i = 0; i < 4; i++) {
			left[i] = -s.l[r0 + 8 * i + g][k + t];
			right[i] = s.l[c0 + 8 * i + g][k + t];
		}
		for (int i = 0; i < 4; i++)
			for (int j = 0; j < 4; j++)
				mma(tile[i][j], left[i], right[j]);
	}
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < 4; j++)
			for (int e = 0; e < 2; e++) {
				int64_t row = k0 + r0 + 8 * i + g, col = k0 + c0 + 8 * j + 2 * t + e;
				if (row < n && col <= row)
					a[row * n + col] = tile[i][j][e];
			}
}

// cholesky: block b factors matrix b, of an order up to rows.
template <int rows> __global__ void __launch_bounds__(threads) cholesky(const surgeon_matrix *matrices) {
	auto &s = shared<Panel<rows>>();
	const surgeon_matrix m = matrices[blockIdx.x];
	const int64_t n = m.n;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	if (threadIdx.x == 0)
		s.failed = 0;
	for (int64_t k0 = 0; k0 < n; k0 += width) {
		int height = (int)(n - k0), padded = (int)ceilDiv(height, width) * width;
		for (int r = warp; r < padded; r += threads / 32) {
			double v = 0;
			if (r < height && lane <= r && k0 + lane < n)
				v = m.a[(k0 + r) * n + k0 + lane];
			else if (r >= height && lane == r) // a matrix of order less than 32 goes on as the identity
				v = 1;
			s.l[r][lane] = v;
		}
		__syncthreads();
		if (warp == 0)
			factorBlock(s, lane);
		__syncthreads();
		if (s.failed)
			break;
		for (int r = width + threadIdx.x; r < height; r += threads)
			solveRow(s, r);
		__syncthreads();
		for (int r = warp; r < height; r += threads / 32)
			if (lane <= r && k0 + lane < n)
				m.a[(k0 + r) * n + k0 + lane] = s.l[r][lane];
		int tiles = padded / width - 1; // in a column
		for (int i = 0, at = 0; i < tiles; i++)
			for (int j = 0; j <= i; j++, at++)
				if (at % (threads / 32) == warp)
					updateTile(s, lane, n, k0, (i + 1) * width, (j + 1) * width, m.a);
		__syncthreads();
	}
	if (threadIdx.x == 0)
		*m.info = s.failed;
}

struct Partials {
	double of[32];
};

// verdict: block b looks at matrix b.
__global__ void verdict(const surgeon_matrix *matrices) {
	const surgeon_matrix m = matrices[blockIdx.x];
	double bad = 0;
	for (int64_t i = threadIdx.x; i < m.n; i += blockDim.x) {
		double v = m.a[i * m.n + i];
		bad += v - v == 0 ? 0 : 1;
	}
	bad = blockSum(bad, shared<Partials>().of);
	if (threadIdx.x == 0)
		*m.info = *m.info != 0 || bad > 0;
}

__global__ void identity(int64_t m, int64_t w, double *x) {
	for (int64_t i = first(); i < m * w; i += stride())
		x[i] = i / w == i % w ? 1 : 0;
}

// Column sums of squares: a block of 32×8 threads adds up 256 rows of 32 columns, the next kernel the blocks' sums. Both in a
// fixed order.
const int squaresRows = 256;

struct Sums {
	double of[threads / 32][32];
};

__global__ void squares(int64_t m, int64_t w, const double *x, double *partials) {
	auto &s = shared<Sums>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t j = blockIdx.x * (int64_t)32 + lane, i0 = blockIdx.y * (int64_t)squaresRows;
	double sum = 0;
	for (int64_t i = i0 + warp; j < w && i < i0 + squaresRows && i < m; i += threads / 32)
		sum += x[i * w + j] * x[i * w + j];
	s.of[warp][lane] = sum;
	__syncthreads();
	if (warp == 0 && j < w) {
		for (int v = 1; v < threads / 32; v++)
			sum += s.of[v][lane];
		partials[blockIdx.y * w + j] = sum;
	}
}

__global__ void addPartials(int64_t count, int64_t w, const double *partials, double *d) {
	for (int64_t j = first(); j < w; j += stride()) {
		double sum = 0;
		for (int64_t i = 0; i < count; i++)
			sum += partials[i * w + j];
		d[j] = sum;
	}
}

} // namespace

extern "C" int surgeon_cholesky_small(int64_t count, const surgeon_matrix *matrices, int64_t largest, void *stream) {
	if (largest <= 128) // several blocks on one multiprocessor
		return launch(cholesky<128>, dim3((unsigned)count), threads, sizeof(Panel<128>), stream, matrices);
	return launch(cholesky<SURGEON_CHOLESKY_SMALL>, dim3((unsigned)count), threads, sizeof(Panel<SURGEON_CHOLESKY_SMALL>), stream, matrices);
}

extern "C" int surgeon_cholesky_verdict(int64_t count, const surgeon_matrix *matrices, void *stream) {
	return launch(verdict, dim3((unsigned)count), threads, sizeof(Partials), stream, matrices);
}

extern "C" int surgeon_identity(int64_t m, int64_t w, double *x, void *stream) {
	return launch(identity, elementGrid(m * w), elementThreads, 0, stream, m, w, x);
}

extern "C" int64_t surgeon_squares_partials(int64_t m, int64_t w) { return ceilDiv(m, squaresRows) * w; }

extern "C" int surgeon_squares(int64_t m, int64_t w, const double *x, double *partials, double *d, void *stream) {
	int64_t blocks = ceilDiv(m, squaresRows);
	if (int code = launch(squares, dim3((unsigned)ceilDiv(w, 32), (unsigned)blocks), threads, sizeof(Sums), stream, m, w, x, partials))
		return code;
	return launch(addPartials, elementGrid(w), elementThreads, 0, stream, blocks, w, (const double *)partials, d);
}

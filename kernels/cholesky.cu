// Cholesky factors of many matrices side by side, and what stands around cuBLAS for large ones (cholesky_large.cpp).
//
//	a = l·lᵀ:   l_jj = √(a_jj − Σ_k<j l_jk²),   l_ij = (a_ij − Σ_k<j l_ik·l_jk) / l_jj        lower triangle, in place, float64
//
// n³/3 FLOP each and, as it is done here, some n³/12 bytes of traffic with the cache. cuSOLVER takes one matrix at a time, and up to
// orders of some thousand spends its time on launches and on one column after the other: 1.57 ms for order 1536 on an H100, at a
// hundredth of the rate of products (bench/results, commit 8c76f94). Here all matrices of a call go through the same
// launches, one for each 64 columns of the largest. The idea is LAPACK's, right-looking by panels, with the panel one ahead of the
// rest (look-ahead: Strazdins 1998; Kurzak and Dongarra 2007). Launch p:
//
//	  p−1   p
//	┌────┐                     panel   a block of threads for each 64 rows below the diagonal: takes what panel p−1 does off the block on
//	│    ├────┐                        the diagonal (1) and off its own rows (2), factors the one and solves the others against it
//	│    │ 1  ├────┐           rest    a block of threads for each 64×64 tile (3): takes off what panel p−1 does
//	│    ├────┤ 3  ├────┐
//	│    │ 2  │ 3  │ 3  │      All of this needs panel p−1 alone, so nobody waits within a launch. In the panel
//	└────┴────┴────┴────┘
//
//	k →  ┌────┬────┐           each 32 columns, of the block on the diagonal and the 64 rows below it:
//	     │ 1  │    │           1  one warp factors the 32×32 block on the diagonal, a row in the registers of each lane
//	     ├────┼────┤           2  one thread for each row below solves against it
//	     │ 2  │ 3  │           3  the other 32 columns ← what is left of them, on float64 tensor cores, 32×32 for each warp
//	     ├────┼────┤
//	     │ 2  │ 3  │           Rows are solved by substitution, not by products with an inverse: the error is then that of Cholesky's
//	     └────┴────┘           method, n·ε of the matrix, whatever the block's condition.
//
// Every block of threads of a panel factors the block on the diagonal again, all to the same bits: that takes no longer than to wait for
// one that does it. None may write it while others read it, so the first puts it into scratch memory, and the next launch brings it
// to its place.
//
// A panel takes some 30 µs, of 64 dependent square roots: order 1536, 24 of them, takes 0.75 ms on an H100, and 0.94 ms together with the 13
// other matrices of a block of a transformer of width 576 (surgeon bench ops --filter '^Cholesky of', commit 4c936ec).
//
// What is above the diagonal is neither read nor written. A matrix with a pivot that is not a positive finite number is told of and
// goes on to no good end; a NaN or an infinity in row i comes into pivot i.
#include "tile.cuh"

namespace {

// factorBlock is step 1 in the columns from j0 on, by one warp: lane i holds row i. Lanes above the column at work compute with them
// what nobody reads.
__device__ __forceinline__ void factorBlock(Panel &s, int j0) {
	const int lane = threadIdx.x % 32;
	double x[panelWidth], *row = s.block[j0 + lane] + j0;
#pragma unroll
	for (int j = 0; j < panelWidth; j++)
		x[j] = row[j];
	bool good = true;
#pragma unroll
	for (int j = 0; j < panelWidth; j++) {
		double *column = s.column[j & 1]; // the one before may still be read
		column[lane] = x[j];
		__syncwarp();
		double pivot = column[j], inverse = rsqrt(pivot);
		good = good && pivot > 0 && pivot <= 1.7976931348623157e308;
		if (lane == j) {
			double root = pivot * inverse;
			x[j] = root + 0.5 * inverse * fma(-root, root, pivot); // to the last bit, which nobody waits for
			s.inverse[j0 + j] = inverse;
		} else
			x[j] *= inverse;
#pragma unroll
		for (int k = j + 1; k < panelWidth; k++)
			x[k] -= x[j] * (column[k] * inverse);
	}
#pragma unroll
	for (int j = 0; j < panelWidth; j++)
		if (j <= lane)
			row[j] = x[j];
	if (lane == 0 && !good)
		s.failed = 1;
}

// Work is what a block of threads has of step p of a matrix.
struct Work {
	surgeon_matrix m;
	int64_t p, tiles;

	__device__ double *at(int64_t i, int64_t j) const { return m.a + i * tileSide * m.stride + j * tileSide; }
	__device__ Part part(int64_t i, int64_t j) const { return Part{at(i, j), m.stride, m.n - i * tileSide, m.n - j * tileSide}; }
	// kept is where the block on the diagonal of step q waits for its place: two take turns, for one is read while the other is written.
	__device__ double *kept(int64_t q) const { return m.scratch + q % 2 * tileSide * tileSide; }
	// isThere says whether the matrix has the place (r, c) of tile (i, j) on or below its diagonal.
	__device__ bool isThere(int64_t i, int64_t j, int r, int c) const { return i * tileSide + r < m.n && j * tileSide + c <= i * tileSide + r; }
};

// left is tile (i, j) after panel p−1, with the sign turned.
__device__ __forceinline__ void left(Tile &tile, Stages &stages, const Work &w, int64_t i, int64_t j) {
	const double *a = w.at(i, j);
	forTile(tile, [&](int r, int c, double &v) { v = w.isThere(i, j, r, c) ? -a[r * w.m.stride + c] : 0; });
	if (w.p > 0)
		addProduct<false, true>(tile, stages, w.part(i, w.p - 1), w.part(j, w.p - 1), tileSide);
}

// panel factors the block on the diagonal and solves the rows of tile i against it, if there is one.
__device__ __forceinline__ void panel(Panel &s, const Work &w, int64_t i, bool isFirst) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int64_t n = w.m.n, stride = w.m.stride, p = w.p;
	const bool below = i < w.tiles;
	if (threadIdx.x == 0)
		s.failed = 0;
	Tile tile;
	left(tile, s.stages, w, p, p);
	forTile(tile, [&](int r, int c, double v) {
		s.block[r][c] = p * tileSide + r < n ? -v : r == c ? 1 : 0; // behind its end the matrix goes on as the identity
	});
	if (below) {
		left(tile, s.stages, w, i, p);
		forTile(tile, [&](int r, int c, double v) { s.rows[r][c] = -v; });
	}
	__syncthreads(); // the panel is there
	const int end = below ? 2 * tileSide : tileSide;
	for (int j0 = 0; j0 < tileSide; j0 += panelWidth) {
		if (warp == 0)
			factorBlock(s, j0);
		__syncthreads(); // its factor is there
		if (int r = j0 + panelWidth + threadIdx.x; r < end)
			solveRow(s, r, j0);
		__syncthreads(); // the rows are there
		if (int r0 = panelWidth * (1 + warp); j0 == 0 && r0 < end)
			updateRows(s, r0);
		__syncthreads(); // the other columns are there
	}
	if (below)
		for (int r = warp; r < tileSide && i * tileSide + r < n; r += tileThreads / 32)
			for (int c = lane; c < tileSide; c += 32)
				w.at(i, p)[r * stride + c] = s.rows[r][c];
	if (!isFirst)
		return;
	for (int r = warp; r < tileSide; r += tileThreads / 32)
		for (int c = lane; c <= r; c += 32)
			if (below)
				w.kept(p)[r * tileSide + c] = s.block[r][c];
			else if (w.isThere(p, p, r, c))
				w.at(p, p)[r * stride + c] = s.block[r][c];
	if (threadIdx.x == 0 && (p == 0 || s.failed))
		*w.m.info = s.failed;
}

// step is launch p. Blocks (i, ·) work on matrix i, first those of its panel, for they take longest.
__global__ void __launch_bounds__(tileThreads, 2) step(const surgeon_matrix *matrices, int64_t p) {
	auto &s = shared<Panel>();
	Work w{matrices[blockIdx.x], p, 0};
	w.tiles = w.m.n > 0 ? ceilDiv(w.m.n, tileSide) : 1; // of order 0 there is only the verdict
	if (p >= w.tiles)
		return;
	const int64_t rest = w.tiles - 1 - p, panels = rest > 0 ? rest : 1;
	int64_t at = blockIdx.y;
	if (at < panels) {
		panel(s, w, p + 1 + at, at == 0);
		return;
	}
	if (p == 0)
		return;
	at -= panels;
	if (at == 0) {
		for (int r = threadIdx.x / 32; r < tileSide; r += tileThreads / 32)
			for (int c = threadIdx.x % 32; c <= r; c += 32)
				w.at(p - 1, p - 1)[r * w.m.stride + c] = w.kept(p - 1)[r * tileSide + c];
		return;
	}
	at--;
	int64_t row = 0; // the tiles of the rest are counted row by row
	for (; at > row; row++)
		at -= row + 1;
	const int64_t i = p + 1 + row, j = p + 1 + at;
	if (i >= w.tiles)
		return;
	Tile tile;
	left(tile, s.stages, w, i, j);
	double *a = w.at(i, j);
	forTile(tile, [&](int r, int c, double v) {
		if (w.isThere(i, j, r, c))
			a[r * w.m.stride + c] = -v;
	});
}

__global__ void identity(int64_t m, int64_t w, double *x) {
	for (int64_t i = first(); i < m * w; i += stride())
		x[i] = i / w == i % w ? 1 : 0;
}

__global__ void copyRows(int64_t m, int64_t w, const double *x, int64_t apart, double *y) {
	for (int64_t i = first(); i < m * w; i += stride())
		y[i] = x[i / w * apart + i % w];
}

// Column sums of squares: a block of 32×8 threads adds up 256 rows of 32 columns, the next kernel the blocks' sums. Both in a
// fixed order.
const int squaresThreads = 256, squaresRows = 256;

struct Sums {
	double of[squaresThreads / 32][32];
};

__global__ void squares(int64_t m, int64_t w, const double *x, double *partials) {
	auto &s = shared<Sums>();
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t j = blockIdx.x * (int64_t)32 + lane, i0 = blockIdx.y * (int64_t)squaresRows;
	double sum = 0;
	for (int64_t i = i0 + warp; j < w && i < i0 + squaresRows && i < m; i += squaresThreads / 32)
		sum += x[i * w + j] * x[i * w + j];
	s.of[warp][lane] = sum;
	__syncthreads();
	if (warp == 0 && j < w) {
		for (int v = 1; v < squaresThreads / 32; v++)
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

extern "C" int64_t surgeon_cholesky_scratch(int64_t n) { return n > tileSide ? 2 * tileSide * tileSide : 0; }

extern "C" int surgeon_cholesky_many(int64_t count, const surgeon_matrix *matrices, const int64_t *orders, void *stream) {
	int code = 0;
	for (int64_t p = 0; count > 0 && code == 0; p++) {
		int64_t rest = tilesOf(orders[0]) - 1 - p, blocks = rest > 0 ? rest : 1;
		if (p > 0)
			blocks += 1 + packedLength(rest);
		code = launch(step, dim3((unsigned)count, (unsigned)blocks), tileThreads, sizeof(Panel), stream, matrices, p);
		while (count > 0 && tilesOf(orders[count - 1]) <= p + 1) // these are done
			count--;
	}
	return code;
}

extern "C" int surgeon_copy_rows(int64_t m, int64_t w, const double *x, int64_t stride, double *y, void *stream) {
	return launch(copyRows, elementGrid(m * w), elementThreads, 0, stream, m, w, x, stride, y);
}

extern "C" int surgeon_identity(int64_t m, int64_t w, double *x, void *stream) {
	return launch(identity, elementGrid(m * w), elementThreads, 0, stream, m, w, x);
}

extern "C" int64_t surgeon_squares_partials(int64_t m, int64_t w) { return ceilDiv(m, squaresRows) * w; }

extern "C" int surgeon_squares(int64_t m, int64_t w, const double *x, double *partials, double *d, void *stream) {
	int64_t blocks = ceilDiv(m, squaresRows);
	if (int code = launch(squares, dim3((unsigned)ceilDiv(w, 32), (unsigned)blocks), squaresThreads, sizeof(Sums), stream, m, w, x, partials))
		return code;
	return launch(addPartials, elementGrid(w), elementThreads, 0, stream, blocks, w, (const double *)partials, d);
}

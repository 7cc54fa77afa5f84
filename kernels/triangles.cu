// Inverses of many triangular matrices side by side, and by them the diagonals of (l·lᵀ)⁻¹ and the solutions of systems with several
// right sides. What triangle.cpp does for one l by cuBLAS takes some forty launches at order 1536, each for a part of a GPU; here all
// matrices of a call go through the same ones: 2 + 2·log₂(n/64), and one more for solutions.
//
//	x = l⁻¹:   [ D   0 ]⁻¹   [     D⁻¹       0  ]
//	           [ L   E ]   = [ −E⁻¹·L·D⁻¹   E⁻¹ ]        float64, row-major
//
// The blocks of 64×64 on the diagonal are inverted by substitution, then pairs of neighbours are put together, then pairs of these.
// n³/3 FLOP for all: of the products with D⁻¹ and E⁻¹, which are triangles, only the tiles that are not zero are taken. L·D⁻¹ has room
// where x is zero, above the diagonal, transposed:
//
//	┌────┐                      first    t_jr = Σ_k l_rk·x_kj       k from j's tile to the end of D
//	│D⁻¹ │ t        half        second   x_rj = −Σ_k x_rk·t_jk      k from the beginning of E to r's tile
//	├────┼────┐
//	│ x  │E⁻¹ │                 A block of threads for each tile of x, as far as it is there. No more of x than tiles on and
//	└────┴────┘                 below the diagonal is ever read here; above the diagonal of those on it there are zeros.
//	                            For cholesky_large.cpp, which reads all of x, there are zeros everywhere above it.
//
// Then
//
//	d_j = Σ_i≥j x_ij²                            8·n²/2 bytes
//	b ← xᵀ·(x·b),   or, right,  b ← (b·xᵀ)·x     2·n²·m FLOP
//
// Products with the inverse have substitution's bound for the error, the condition of l times ε each. Tried with matrices of conditions from
// 10⁴ to 10¹¹: the solution is off by twice as much as by substitution, the diagonal by as much; the residual is 3 to 30 times as large,
// which only matters where it is what counts.
//
// For n/20 right sides, as an update has them, the inverse is three times the work of the solutions; but solving for 64 unknowns
// after the other would take 4·n/64 launches with little in each. Reasoned, not measured.
#include "tile.cuh"

namespace {

// Triangle is what the kernels below see of one.
struct Triangle {
	surgeon_triangle t;

	__device__ int64_t tiles() const { return ceilDiv(t.n, tileSide); }
	__device__ Part l(int64_t i, int64_t j) const { return Part{t.l + i * tileSide * t.stride + j * tileSide, t.stride, t.n - i * tileSide, t.n - j * tileSide}; }
	__device__ Part x(int64_t i, int64_t j) const { return part(t.inverse, t.n, t.n, i, j); }
	// upTo is how many numbers of a row are in tiles from first to last.
	__device__ int64_t upTo(int64_t first, int64_t last) const { return (last + 1) * tileSide < t.n ? (last + 1 - first) * tileSide : t.n - first * tileSide; }

	// part is what is left of a matrix from tile (i, j) on.
	static __device__ Part part(const double *a, int64_t rows, int64_t cols, int64_t i, int64_t j) {
		return Part{a + i * tileSide * cols + j * tileSide, cols, rows - i * tileSide, cols - j * tileSide};
	}
};

// invertBlocks: block (i, p) inverts block p on the diagonal of matrix i. Row r of the identity, solved against the block, is column r
// of the inverse.
__global__ void __launch_bounds__(tileThreads) invertBlocks(const surgeon_triangle *triangles) {
	auto &s = shared<Panel>();
	const Triangle m{triangles[blockIdx.x]};
	const int64_t p = blockIdx.y, n = m.t.n;
	if (p >= m.tiles())
		return;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int height = (int)m.upTo(p, p);
	const double *l = m.l(p, p).at;
	double *x = m.t.inverse + p * tileSide * (n + 1);
	for (int r = warp; r < tileSide; r += tileThreads / 32)
		for (int c = lane; c < tileSide; c += 32) {
			double same = r == c ? 1 : 0;
			s.block[r][c] = r < height && c <= r ? l[r * m.t.stride + c] : same; // behind its end the matrix goes on as the identity
			s.rows[r][c] = same;
		}
	__syncthreads(); // the panel is there
	if (threadIdx.x < tileSide)
		s.inverse[threadIdx.x] = 1 / s.block[threadIdx.x][threadIdx.x];
	__syncthreads(); // the inverses of the diagonal are there
	for (int j0 = 0; j0 < tileSide; j0 += panelWidth) {
		if (threadIdx.x < tileSide)
			solveRow(s, tileSide + threadIdx.x, j0);
		__syncthreads(); // the rows are there
		if (j0 == 0 && warp < 2)
			updateRows(s, tileSide + warp * panelWidth);
		__syncthreads(); // the other columns are there
	}
	for (int r = warp; r < height; r += tileThreads / 32)
		for (int c = lane; c < height; c += 32)
			x[r * n + c] = c <= r ? s.rows[c][r] : 0;
}

// join: blocks (i, ·) put pairs of blocks of `half` tiles of matrix i together, at most `pairs` of them, the tiles with the longest sums
// first.
template <bool isFirst> __global__ void __launch_bounds__(tileThreads) join(const surgeon_triangle *triangles, int64_t half, int64_t pairs) {
	auto &s = shared<Stages>();
	const Triangle m{triangles[blockIdx.x]};
	const int64_t n = m.t.n, slow = blockIdx.y / (pairs * half), pair = blockIdx.y / half % pairs, fast = blockIdx.y % half;
	const int64_t d0 = pair * 2 * half, e0 = d0 + half;
	const int64_t row = e0 + (isFirst ? fast : half - 1 - slow), col = d0 + (isFirst ? slow : fast);
	if (row >= m.tiles())
		return;
	Tile tile = {};
	if (isFirst) {
		addProduct<false, false>(tile, s, m.l(row, col), m.x(col, col), m.upTo(col, e0 - 1));
		double *t = m.t.inverse + col * tileSide * n + row * tileSide;
		const int64_t height = m.upTo(row, row);
		forTile(tile, [&](int r, int c, double v) {
			if (r < height)
				t[c * n + r] = v;
		});
	} else {
		addProduct<false, true>(tile, s, m.x(row, e0), m.x(col, e0), m.upTo(e0, row));
		double *x = m.t.inverse + row * tileSide * n + col * tileSide;
		const int64_t height = m.upTo(row, row);
		forTile(tile, [&](int r, int c, double v) {
			if (r < height)
				x[r * n + c] = -v;
		});
	}
}

// clear: block (i, r) puts zeros above the diagonal in row r of inverse i.
__global__ void clear(const surgeon_triangle *triangles) {
	const surgeon_triangle m = triangles[blockIdx.x];
	const int64_t row = blockIdx.y;
	for (int64_t j = row + 1 + threadIdx.x; row < m.n && j < m.n; j += blockDim.x)
		m.inverse[row * m.n + j] = 0;
}

// squares: block (i, j) adds up 32 columns of inverse i, a row for each warp, then what the warps have. Both in
// a fixed order.
const int squaresThreads = 1024; // a row is read when the one before has hardly arrived
struct Squares {
	double of[squaresThreads / 32][33];
};

__global__ void __launch_bounds__(squaresThreads) squares(const surgeon_triangle *triangles) {
	auto &s = shared<Squares>();
	const surgeon_triangle m = triangles[blockIdx.x];
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int64_t j0 = blockIdx.y * (int64_t)32, j = j0 + lane;
	if (j0 >= m.n)
		return;
	double sum = 0;
#pragma unroll 4
	for (int64_t i = j0 + warp; i < m.n; i += squaresThreads / 32) { // from the block on the diagonal on, which has its zeros
		double x = j < m.n ? m.inverse[i * m.n + j] : 0;
		sum += x * x;
	}
	s.of[warp][lane] = sum;
	__syncthreads();
	sum = warpSum(s.of[lane][warp]);
	if (lane == 0 && j0 + warp < m.n)
		m.b[j0 + warp] = sum;
}

// apply: of 64 right sides of system i block (64 right sides · count + i, j) makes 64 unknowns, those with the longest sums first.
// From b to between first, then from there to b.
template <bool right, bool isFirst> __global__ void __launch_bounds__(tileThreads) apply(const surgeon_triangle *triangles, int64_t count, int64_t tiles) {
	auto &s = shared<Stages>();
	const Triangle m{triangles[blockIdx.x % count]};
	const int64_t n = m.t.n, others = m.t.m, side = blockIdx.x / count, unknown = isFirst ? tiles - 1 - blockIdx.y : blockIdx.y;
	if (unknown >= m.tiles() || side * tileSide >= others)
		return;
	const int64_t rows = right ? others : n, cols = right ? n : others, row = right ? side : unknown, col = right ? unknown : side;
	const double *from = isFirst ? m.t.b : m.t.between;
	const int64_t inner = isFirst ? m.upTo(0, unknown) : n - unknown * tileSide;
	Tile tile = {};
	if (!right && isFirst)
		addProduct<false, false>(tile, s, m.x(row, 0), Triangle::part(from, rows, cols, 0, col), inner);
	else if (!right)
		addProduct<true, false>(tile, s, m.x(row, row), Triangle::part(from, rows, cols, row, col), inner);
	else if (isFirst)
		addProduct<false, true>(tile, s, Triangle::part(from, rows, cols, row, 0), m.x(col, 0), inner);
	else
		addProduct<false, false>(tile, s, Triangle::part(from, rows, cols, row, col), m.x(col, col), inner);
	const int64_t height = rows - row * tileSide, width = cols - col * tileSide;
	double *to = (isFirst ? m.t.between : m.t.b) + row * tileSide * cols + col * tileSide;
	forTile(tile, [&](int r, int c, double v) {
		if (r < height && c < width)
			to[r * cols + c] = v;
	});
}

int invert(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, void *stream) {
	const int64_t tiles = count > 0 ? tilesOf(orders[0]) : 0;
	int code = launch(invertBlocks, dim3((unsigned)count, (unsigned)tiles), tileThreads, sizeof(Panel), stream, triangles);
	for (int64_t half = 1; half < tiles && code == 0; half *= 2) {
		while (tilesOf(orders[count - 1]) <= half) // these are done
			count--;
		const int64_t pairs = ceilDiv(tiles - half, 2 * half);
		const dim3 grid((unsigned)count, (unsigned)(pairs * half * half));
		code = launch(join<true>, grid, tileThreads, sizeof(Stages), stream, triangles, half, pairs);
		if (code == 0)
			code = launch(join<false>, grid, tileThreads, sizeof(Stages), stream, triangles, half, pairs);
	}
	return code;
}

template <bool right> int solve(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, int64_t others, void *stream) {
	if (others == 0)
		return 0;
	int code = invert(count, triangles, orders, stream);
	const int64_t tiles = count > 0 ? tilesOf(orders[0]) : 0;
	const dim3 grid((unsigned)(count * tilesOf(others)), (unsigned)tiles);
	if (code == 0)
		code = launch(apply<right, true>, grid, tileThreads, sizeof(Stages), stream, triangles, count, tiles);
	if (code == 0)
		code = launch(apply<right, false>, grid, tileThreads, sizeof(Stages), stream, triangles, count, tiles);
	return code;
}

} // namespace

extern "C" int64_t surgeon_triangles_scratch(int64_t n, int64_t m) { return n * (n + m); }

extern "C" int surgeon_triangles_invert(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, void *stream) {
	if (int code = invert(count, triangles, orders, stream))
		return code;
	return launch(clear, dim3((unsigned)count, count > 0 ? (unsigned)orders[0] : 0), elementThreads, 0, stream, triangles);
}

extern "C" int surgeon_triangles_inverse_diagonal(int64_t count, const surgeon_triangle *triangles, const int64_t *orders, void *stream) {
	if (int code = invert(count, triangles, orders, stream))
		return code;
	return launch(squares, dim3((unsigned)count, count > 0 ? (unsigned)ceilDiv(orders[0], 32) : 0), squaresThreads, sizeof(Squares), stream, triangles);
}

extern "C" int surgeon_triangles_solve(int right, int64_t count, const surgeon_triangle *triangles, const int64_t *orders, int64_t others, void *stream) {
	return right ? solve<true>(count, triangles, orders, others, stream) : solve<false>(count, triangles, orders, others, stream);
}

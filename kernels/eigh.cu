// Eigenvalues and eigenvectors of symmetric matrices, many at once, by a blocked two-sided Jacobi method:
//
//	a = V·diag(w)·Vᵀ      repeat  a ← Qᵀ·a·Q, V ← V·Q  for rotations Q that make a more diagonal;  eigenvector j is column j of V
//
// float64, n×n, lower triangle. About 8·n³ FLOP for each sweep over all pairs, six to a dozen sweeps from cold, and fewer
// from vectors that are nearly right (surgeon_eigh_rotate in library.cpp brings a to them first): tridiagonal methods, about
// 9·n³ in all, cannot use such a beginning, do half of that in products of a matrix and a vector, and take one matrix at a
// time. One-sided Jacobi (Hestenes) would do without the sums over rows, but of a it makes aᵀ·a: it gives singular
// values, and loses the signs and the close ones near zero. Two-sided, with pairs of blocks: Bečka, Okša, Vajteršic 2002.
//
// The matrix is cut into blocks of 32 rows and columns. A step takes the blocks in pairs, (I, J), every block in one pair;
// the steps of a sweep let every block meet every other once, in the order of a tournament. Per step two kernels:
//
//	rotate   for each pair the 64×64 matrix of its rows and columns is made nearly diagonal in shared memory, by up to two
//	         sweeps of ordinary rotations, again in the order of a tournament: 32 at a time touch disjoint rows and columns.
//	         Their product is Q, stored transposed. A pair without an element worth a rotation is left still.
//	apply    each 64×64 tile of a below the diagonal, between pairs i and j: tile ← Q_iᵀ·tile·Q_j; and of V: tile ← tile·Q_j;
//	         on float64 tensor cores.
//
//	          J₀   I₁    I₀   J₁          only the lower triangle of a is stored: the part of a tile that
//	       ⎡  0                 ⎤         would lie above is read and written as its mirror image
//	       ⎢  ╳    1            ⎥
//	       ⎢  0    ╳    0       ⎥         0, 1: what rotate does for pairs 0 and 1     ╳: the tile (1, 0)
//	       ⎣  ╳    1    ╳    1  ⎦
//
// A rotation leaves the larger of its two diagonal elements in front: spectra that fall off steeply then take a third less
// sweeps (order 200, falling by 10⁸: 10 instead of 15). A second sweep inside a pair saves about a third more, a third
// one saves less than it costs.
//
// It is done when |off-diagonal| ≤ 1e-14·|a| (Frobenius). Elements that together cannot matter to that, below 1e-14·|a|/n, are
// left alone. Rounding may keep a cluster of equal eigenvalues a little above: where a sweep gains nothing any more, n·ε·|a|,
// the bound of other methods, is enough. Everything is in a fixed order: the same bits at every run.
//
// At n = 576, 32 matrices: a step moves some 0.3 GB and does 2.9 GFLOP, by arithmetic 0.1 ms of an H100, beside rotate, where each of
// 288 blocks makes 2·63 dependent steps in shared memory, which is what bounds it. All steps take 70 ms from cold, 22 ms warm, and
// cuSOLVER's batch 43 to 46 (surgeon bench ops --filter ^Eigh on an H100).
#include "tensor.cuh"

namespace {

const int blockSize = 32;         // a rotation for each lane of a warp
const int order = 2 * blockSize;  // of a pair
const int threads = 256;
const int warps = threads / 32;
const int innerSweeps = 2;
const double tolerance = 1e-14;
const double epsilon = 2.220446049250313e-16;
// smallAngle: where no tangent of a sweep was larger, what is left is of its square, and another sweep inside the pair is not
// worth its time.
const double smallAngle = 1e-4;

const int running = SURGEON_EIGH_RUNNING, done = SURGEON_EIGH_DONE, failed = SURGEON_EIGH_FAILED;

__host__ __device__ int64_t blocksOf(int64_t n) { return ceilDiv(n, blockSize); }

// playersOf is the number of blocks, with one that does not exist where it is odd: who meets it has no partner.
__host__ __device__ int64_t playersOf(int64_t n) {
	int64_t b = blocksOf(n);
	return b < 2 ? 2 : b + b % 2;
}

// meet is pair k of a round of a tournament of an even number of players: the last one stays in its place, the others go
// round. first < second.
struct Meeting {
	int first, second;
};
__host__ __device__ Meeting meet(int players, int round, int k) {
	int ring = players - 1;
	int x = round + k, y = round - k;
	x = k == 0 ? ring : x >= ring ? x - ring : x; // no division: this is asked for in the innermost loop
	y = y < 0 ? y + ring : y;
	return x < y ? Meeting{x, y} : Meeting{y, x};
}

// Scratch is how the scratch memory of a matrix is laid out.
struct Scratch {
	double *rotations; // Qᵀ of each pair, 64×64
	double *state;     // norm, off-diagonal norm at the last check, exponent
	double *partials;  // two for each block of rows
	int *still;        // for each pair: no rotation
	int *rank;         // for each eigenvalue
};
__device__ Scratch scratchOf(const surgeon_eigen &m) {
	int64_t pairs = playersOf(m.n) / 2;
	Scratch s;
	s.rotations = m.scratch;
	s.state = s.rotations + pairs * order * order;
	s.partials = s.state + 3;
	s.still = (int *)(s.partials + 2 * blocksOf(m.n));
	s.rank = s.still + pairs;
	return s;
}

struct Reduction {
	double of[32];
};

// larger is max(x, y), NaN where one is.
__device__ __forceinline__ double larger(double x, double y) { return y > x || y != y ? y : x; }

// largest: the largest element of 32 rows of the lower triangle.
__global__ void largest(const surgeon_eigen *matrices) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n, i0 = blockIdx.x * (int64_t)blockSize;
	if (i0 >= n)
		return;
	auto &s = shared<Reduction>();
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	double x = 0;
	for (int64_t i = i0 + warp; i < i0 + blockSize && i < n; i += warps)
		for (int64_t j = lane; j <= i; j += 32)
			x = larger(x, fabs(m.a[i * n + j]));
	for (int l = 16; l > 0; l >>= 1)
		x = larger(x, __shfl_xor_sync(allLanes, x, l));
	if (lane == 0)
		s.of[warp] = x;
	__syncthreads();
	if (threadIdx.x == 0) {
		for (int w = 1; w < warps; w++)
			x = larger(x, s.of[w]);
		scratchOf(m).partials[blockIdx.x] = x;
	}
}

struct Tile {
	double x[blockSize][blockSize + 1];
};

// begin: a, lower triangle ← a·2^−e, so that squares neither overflow nor vanish; the upper triangle ← its mirror image; V ← I,
// or, warm, the vectors that are given.
__global__ void begin(const surgeon_eigen *matrices, int warm) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n, i0 = blockIdx.x * (int64_t)blockSize;
	if (i0 >= n)
		return;
	auto &tile = shared<Tile>();
	Scratch s = scratchOf(m);
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	double top = 0;
	for (int64_t b = 0; b < blocksOf(n); b++)
		top = larger(top, s.partials[b]);
	bool finite = top - top == 0;
	int e = finite && top > 0 ? ilogb(top) : 0;
	if (blockIdx.x == 0 && threadIdx.x == 0) {
		s.state[2] = e;
		*m.status = finite ? running : failed;
	}
	for (int64_t j0 = 0; j0 <= i0; j0 += blockSize) {
		for (int r = warp; r < blockSize; r += warps) {
			int64_t i = i0 + r, j = j0 + lane;
			if (i < n && j <= i)
				tile.x[r][lane] = m.a[i * n + j] = scalbn(m.a[i * n + j], -e);
		}
		__syncthreads();
		for (int c = warp; c < blockSize; c += warps) {
			int64_t i = i0 + lane, j = j0 + c;
			if (i < n && j < i)
				m.a[j * n + i] = tile.x[lane][c];
		}
		__syncthreads();
	}
	if (m.v == nullptr)
		return;
	for (int64_t i = i0 + warp; i < i0 + blockSize && i < n; i += warps)
		for (int64_t j = lane; j < n; j += 32)
			m.v[i * n + j] = warm ? m.vectors[i * n + j] : i == j ? 1 : 0;
}

// measure: sums of squares of 32 rows, off the diagonal and on it.
__global__ void measure(const surgeon_eigen *matrices) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n, i0 = blockIdx.x * (int64_t)blockSize;
	if (i0 >= n || *m.status != running)
		return;
	auto &s = shared<Reduction>();
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	double off = 0, on = 0;
	for (int64_t i = i0 + warp; i < i0 + blockSize && i < n; i += warps)
		for (int64_t j = lane; j <= i; j += 32) {
			double v = m.a[i * n + j];
			if (j < i)
				off += v * v;
			else
				on += v * v;
		}
	off = blockSum(off, s.of);
	on = blockSum(on, s.of);
	if (threadIdx.x == 0) {
		double *p = scratchOf(m).partials + 2 * blockIdx.x;
		p[0] = 2 * off;
		p[1] = on;
	}
}

__global__ void decide(const surgeon_eigen *matrices, int isFirst) {
	const surgeon_eigen m = matrices[blockIdx.x];
	if (m.n == 0 || threadIdx.x != 0 || *m.status != running)
		return;
	Scratch s = scratchOf(m);
	double off = 0, on = 0;
	for (int64_t b = 0; b < blocksOf(m.n); b++) {
		off += s.partials[2 * b];
		on += s.partials[2 * b + 1];
	}
	on = sqrt(off + on);
	off = sqrt(off);
	if (isFirst)
		s.state[0] = on;
	double norm = s.state[0];
	if (!(on - on == 0))
		*m.status = failed;
	else if (off <= tolerance * norm || (!isFirst && off <= m.n * epsilon * norm && off > s.state[1] / 2))
		*m.status = done;
	s.state[1] = off;
}

struct Pair {
	double a[order][order + 1]; // so that a column lies in different banks
	double q[order][order];     // Qᵀ
	double c[blockSize], s[blockSize];
};

// angle makes (x, y) of a zero: new row x = c·x − s·y, new row y = s·x + c·y, and columns alike. The larger diagonal element
// comes to x.
__device__ void angle(double axx, double ayy, double axy, double tiny, double &c, double &s, bool &large) {
	c = 1;
	s = 0;
	if (!(fabs(axy) > tiny))
		return;
	double tau = (ayy - axx) / (2 * axy);
	double t = copysign(1 / (fabs(tau) + sqrt(1 + tau * tau)), tau);
	c = 1 / sqrt(1 + t * t);
	s = t * c;
	bool swap = axx - t * axy < ayy + t * axy;
	if (swap) {
		double old = c;
		c = s;
		s = -old;
	}
	if (swap || fabs(t) > smallAngle)
		large = true;
}

// rotate: block (k, m) is for pair k of matrix m.
__global__ void __launch_bounds__(threads) rotate(const surgeon_eigen *matrices, int round) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n;
	const int players = (int)playersOf(n), k = blockIdx.x;
	if (k >= players / 2 || round >= players - 1 || *m.status != running)
		return;
	auto &s = shared<Pair>();
	Scratch z = scratchOf(m);
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const Meeting blocks = meet(players, round, k);
	auto place = [&](int r) { return (int64_t)(r < blockSize ? blocks.first : blocks.second - 1) * blockSize + r; };
	// The rows that are there come first: only the last block is not full, and it is second, or alone.
	int size = 0;
	for (int b = 0; b < 2; b++) {
		int64_t left = n - (int64_t)(b ? blocks.second : blocks.first) * blockSize;
		size += left < 0 ? 0 : left < blockSize ? (int)left : blockSize;
	}
	size += size % 2;
	const double tiny = tolerance * z.state[0] / n;
	bool any = false;
	for (int r = warp; r < order; r += warps)
		for (int c = lane; c < order; c += 32) {
			s.q[r][c] = r == c ? 1 : 0;
			if (c > r)
				continue;
			double v = place(r) < n ? m.a[place(r) * n + place(c)] : 0;
			s.a[r][c] = v;
			s.a[c][r] = v;
			any = any || (c < r && fabs(v) > tiny);
		}
	any = __syncthreads_or(any);
	if (threadIdx.x == 0)
		z.still[k] = !any;
	if (!any)
		return;
	for (int sweep = 0; sweep < innerSweeps; sweep++) {
		bool large = false;
		for (int turn = 0; turn < size - 1; turn++) {
			const Meeting mine = meet(size, turn, lane < size / 2 ? lane : 0);
			if (warp == 0 && lane < size / 2)
				angle(s.a[mine.first][mine.first], s.a[mine.second][mine.second], s.a[mine.second][mine.first], tiny, s.c[lane], s.s[lane], large);
			__syncthreads();
			// Rotation i of the rows and rotation `lane` of the columns meet in four elements, which one thread works on.
			const double cj = s.c[lane], sj = s.s[lane];
			for (int i = warp; i < size / 2; i += warps) {
				const double ci = s.c[i], si = s.s[i];
				const Meeting rows = meet(size, turn, i);
				if (lane < size / 2) {
					double *x = s.a[rows.first], *y = s.a[rows.second];
					double xx = x[mine.first], xy = x[mine.second], yx = y[mine.first], yy = y[mine.second];
					double px = cj * xx - sj * xy, py = sj * xx + cj * xy;
					double qx = cj * yx - sj * yy, qy = sj * yx + cj * yy;
					bool zero = i == lane && si != 0;
					x[mine.first] = ci * px - si * qx;
					x[mine.second] = zero ? 0 : ci * py - si * qy;
					y[mine.first] = zero ? 0 : si * px + ci * qx;
					y[mine.second] = si * py + ci * qy;
				}
				if (si != 0)
					for (int c = lane; c < order; c += 32) {
						double u = s.q[rows.first][c], v = s.q[rows.second][c];
						s.q[rows.first][c] = ci * u - si * v;
						s.q[rows.second][c] = si * u + ci * v;
					}
			}
			__syncthreads();
		}
		if (!__syncthreads_or(large))
			break;
	}
	double *q = z.rotations + (int64_t)k * order * order;
	for (int r = warp; r < order; r += warps)
		for (int c = lane; c < order; c += 32) {
			q[r * order + c] = s.q[r][c];
			if (c <= r && place(r) < n)
				m.a[place(r) * n + place(c)] = s.a[r][c];
		}
}

// A row of a tile is 4 modulo 16 doubles long, so that the 8 rows × 4 columns, or 4 × 8, of a fragment lie in different banks.
const int pitch = order + 4;

struct Product {
	double t[order][pitch];
	double q[order][pitch];
};

// multiply is t ← Q_iᵀ·t (left) or t ← t·Q_j, s.q being the transposed Q. A warp makes 32×16 of it.
template <bool left> __device__ void multiply(Product &s) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	const int r0 = warp / 4 * 32, c0 = warp % 4 * 16;
	double sum[4][2][2];
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 2; j++)
			sum[i][j][0] = sum[i][j][1] = 0;
#pragma unroll 4
	for (int k = 0; k < order; k += 4) {
		double a[4], b[2];
#pragma unroll
		for (int i = 0; i < 4; i++)
			a[i] = left ? s.q[r0 + 8 * i + g][k + t] : s.t[r0 + 8 * i + g][k + t];
#pragma unroll
		for (int j = 0; j < 2; j++)
			b[j] = left ? s.t[k + t][c0 + 8 * j + g] : s.q[c0 + 8 * j + g][k + t];
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int j = 0; j < 2; j++)
				mma(sum[i][j], a[i], b[j]);
	}
	__syncthreads();
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 2; j++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				s.t[r0 + 8 * i + g][c0 + 8 * j + 2 * t + e] = sum[i][j][e];
}

__device__ void loadRotation(Product &s, const double *q) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 4
	for (int r = warp; r < order; r += warps)
		for (int c = lane; c < order; c += 32)
			s.q[r][c] = q[r * order + c];
}

// eachElement calls f(element of the tile, place in a) for the tile between two pairs of blocks. In a part that lies below the
// diagonal a warp goes along a row of a; in one that lies above, and is stored as its mirror image, along 8 elements of 4 rows
// of a: so neither has bank conflicts, and what is read of a row is 64 bytes at the least.
template <class F> __device__ __forceinline__ void eachElement(Product &s, const surgeon_eigen &m, Meeting rows, Meeting cols, F f) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int64_t n = m.n;
#pragma unroll 2 // more spills
	for (int part = 0; part < 4; part++) {
		const int64_t i0 = (int64_t)(part / 2 ? rows.second : rows.first) * blockSize, j0 = (int64_t)(part % 2 ? cols.second : cols.first) * blockSize;
		const bool below = i0 > j0;
#pragma unroll
		for (int step = 0; step < blockSize; step += 8) {
			const int r = below ? step + warp : step + lane / 4, c = below ? lane : 4 * warp + lane % 4;
			const int64_t i = i0 + r, j = j0 + c;
			f(s.t[part / 2 * blockSize + r][part % 2 * blockSize + c], i < n && j < n ? m.a + (below ? i * n + j : j * n + i) : nullptr);
		}
	}
}

// apply: block (t, m) is for tile t of matrix m, first those of a, then those of V.
__global__ void __launch_bounds__(threads, 3) apply(const surgeon_eigen *matrices, int round) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n;
	const int players = (int)playersOf(n), pairs = players / 2;
	const int below = pairs * (pairs - 1) / 2;
	if (round >= players - 1 || blockIdx.x >= below + pairs * ceilDiv(n, order) || *m.status != running)
		return;
	auto &s = shared<Product>();
	Scratch z = scratchOf(m);
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	if ((int)blockIdx.x < below) {
		int i = 1, j = blockIdx.x;
		while (j >= i)
			j -= i++;
		const bool stillI = z.still[i], stillJ = z.still[j];
		if (stillI && stillJ)
			return;
		const Meeting rows = meet(players, round, i), cols = meet(players, round, j);
		eachElement(s, m, rows, cols, [](double &x, const double *at) { x = at ? *at : 0; });
		if (!stillI) {
			loadRotation(s, z.rotations + (int64_t)i * order * order);
			__syncthreads();
			multiply<true>(s);
		}
		__syncthreads();
		if (!stillJ) {
			loadRotation(s, z.rotations + (int64_t)j * order * order);
			__syncthreads();
			multiply<false>(s);
		}
		__syncthreads();
		eachElement(s, m, rows, cols, [](double &x, double *at) {
			if (at)
				*at = x;
		});
		return;
	}
	const int64_t t = blockIdx.x - below, r0 = t / pairs * order;
	const int j = (int)(t % pairs);
	if (z.still[j])
		return;
	const Meeting cols = meet(players, round, j);
	loadRotation(s, z.rotations + (int64_t)j * order * order);
	for (int r = warp; r < order; r += warps)
		for (int half = 0; half < 2; half++) {
			int64_t row = r0 + r, col = (int64_t)(half ? cols.second : cols.first) * blockSize + lane;
			s.t[r][half * blockSize + lane] = row < n && col < n ? m.v[row * n + col] : 0;
		}
	__syncthreads();
	multiply<false>(s);
	__syncthreads();
	for (int r = warp; r < order; r += warps)
		for (int half = 0; half < 2; half++) {
			int64_t row = r0 + r, col = (int64_t)(half ? cols.second : cols.first) * blockSize + lane;
			if (row < n && col < n)
				m.v[row * n + col] = s.t[r][half * blockSize + lane];
		}
}

// rank: the place of every eigenvalue among them, equal ones in the order of their columns.
__global__ void rank(const surgeon_eigen *matrices) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n, i = first();
	if (i >= n || *m.status != done)
		return;
	Scratch s = scratchOf(m);
	const double w = m.a[i * n + i];
	int r = 0;
	for (int64_t j = 0; j < n; j++) {
		double v = m.a[j * n + j];
		r += v < w || (v == w && j < i);
	}
	s.rank[i] = r;
	m.values[r] = scalbn(w, (int)s.state[2]);
}

// arrange: column rank_j of vectors ← column j of V, 32 rows.
__global__ void arrange(const surgeon_eigen *matrices) {
	const surgeon_eigen m = matrices[blockIdx.y];
	const int64_t n = m.n, i0 = blockIdx.x * (int64_t)blockSize;
	if (i0 >= n || *m.status != done)
		return;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int *rank = scratchOf(m).rank;
	for (int64_t i = i0 + warp; i < i0 + blockSize && i < n; i += warps)
		for (int64_t j = lane; j < n; j += 32)
			m.vectors[i * n + rank[j]] = m.v[i * n + j];
}

// transpose: cuSOLVER leaves eigenvector j in row j of a. The values get their scale back.
__global__ void transpose(const surgeon_eigen *matrices) {
	const surgeon_eigen m = matrices[0];
	auto &tile = shared<Tile>();
	const int64_t n = m.n, i0 = blockIdx.x * (int64_t)blockSize, j0 = blockIdx.y * (int64_t)blockSize;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	for (int r = warp; r < blockSize; r += warps)
		if (i0 + r < n && j0 + lane < n)
			tile.x[r][lane] = m.a[(i0 + r) * n + j0 + lane];
	__syncthreads();
	for (int c = warp; c < blockSize; c += warps)
		if (j0 + c < n && i0 + lane < n)
			m.vectors[(j0 + c) * n + i0 + lane] = tile.x[lane][c];
	if (blockIdx.y == 0 && warp == 0 && i0 + lane < n)
		m.values[i0 + lane] = scalbn(m.values[i0 + lane], (int)scratchOf(m).state[2]);
}

dim3 rowBlocks(int64_t count, int64_t largestOrder) { return dim3((unsigned)blocksOf(largestOrder), (unsigned)count); }

} // namespace

extern "C" int64_t surgeon_eigh_scratch(int64_t n) {
	int64_t pairs = playersOf(n) / 2;
	return pairs * order * order + 3 + 2 * blocksOf(n) + ceilDiv(pairs + n, 2);
}

extern "C" int surgeon_eigh_begin(int64_t count, const surgeon_eigen *matrices, int64_t largestOrder, int warm, void *stream) {
	if (int code = launch(largest, rowBlocks(count, largestOrder), threads, sizeof(Reduction), stream, matrices))
		return code;
	return launch(begin, rowBlocks(count, largestOrder), threads, sizeof(Tile), stream, matrices, warm);
}

extern "C" int surgeon_eigh_check(int64_t count, const surgeon_eigen *matrices, int64_t largestOrder, int isFirst, void *stream) {
	if (int code = launch(measure, rowBlocks(count, largestOrder), threads, sizeof(Reduction), stream, matrices))
		return code;
	return launch(decide, dim3((unsigned)count), 32, 0, stream, matrices, isFirst);
}

extern "C" int surgeon_eigh_sweep(int64_t count, const surgeon_eigen *matrices, int64_t largestOrder, void *stream) {
	int64_t players = playersOf(largestOrder), pairs = players / 2;
	int64_t tiles = pairs * (pairs - 1) / 2 + pairs * ceilDiv(largestOrder, order);
	for (int round = 0; round < players - 1; round++) {
		if (int code = launch(rotate, dim3((unsigned)pairs, (unsigned)count), threads, sizeof(Pair), stream, matrices, round))
			return code;
		if (int code = launch(apply, dim3((unsigned)tiles, (unsigned)count), threads, sizeof(Product), stream, matrices, round))
			return code;
	}
	return 0;
}

extern "C" int surgeon_eigh_end(int64_t count, const surgeon_eigen *matrices, int64_t largestOrder, void *stream) {
	if (int code = launch(rank, dim3((unsigned)ceilDiv(largestOrder, threads), (unsigned)count), threads, 0, stream, matrices))
		return code;
	return launch(arrange, rowBlocks(count, largestOrder), threads, 0, stream, matrices);
}

extern "C" int surgeon_eigh_end_large(const surgeon_eigen *matrix, int64_t n, void *stream) {
	int64_t b = blocksOf(n);
	return launch(transpose, dim3((unsigned)b, (unsigned)b), threads, sizeof(Tile), stream, matrix);
}

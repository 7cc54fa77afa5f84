// Systems with one large Cholesky factor l, and the diagonal of (l·lᵀ)⁻¹, by products of cuBLAS. Triangles of an order up to 2048 are those of
// triangles.cu.
//
// cuBLAS's own solver of triangular systems is slow for so few columns at a time: by it, in panels of 512, CholeskyInverseDiag of
// order 4096 took 4.6 times as long on an H100 (surgeon bench ops --filter CholeskyInverseDiag, commits 78d4d3e and 8c76f94). So the blocks of 512 rows on the diagonal are inverted first, once, and all the rest is
// products: a block of the solution is the inverse times what is left of the right side, and goes off the right sides below.
//
//	┌────┐                       x₀ = D₀⁻¹·r₀
//	│ D₀ ├────┐                  r₁ ← r₁ − L₁₀·x₀,  r₂ ← r₂ − L₂₀·x₀        one product for all below
//	│ L₁₀│ D₁ ├────┐             x₁ = D₁⁻¹·r₁
//	│ L₂₀│ L₂₁│ D₂ │             …
//	└────┴────┴────┘
//
// An inverse of a block of 512 is made of those of its four blocks of 128 (invert.cu), pair by pair:
//
//	[ D   0 ]⁻¹   [     D⁻¹       0  ]
//	[ L   E ]   = [ −E⁻¹·L·D⁻¹   E⁻¹ ]
//
// The error is that of substitution times the condition of a block of 512 at most, not of l. What is above l's diagonal is
// not read. Everything float64 and row-major.
#include "kernels.h"
#include "library.h"

#include <algorithm>

namespace {

const int64_t base = SURGEON_TRIANGLE_BASE, block = SURGEON_TRIANGLE_BLOCK;

// widthOf is how many columns the inverses have: less than block for a matrix that is smaller.
int64_t widthOf(int64_t n) { return std::min(block, (n + base - 1) / base * base); }
int64_t inversesOf(int64_t n) { return ((n + block - 1) / block + 1) * widthOf(n) * widthOf(n); } // and one block to work in

struct Triangle {
	void *library, *stream;
	int64_t n;
	const double *l;
	double *inverses; // that of the block from row p on at p·width
	int64_t width = widthOf(n);

	int64_t height(int64_t p) const { return std::min(block, n - p); }
	int64_t last() const { return (n - 1) / block * block; }
	const double *at(int64_t i, int64_t j) const { return l + i * n + j; }
	const double *inverse(int64_t p) const { return inverses + p * width; }

	int invert() const {
		if (int code = surgeon_invert_blocks(n, l, width, inverses, stream))
			return code;
		double *spare = inverses + inversesOf(n) - width * width;
		for (int64_t p = 0; p < n; p += block)
			for (int64_t half = base; half < height(p); half *= 2)
				for (int64_t i = 0; i + half < height(p); i += 2 * half) {
					double *d = inverses + p * width + i * (width + 1), *e = d + half * (width + 1);
					int64_t rows = std::min(half, height(p) - i - half);
					if (int code = product(library, false, false, rows, half, half, 1, at(p + i + half, p + i), n, d, width, 0, spare, width))
						return code;
					if (int code = product(library, false, false, rows, half, rows, -1, e, width, spare, width, 0, d + half * width, width))
						return code;
				}
		return 0;
	}

	// down is l·x = r for the rows and columns of l from `from` on, r and x of m columns. r is lost, here and below.
	int down(int64_t from, int64_t m, double *r, double *x) const {
		for (int64_t p = from; p < n; p += block) {
			int64_t h = height(p), rest = n - p - h;
			double *xp = x + (p - from) * m, *rp = r + (p - from) * m;
			int code = product(library, false, false, h, m, h, 1, inverse(p), width, rp, m, 0, xp, m);
			if (code == 0 && rest > 0)
				code = product(library, false, false, rest, m, h, -1, at(p + h, p), n, xp, m, 1, rp + h * m, m);
			if (code)
				return code;
		}
		return 0;
	}

	// up is lᵀ·x = r.
	int up(int64_t m, double *r, double *x) const {
		for (int64_t p = last(); p >= 0; p -= block) {
			int64_t h = height(p);
			int code = product(library, true, false, h, m, h, 1, inverse(p), width, r + p * m, m, 0, x + p * m, m);
			if (code == 0 && p > 0)
				code = product(library, true, false, p, m, h, -1, at(p, 0), n, x + p * m, m, 1, r, m);
			if (code)
				return code;
		}
		return 0;
	}

	// right is x·lᵀ = r, r and x of m rows.
	int right(int64_t m, double *r, double *x) const {
		for (int64_t p = 0; p < n; p += block) {
			int64_t h = height(p), rest = n - p - h;
			int code = product(library, false, true, m, h, h, 1, r + p, n, inverse(p), width, 0, x + p, n);
			if (code == 0 && rest > 0)
				code = product(library, false, true, m, rest, h, -1, x + p, n, at(p + h, p), n, 1, r + p + h, n);
			if (code)
				return code;
		}
		return 0;
	}

	// left is x·l = r.
	int left(int64_t m, double *r, double *x) const {
		for (int64_t p = last(); p >= 0; p -= block) {
			int64_t h = height(p);
			int code = product(library, false, false, m, h, h, 1, r + p, n, inverse(p), width, 0, x + p, n);
			if (code == 0 && p > 0)
				code = product(library, false, false, m, p, h, -1, x + p, n, at(p, 0), n, 1, r, n);
			if (code)
				return code;
		}
		return 0;
	}
};

} // namespace

extern "C" int64_t surgeon_cholesky_solve_scratch(int64_t n, int64_t m) { return inversesOf(n) + n * m; }

extern "C" int surgeon_cholesky_solve(void *library, int right, int64_t n, int64_t m, const double *l, double *b, double *scratch, void *stream) {
	if (n == 0 || m == 0)
		return 0;
	Triangle t{library, stream, n, l, scratch};
	double *between = scratch + inversesOf(n);
	if (int code = t.invert())
		return code;
	if (int code = right ? t.right(m, b, between) : t.down(0, m, b, between))
		return code;
	return right ? t.left(m, between, b) : t.up(m, between, b);
}

extern "C" int64_t surgeon_cholesky_inverse_scratch(int64_t n) {
	int64_t w = std::min(n, block);
	return inversesOf(n) + 2 * n * w + surgeon_squares_partials(n, w);
}

// The columns of l⁻¹ from p on are zero above row p: n³/3 FLOP for all. Their sums of squares are the result.
extern "C" int surgeon_cholesky_inverse_diagonal(void *library, int64_t n, const double *l, double *d, double *scratch, void *stream) {
	if (n == 0)
		return 0;
	Triangle t{library, stream, n, l, scratch};
	int64_t w = std::min(n, block);
	double *r = scratch + inversesOf(n), *x = r + n * w, *partials = x + n * w;
	if (int code = t.invert())
		return code;
	for (int64_t p = 0; p < n; p += block) {
		int64_t cols = t.height(p);
		int code = surgeon_identity(n - p, cols, r, stream);
		if (code == 0)
			code = t.down(p, cols, r, x);
		if (code == 0)
			code = surgeon_squares(n - p, cols, x, partials, d + p, stream);
		if (code)
			return code;
	}
	return 0;
}

// What the kernels of attention share: the shape of a call, which block does which tile, and what a row sees.
#ifndef SURGEON_ATTENTION_CUH
#define SURGEON_ATTENTION_CUH

#include "common.cuh"

// Attend is the shape of a call. T, H, Hkv, d of engine/device.Heads are length, query, keyValue and dim.
struct Attend {
	int64_t sequences;
	int length;
	int window; // 1 … length: where there is none it is length
	int query, keyValue, dim;
	int group;   // query heads to a key/value head
	int section; // see placeOf
	double scale;

	__host__ __device__ int64_t pairs() const { return sequences * query; } // of a sequence and a query head
	// stride is the elements from a token to the next, of q, out and their gradients, or of k, v and theirs.
	__host__ __device__ int64_t strideQuery() const { return (int64_t)query * dim; }
	__host__ __device__ int64_t strideKey() const { return (int64_t)keyValue * dim; }
	// sees: i and j are tokens of the same sequence. For j > i the difference is a large number.
	__device__ bool sees(int i, int j) const { return (unsigned)(i - j) < (unsigned)window; }
	// firstKey is the first key that token i sees, endQuery the end of the tokens that see key j.
	__device__ int firstKey(int i) const { return i - window + 1 > 0 ? i - window + 1 : 0; }
	__device__ int endQuery(int j) const { return j < length - window ? j + window : length; }
};

// tileRows is the height of the tiles that a block walks over, and of most others. Sequences are padded to whole tiles where
// something is kept per token and head.
const int tileRows = 64;
__host__ __device__ inline int64_t paddedLength(const Attend &h) { return ceilDiv(h.length, tileRows) * tileRows; }

// Place is what one block works on: tokens tile·height … of one head of one sequence.
struct Place {
	int64_t sequence;
	int head, tile;
};

// placeOf gives the blocks of a one-dimensional grid, in the order in which they are begun, their places: the pairs of
// sequence and head in sections, and within a section all pairs' longest tiles first. So what is left over at the end of the
// launch are short tiles, and the keys and values of a section, which many blocks read at once, fit in the L2 cache.
//
//	tile (longest last)   pair 0 1 2 3 │ 4 5 6 7 │ …
//	        2                  0 1 2 3 │ 12 …
//	        1                  4 5 6 7 │
//	        0                  8 9 …   │
__device__ inline Place placeOf(const Attend &h, int heads, int tiles, int section, bool longestLast) {
	int64_t b = blockIdx.x, pairs = h.sequences * heads;
	int64_t begin = b / ((int64_t)section * tiles) * section;
	int64_t width = pairs - begin < section ? pairs - begin : section;
	int64_t rest = b - begin * tiles, pair = begin + rest % width;
	int tile = (int)(rest / width);
	return Place{pair / heads, (int)(pair % heads), longestLast ? tiles - 1 - tile : tile};
}

// l2Bytes is what a section may take of the L2 cache: a part of the 40 MB of an A100, whose halves keep copies of each other.
const int64_t l2Bytes = 16 << 20;

// Statistics is what the backward pass knows of each query row and head beside the matrices, made by the kernel dots: for
// pair p of sequence and head, and token i, at p·paddedLength + i, log2 Σ_j exp(Scale·q·k), and D = Σ dout∘out. Tokens in the
// padding have lse = +∞, so that all their probabilities are 0.
template <class A> struct Statistics {
	A *lse, *dot;
};

// The versions for tensor cores. They are for BF16, where tensorFits: then they take the call over.
bool tensorFits(int type, const Attend &h, const void *const *matrices, int n);
int attentionTensor(Attend h, const void *q, const void *k, const void *v, void *out, float *lse, void *stream);
bool warpgroupFits(int capability, const Attend &h); // where tensorFits too: on GPUs of compute capability 9.0, heads 64 or 128 wide
struct BackwardCall {
	Attend h;
	const bf16 *q, *k, *v, *dout;
	Statistics<float> of;
	bf16 *dq, *dk, *dv;
	float scale, scale2;
};
int attentionBackwardWarpgroup(const BackwardCall &x, void *stream);
int attentionBackwardTensor(const BackwardCall &x, void *stream);

const double log2e = 1.4426950408889634; // scale2 of a kernel is scale·log2 e, so that exp is a power of 2

// attend is the shape as the kernels want it, or false where a size is beyond them.
inline bool attend(int type, const surgeon_heads &x, Attend *h) {
	if (x.length <= 0 || x.length > INT32_MAX / 2 || x.sequences > INT32_MAX)
		return false;
	h->sequences = x.sequences;
	h->length = (int)x.length;
	h->window = x.window > 0 && x.window < x.length ? (int)x.window : (int)x.length;
	h->query = x.query;
	h->keyValue = x.key_value;
	h->dim = x.dim;
	h->group = x.query / x.key_value;
	h->scale = x.scale;
	int64_t bytes = 2 * x.length * x.dim * (type == SURGEON_F64 ? 8 : type == SURGEON_F32 ? 4 : 2); // keys and values of a head
	int64_t heads = l2Bytes / bytes;
	h->section = (int)(heads < 1 ? 1 : heads > 64 ? 64 : heads) * h->group;
	return h->pairs() * ceilDiv(h->length, tileRows / 2) <= INT32_MAX; // blocks of a grid; no tile is lower
}

#endif

// Tensor-core products of a warpgroup, four warps, and what feeds them: copies of tiles, barriers that count them, and clusters
// of blocks that reach each other's shared memory. It is what GPUs of compute capability 9.0 have, as thin names over PTX. The
// emulated device has the same names (emu/warpgroup.h). Files that include this are compiled for those GPUs alone (kernels.mk).
#ifndef SURGEON_WARPGROUP_CUH
#define SURGEON_WARPGROUP_CUH

#include "tensor.cuh"

#include <cuda.h>

// A matrix of bfloat16 in shared memory as warpgroup products take it, the "swizzle of 128 bytes" of the PTX ISA (Asynchronous
// Warpgroup Level Matrix Shared Memory Layout): panels of 64 columns, each a row of 128 bytes for every row of the matrix,
// beginning at a multiple of 1024 bytes; 16 bytes number c of row r lie in place c ^ r%8. Copies of tiles put them there.
const int panelCols = 64;

// panelsOf describes x, rows × cols with cols a multiple of 8 and x of 16 bytes, as copyTile takes it: in panels of panelRows
// rows (256 at most), with zeros beyond the edges of x. L2 takes 256 bytes at a time from memory: two panels are beside each
// other. Returns 0 or an error of the driver, whose numbers are those of the runtime.
inline int panelsOf(CUtensorMap &map, const bf16 *x, int64_t rows, int64_t cols, int panelRows) {
	cuuint64_t dim[] = {(cuuint64_t)cols, (cuuint64_t)rows}, rowBytes[] = {(cuuint64_t)cols * 2};
	cuuint32_t box[] = {(cuuint32_t)panelCols, (cuuint32_t)panelRows}, step[] = {1, 1};
	return (int)cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)x, dim, rowBytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
	                                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// How k, which a product sums over, lies in such a matrix: along its columns or down its rows, K-major or MN-major in the PTX ISA,
// by the numbers that products take.
enum Lies { kAlong = 0, kDown = 1 };

#ifndef __CUDACC__
#include "emu/warpgroup.h"
#else

// matrixAt describes such a matrix, whose next panel of 64 columns is `panel` elements on. Bits 0…13 are the address, 16…29
// the way to the next panel, 32…45 that from 8 rows to the next, all in 16 bytes; 62…63 the swizzle. The way to the next panel
// is not looked at where k are the columns: 16 of them are in one.
__device__ __forceinline__ uint64_t matrixAt(const bf16 *first, int panel) {
	uint64_t at = (uint32_t)__cvta_generic_to_shared(first);
	return (at & 0x3ffff) >> 4 | (uint64_t)(panel * 2 >> 4) << 16 | (uint64_t)(8 * 128 >> 4) << 32 | 1ull << 62;
}

// The operands of a product by the number of its columns: their names in assembler, and the sums among them.
#define SURGEON_NAMES_64 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
	"%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SURGEON_NAMES_128 SURGEON_NAMES_64 "," \
	"%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
	"%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SURGEON_NAMES_256 SURGEON_NAMES_128 "," \
	"%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
	"%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
	"%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
	"%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SURGEON_SUMS_8(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SURGEON_SUMS_32(j) SURGEON_SUMS_8(j), SURGEON_SUMS_8(j + 1), SURGEON_SUMS_8(j + 2), SURGEON_SUMS_8(j + 3)
#define SURGEON_SUMS_64 SURGEON_SUMS_32(0), SURGEON_SUMS_32(4)
#define SURGEON_SUMS_128 SURGEON_SUMS_64, SURGEON_SUMS_32(8), SURGEON_SUMS_32(12)
#define SURGEON_SUMS_256 SURGEON_SUMS_128, SURGEON_SUMS_32(16), SURGEON_SUMS_32(20), SURGEON_SUMS_32(24), SURGEON_SUMS_32(28)

// A product of so many columns: onto is the name of the number that says whether d is added to, factors are the names of a and b
// and what is said of them, then come these and what else is named.
#define SURGEON_MULTIPLY(columns, onto, factors, ...) \
	asm volatile("{\n" \
	             ".reg .pred onto;\n" \
	             "setp.ne.s32 onto," onto ",0;\n" \
	             "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" SURGEON_NAMES_##columns "}," factors ";\n" \
	             "}" \
	             : SURGEON_SUMS_##columns : __VA_ARGS__)

// multiplyWarpgroup begins d ← a·b + d, 64×8N += 64×16 · 16×8N, or without d if !onto. a and b are matrices in shared memory whose
// rows are k (kDown: aᵀ and b are what is described; of b, 8N/64 panels), or their columns (kAlong: a and bᵀ are). Warp w of the
// group has rows 16w…16w+15 of d; with g = lane/4, t = lane%4 a thread holds
//
//	d[j][0] (g, 8j+2t)  d[j][1] (g, 8j+2t+1)  d[j][2] (g+8, 8j+2t)  d[j][3] (g+8, 8j+2t+1)
//
// All threads of the group call it with the same a and b. d is not there, and a and b are not free, before
// waitWarpgroup. Before the first product, and after d was touched otherwise, there has to be a fenceWarpgroup.
template <Lies ofA, Lies ofB, int N> __device__ __forceinline__ void multiplyWarpgroup(float (&d)[N][4], uint64_t a, uint64_t b, bool onto) {
	static_assert(N == 8 || N == 32, "there is no such product yet");
	if constexpr (N == 8)
		SURGEON_MULTIPLY(64, "%34", "%32,%33,onto,1,1,%35,%36", "l"(a), "l"(b), "r"((int)onto), "n"((int)ofA), "n"((int)ofB)); // 1: the signs of a and b
	else
		SURGEON_MULTIPLY(256, "%130", "%128,%129,onto,1,1,%131,%132", "l"(a), "l"(b), "r"((int)onto), "n"((int)ofA), "n"((int)ofB));
}

// multiplyWarpgroup with a in registers, held by each warp for its 16 rows as mma takes it (tensor.cuh). They are not free either.
template <Lies ofB, int N> __device__ __forceinline__ void multiplyWarpgroup(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b, bool onto) {
	static_assert(N == 8 || N == 16, "there is no such product yet");
	if constexpr (N == 8)
		SURGEON_MULTIPLY(64, "%37", "{%32,%33,%34,%35},%36,onto,1,1,%38", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)onto), "n"((int)ofB));
	else
		SURGEON_MULTIPLY(128, "%69", "{%64,%65,%66,%67},%68,onto,1,1,%70", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)onto), "n"((int)ofB));
}

__device__ __forceinline__ void fenceWarpgroup() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// fenceCopies shows to products of warpgroups what the thread's copies (copyAsync) have written that it has waited for. They are
// there for all after a barrier that follows.
__device__ __forceinline__ void fenceCopies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// commitWarpgroup closes a group of products. waitWarpgroup<n> waits until all but the last n groups are done. Its arguments are
// what these groups add to, and their factors in registers if those change later: the compiler does not know that those change here,
// and these are in use until then.
__device__ __forceinline__ void commitWarpgroup() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void settle(float (&d)[N][4]) {
#pragma unroll
	for (int j = 0; j < N; j++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			asm volatile("" : "+f"(d[j][e])::"memory");
}
template <int N> __device__ __forceinline__ void settle(uint32_t (&a)[N][4]) {
#pragma unroll
	for (int j = 0; j < N; j++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			asm volatile("" : "+r"(a[j][e])::"memory");
}
template <int n, class... D> __device__ __forceinline__ void waitWarpgroup(D &...d) {
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
	(settle(d), ...);
}

// Gate is a barrier that some threads pass and others open: a phase is over when it has been opened as often as it was set
// to, and the bytes that it was opened for have arrived (mbarrier of the PTX ISA). pass waits for the end of a phase by its
// parity: that of phase 0 is 0. Passing with parity 1 at the beginning does not wait, as if a phase −1 had ended.
struct Gate {
	uint64_t state;
};
__device__ __forceinline__ uint32_t sharedAt(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void setGate(Gate &gate, int times) { asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(sharedAt(&gate)), "r"(times) : "memory"); }

// showGates makes the gates that this thread has set seen by the cluster and by copies, after a barrier of the cluster that
// follows.
__device__ __forceinline__ void showGates() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// openGateFor opens a gate, for so many bytes of copies: those that have arrived in this phase count too.
__device__ __forceinline__ void openGateFor(Gate &gate, int bytes) {
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(sharedAt(&gate)), "r"(bytes) : "memory");
}

// openGateIn opens the gate that is in the same place in a block of the cluster. Like passGate it orders what threads of a block
// write and read, not of the cluster: for that it would wait for all of global memory, in every step. Between blocks it says
// only that products were waited for.
__device__ __forceinline__ void openGateIn(Gate &gate, int block) {
	asm volatile("{\n"
	             ".reg .b32 there;\n"
	             "mapa.shared::cluster.u32 there,%0,%1;\n"
	             "mbarrier.arrive.shared::cluster.b64 _,[there];\n"
	             "}" ::"r"(sharedAt(&gate)), "r"(block) : "memory");
}
__device__ __forceinline__ void passGate(Gate &gate, int parity) {
	asm volatile("{\n"
	             ".reg .pred over;\n"
	             "again:\n"
	             "mbarrier.try_wait.parity.shared::cta.b64 over,[%0],%1;\n"
	             "@!over bra again;\n"
	             "}" ::"r"(sharedAt(&gate)), "r"(parity) : "memory");
}

// copyTile begins the copy of the panel of x that begins at (row, col) into shared memory, at a multiple of 1024 bytes. The
// gate is told of its bytes as they arrive, all of the panel's, those beyond the edge of x too. copyTileTo copies into the
// same place in all blocks of the cluster whose bit is set, and tells the gate in the same place there. One thread calls them.
__device__ __forceinline__ void copyTile(bf16 *to, const CUtensorMap &map, int col, int row, Gate &gate) {
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3}],[%4];" ::"r"(sharedAt(to)), "l"(&map), "r"(col), "r"(row),
	             "r"(sharedAt(&gate))
	             : "memory");
}
__device__ __forceinline__ void copyTileTo(unsigned blocks, bf16 *to, const CUtensorMap &map, int col, int row, Gate &gate) {
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0],[%1,{%2,%3}],[%4],%5;" ::"r"(sharedAt(to)), "l"(&map), "r"(col),
	             "r"(row), "r"(sharedAt(&gate)), "h"((uint16_t)blocks)
	             : "memory");
}

// The barrier of all threads of a cluster, in two halves: no thread comes out of clusterWait before all were in clusterArrive,
// and what they wrote, and gates that they opened, before it is done. clusterArriveGates waits for no memory: what is shown is
// what showGates shows.
__device__ __forceinline__ void clusterArriveGates() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void clusterArrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void clusterWait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

#endif

#endif

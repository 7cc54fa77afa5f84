// Tensor-core products of a warpgroup, four warps, and what feeds them: copies of tiles, barriers that count them, and clusters
// of blocks that reach each other's shared memory. It is what GPUs of compute capability 9.0 have, as thin names over PTX. The
// emulated device has the same names (emu/warpgroup.h). Files that include this are compiled for those GPUs alone (kernels.mk).
#ifndef SURGEON_WARPGROUP_CUH
#define SURGEON_WARPGROUP_CUH

#include "tensor.cuh"

#include <cuda.h>

// A matrix of bfloat16 in shared memory as warpgroup products take it, the "swizzle of 128 bytes, MN-major" of the PTX ISA
// (Asynchronous Warpgroup Level Matrix Shared Memory Layout): panels of 64 columns, each a row of 128 bytes for every k,
// beginning at a multiple of 1024 bytes; 16 bytes number c of row k lie in place c ^ k%8. Copies of tiles put them there.
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

#ifndef __CUDACC__
#include "emu/warpgroup.h"
#else

// matrixAt describes such a matrix, whose next panel of 64 columns is `panel` elements on. Bits 0…13 are the address, 16…29
// the way to the next panel, 32…45 that from 8 rows to the next, all in 16 bytes; 62…63 the swizzle.
__device__ __forceinline__ uint64_t matrixAt(const bf16 *first, int panel) {
	uint64_t at = (uint32_t)__cvta_generic_to_shared(first);
	return (at & 0x3ffff) >> 4 | (uint64_t)(panel * 2 >> 4) << 16 | (uint64_t)(8 * 128 >> 4) << 32 | 1ull << 62;
}

// multiplyWarpgroup begins d ← aᵀ·b + d, 64×256 += 64×16 · 16×256: a is 16 rows of one panel, b of four. Warp w of the group has
// rows 16w…16w+15; with g = lane/4, t = lane%4 a thread holds
//
//	d[4j] (g, 8j+2t)  d[4j+1] (g, 8j+2t+1)  d[4j+2] (g+8, 8j+2t)  d[4j+3] (g+8, 8j+2t+1)
//
// All threads of the group call it with the same a and b. d is not there, and a and b are not free, before
// waitWarpgroup. Before the first product, and after d was touched otherwise, there has to be a fenceWarpgroup.
__device__ __forceinline__ void multiplyWarpgroup(float (&d)[128], uint64_t a, uint64_t b) {
	asm volatile("{\n"
	             ".reg .pred add;\n"
	             "setp.eq.u32 add,0,0;\n"
	             "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
	             "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
	             "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
	             "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
	             "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
	             "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
	             "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
	             "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
	             "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127},"
	             "%128,%129,add,1,1,1,1;\n" // d + …, the signs of a and b, both with k as rows
	             "}"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
	               "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
	               "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
	               "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
	               "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
	               "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
	               "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
	               "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
	               "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
	               "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
	               "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
	               "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
	               "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
	               "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
	               "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
	               "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
	             : "l"(a), "l"(b));
}

__device__ __forceinline__ void fenceWarpgroup() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// commitWarpgroup closes a group of products. waitWarpgroup<n> waits until all but the last n groups are done; d is what they
// add to.
__device__ __forceinline__ void commitWarpgroup() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n> __device__ __forceinline__ void waitWarpgroup(float (&d)[128]) {
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
	if (n == 0)
#pragma unroll
		for (int i = 0; i < 128; i++)
			asm volatile("" : "+f"(d[i])::"memory"); // the compiler does not know that they change here
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

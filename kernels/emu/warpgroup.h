// The names of warpgroup.cuh on the emulated device.
#ifndef SURGEON_EMU_WARPGROUP_H
#define SURGEON_EMU_WARPGROUP_H

// Included by warpgroup.cuh after tensor.cuh.

struct Gate {
	uint32_t phase;
	int32_t bytes;        // that have still to arrive for it to be over
	uint16_t times, left; // that it has to be opened for that, and still has in this one
};

// What the emulated driver makes of a CUtensorMap.
struct TileMap {
	const char *x;
	uint64_t cols, rows, rowBytes;
	uint32_t boxCols, boxRows;
	bool swizzled;
};

namespace emu {
// Factor is a matrix described by matrixAt, or this thread's part of one in registers.
struct Factor {
	uint64_t matrix;
	bool down;
	const uint32_t *registers = nullptr;
};
void setGate(Gate &gate, int times);
void openGate(Gate &gate, int bytes);
void openGateIn(Gate &gate, int block);
void passGate(Gate &gate, int parity);
void copyTile(void *to, const TileMap &map, int col, int row, Gate &gate, unsigned blocks);
int blockInCluster();
void clusterArrive();
void clusterWait();
void fenceWarpgroup();
void multiplyLater(float *d, int columns, const Factor &a, const Factor &b, bool onto);
void fenceCopies();
void commitWarpgroup();
void waitWarpgroup(int groupsLeft);
} // namespace emu

inline void setGate(Gate &gate, int times) { emu::setGate(gate, times); }
inline void showGates() {}
inline void openGateFor(Gate &gate, int bytes) { emu::openGate(gate, bytes); }
inline void openGateIn(Gate &gate, int block) { emu::openGateIn(gate, block); }
inline void passGate(Gate &gate, int parity) { emu::passGate(gate, parity); }

// The address is what a GPU would have if shared memory began at 0.
inline uint64_t matrixAt(const bf16 *first, int panel) {
	uint64_t at = (const char *)first - (const char *)emu::sharedMemory();
	return (at & 0x3ffff) >> 4 | (uint64_t)(panel * 2 >> 4) << 16 | (uint64_t)(8 * 128 >> 4) << 32 | 1ull << 62;
}

// Products of half of the threads are made at once, of the others when they are waited for: what is not there yet, and what is
// overwritten too early, in shared memory or registers, both show.
template <Lies ofA, Lies ofB, int N> void multiplyWarpgroup(float (&d)[N][4], uint64_t a, uint64_t b, bool onto) {
	emu::multiplyLater(d[0], 8 * N, emu::Factor{a, ofA == kDown}, emu::Factor{b, ofB == kDown}, onto);
}
template <Lies ofB, int N> void multiplyWarpgroup(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b, bool onto) {
	emu::multiplyLater(d[0], 8 * N, emu::Factor{0, false, a}, emu::Factor{b, ofB == kDown}, onto);
}
inline void fenceWarpgroup() { emu::fenceWarpgroup(); }
inline void fenceCopies() { emu::fenceCopies(); }
inline void commitWarpgroup() { emu::commitWarpgroup(); }
template <int n, class... D> void waitWarpgroup(D &...) { emu::waitWarpgroup(n); }

inline void clusterArriveGates() { emu::clusterArrive(); }
inline void clusterArrive() { emu::clusterArrive(); }
inline void clusterWait() { emu::clusterWait(); }

// A tile is written at once or when it arrives, by chance, in each of the blocks: what is multiplied before it is there, and
// what is overwritten too early, both show.
inline void copyTile(bf16 *to, const CUtensorMap &map, int col, int row, Gate &gate) { emu::copyTile(to, *(const TileMap *)&map, col, row, gate, 1u << emu::blockInCluster()); }
inline void copyTileTo(unsigned blocks, bf16 *to, const CUtensorMap &map, int col, int row, Gate &gate) { emu::copyTile(to, *(const TileMap *)&map, col, row, gate, blocks); }

#endif

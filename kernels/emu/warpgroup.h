// The names of warpgroup.cuh on the emulated device.
#ifndef SURGEON_EMU_WARPGROUP_H
#define SURGEON_EMU_WARPGROUP_H

// Included by warpgroup.cuh after tensor.cuh.

struct Gate {
	uint32_t phase;
	uint16_t times, left; // that it has to be opened for a phase to be over, and still has in this one
};

namespace emu {
void setGate(Gate &gate, int times);
void openGate(Gate &gate);
void passGate(Gate &gate, int parity);
void showWarpgroup();
void fenceWarpgroup();
void multiplyLater(float *d, uint64_t a, uint64_t b);
void commitWarpgroup();
void waitWarpgroup(int groupsLeft);
} // namespace emu

inline void setGate(Gate &gate, int times) { emu::setGate(gate, times); }
inline void openGate(Gate &gate) { emu::openGate(gate); }
inline void passGate(Gate &gate, int parity) { emu::passGate(gate, parity); }

// The address is what a GPU would have if shared memory began at 0.
inline uint64_t matrixAt(const bf16 *first, int panel) {
	uint64_t at = (const char *)first - (const char *)emu::sharedMemory();
	return (at & 0x3ffff) >> 4 | (uint64_t)(panel * 2 >> 4) << 16 | (uint64_t)(8 * 128 >> 4) << 32 | 1ull << 62;
}

// Products of half of the threads are made at once, of the others when they are waited for: what is not there yet, and what is
// overwritten too early, both show.
inline void multiplyWarpgroup(float (&d)[128], uint64_t a, uint64_t b) { emu::multiplyLater(d, a, b); }
inline void fenceWarpgroup() { emu::fenceWarpgroup(); }
inline void commitWarpgroup() { emu::commitWarpgroup(); }
template <int n> void waitWarpgroup(float (&)[128]) { emu::waitWarpgroup(n); }
inline void showWarpgroup() { emu::showWarpgroup(); }

#endif

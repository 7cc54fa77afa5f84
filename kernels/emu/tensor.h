// The names of tensor.cuh on the emulated device.
#ifndef SURGEON_EMU_TENSOR_H
#define SURGEON_EMU_TENSOR_H

// Included by tensor.cuh after common.cuh.

namespace emu {
void copyLater(void *to, const void *from, int bytes, bool valid);
void copyCommit();
void copyWait(int groupsLeft);
inline float half(uint32_t pair, int high) { return __uint_as_float(high ? pair & 0xffff0000u : pair << 16); }
} // namespace emu

inline void mma(float *d, const uint32_t *a, const uint32_t *b) {
	int l = emu::lane();
	emu::Lanes &lanes = emu::exchange();
	memcpy(lanes[l], a, 16);
	memcpy(lanes[l] + 16, b, 8);
	emu::warpBarrier();
	for (int i = 0; i < 4; i++) {
		int r = l / 4 + (i >= 2 ? 8 : 0), c = l % 4 * 2 + (i & 1);
		float s = d[i];
		for (int k = 0; k < 16; k++) {
			const uint32_t *fa = (const uint32_t *)lanes[r % 8 * 4 + k % 8 / 2];
			const uint32_t *fb = (const uint32_t *)lanes[c * 4 + k % 8 / 2] + 4;
			s += emu::half(fa[(r >= 8) + 2 * (k >= 8)], k & 1) * emu::half(fb[k >= 8], k & 1);
		}
		d[i] = s;
	}
}

inline void mma(double *d, double a, double b) {
	int l = emu::lane();
	emu::Lanes &lanes = emu::exchange();
	memcpy(lanes[l], &a, 8);
	memcpy(lanes[l] + 8, &b, 8);
	emu::warpBarrier();
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < 4; k++)
			d[i] += *(const double *)lanes[l / 4 * 4 + k] * ((const double *)lanes[(l % 4 * 2 + i) * 4 + k])[1];
}

inline void loadMatrix4(uint32_t *r, const bf16 *row) {
	int l = emu::lane();
	emu::Lanes &lanes = emu::exchange();
	memcpy(lanes[l], row, 16);
	emu::warpBarrier();
	for (int m = 0; m < 4; m++)
		memcpy(&r[m], lanes[8 * m + l / 4] + 4 * (l % 4), 4);
}

inline void loadMatrix4Transposed(uint32_t *r, const bf16 *row) {
	int l = emu::lane();
	emu::Lanes &lanes = emu::exchange();
	memcpy(lanes[l], row, 16);
	emu::warpBarrier();
	for (int m = 0; m < 4; m++) {
		const uint16_t *upper = (const uint16_t *)lanes[8 * m + 2 * (l % 4)], *lower = (const uint16_t *)lanes[8 * m + 2 * (l % 4) + 1];
		r[m] = upper[l / 4] | (uint32_t)lower[l / 4] << 16;
	}
}

// Copies of half of the threads arrive only when they are waited for: reading too early finds the NaN that was there before.
// Those of the others arrive at once: what is still to be read shows that it was overwritten.
inline void copyAsync(void *to, const void *from, bool valid) { emu::copyLater(to, from, 16, valid); }
inline void copyAsync8(void *to, const void *from, bool valid) { emu::copyLater(to, from, 8, valid); }
inline void copyAsync4(void *to, const void *from, bool valid) { emu::copyLater(to, from, 4, valid); }
inline void copyCommit() { emu::copyCommit(); }
template <int n> void copyWait() { emu::copyWait(n); }

#endif

// What the scheduler tells the detector of races (races.cpp), which is there in the build for `make test-races` alone.
#ifndef SURGEON_EMU_RACES_H
#define SURGEON_EMU_RACES_H

#include <stddef.h>
#include <stdint.h>

namespace emu {

// Moment is how far a thread is: what threads did before a barrier comes before what they do behind it.
struct Moment {
	uint32_t block;    // counted over all launches, from 1
	uint32_t barriers; // of the block that the thread has passed
	uint32_t fences;   // of its warp (__syncwarp), likewise
	uint16_t thread;   // in its block
	uint16_t place;    // of its block in the cluster
	const char *stack, *stackEnd; // its own variables, which are not looked at
};

#ifdef SURGEON_EMU_RACES
void raceTrack(const void *p, size_t bytes); // memory of the device, from its allocation
void raceForget(const void *p);              // until it is freed
void raceLaunch();                           // what follows comes after all before it
uint32_t raceBlock(int place, unsigned x, unsigned y, unsigned z, const void *shared, size_t bytes); // block (x, y, z) begins; its number
void raceRun(const Moment *); // the thread that runs; null while none does
// From here on `at` is where the kernel does it.
void raceAtomic(const void *p, size_t bytes, const void *at);
void raceCopying(const void *to, const void *from, size_t bytes, const void *at); // an asynchronous copy begins; from may be null
void raceCopied(const void *to, const void *from, size_t bytes, const void *at);  // and has been waited for
#else
inline void raceTrack(const void *, size_t) {}
inline void raceForget(const void *) {}
inline void raceLaunch() {}
inline uint32_t raceBlock(int, unsigned, unsigned, unsigned, const void *, size_t) { return 0; }
inline void raceRun(const Moment *) {}
inline void raceAtomic(const void *, size_t, const void *) {}
inline void raceCopying(const void *, const void *, size_t, const void *) {}
inline void raceCopied(const void *, const void *, size_t, const void *) {}
#endif

} // namespace emu

#endif

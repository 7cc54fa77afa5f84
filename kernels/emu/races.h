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
uint32_t raceBlock(int place, const void *shared, size_t bytes); // a block begins; its number
void raceRun(const Moment *); // the thread that runs; null while none does
void raceAtomic(const void *p, size_t bytes);
void raceCopying(const void *to, size_t bytes); // the running thread lets an asynchronous copy go
void raceCopied(const void *to, size_t bytes);  // and has waited for it
#else
inline void raceTrack(const void *, size_t) {}
inline void raceForget(const void *) {}
inline void raceLaunch() {}
inline uint32_t raceBlock(int, const void *, size_t) { return 0; }
inline void raceRun(const Moment *) {}
inline void raceAtomic(const void *, size_t) {}
inline void raceCopying(const void *, size_t) {}
inline void raceCopied(const void *, size_t) {}
#endif

} // namespace emu

#endif

// A detector of races in kernels: what racecheck of compute-sanitizer does on a GPU for shared memory, here for that of the device too.
//
// For `make test-races` the kernels are compiled with -fsanitize=thread: g++ then calls a function at every access to memory. The detector
// that comes with it knows nothing of blocks and warps; these are the functions for the emulated device. Two accesses to a byte, at least
// one of which writes, race unless
//
//   - one thread makes both, none of them an asynchronous copy on its way, or
//   - both are atomic, or
//   - they belong to different launches, or
//   - they belong to one block, and a __syncthreads stands between them, or
//   - they belong to one warp, and a __syncwarp does. A shuffle or a product on tensor cores orders no memory: it does not count.
//
// Blocks of a launch are in no order, those of a cluster neither. An asynchronous copy writes from when it is let go until its thread has
// waited for it; until then nobody may touch the place, that thread included. What it copies must not be written by others as long. For
// every byte the last write is kept, and of the reads and of the atomics since the last barrier which warps made them.
//
// Values are not looked at, so it does not matter whether the order in which the emulated threads ran did any harm. Not seen: what passes
// gates of shared memory (warpgroup.h; copies of tiles and products of warpgroups are the scheduler's, which makes them early and late),
// and what stands in for NVIDIA's libraries.
#ifdef SURGEON_EMU_RACES

#include "races.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <vector>

namespace emu {
namespace {

enum Kind { reading, writing, adding, copying, arriving };
const char *const names[] = {"reads", "writes", "changes (atomically)", "copies to", "copies to"};

struct Write {
	uint32_t block, barriers, fences, where;
	uint16_t thread, kind;
};

// Many are accesses that do not race with each other: reads, or atomics.
struct Many {
	uint32_t block, other; // the last that made some, and one before it
	uint32_t barriers, fences, where;
	uint32_t warps;  // that made some since the last barrier
	uint16_t thread; // of the last warp since the last fence
};
const uint16_t several = 0xffff;

// Past is what is remembered of a place: the last write that is not atomic.
struct Past {
	Write write;
	Many reads, atomics;
};

// Word is four bytes. Nearly all are only touched together; from the block on that touches some of four, each of them has a Past of its own.
struct Word {
	Past all;
	uint32_t apartSince; // the number of that block
};

struct Region {
	const char *from;
	size_t bytes;
	Word *words;
	Past *apart; // of every byte
	bool ofBlock; // shared memory: what blocks before left in the shadow is not about this one

	bool holds(const char *p) const { return p >= from && p < from + bytes; }
};

const size_t sharedMost = 227 << 10;
Region shared[16]; // by the place of a block in its cluster
std::map<const char *, Region> allocations;
// Recent is what was found for 256 bytes, as allocations are aligned: the one that begins last before their end, and may end before them.
struct Recent {
	uintptr_t at;
	const Region *region;
} recent[4096];
const Moment *now = nullptr;
uint32_t blocks = 0, launchFrom = 1;
struct Place {
	unsigned x, y, z;
};
std::vector<Place> places; // of the blocks of the launch, as they are numbered

// zeros is memory of which only what is used is there.
void *zeros(size_t bytes) {
	void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "emulated device: no memory to look for races\n");
		abort();
	}
	return p;
}

// program is the program or library that the kernels are in.
const Dl_info &program() {
	static const Dl_info info = [] {
		Dl_info i = {};
		dladdr((void *)raceLaunch, &i);
		return i;
	}();
	return info;
}

// tell prints the lines of the source that an access was made from.
void tell(const char *which, uint32_t thread, uint32_t block, const char *does, uint32_t where) {
	const Place &at = places[block - launchFrom];
	if (thread == several)
		fprintf(stderr, "  %s, several threads of block (%u, %u, %u) %s it:\n", which, at.x, at.y, at.z, does);
	else
		fprintf(stderr, "  %s, thread %u of block (%u, %u, %u) %s it:\n", which, thread, at.x, at.y, at.z, does);
	const uint64_t moved = ((const Elf64_Ehdr *)program().dli_fbase)->e_type == ET_EXEC ? (uint64_t)program().dli_fbase : 0;
	char command[4096];
	if (snprintf(command, sizeof command, "addr2line -Cpfis -e '%s' 0x%llx >&2", program().dli_fname, (unsigned long long)(where + moved - 1)) >= (int)sizeof command || system(command) != 0)
		fprintf(stderr, "  at %s+0x%x (addr2line of binutils would tell the line)\n", program().dli_fname, where);
}

[[noreturn]] void race(const Region &r, size_t at, Kind kind, uint32_t where, uint32_t thread, uint32_t block, const char *did, uint32_t before) {
	fprintf(stderr, "emulated device: a race, on byte %zu of %zu of %s:\n", at, r.bytes, r.ofBlock ? "the block's shared memory" : "an allocation");
	tell("now", now->thread, now->block, names[kind], where);
	tell("in no order with it", thread, block, did, before);
	abort();
}

// before says whether what a thread did comes before now.
bool before(uint32_t block, uint32_t thread, uint32_t barriers, uint32_t fences) {
	if (block != now->block)
		return block < launchFrom;
	return thread == now->thread || barriers < now->barriers || (thread / 32 == now->thread / 32u && fences < now->fences);
}

// add counts an access in.
void add(Many &s, uint32_t where) {
	const uint32_t warp = 1u << now->thread / 32;
	if (s.block != now->block)
		s = Many{now->block, s.block, now->barriers, now->fences, where, warp, now->thread};
	else if (s.barriers < now->barriers)
		s = Many{now->block, s.other, now->barriers, now->fences, where, warp, now->thread};
	else if (s.warps != warp || s.fences < now->fences)
		s = Many{now->block, s.other, now->barriers, now->fences, where, s.warps | warp, now->thread};
	else if (s.thread != now->thread)
		s.thread = several;
}

// follow is an access that has to come after all of s.
void follow(const Region &r, size_t at, const Many &s, Kind of, uint32_t from, Kind kind, uint32_t where) {
	if (s.other >= from && s.other != now->block)
		race(r, at, kind, where, several, s.other, names[of], s.where);
	if (s.block < from)
		return;
	bool ordered = s.block == now->block && (s.barriers < now->barriers || (s.warps == 1u << now->thread / 32 && (s.fences < now->fences || s.thread == now->thread)));
	if (!ordered)
		race(r, at, kind, where, s.thread, s.block, names[of], s.where);
}

// look compares an access to byte `at` with what was there since block number `from`, and is remembered itself.
void look(const Region &r, size_t at, Past &past, uint32_t from, Kind kind, uint32_t where) {
	const Write &w = past.write;
	if (w.block >= from) {
		bool onItsWay = w.kind == copying && w.block == now->block && !(kind == arriving && w.thread == now->thread);
		if (onItsWay || !before(w.block, w.thread, w.barriers, w.fences))
			race(r, at, kind, where, w.thread, w.block, names[w.kind], w.where);
	}
	const Many &s = past.reads;
	if (kind != adding)
		follow(r, at, past.atomics, adding, from, kind, where);
	if (kind == reading) {
		if (s.block != now->block || s.barriers != now->barriers || s.fences != now->fences || s.thread != now->thread)
			add(past.reads, where);
		return;
	}
	follow(r, at, s, reading, from, kind, where);
	if (kind == adding)
		add(past.atomics, where);
	else
		past.write = Write{now->block, now->barriers, now->fences, where, now->thread, (uint16_t)kind};
}

void access(const void *pointer, size_t bytes, Kind kind, const void *caller) {
	if (now == nullptr)
		return;
	const char *p = (const char *)pointer;
	if (p >= now->stack && p < now->stackEnd)
		return;
	const Region *r = &shared[now->place];
	if (!r->holds(p)) {
		Recent &found = recent[(uintptr_t)p / 256 % 4096];
		if (found.at != (uintptr_t)p / 256) {
			auto above = allocations.upper_bound(p);
			found = Recent{(uintptr_t)p / 256, above == allocations.begin() ? nullptr : &(--above)->second};
		}
		r = found.region;
		if (r == nullptr || !r->holds(p))
			return;
	}
	const uint32_t where = (uint32_t)((const char *)caller - (const char *)program().dli_fbase), from = r->ofBlock ? now->block : launchFrom;
	for (size_t at = p - r->from, end = at + bytes; at < end;) {
		const size_t wordEnd = (at / 4 + 1) * 4;
		Word &word = r->words[at / 4];
		if (word.apartSince < from && at % 4 == 0 && end >= wordEnd) {
			look(*r, at, word.all, from, kind, where);
			at = wordEnd;
			continue;
		}
		if (word.apartSince < from) {
			word.apartSince = now->block;
			for (size_t i = wordEnd - 4; i < wordEnd; i++)
				r->apart[i] = word.all;
		}
		for (; at < wordEnd && at < end; at++)
			look(*r, at, r->apart[at], from, kind, where);
	}
}

} // namespace

// changed is called after every change of allocations.
static void changed() {
	for (Recent &r : recent)
		r = Recent{};
}

static Region newRegion(const void *p, size_t bytes, bool ofBlock) {
	return Region{(const char *)p, bytes, (Word *)zeros((bytes / 4 + 1) * sizeof(Word)), (Past *)zeros((bytes + 4) * sizeof(Past)), ofBlock};
}

void raceTrack(const void *p, size_t bytes) {
	allocations[(const char *)p] = newRegion(p, bytes, false);
	changed();
}

void raceForget(const void *p) {
	auto at = allocations.find((const char *)p);
	const Region &r = at->second;
	munmap(r.words, (r.bytes / 4 + 1) * sizeof(Word));
	munmap(r.apart, (r.bytes + 4) * sizeof(Past));
	allocations.erase(at);
	changed();
}

void raceLaunch() {
	launchFrom = blocks + 1;
	places.clear();
}

uint32_t raceBlock(int place, unsigned x, unsigned y, unsigned z, const void *memory, size_t bytes) {
	places.push_back(Place{x, y, z});
	Region &r = shared[place];
	if (r.words == nullptr)
		r = newRegion(memory, sharedMost, true);
	r.from = (const char *)memory;
	r.bytes = bytes;
	return ++blocks;
}

void raceRun(const Moment *m) { now = m; }
void raceAtomic(const void *p, size_t bytes, const void *at) { access(p, bytes, adding, at); }

// What a copy reads may not change from its beginning to its end.
static void copy(const void *to, const void *from, size_t bytes, Kind kind, const void *at) {
	access(to, bytes, kind, at);
	if (from != nullptr)
		access(from, bytes, reading, at);
}
void raceCopying(const void *to, const void *from, size_t bytes, const void *at) { copy(to, from, bytes, copying, at); }
void raceCopied(const void *to, const void *from, size_t bytes, const void *at) { copy(to, from, bytes, arriving, at); }

} // namespace emu

// What g++ calls.
#define HERE __builtin_return_address(0)
#define ACCESS(n) \
	extern "C" void __tsan_read##n(void *p) { emu::access(p, n, emu::reading, HERE); } \
	extern "C" void __tsan_write##n(void *p) { emu::access(p, n, emu::writing, HERE); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
extern "C" void __tsan_read_range(void *p, size_t n) { emu::access(p, n, emu::reading, HERE); }
extern "C" void __tsan_write_range(void *p, size_t n) { emu::access(p, n, emu::writing, HERE); }
extern "C" void __tsan_vptr_update(void **, void *) {}
extern "C" void __tsan_init() {}

#endif

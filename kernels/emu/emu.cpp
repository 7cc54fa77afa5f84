// The scheduler of the emulated device: see emu.h.
#include "../warpgroup.cuh"

#include <boost/context/detail/fcontext.hpp>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {
namespace {

namespace ctx = boost::context::detail;

const size_t stackBytes = 256 << 10; // reserved, not used: kernels hold some kilobytes of registers

enum State { ready, atBlockBarrier, atWarpBarrier, atGate, ended };

struct Copy {
	void *to;
	const void *from;
	int bytes;
	bool valid;

	void arrive() const { valid ? memcpy(to, from, bytes) : memset(to, 0, bytes); }
};

struct Product {
	float *d;
	int columns;
	Factor a, b;
	bool onto;
	const uint32_t *rows[4]; // the registers of a for the running thread's rows
};

// Groups are things of which some belong together: what is not in a committed group is in the open one.
template <class T> struct Groups {
	std::vector<T> all;
	std::vector<size_t> ends; // of the groups that were committed

	void commit() { ends.push_back(all.size()); }

	// wait does the things of all groups but the last ones that were committed.
	template <class F> void wait(int groupsLeft, F f) {
		if ((int)ends.size() <= groupsLeft)
			return;
		size_t groups = ends.size() - groupsLeft, n = ends[groups - 1];
		for (size_t i = 0; i < n; i++)
			f(all[i]);
		all.erase(all.begin(), all.begin() + n);
		ends.erase(ends.begin(), ends.begin() + groups);
		for (size_t &end : ends)
			end -= n;
	}

	void clear() {
		all.clear();
		ends.clear();
	}
};

struct Thread {
	ctx::fcontext_t context = nullptr;
	char *stack = nullptr;
	void *fakeStack = nullptr;
	State state = ended;
	dim3 index;
	Groups<Copy> copies;
	Groups<Product> products;
	bool fenced;  // since the last group of products
	bool arrived; // are copies that were waited for, since the last fenceCopies
	Gate *gate;  // that is waited for
	uint32_t parity;
	Moment moment;
	uint32_t clusterPhase; // of the cluster's barrier, that it waits for next
	int block;             // in the cluster
	int exchanges;
};

struct Warp {
	alignas(16) Lanes lanes[2];
	int alive, waiting;
};

// Tile is a copy of a tile on its way to one block.
struct Tile {
	char *to;
	TileMap map;
	int col, row;
	Gate *gate;
	int block;
	bool written;
};

struct Block {
	dim3 index;
	int alive, waiting;
	int unshown;        // threads that have waited for copies and not shown them to products
	int any, anyBefore; // what threads bring to a barrier, and brought to the last one: blockBarrierOr
	char *sharedMemory;
	uint32_t number; // counted by races.cpp
};

// Cluster is what runs: the threads of its blocks, one block after the other. Most clusters are of one block.
struct Cluster {
	std::vector<Thread> threads;
	std::vector<Warp> warps;
	std::vector<int> warpOrder, laneOrder;
	const std::function<void()> *body = nullptr;
	ctx::fcontext_t scheduler = nullptr;
	void *schedulerFakeStack = nullptr;
	const void *schedulerStack = nullptr;
	size_t schedulerStackBytes = 0;
	int self = 0, count = 0, total = 0; // the running thread; threads of a block, and of all
	std::vector<Block> blocks;
	std::vector<Tile> tiles;
	Gate barrier;
	size_t sharedBytes = 0;
	std::mt19937_64 random;
	bool seeded = false;
};

Cluster B;

Block &running() { return B.blocks[B.threads[B.self].block]; }

[[noreturn]] void die(const char *what) {
	fprintf(stderr, "emulated device: %s, in block (%u, %u, %u) of a grid of %u×%u×%u, %d threads\n", what, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, B.count);
	abort();
}

// toThread runs a thread until it waits or ends.
void toThread(int t) {
	Thread &x = B.threads[t];
	B.self = t;
	threadIdx = x.index;
	blockIdx = B.blocks[x.block].index;
	raceRun(&x.moment);
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_start_switch_fiber(&B.schedulerFakeStack, x.stack, stackBytes);
#endif
	ctx::transfer_t back = ctx::jump_fcontext(x.context, nullptr);
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(B.schedulerFakeStack, nullptr, nullptr);
#endif
	B.threads[B.self].context = back.fctx;
	raceRun(nullptr);
}

// toScheduler lets others run.
void toScheduler() {
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_start_switch_fiber(&B.threads[B.self].fakeStack, B.schedulerStack, B.schedulerStackBytes);
#endif
	ctx::transfer_t back = ctx::jump_fcontext(B.scheduler, nullptr);
	B.scheduler = back.fctx;
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(B.threads[B.self].fakeStack, &B.schedulerStack, &B.schedulerStackBytes);
#endif
}

void releaseWarp(int w) {
	Warp &warp = B.warps[w];
	if (warp.waiting == 0 || warp.waiting < warp.alive)
		return;
	warp.waiting = 0;
	for (int t = 32 * w; t < 32 * w + 32 && t < B.total; t++)
		if (B.threads[t].state == atWarpBarrier)
			B.threads[t].state = ready;
}

void releaseBlock(int b) {
	Block &block = B.blocks[b];
	if (block.waiting == 0 || block.waiting < block.alive)
		return;
	block.waiting = 0;
	block.anyBefore = block.any;
	block.any = 0;
	for (int t = b * B.count; t < (b + 1) * B.count; t++)
		if (B.threads[t].state == atBlockBarrier)
			B.threads[t].state = ready;
}

// threadMain runs one thread after the other on a fiber: a fiber that ended would leave its stack as AddressSanitizer
// remembers it.
void threadMain(ctx::transfer_t from) {
	B.scheduler = from.fctx;
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(nullptr, &B.schedulerStack, &B.schedulerStackBytes);
#endif
	for (;;) {
		(*B.body)();
		Thread &x = B.threads[B.self];
		if (!x.copies.all.empty())
			die("a thread ended before its asynchronous copies were waited for");
		if (!x.products.all.empty())
			die("a thread ended before its warpgroup's products were waited for");
		x.state = ended;
		B.warps[B.self / 32].alive--;
		releaseWarp(B.self / 32);
		running().alive--;
		releaseBlock(x.block);
		if (running().alive == 0)
			for (const Tile &tile : B.tiles)
				if (tile.block == x.block)
					die("a block ended before copies of tiles arrived in it");
		toScheduler();
	}
}

void prepareThreads(int n) {
	if ((int)B.threads.size() < n)
		B.threads.resize(n);
	B.warps.resize((n + 31) / 32);
	for (int t = 0; t < n; t++)
		if (B.threads[t].stack == nullptr) {
			void *p = mmap(nullptr, stackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
			if (p == MAP_FAILED)
				die("no memory for the stack of a thread");
			B.threads[t].stack = (char *)p;
			B.threads[t].context = ctx::make_fcontext(B.threads[t].stack + stackBytes, stackBytes, threadMain);
		}
}

template <class T> void shuffle(std::vector<T> &order) {
	for (size_t i = order.size(); i > 1; i--)
		std::swap(order[i - 1], order[B.random() % i]);
}

// runWarp runs every thread of a warp that can run, once.
bool runWarp(int w) {
	bool moved = false;
	for (int lane : B.laneOrder) {
		int t = 32 * w + lane;
		if (t >= B.total)
			continue;
		Thread &x = B.threads[t];
		if (x.state == atGate && (x.gate->phase & 1) != x.parity)
			x.state = ready;
		if (x.state == ready) {
			toThread(t);
			moved = true;
		}
	}
	return moved;
}

void write(Tile &tile) {
	const TileMap &m = tile.map;
	for (uint32_t r = 0; r < m.boxRows; r++)
		for (uint32_t c = 0; c < m.boxCols; c++) {
			uint64_t row = (uint64_t)tile.row + r, col = (uint64_t)tile.col + c;
			uint16_t bits = 0; // beyond the matrix
			if (row < m.rows && col < m.cols)
				memcpy(&bits, m.x + row * m.rowBytes + col * 2, 2);
			uint64_t at = tile.to - B.blocks[tile.block].sharedMemory + (r * m.boxCols + c) * 2;
			if (m.swizzled)
				at ^= (at >> 7 & 7) << 4;
			memcpy(B.blocks[tile.block].sharedMemory + at, &bits, 2);
		}
	tile.written = true;
}

void endPhase(Gate &gate) {
	if (gate.left == 0 && gate.bytes == 0) {
		gate.left = gate.times;
		gate.phase++;
	}
}

// deliver lets one of the copies of tiles arrive, if there are any: half the time the oldest, so that threads wait for the next step
// and not for all that are on their way.
bool deliver() {
	if (B.tiles.empty())
		return false;
	auto at = B.tiles.begin() + (B.random() % 2 == 0 ? 0 : B.random() % B.tiles.size());
	Tile tile = *at;
	B.tiles.erase(at);
	if (!tile.written)
		write(tile);
	if (tile.gate->times == 0xffff)
		die("a copy of a tile arrives at a gate that was not set");
	tile.gate->bytes -= (int)(tile.map.boxRows * tile.map.boxCols * 2);
	endPhase(*tile.gate);
	return true;
}

void runCluster(dim3 block) {
	for (Block &b : B.blocks) {
		void *memory = nullptr;
		if (posix_memalign(&memory, 1024, B.sharedBytes + (B.sharedBytes == 0)) != 0)
			die("no memory for shared memory");
		memset(memory, 0xff, B.sharedBytes);
		b.sharedMemory = (char *)memory;
		b.number = raceBlock(int(&b - B.blocks.data()), b.index.x, b.index.y, b.index.z, memory, B.sharedBytes);
		b.alive = B.count;
		b.waiting = 0;
		b.any = 0;
		b.unshown = 0;
	}
	for (size_t w = 0; w < B.warps.size(); w++) {
		B.warps[w].alive = B.total - 32 * (int)w < 32 ? B.total - 32 * (int)w : 32;
		B.warps[w].waiting = 0;
		memset(B.warps[w].lanes, 0xff, sizeof B.warps[w].lanes);
	}
	for (int i = 0; i < B.total; i++) {
		Thread &x = B.threads[i];
		int t = i % B.count;
		x.state = ready;
		x.copies.clear();
		x.products.clear();
		x.fenced = false;
		x.arrived = false;
		x.clusterPhase = 0;
		x.exchanges = 0;
		x.block = i / B.count;
		x.moment = Moment{B.blocks[x.block].number, 0, 0, (uint16_t)t, (uint16_t)x.block, x.stack, x.stack + stackBytes};
		x.index = dim3(t % block.x, t / block.x % block.y, t / (block.x * block.y));
	}
	emu::setGate(B.barrier, B.total);
	auto alive = [] {
		for (const Block &b : B.blocks)
			if (b.alive > 0)
				return true;
		return false;
	};
	int held = -1; // a block of a cluster that does not run for a while: one can be far ahead of the other
	while (alive()) {
		if (B.blocks.size() > 1 && B.random() % 4 == 0)
			held = (int)(B.random() % (B.blocks.size() + 1)) - 1;
		// A warp runs alone until all of it waits for the block: what it writes too early, or reads before others wrote it, shows.
		bool moved = false;
		for (int w : B.warpOrder) {
			if (B.threads[32 * w].block == held)
				continue;
			while (runWarp(w))
				moved = true;
			if (B.random() % 4 == 0)
				moved |= deliver();
		}
		if (!moved && held >= 0)
			held = -1;
		else if (!moved && !deliver())
			die("deadlock: threads wait at barriers that others do not reach");
		shuffle(B.warpOrder);
	}
	for (Block &b : B.blocks)
		free(b.sharedMemory);
}

} // namespace

// lost says whether the device is lost: from launch number SURGEON_EMU_FAIL_AT on, counted from when that was set.
static bool lost() {
	static uint64_t launches;
	const char *at = getenv("SURGEON_EMU_FAIL_AT");
	launches = at ? launches + 1 : 0;
	return at && launches >= strtoull(at, nullptr, 10);
}

// sharedLimit is how much shared memory a block can have: that of an H100 for compute capability 9.0, else of an A100.
static size_t sharedLimit() {
	const char *capability = getenv("SURGEON_EMU_CAPABILITY");
	return capability == nullptr || strcmp(capability, "90") == 0 ? 227 << 10 : 163 << 10;
}

int launch(unsigned cluster, dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()> &body) {
	if (lost())
		return 719; // cudaErrorLaunchFailure
	unsigned count = block.x * block.y * block.z;
	if (count == 0 || grid.x == 0 || grid.y == 0 || grid.z == 0 || count > 1024 || grid.y > 65535 || grid.z > 65535 || sharedBytes > sharedLimit() || grid.x % cluster != 0 || (cluster > 1 && count % 32 != 0))
		return 9; // cudaErrorInvalidConfiguration
	if (!B.seeded) {
		const char *seed = getenv("SURGEON_EMU_SEED");
		B.random.seed(seed ? strtoull(seed, nullptr, 10) : 1);
		B.seeded = true;
	}
	raceLaunch();
	gridDim = grid;
	blockDim = block;
	B.count = count;
	B.total = count * cluster;
	B.blocks.resize(cluster);
	B.sharedBytes = sharedBytes;
	B.body = &body;
	prepareThreads(B.total);
	B.warpOrder.resize(B.warps.size());
	std::iota(B.warpOrder.begin(), B.warpOrder.end(), 0);
	B.laneOrder.resize(32);
	std::iota(B.laneOrder.begin(), B.laneOrder.end(), 0);
	const uint64_t across = grid.x / cluster, clusters = across * grid.y * grid.z;
	uint64_t step = 1 + B.random() % clusters, at = B.random() % clusters; // every step-th one, and so all of them
	while (std::gcd(step, clusters) != 1)
		step++;
	for (uint64_t i = 0; i < clusters; i++, at = (at + step) % clusters) {
		for (unsigned b = 0; b < cluster; b++)
			B.blocks[b].index = dim3((unsigned)(at % across * cluster + b), (unsigned)(at / across % grid.y), (unsigned)(at / across / grid.y));
		shuffle(B.warpOrder);
		shuffle(B.laneOrder);
		runCluster(block);
	}
	return 0;
}

void *sharedMemory() { return running().sharedMemory; }

void blockBarrier() {
	B.threads[B.self].state = atBlockBarrier;
	running().waiting++;
	releaseBlock(B.threads[B.self].block);
	toScheduler();
	B.threads[B.self].moment.barriers++;
}

int blockBarrierOr(int p) {
	running().any |= p != 0;
	blockBarrier();
	return running().anyBefore;
}

void warpBarrier() {
	B.threads[B.self].state = atWarpBarrier;
	B.warps[B.self / 32].waiting++;
	releaseWarp(B.self / 32);
	toScheduler();
}

void warpFence() {
	warpBarrier();
	B.threads[B.self].moment.fences++;
}

int lane() { return B.self % 32; }
Lanes &exchange() { return B.warps[B.self / 32].lanes[B.threads[B.self].exchanges++ % 2]; }

void copyLater(void *to, const void *from, int bytes, bool valid) {
	if ((uintptr_t)to % bytes != 0 || (valid && (uintptr_t)from % bytes != 0))
		die("an asynchronous copy is not aligned to its size");
	const Copy copy{to, from, bytes, valid};
	raceCopying(to, valid ? from : nullptr, bytes, __builtin_return_address(0));
	if (lane() % 2 == 0) // at once, the others' when they are waited for: see tensor.h
		copy.arrive();
	B.threads[B.self].copies.all.push_back(copy);
}

void copyCommit() { B.threads[B.self].copies.commit(); }

void copyWait(int groupsLeft) {
	const void *at = __builtin_return_address(0);
	Thread &x = B.threads[B.self];
	x.copies.wait(groupsLeft, [&x, at](const Copy &copy) {
		if (lane() % 2 != 0)
			copy.arrive();
		raceCopied(copy.to, copy.valid ? copy.from : nullptr, copy.bytes, at);
		if (!x.arrived)
			running().unshown++;
		x.arrived = true;
	});
}

void fenceCopies() {
	Thread &x = B.threads[B.self];
	if (x.arrived)
		running().unshown--;
	x.arrived = false;
}

void setGate(Gate &gate, int times) { gate = Gate{0, 0, (uint16_t)times, (uint16_t)times}; }

void openGate(Gate &gate, int bytes) {
	if (gate.times == 0xffff)
		die("a gate is opened that was not set");
	if (gate.left == 0)
		die("a gate is opened once more than it was set to");
	gate.bytes += bytes;
	gate.left--;
	endPhase(gate);
}

// in is where what is at p in the running thread's block is in another.
template <class T> static T *in(int block, T *p) { return (T *)(B.blocks[block].sharedMemory + ((char *)p - (char *)sharedMemory())); }

void openGateIn(Gate &gate, int block) {
	if (B.blocks[block].alive == 0)
		die("a gate is opened in a block that has ended");
	openGate(*in(block, &gate), 0);
}

int blockInCluster() { return B.threads[B.self].block; }

void copyTile(void *to, const TileMap &map, int col, int row, Gate &gate, unsigned blocks) {
	if (((char *)to - (char *)sharedMemory()) % 128 != 0)
		die("a copy of a tile is not aligned to 128 bytes");
	for (int b = 0; b < (int)B.blocks.size(); b++) {
		if ((blocks >> b & 1) == 0)
			continue;
		if (B.blocks[b].alive == 0)
			die("a tile is copied into a block that has ended");
		B.tiles.push_back(Tile{(char *)in(b, (char *)to), map, col, row, in(b, &gate), b, false});
		if (B.random() % 2 == 0)
			write(B.tiles.back());
	}
}

// The barrier of the cluster. Threads that ended are not counted as arrived: nothing here needs it.
void clusterArrive() { openGate(B.barrier, 0); }
void clusterWait() { emu::passGate(B.barrier, (int)(B.threads[B.self].clusterPhase++ & 1)); }

void passGate(Gate &gate, int parity) {
	if (gate.times == 0xffff)
		die("a gate is waited for that was not set");
	Thread &x = B.threads[B.self];
	x.gate = &gate;
	x.parity = (uint32_t)parity;
	x.state = atGate;
	toScheduler();
}

void fenceWarpgroup() { B.threads[B.self].fenced = true; }

// Matrix is one as matrixAt describes it, decoded. Element (k, c) is column c of b, or row c of a.
struct Matrix {
	const char *memory;
	uint64_t address, panel, eightRows;
	bool down;

	explicit Matrix(const Factor &of)
	    : memory((const char *)sharedMemory()), address((of.matrix & 0x3fff) << 4), panel((of.matrix >> 16 & 0x3fff) << 4), eightRows((of.matrix >> 32 & 0x3fff) << 4), down(of.down) {}

	float at(int k, int c) const {
		uint64_t at = down ? address + c / 64 * panel + k / 8 * eightRows + k % 8 * 128 + c % 64 * 2 : address + c / 8 * eightRows + c % 8 * 128 + k * 2;
		at ^= (at >> 7 & 7) << 4;
		uint16_t bits;
		memcpy(&bits, memory + at, 2);
		return half(bits, 0);
	}
};

// look dies where a product would take something else than was meant, or nothing: the swizzle is not that of 128 bytes, which is the only one
// used; 8 rows of 128 bytes do not begin at a multiple of 1024, and nothing is said of it (bits 49…51); 16 k go beyond the panel.
static void look(const Factor &of) {
	uint64_t first = (of.matrix & 0x3fff) << 4;
	if (of.matrix >> 62 != 1 || (of.matrix >> 49 & 7) != 0)
		die("a product of a warpgroup of a matrix that is not swizzled by 128 bytes");
	if ((first & 0x380) != 0 || (of.down ? first % 128 != 0 : first % 128 % 32 != 0))
		die("a product of a warpgroup of a matrix that begins within 8 rows, or beside 16 k");
	if (fromLane(of.matrix, 0) != of.matrix)
		die("threads of a warpgroup multiply different matrices");
}

// multiply is what the running thread gets of a product.
static void multiply(const Product &p) {
	const Matrix b(p.b), a(p.a);
	const int g = lane() / 4, t = lane() % 4, row = B.self % B.count / 32 % 4 * 16 + g;
	if (!p.onto)
		memset(p.d, 0, p.columns / 2 * sizeof(float));
	for (int k = 0; k < 16; k++) {
		float upper, lower;
		if (p.a.registers != nullptr) { // as in tensor.h
			const uint32_t *of = p.rows[k % 8 / 2] + 2 * (k >= 8);
			upper = half(of[0], k & 1), lower = half(of[1], k & 1);
		} else
			upper = a.at(k, row), lower = a.at(k, row + 8);
		for (int j = 0; j < p.columns / 8; j++)
			for (int c = 0; c < 2; c++) {
				const float x = b.at(k, 8 * j + 2 * t + c);
				p.d[4 * j + c] += upper * x;
				p.d[4 * j + 2 + c] += lower * x;
			}
	}
}

void multiplyLater(float *d, int columns, const Factor &a, const Factor &b, bool onto) {
	Thread &x = B.threads[B.self];
	Product p{d, columns, a, b, onto, {}};
	if (a.registers == nullptr)
		look(a);
	else
		for (int i = 0; i < 4; i++)
			p.rows[i] = fromLane(a.registers, lane() / 4 * 4 + i);
	look(b);
	if (!x.fenced)
		die("a product of a warpgroup without a fence before it");
	if (running().unshown > 0)
		die("a product of a warpgroup when copies were waited for that were not shown to it");
	if (lane() % 2 == 0)
		multiply(p);
	x.products.all.push_back(p);
}

void commitWarpgroup() {
	Thread &x = B.threads[B.self];
	x.products.commit();
	x.fenced = false;
}

void waitWarpgroup(int groupsLeft) {
	warpBarrier(); // factors in registers are those of threads that have come here
	B.threads[B.self].products.wait(groupsLeft, [](const Product &p) {
		if (lane() % 2 != 0)
			multiply(p);
	});
	warpBarrier();
}

} // namespace emu

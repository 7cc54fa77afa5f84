package cpu

// grainElements is the least work for which another goroutine is worth waking: some 10 µs of moving memory.
const grainElements = 16384

// rowGrain is how many rows of n elements make a piece.
func rowGrain(n int) int { return max(1, grainElements/max(1, n)) }

package text

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// CalibrationWindows cuts ids into consecutive windows of `length` tokens (the tail that fills no window is dropped), shuffles
// the windows by the seed, and returns the first `samples` for calibration and the `holdout` after them for judging a shot on
// text it was not calibrated on. The two are disjoint, because windows do not overlap and each is used once.
//
// The windows are slices of ids, not copies. The order depends on the seed and the number of windows alone, and is the same on
// every machine and for every Go version: see shuffle. It is an error if ids has fewer than samples + holdout windows.
func CalibrationWindows(ids []int32, length, samples, holdout int, seed uint64) (calibration, heldOut [][]int32, err error) {
	if samples < 1 || holdout < 0 {
		return nil, nil, fmt.Errorf("%d calibration windows and %d held-out windows were asked for, want at least 1 and 0", samples, holdout)
	}
	windows, err := cutWindows(ids, length)
	if err != nil {
		return nil, nil, err
	}
	if holdout > len(windows) || samples > len(windows)-holdout {
		return nil, nil, fmt.Errorf("the text has %d tokens, which fill %d windows of %d, but %d calibration and %d held-out windows are %.0f tokens; give more text, or lower the number of samples, the held-out windows or the length",
			len(ids), len(windows), length, samples, holdout, (float64(samples)+float64(holdout))*float64(length))
	}
	shuffle(windows, seed)
	return windows[:samples:samples], windows[samples : samples+holdout : samples+holdout], nil
}

// PerplexityWindows cuts ids into consecutive windows of `length` tokens and drops the tail that fills none. The windows are
// slices of ids, not copies. Each gives length − 1 predictions, so length must be at least 2.
func PerplexityWindows(ids []int32, length int) ([][]int32, error) {
	windows, err := cutWindows(ids, length)
	if err != nil {
		return nil, err
	}
	if len(windows) == 0 {
		return nil, fmt.Errorf("the text has %d tokens, fewer than one window of %d; give more text or lower the length", len(ids), length)
	}
	return windows, nil
}

// CheckVocab reports the first id that is not in [0, vocab), as happens when a tokenizer belongs to another model.
func CheckVocab(ids []int32, vocab int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("token %d has the id %d, but the vocabulary has ids 0 to %d; use the tokenizer that belongs to the model", i, id, vocab-1)
		}
	}
	return nil
}

func cutWindows(ids []int32, length int) ([][]int32, error) {
	if length < 2 {
		return nil, fmt.Errorf("windows of %d tokens were asked for, but predicting a next token takes at least 2", length)
	}
	windows := make([][]int32, len(ids)/length)
	for i := range windows {
		windows[i] = ids[i*length : (i+1)*length : (i+1)*length]
	}
	return windows, nil
}

// shuffle permutes windows by Fisher and Yates: from the last to the second, each changes places with one at or before it,
// drawn by PCG-DXSM seeded with (seed, 0). The generator's numbers are fixed by math/rand/v2; how Shuffle and Uint64N reduce
// them to a range is not, so that is done here.
func shuffle(windows [][]int32, seed uint64) {
	source := rand.NewPCG(seed, 0)
	for i := len(windows) - 1; i > 0; i-- {
		j := below(source, uint64(i)+1)
		windows[i], windows[j] = windows[j], windows[i]
	}
}

// below draws a number from [0, n), n > 0, all equally likely: the high half of the product of n and a 64-bit number x. Of the 2^64
// values of x some results get one more than others; drawing again where the low half is below 2^64 mod n evens that out
// (Lemire, 2019).
func below(source *rand.PCG, n uint64) uint64 {
	for {
		high, low := bits.Mul64(source.Uint64(), n)
		if low >= -n%n {
			return high
		}
	}
}

package tasks

import (
	"math"
	"testing"
)

// What would be caught: a tie that goes to the last, bytes for characters, a space in front that counts, or one that does
// not where some choices have none.
func TestPicks(t *testing.T) {
	for _, c := range []struct {
		choices     []string
		lls         []float64
		plain, norm int
	}{
		{[]string{"aa", "bb", "cc"}, []float64{-2, -1, -1}, 1, 1},
		{[]string{"a", "bbbb"}, []float64{-1, -3}, 0, 1},
		{[]string{"éé", "bbb"}, []float64{-2, -2.5}, 0, 1}, // per byte the first
		{[]string{"éé", "bbb"}, []float64{-2, -3}, 0, 0},   // a tie per character
		{[]string{" a", " bb"}, []float64{-2, -3.5}, 0, 1}, // −2 and −1.75; with the space −1 and −1.17
		{[]string{" a", "bb"}, []float64{-2, -2.5}, 0, 0},  // −1 and −1.25; without the space −2 and −1.25
		{[]string{"  a", " bb"}, []float64{-2, -2}, 0, 0},  // one space only
		{[]string{"a", "b"}, []float64{0, 0}, 0, 0},        // certain of both
		{[]string{"a", "b"}, []float64{-1e300, -2e300}, 0, 0},
	} {
		plain, norm := Item{Choices: c.choices}.Picks(c.lls)
		if plain != c.plain || norm != c.norm {
			t.Errorf("%q %v: picks %d and %d, want %d and %d", c.choices, c.lls, plain, norm, c.plain, c.norm)
		}
	}
}

// What would be caught: a standard error of the population, or of one item.
func TestMeanError(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		for k := range n + 1 {
			mean, squares := float64(k)/float64(n), 0.0
			for i := range n {
				x := 0.0
				if i < k {
					x = 1
				}
				squares += (x - mean) * (x - mean)
			}
			want := math.Sqrt(squares/float64(n-1)) / math.Sqrt(float64(n))
			if got := meanError(k, n); math.Abs(*got-want) > 1e-15 {
				t.Errorf("%d of %d: %v, want %v", k, n, *got, want)
			}
		}
	}
	if meanError(1, 1) != nil {
		t.Error("a single item has a standard error")
	}
}

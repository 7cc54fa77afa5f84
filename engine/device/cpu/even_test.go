package cpu

import (
	"math"
	"testing"
)

// What would be caught: panels that leave a part out or are too long, more of them than it takes, and one that is a small rest.
func TestEven(t *testing.T) {
	for _, most := range []int{16, 256, 384, math.MaxInt} {
		for n := 1; n < 2000; n++ {
			got := even(n, most)
			pieces, last := 1+(n-1)/got, n-(n-1)/got*got
			if got < 1 || got > most || pieces != 1+(n-1)/most || pieces > 1 && got-last > 16*pieces {
				t.Fatalf("%d in pieces of at most %d: %d, the last %d", n, most, got, last)
			}
		}
	}
}

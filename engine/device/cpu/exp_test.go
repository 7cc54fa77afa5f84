package cpu

import (
	"math"
	"testing"
)

// Would catch a wrong table, a wrong term, a wrong end of the range.
func TestExp32(t *testing.T) {
	worst := 0.
	check := func(x float32) {
		got, want := exp32(x), math.Exp(float64(x))
		if w := float32(want); math.IsInf(float64(w), 0) || w == 0 {
			if got != w {
				t.Fatalf("exp32(%v) is %v, want %v", x, got, w)
			}
			return
		}
		_, e := math.Frexp(want)
		ulp := math.Ldexp(1, max(e, -125)-24)
		if off := math.Abs(float64(got)-want) / ulp; off > worst {
			worst = off
		}
	}
	for x := -110.; x < 95; x += 0.00037 {
		check(float32(x))
	}
	for _, edge := range []float32{expMin, expMax, 0, -87.33655} {
		for x, i := edge-1e-4, 0; i < 200; i++ {
			check(x)
			x = math.Nextafter32(x, 100)
		}
	}
	if worst > 0.51 { // half for the rounding of the result
		t.Errorf("exp32 is wrong by up to %.3f units in the last place", worst)
	}
	inf := float32(math.Inf(1))
	if v := exp32(float32(math.NaN())); v == v || exp32(inf) != inf || exp32(-inf) != 0 {
		t.Errorf("exp32(NaN, Inf, -Inf) is %v, %v, %v", v, exp32(inf), exp32(-inf))
	}
	t.Logf("exp32 is right to %.4f units in the last place", worst)
}

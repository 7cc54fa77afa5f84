package prune

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: a layer that is all zeros, or of which a row stays, that stops a run, or gets weights again.
func TestElementsOfDeadLayers(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	identity := func(n int) device.Sym {
		s := device.AllocSym(dev, n, device.F64)
		dev.Zero(s.Packed)
		full := make([]float64, device.PackedLen(n))
		for i := range n {
			full[device.PackedLen(i)+i] = 1
		}
		device.UploadSlice(dev, full, s.Packed)
		return s
	}
	for _, values := range [][]float64{make([]float64, 12), {0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0}} {
		l := Layer{Name: "layer", W: device.NewFrom(dev, values, 3, 4, device.F64), Term: Term{A: identity(4), G: identity(3)}}
		alive, err := Alive(dev, l)
		if err != nil {
			t.Fatal(err)
		}
		costs, _, err := CostElements(dev, l, alive, OBS, Damping{G: 0.1, A: 0.01})
		if err != nil {
			t.Fatal(err)
		}
		w := Weights{Structure: Element, Layers: []WeightsOf{{Name: "layer", Rows: 3, Cols: 4}},
			Costs: func(int) (device.Tensor, error) { return costs.Of(dev, l.W), nil }}
		s, err := SelectWeights(dev, w, InModel, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := s.Gone(dev, 0)
		if err != nil || count(gone) != 6 {
			t.Fatalf("%d of 12 weights go, %v", count(gone), err)
		}
		for _, sequential := range []bool{false, true} {
			r, err := ApplyElements(dev, l, alive, gone, Joint, Damping{G: 0.1, A: 0.01}, Grouping{Limit: 5, Sequential: sequential})
			if err != nil || r.Predicted != 0 {
				t.Fatalf("predicted %v, %v", r.Predicted, err)
			}
			for i, v := range device.DownloadSlice[float64](dev, r.W) {
				if v != values[i] {
					t.Errorf("weight %d was %v and is %v, though only zeros go", i, values[i], v)
				}
			}
		}
	}
}

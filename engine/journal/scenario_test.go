package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
)

// A small run stands for a real one in these tests: each shot is worked out from the weights and the state of the one
// before and from nothing else, in floats that have no short decimal form.

const (
	scenarioShots = 3
	// Three pieces and a bit, so that a weights file can be cut off in the beginning, in the middle and in the last piece.
	scenarioWeights = (3*pieceBytes + 1000) / 8
)

type scenarioOptions struct {
	Model string `json:"model"`
	Shots int    `json:"shots"`
}

type scenarioState struct {
	Losses []float64 `json:"losses"`
	Kept   []int     `json:"kept"`
}

var wantedOptions = scenarioOptions{Model: "sha256:1234", Shots: scenarioShots}

// scenario does all that is left of the run in dir.
func scenario(dir string, s Settings) (err error) {
	j, err := Open(context.Background(), dir, wantedOptions, s)
	if err != nil {
		return err
	}
	defer j.Close()
	return goOn(j, scenarioShots)
}

// goOn makes the shots up to upTo that are not there.
func goOn(j *Journal, upTo int) error {
	w := make([]float64, scenarioWeights) // the dense model
	for i := range w {
		w[i] = math.Sqrt(float64(i))
	}
	var state scenarioState
	first := 1
	if last, ok := j.Last(); ok {
		f, err := j.LoadShot(context.Background(), last.Number, &state)
		if err != nil {
			return err
		}
		b := f.Bytes("w")
		for i := range w {
			w[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
		}
		if err := f.Close(); err != nil {
			return err
		}
		first = last.Number + 1
	}
	for number := first; number <= upTo; number++ {
		loss := 1.0 / 3
		for _, l := range state.Losses {
			loss += l / 7
		}
		for i := range w {
			w[i] = w[i]*0.999 + loss/float64(number+i)
		}
		state.Losses = append(state.Losses, loss+w[5])
		state.Kept = append(state.Kept, number*number)
		if err := j.SaveShot(number, state, entriesOf(w)); err != nil {
			return err
		}
	}
	return nil
}

func entriesOf(w []float64) []safetensors.Entry {
	write := func(to io.Writer) error {
		b := make([]byte, 0, 8*len(w))
		for _, x := range w {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		}
		_, err := to.Write(b)
		return err
	}
	return []safetensors.Entry{{Name: "w", DType: safetensors.F64, Shape: []int{len(w)}, Write: write}}
}

// change is one call of the hook.
type change struct{ op, file string }

// uninterrupted is the run without a stop: all its changes in order, and the content it leaves.
func uninterrupted(t *testing.T) ([]change, map[string]string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	var changes []change
	note := func(n int, op, file string) error {
		changes = append(changes, change{op, file})
		if n != len(changes) {
			return fmt.Errorf("change %d is counted as %d", len(changes), n)
		}
		return nil
	}
	if err := scenario(dir, Settings{Hooks: Hooks{Before: note}}); err != nil {
		t.Fatal(err)
	}
	return changes, content(t, dir)
}

// lastAfter is the shot that must be usable when only the first n of the changes were made.
func lastAfter(changes []change, n int) int {
	last := 0
	for _, c := range changes[:n] {
		for number := 1; number <= scenarioShots; number++ {
			if c == (change{"rename", recordName(number)}) {
				last = number
			}
		}
	}
	return last
}

// content is all that a run is, by file: everything but the lock and the event lines, which hold times.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := listing(t, dir)
	delete(all, lockName)
	delete(all, eventsName)
	return all
}

// listing is the content of every file in a directory.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// eventsOf are the lines of journal.jsonl that can be read, oldest first.
func eventsOf(t *testing.T, dir string) []eventLine {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, eventsName))
	if err != nil {
		t.Fatal(err)
	}
	return readable(data)
}

// readable are the events in the whole lines of data, read in another way than parseEvents does it.
func readable(data []byte) []eventLine {
	var all []eventLine
	for _, line := range bytes.SplitAfter(data, []byte("\n")) {
		var e eventLine
		if bytes.HasSuffix(line, []byte("\n")) && json.Unmarshal(line, &e) == nil && e.Kind != "" {
			all = append(all, e)
		}
	}
	return all
}

// same fails where two contents differ, naming the first file.
func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is there and should not be", name)
		}
	}
	for name, w := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if g != w {
			t.Errorf("%s differs from that of the run without a stop (%d and %d bytes)", name, len(g), len(w))
		}
	}
}

// open opens dir for a test and closes it at its end.
func open(t *testing.T, dir string, s Settings) *Journal {
	t.Helper()
	j, err := Open(context.Background(), dir, wantedOptions, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

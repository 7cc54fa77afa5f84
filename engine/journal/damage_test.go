package journal

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stopped is a run that was stopped after upTo shots.
func stopped(t *testing.T, upTo int, s Settings) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	j := open(t, dir, s)
	if err := goOn(j, upTo); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// rewrite changes a file in place.
func rewrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o644); err != nil {
		t.Fatal(err)
	}
}

func truncated(b []byte) []byte { return b[:len(b)/2] }
func longer(b []byte) []byte    { return append(b, 0) }
func emptied([]byte) []byte     { return nil }
func bitFlipped(b []byte) []byte {
	b[len(b)*2/3] ^= 1
	return b
}

// Catches a damaged shot that is used, that is not named, or that costs more than itself: every kind of damage to the newest
// shot, with the one before it there or not.
func TestDamagedShot(t *testing.T) {
	t.Parallel() // it mostly waits for the disk
	_, want := uninterrupted(t)
	cases := []struct {
		name   string
		file   string
		change func([]byte) []byte // nil removes the file
		says   string
	}{
		{"weights truncated", weightsName(2), truncated, "bytes, "},
		{"weights longer", weightsName(2), longer, "bytes, "},
		{"weights empty", weightsName(2), emptied, "has 0 bytes"},
		{"weights altered", weightsName(2), bitFlipped, "was altered"},
		{"weights missing", weightsName(2), nil, "is missing"},
		{"record truncated", recordName(2), truncated, "not JSON"},
		{"record empty", recordName(2), emptied, "not JSON"},
		{"record altered", recordName(2), bitFlipped, "shot-002.json"},
		{"record missing", recordName(2), nil, "is incomplete"},
		{"record of another shot", recordName(2), func([]byte) []byte {
			r, err := newRecord(7, scenarioState{})
			if err != nil {
				t.Fatal(err)
			}
			return r.encode()
		}, "is the record of shot 7"},
	}
	for _, c := range cases {
		for _, keep := range []bool{false, true} {
			dir := stopped(t, 2, Settings{KeepShots: keep})
			path := filepath.Join(dir, c.file)
			if c.change == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				rewrite(t, path, c.change)
			}
			j := open(t, dir, Settings{})
			wantLast, goesOn := 0, "starts again from the dense model"
			if keep {
				wantLast, goesOn = 1, "goes on after shot 1"
			}
			if j.lastNumber() != wantLast {
				t.Errorf("%s: goes on after shot %d, want %d", c.name, j.lastNumber(), wantLast)
			}
			said := strings.Join(j.Warnings(), "\n")
			for _, part := range []string{"shot 2 is ", c.says, c.file, goesOn} {
				if !strings.Contains(said, part) {
					t.Errorf("%s: the warnings lack %q:\n%s", c.name, part, said)
				}
			}
			named := 0
			for _, e := range eventsOf(t, dir) {
				if e.Kind == "warning" {
					named++
				}
			}
			if named != len(j.Warnings()) {
				t.Errorf("%s: %d warnings, %d of them as events", c.name, len(j.Warnings()), named)
			}
			if err := goOn(j, scenarioShots); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			j.Close()
			same(t, content(t, dir), want)
			if again := open(t, dir, Settings{}); len(again.Warnings()) > 0 {
				t.Errorf("%s: still warned about after the shot was made again: %q", c.name, again.Warnings())
			}
		}
	}
}

// Catches weights that are believed because of their name when an older shot is loaded.
func TestLoadShotVerifies(t *testing.T) {
	dir := stopped(t, 3, Settings{KeepShots: true})
	rewrite(t, filepath.Join(dir, weightsName(1)), bitFlipped)
	j := open(t, dir, Settings{KeepShots: true})
	var state scenarioState
	if _, err := j.LoadShot(context.Background(), 1, &state); err == nil || !strings.Contains(err.Error(), "was altered") {
		t.Errorf("an altered older shot: %v", err)
	}
	f, err := j.LoadShot(context.Background(), 2, &state)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(state.Losses) != 2 || f.Metadata()["shot"] != "2" {
		t.Errorf("shot 2 holds %d losses and metadata %v", len(state.Losses), f.Metadata())
	}
	if _, err := j.LoadShot(context.Background(), 9, &state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a shot that was never saved: %v", err)
	}
	var narrower struct {
		Losses []float64 `json:"losses"`
	}
	if _, err := j.LoadShot(context.Background(), 2, &narrower); err == nil || !strings.Contains(err.Error(), "kept") {
		t.Errorf("a state of which a part would be dropped: %v", err)
	}
}

// Catches an altered bit in a record that the reader of JSON overlooks: every bit of one is flipped, and it is cut off at
// every length.
func TestRecordKnowsEveryBit(t *testing.T) {
	r, err := newRecord(12, scenarioState{Losses: []float64{1.0 / 3, math.Copysign(0, -1), 5e-324}, Kept: []int{3}})
	if err != nil {
		t.Fatal(err)
	}
	r.describe(digest{bytes: 1 << 40})
	whole := r.encode()
	if _, err := parseRecord(whole); err != nil {
		t.Fatalf("a record as written: %v", err)
	}
	for i := range whole {
		if _, err := parseRecord(whole[:i]); err == nil {
			t.Errorf("a record of %d bytes is believed when cut after %d", len(whole), i)
		}
		for bit := range 8 {
			b := append([]byte(nil), whole...)
			b[i] ^= 1 << bit
			if _, err := parseRecord(b); err == nil {
				t.Errorf("bit %d of byte %d (%q for %q) is overlooked", bit, i, b[i], whole[i])
			}
		}
	}
}

// Catches floats that come back with other bits, from which a run would go on to another end.
func TestStateKeepsBits(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, 0))
	type state struct {
		Doubles []float64
		Singles []float32
		Seed    int64
	}
	want := state{Doubles: []float64{math.Copysign(0, -1), 5e-324, math.MaxFloat64, 0.1}, Seed: math.MaxInt64}
	for len(want.Doubles) < 2000 {
		if x := math.Float64frombits(rng.Uint64()); !math.IsNaN(x) && !math.IsInf(x, 0) {
			want.Doubles = append(want.Doubles, x)
		}
		if x := math.Float32frombits(rng.Uint32()); x-x == 0 {
			want.Singles = append(want.Singles, x)
		}
	}
	r, err := newRecord(1, want)
	if err != nil {
		t.Fatal(err)
	}
	var got state
	if err := r.decodeState(&got); err != nil {
		t.Fatal(err)
	}
	for i, w := range want.Doubles {
		if math.Float64bits(got.Doubles[i]) != math.Float64bits(w) {
			t.Errorf("seed %d: %x comes back as %x", seed, w, got.Doubles[i])
		}
	}
	for i, w := range want.Singles {
		if math.Float32bits(got.Singles[i]) != math.Float32bits(w) {
			t.Errorf("seed %d: %x comes back as %x", seed, w, got.Singles[i])
		}
	}
	if got.Seed != want.Seed {
		t.Errorf("seed %d comes back as %d", want.Seed, got.Seed)
	}
}

// Catches a state with a NaN that is dropped, or that is found out only after the weights were written.
func TestStateWithNaN(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	j := open(t, dir, Settings{})
	err := j.SaveShot(1, map[string]float64{"loss": math.NaN()}, entriesOf([]float64{1}))
	if err == nil || !strings.Contains(err.Error(), "shot 1") || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("a state with a NaN: %v", err)
	}
	if _, there := listing(t, dir)[weightsName(1)]; there {
		t.Error("the weights were written")
	}
}

// Catches a shot saved under a number that is taken.
func TestShotsGoUpwards(t *testing.T) {
	j := open(t, stopped(t, 2, Settings{}), Settings{})
	if err := j.SaveShot(2, scenarioState{}, nil); err == nil || !strings.Contains(err.Error(), "shot 2 is saved already") {
		t.Errorf("shot 2 after shot 2: %v", err)
	}
}

// Catches a change of the format by which a newer program would call the shots of an older one damaged. The line and its
// SHA-256 were made by another program.
func TestRecordFormat(t *testing.T) {
	const line = `{"shot":1,"weights_bytes":1200,"weights_sha256":"ab","state":{"losses":[0.5]},"sha256":"0868f8316c4b893107e9ab44efb15f40857955b0421f53628d5b606e56aece30"}` + "\n"
	r, err := parseRecord([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if r.Number != 1 || r.WeightsBytes != 1200 || r.WeightsSHA256 != "ab" || string(r.State) != `{"losses":[0.5]}` {
		t.Errorf("read as %+v", r)
	}
}

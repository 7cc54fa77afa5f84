package journal

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/stop"
)

// Catches a run that goes on with other options, a difference that is not listed, and one where there is none.
func TestOptionsDiffer(t *testing.T) {
	type options = map[string]any
	base := func() options {
		return options{"shots": 5, "seed": int64(9007199254740993), "damp_g": 0.01, "text": []string{"a", "b"},
			"model": options{"sha256": "12", "path": "m"}}
	}
	cases := []struct {
		name   string
		change func(options)
		want   []string
	}{
		{"the same", func(options) {}, nil},
		{"a number", func(o options) { o["shots"] = 8 }, []string{"shots: 5 there, 8 here"}},
		{"a seed beyond the digits of a float", func(o options) { o["seed"] = int64(9007199254740992) },
			[]string{"seed: 9007199254740993 there, 9007199254740992 here"}},
		{"an inner field", func(o options) { o["model"] = options{"sha256": "13", "path": "m"} },
			[]string{`model.sha256: "12" there, "13" here`}},
		{"a list", func(o options) { o["text"] = []string{"a"} }, []string{`text: ["a","b"] there, ["a"] here`}},
		{"a new and a missing one", func(o options) { delete(o, "damp_g"); o["damp"] = 0.01 },
			[]string{"damp: absent there, 0.01 here", "damp_g: 0.01 there, absent here"}},
		{"three", func(o options) { o["shots"] = 6; o["damp_g"] = 0.1; o["model"] = nil },
			[]string{"damp_g: 0.01 there, 0.1 here", `model: {"path":"m","sha256":"12"} there, null here`, "shots: 5 there, 6 here"}},
	}
	for _, c := range cases {
		dir := filepath.Join(t.TempDir(), "run")
		j, err := Open(context.Background(), dir, base(), Settings{})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.SaveShot(1, nil, nil); err != nil {
			t.Fatal(err)
		}
		j.Close()
		before := listing(t, dir)
		delete(before, lockName)
		here := base()
		c.change(here)
		j, err = Open(context.Background(), dir, here, Settings{})
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else {
				j.Close()
			}
			continue
		}
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, d := range refusal.Differences {
			got = append(got, d.String())
			if !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), "--work") {
				t.Errorf("%s: the message lacks the difference or how to go on: %v", c.name, err)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q, want\n%q", c.name, got, c.want)
		}
		after := listing(t, dir)
		delete(after, lockName)
		same(t, after, before)
	}
}

// Catches options.json that cannot be read and is overwritten or passed over.
func TestOptionsUnreadable(t *testing.T) {
	for _, change := range []func([]byte) []byte{truncated, emptied, func([]byte) []byte { return []byte("[]") }} {
		dir := stopped(t, 1, Settings{})
		rewrite(t, filepath.Join(dir, optionsName), change)
		if _, err := Open(context.Background(), dir, wantedOptions, Settings{}); err == nil || !strings.Contains(err.Error(), optionsName) {
			t.Errorf("options.json that cannot be read: %v", err)
		}
		if _, there := listing(t, dir)[recordName(1)]; !there {
			t.Error("the shot is gone")
		}
	}
	for _, options := range []any{nil, 3, []int{1}, map[string]any{"f": func() {}}} {
		dir := filepath.Join(t.TempDir(), "run")
		if _, err := Open(context.Background(), dir, options, Settings{}); err == nil {
			t.Errorf("options %T are taken", options)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("options %T: the directory was made", options)
		}
	}
}

// Catches a run that makes itself at home among somebody's files, and one that refuses what its own killed start left.
func TestForeignDirectory(t *testing.T) {
	cases := []struct {
		name    string
		files   []string
		foreign string
	}{
		{"empty", nil, ""},
		{"a start killed early", []string{lockName, ".options.json123"}, ""},
		{"somebody's files", []string{"thesis.tex", lockName}, "thesis.tex"},
		{"shots without options", []string{weightsName(1)}, weightsName(1)},
		{"almost a temporary name", []string{".options.json"}, ".options.json"},
	}
	for _, c := range cases {
		dir := t.TempDir()
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		before := listing(t, dir)
		j, err := Open(context.Background(), dir, wantedOptions, Settings{})
		if c.foreign == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			j.Close()
			for name := range listing(t, dir) {
				if temporary.MatchString(name) {
					t.Errorf("%s: %s is left", c.name, name)
				}
			}
			continue
		}
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok || refusal.Foreign != c.foreign || !strings.Contains(err.Error(), "a work directory of something else") {
			t.Errorf("%s: %v", c.name, err)
		}
		same(t, listing(t, dir), before)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), file, wantedOptions, Settings{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file in place of the directory: %v", err)
	}
}

// Catches shots that are removed though they are to be kept, kept though they are not, and a setting that counts as another
// run.
func TestKeepShots(t *testing.T) {
	shots := func(dir string) (numbers []int) {
		for number := 1; number <= scenarioShots; number++ {
			all := listing(t, dir)
			_, r := all[recordName(number)]
			_, w := all[weightsName(number)]
			if r != w {
				t.Errorf("shot %d: record %v, weights %v", number, r, w)
			}
			if r && w {
				numbers = append(numbers, number)
			}
		}
		return numbers
	}
	dir := stopped(t, 2, Settings{KeepShots: true})
	if got := shots(dir); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("kept shots %v, want 1 and 2", got)
	}
	open(t, dir, Settings{KeepShots: true}).Close()
	if got := shots(dir); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("kept shots %v after another start, want 1 and 2", got)
	}
	open(t, dir, Settings{}).Close()
	if got := shots(dir); !slices.Equal(got, []int{2}) {
		t.Errorf("shots %v after a start that does not keep them, want 2", got)
	}
	if got := shots(stopped(t, scenarioShots, Settings{})); !slices.Equal(got, []int{scenarioShots}) {
		t.Errorf("shots %v, want only the last", got)
	}
}

// Catches an order of names in which shot 1000 is older than shot 999, and names that only look like shots.
func TestShotNumbers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	j := open(t, dir, Settings{KeepShots: true})
	for _, number := range []int{7, 999, 1000} {
		if err := j.SaveShot(number, scenarioState{}, entriesOf([]float64{1})); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	for _, name := range []string{"shot-0999.json", "shot-000.json", "shot-99999999999999999999.json", "shot-1001.json.orig"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	j = open(t, dir, Settings{KeepShots: true})
	if last, ok := j.Last(); !ok || last.Number != 1000 || len(j.Warnings()) > 0 {
		t.Errorf("the last shot is %+v, %v; %q", last, ok, j.Warnings())
	}
}

// What would be caught: a directory without a shot that refuses other options, although nothing could be lost; one whose only
// shot, complete or not, is lost by them; options that are forgotten, or taken over by a look; files of somebody else that are taken
// for a run's, and removed with it.
func TestOtherOptionsBeforeAShot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	open := func(shots int, want string) {
		t.Helper()
		check := Check(dir, scenarioOptions{Shots: shots})
		j, err := Open(context.Background(), dir, scenarioOptions{Shots: shots}, Settings{})
		if (check == nil) != (want != "refused") || (err == nil) != (want != "refused") {
			t.Fatalf("%d shots: %v, and by a look %v", shots, err, check)
		}
		if err != nil {
			return
		}
		if taken := len(j.Warnings()) == 1 && strings.Contains(j.Warnings()[0], "came to no shot"); taken != (want == "taken over") {
			t.Errorf("%d shots: warnings %q", shots, j.Warnings())
		}
		if want == "taken over" {
			if err := Check(dir, scenarioOptions{Shots: shots}); err != nil {
				t.Error(err)
			}
		}
		j.Close()
	}
	open(3, "new")
	open(3, "goes on")
	open(4, "taken over")
	open(4, "goes on")
	weights := filepath.Join(dir, weightsName(1))
	if err := os.WriteFile(weights, []byte("cut off"), 0o644); err != nil {
		t.Fatal(err)
	}
	open(5, "refused")
	if err := os.Rename(weights, filepath.Join(dir, "thesis.tex")); err != nil {
		t.Fatal(err)
	}
	open(5, "refused")
	j, err := Open(context.Background(), dir, scenarioOptions{Shots: 4}, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Remove(); err != nil {
		t.Fatal(err)
	}
	if left := listing(t, dir); len(left) != 1 || left["thesis.tex"] == "" {
		t.Errorf("removing the run leaves %v", slices.Collect(maps.Keys(left)))
	}
	if err := os.Remove(filepath.Join(dir, "thesis.tex")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, optionsName), []byte(`{"theme": "dark"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	open(4, "refused")
	if err := os.Remove(filepath.Join(dir, optionsName)); err != nil {
		t.Fatal(err)
	}
	if j, err = Open(context.Background(), dir, scenarioOptions{Shots: 4}, Settings{}); err != nil {
		t.Fatal(err)
	}
	if err := j.SaveShot(1, nil, nil); err != nil {
		t.Fatal(err)
	}
	j.Close()
	open(5, "refused")
}

// What would be caught: a long look at the last shot that cannot be stopped, or after which the shot is gone.
func TestStopInOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "work")
	j, err := Open(context.Background(), dir, scenarioOptions{Shots: 4}, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	large := safetensors.Entry{Name: "w", DType: safetensors.U8, Shape: []int{4 << 20}, Write: func(w io.Writer) error {
		_, err := w.Write(make([]byte, 4<<20))
		return err
	}}
	if err := j.SaveShot(1, struct{}{}, []safetensors.Entry{large}); err != nil {
		t.Fatal(err)
	}
	j.Close()
	for _, looks := range []int{1, 2, 100} {
		if _, err := Open(stop.Countdown(looks), dir, scenarioOptions{Shots: 4}, Settings{}); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped at look %d: %v", looks, err)
		}
	}
	if j, err = Open(context.Background(), dir, scenarioOptions{Shots: 4}, Settings{}); err != nil || len(j.Warnings()) != 0 || j.lastNumber() != 1 {
		t.Fatalf("after the stops: %v, %q", err, j.Warnings())
	}
	j.Close()
}

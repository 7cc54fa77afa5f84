package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/device/cpu"
	"surgeon/engine/report"
)

// What would be caught: files that are larger than what was counted on the disk for them, or much smaller.
func TestDiskParts(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	for name, change := range map[string]func(*Options){
		"as it is":           func(*Options) {},
		"another type":       func(o *Options) { o.DType = "F64" },
		"all shots":          func(o *Options) { o.KeepShots = true },
		"one shot":           func(o *Options) { o.Shots = 1 },
		"a model on the way": func(o *Options) { o.WriteAt = []float64{0.2} },
		"warm start":         func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 2 },
		"in float64":         func(o *Options) { o.Precision = "float64" },
	} {
		t.Run(name, func(t *testing.T) {
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
			o.Work = filepath.Join(t.TempDir(), "work")
			o.DType = ""
			change(&o)
			dev := cpu.Open()
			defer dev.Close()
			r, err := prepare(context.Background(), dev, o, &silent{}, false)
			if err != nil {
				t.Fatal(err)
			}
			parts := r.diskParts()
			r.close()
			most := map[string]int64{}
			w := &silent{onStage: func(string) { // a stage begins when the files of the one before are complete
				for _, p := range parts {
					most[p.Path] = max(most[p.Path], weightFiles(t, p.Path))
				}
			}}
			if _, err := Prune(context.Background(), dev, o, w); err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				got := max(most[p.Path], weightFiles(t, p.Path))
				if p.Name == "2 shots" {
					got *= 2 // the one before is gone when a stage begins
				}
				if got < p.Bytes || float64(got) > 1.05*float64(p.Bytes) { // names and shapes weigh something in tiny models
					t.Errorf("%s in %s: planned %d bytes, written %d", p.Name, p.Path, p.Bytes, got)
				}
			}
			if len(parts) != 2+len(o.WriteAt) {
				t.Errorf("%d parts", len(parts))
			}
		})
	}
}

// weightFiles is how many bytes the safetensors files in a directory have.
func weightFiles(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			continue // a shot that was just removed
		}
		bytes += info.Size()
	}
	return bytes
}

// What would be caught: a run that begins though its files do not fit, or is refused though they do: on one disk or two, or where the
// system does not tell.
func TestRoomOnDisk(t *testing.T) {
	out, work := filepath.Join(t.TempDir(), "a", "out"), t.TempDir()
	parts := []DiskPart{{"model", out, 1000}, {"2 shots", work, 600}}
	for _, test := range []struct {
		ofOut, ofWork, free int64
		want                string
	}{
		{1, 1, 1600, ""},
		{1, 1, 1599, "the disk has 0.0 MiB free, and the run has to write more: model in " + out + " 0.0 MiB, 2 shots in " + work + " 0.0 MiB; make room"},
		{1, 2, 1000, ""},
		{1, 2, 999, "model in " + out},
		{0, 2, 600, ""}, // 0: it does not tell
		{0, 2, 599, "more: 2 shots in " + work},
		{0, 0, 0, ""},
	} {
		err := roomOnDisk(parts, func(path string) (uint64, int64, bool) {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("asked for the disk of %s, which is not there", path)
			}
			id := test.ofWork
			if path != work {
				id = test.ofOut
			}
			return uint64(id), test.free, id > 0
		})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%d bytes free: %v, want %q", test.free, err, test.want)
		}
	}
}

// What would be caught: a model that is replaced and needs no room, as if it went before the new one came; one that is written already, or
// shots that are there, for which room is wanted again.
func TestDiskPartsThatAreThere(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.WriteAt = []float64{0.2}
	dev := cpu.Open()
	defer dev.Close()
	parts := func(o Options) (models int, shots int64) {
		t.Helper()
		r, err := prepare(context.Background(), dev, o, &silent{}, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		all := r.diskParts()
		return len(all) - 1, all[len(all)-1].Bytes
	}
	models, before := parts(o)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := Prune(ctx, dev, o, &silent{onShot: func(s report.Shot) {
		if s.Number == 3 {
			cancel()
		}
	}}); err == nil {
		t.Fatal("the run was not stopped")
	}
	left, after := parts(o)
	if models != 2 || left != 1 {
		t.Errorf("%d models are to be written, and %d when one is there; want 2 and 1", models, left)
	}
	if after > before*6/10 || after < before*4/10 {
		t.Errorf("shots want %d bytes, and %d when one is there", before, after)
	}
	if _, err := Prune(context.Background(), dev, o, &silent{}); err != nil {
		t.Fatal(err)
	}
	o.Force, o.Seed, o.WriteAt = true, 101, nil
	if models, _ := parts(o); models != 1 {
		t.Errorf("%d models are to be written where one is replaced", models)
	}
}

// What would be caught: a disk that is asked in the wrong unit.
func TestDiskOf(t *testing.T) {
	dir := t.TempDir()
	id, free, ok := diskOf(dir)
	if !ok {
		t.Skip("this system does not tell what is free on a disk")
	}
	if again, _, _ := diskOf(filepath.Dir(dir)); again != id {
		t.Errorf("%s and the directory above it are on disks %d and %d", dir, id, again)
	}
	if free < 1<<20 || free > 1<<60 {
		t.Errorf("%d bytes are free", free)
	}
}

// What would be caught: a copy of the model that a killed process left beside the output, and that takes the room of the next one.
func TestLeftFromAKilledWrite(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	left := filepath.Join(filepath.Dir(o.Output), ".out.new.4194305.0") // beyond the numbers of processes
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &silent{onStage: func(name string) {
		if _, err := os.Stat(left); name == "load" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("when the room was looked at, it was there: %v", err)
		}
	}}
	if _, err := pruneTiny(t, context.Background(), o, w); err != nil {
		t.Fatal(err)
	}
}

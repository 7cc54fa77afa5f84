package engine

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/journal"
	"surgeon/engine/report"
)

// What would be caught: a run that was stopped after a shot and does not end in the same bits.
func TestResumeAfterEveryShot(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		for _, precision := range []string{"float32", "float64", "bfloat16"} {
			dir, text := tiny(t, name)
			whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
			whole.Precision = precision
			want, err := pruneTiny(t, context.Background(), whole, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			o := whole
			o.Output = filepath.Join(t.TempDir(), "out")
			for shot := range o.Shots {
				ctx, cancel := context.WithCancel(context.Background())
				_, err := pruneTiny(t, ctx, o, &silent{onShot: func(s report.Shot) {
					cancel()
					if s.Number != shot+1 {
						t.Errorf("%s in %s: shot %d is made where shot %d is next", name, precision, s.Number, shot+1)
					}
				}})
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("a cancelled run ended with %v", err)
				}
			}
			got, err := pruneTiny(t, context.Background(), o, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
				t.Errorf("%s in %s: stopped after every shot, the run ends in other bits", name, precision)
			}
			if got.Final.HeldOutLoss != want.Final.HeldOutLoss || len(got.Shots) != len(want.Shots) {
				t.Errorf("reports differ: %+v, %+v", got.Final, want.Final)
			}
			for i := range want.Shots {
				if got.Shots[i].LossAfter != want.Shots[i].LossAfter || *got.Shots[i].PredictedIncrease != *want.Shots[i].PredictedIncrease {
					t.Errorf("shot %d: %+v, %+v", i+1, got.Shots[i], want.Shots[i])
				}
			}
		}
	}
}

// What would be caught: a stop in the middle of a stage that loses more than the shot that was going on.
func TestStopInEveryStage(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
		t.Fatal(err)
	}
	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	stops := 0
	for k := 1; ; k += 4 {
		ctx, cancel := context.WithCancel(context.Background())
		stages := 0
		w := &silent{onStage: func(string) {
			if stages++; stages == k%9+1 {
				cancel()
			}
		}}
		_, err := pruneTiny(t, ctx, o, w)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if stops++; stops > 100 {
			t.Fatal("the run does not get further")
		}
	}
	t.Logf("stopped %d times", stops)
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits")
	}
}

// What would be caught: kill −9 in the middle of a write that loses a complete shot, or makes the run end in other bits. The
// test runs itself as a child that kills itself at the k-th change of the work directory.
func TestKill(t *testing.T) {
	const variable = "SURGEON_TEST_KILL"
	if child := os.Getenv(variable); child != "" {
		fields := strings.SplitN(child, "\n", 5)
		k, _ := strconv.Atoi(fields[0])
		o := tinyOptions(fields[1], fields[2], fields[3])
		o.Precision = fields[4]
		o.hooks = journal.Hooks{Before: func(n int, _, _ string) error {
			if n == k {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}}
		if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, text := tiny(t, "tiny-llama")
	changes := 0
	wholes := map[string][]byte{}
	for _, precision := range []string{"float32", "bfloat16"} { // whose shots are saved at once, and beside the next ones
		whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
		whole.Precision = precision
		whole.hooks = journal.Hooks{Before: func(n int, _, _ string) error { changes = n; return nil }}
		if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
			t.Fatal(err)
		}
		wholes[precision] = weightsOf(t, whole.Output)
	}
	const seed, tries = 9, 12
	t.Logf("seed %d, %d of %d changes", seed, tries, changes)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range tries {
		output, precision := filepath.Join(t.TempDir(), "out"), []string{"float32", "bfloat16"}[i%2]
		for kills := 0; ; kills++ {
			k := 1 + r.IntN(changes)
			if kills >= 3 {
				k = changes + 1
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
			cmd.Env = append(os.Environ(), variable+"="+strconv.Itoa(k)+"\n"+dir+"\n"+text+"\n"+output+"\n"+precision)
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("killed at change %d, the next start ends with %v\n%s", k, err, out)
			}
		}
		if !bytes.Equal(weightsOf(t, output), wholes[precision]) {
			t.Errorf("after kills the run in %s ends in other bits", precision)
		}
	}
}

// What would be caught: a full disk that loses the last good shot, or is not named.
func TestDiskFull(t *testing.T) {
	for _, precision := range []string{"float32", "bfloat16"} {
		t.Run(precision, func(t *testing.T) { testDiskFull(t, precision) })
	}
}

func testDiskFull(t *testing.T, precision string) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Precision = precision
	third := 0
	o.hooks = journal.Hooks{Before: func(_ int, op, file string) error {
		if file == "shot-003.safetensors" && op == "write" {
			third++
			return syscall.ENOSPC
		}
		return nil
	}}
	_, err := pruneTiny(t, context.Background(), o, &silent{})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "goes on after shot 2") || third == 0 {
		t.Fatalf("a full disk gives %v", err)
	}
	if _, err := os.Stat(o.Output); !os.IsNotExist(err) {
		t.Error("there is an output")
	}
	o.hooks = journal.Hooks{}
	w := &silent{}
	if _, err := pruneTiny(t, context.Background(), o, w); err != nil || len(w.shots) != 2 {
		t.Errorf("with room again: %v, %d shots made", err, len(w.shots))
	}
}

// What would be caught: a work directory of another run that is used, or changed.
func TestOtherRun(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other := o
	other.Shots = 8
	_, err := pruneTiny(t, context.Background(), other, &silent{})
	var request *RequestError
	if !errors.As(err, &request) || !strings.Contains(err.Error(), "--shots: 4 there, 8 here") {
		t.Errorf("another run gives %v", err)
	}
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Errorf("the first run cannot go on any more: %v", err)
	}
}

// What would be caught: a run that goes on, or counts as complete, with another tokenizer, which makes other windows of the text.
func TestOtherTokenizer(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	path := filepath.Join(dir, "tokenizer.json")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Replace(bytes.Replace(first, []byte(`"a":66`), []byte(`"a":67`), 1), []byte(`"b":67`), []byte(`"b":66`), 1)
	if bytes.Equal(first, other) {
		t.Fatal("the tokenizer is another than this test changes")
	}
	set := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(want string) {
		t.Helper()
		_, err := pruneTiny(t, context.Background(), o, &silent{})
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), want) {
			t.Errorf("with another tokenizer: %v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	set(other)
	refused("tokenizer sha256: ")
	set(first)
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Errorf("the first run cannot go on any more: %v", err)
	}
	set(other)
	refused("is there already")
}

// What would be caught: a file of the model that cannot be carried over, found out after all shots.
func TestUnreadableBesideTheModel(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	if err := os.Symlink("nowhere", filepath.Join(dir, "notes.md")); err != nil {
		t.Fatal(err)
	}
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	dev := cpu.Open()
	defer dev.Close()
	_, pruned := Prune(context.Background(), dev, o, &silent{})
	_, planned := Plan(context.Background(), dev, o, &silent{})
	for what, err := range map[string]error{"Prune": pruned, "Plan": planned} {
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), "notes.md is to be carried over") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(o.Output + ".work"); !os.IsNotExist(err) {
		t.Errorf("there is a work directory: %v", err)
	}
}

// stubborn is a device on which no matrix is positive definite once so many were factored.
type stubborn struct {
	device.Device
	left int
}

func (s *stubborn) Cholesky(a ...device.Tensor) []bool {
	ok := s.Device.Cholesky(a...)
	if s.left--; s.left < 0 {
		clear(ok)
	}
	return ok
}

// What would be caught: a matrix that cannot be factored even with the highest damping taking the good shots before it along.
func TestNoFactorisation(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	dev := cpu.Open()
	defer dev.Close()
	var perShot int
	counting := &stubborn{Device: dev, left: 1 << 30}
	whole := o
	whole.Output = filepath.Join(t.TempDir(), "whole")
	w := &silent{onShot: func(s report.Shot) {
		if s.Number == 1 {
			perShot = 1<<30 - counting.left
		}
	}}
	if _, err := Prune(context.Background(), counting, whole, w); err != nil {
		t.Fatal(err)
	}
	_, err := Prune(context.Background(), &stubborn{Device: dev, left: perShot + 1}, o, &silent{})
	var request *RequestError
	if err == nil || errors.As(err, &request) || !strings.Contains(err.Error(), "shot 2") || !strings.Contains(err.Error(), "layer model.layers.0.self_attn.k_proj") {
		t.Errorf("got %v", err)
	}
	again := &silent{}
	if _, err := Prune(context.Background(), dev, o, again); err != nil || len(again.shots) != o.Shots-1 {
		t.Errorf("the good shot is lost: %v, %d shots made again", err, len(again.shots))
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits")
	}
}

// What would be caught: a NaN in what is measured, in the middle of a run, that does not end it, or without its place.
func TestNaNInARun(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	dev := cpu.Open()
	defer dev.Close()
	r, err := begin(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	values := r.model.Values("lm_head.weight")
	values[0] = float32(math.NaN())
	r.model.SetValues("lm_head.weight", values)
	err = r.shot(context.Background(), 1)
	if err == nil || !strings.Contains(err.Error(), "block 1, layer model.layers.1.mlp.down_proj") || !strings.Contains(err.Error(), "windows 0 to 1") {
		t.Errorf("got %v", err)
	}
}

// What would be caught: a run that does not go on because more, or less, of the device's memory is free than when it began, and
// that takes the batch that is right now, and ends in other bits.
func TestResumeWithOtherMemory(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	options := func() Options {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Batch = 0
		return o
	}
	planned := func(batch int) int64 {
		o := options()
		o.Batch = batch
		p, err := Plan(context.Background(), openSeparate(t, 1<<40), o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		return p.PeakDeviceBytes
	}
	all := options().Samples
	much, little := int64(1<<40), planned(all) // which has room for all windows, but with nothing to spare
	prune := func(ctx context.Context, o Options, memory int64, w Watcher) (*report.Report, error) {
		return Prune(ctx, openSeparate(t, memory), o, w)
	}
	for _, test := range []struct{ first, then int64 }{{much, little}, {little, much}} {
		o, whole := options(), options()
		want, err := prune(context.Background(), whole, test.first, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if _, err := prune(ctx, o, test.first, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		got, err := prune(context.Background(), o, test.then, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Data.Batch != want.Data.Batch || (got.Data.Batch == all) != (test.first == much) || len(got.ResumedFrom) != 1 {
			t.Errorf("%d windows at a time, first %d of %d; resumed from %v", got.Data.Batch, want.Data.Batch, all, got.ResumedFrom)
		}
		if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
			t.Error("the run ends in other bits")
		}
	}
	o := options()
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := prune(ctx, o, much, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	_, err := prune(context.Background(), o, planned(1), &silent{})
	var request *RequestError
	if !errors.As(err, &request) || !strings.Contains(err.Error(), "takes "+strconv.Itoa(all)+" windows at a time: ") || !strings.Contains(err.Error(), "has room for") {
		t.Errorf("without room for the batch it began with: %v", err)
	}
}

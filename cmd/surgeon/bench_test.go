package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"surgeon/bench"
	"surgeon/engine/report"
)

// What would be caught: a shape that cannot be asked for, or one that is offered and not there.
func TestBenchShapes(t *testing.T) {
	shape := completions(testParser(t).Model)
	i := slices.IndexFunc(shape, func(c completedCommand) bool { return c.name == "bench" })
	var words []string
	for _, f := range shape[i].flags {
		if f.long == "shape" {
			words = f.words
		}
	}
	var names []string
	for _, s := range bench.Shapes {
		names = append(names, s.Name)
	}
	if slices.Sort(words); !slices.Equal(words, slices.Sorted(slices.Values(names))) {
		t.Errorf("%v can be asked for, %v are there", words, names)
	}
}

// What would be caught: a table without what its figures belong to, or with something else in it than the filter says.
func TestBenchOps(t *testing.T) {
	const filter = "^Embed beta=0/512|^RowDot/(11008|576)"
	code, stdout, stderr := invoke("bench", "ops", "--device", "cpu", "--filter", filter)
	if code != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{"device         cpu (", "\ncommit ", "\nprecision      float32\n", "\ngemm/float64 ", "\ncopy ", "\noperation/shape/type ",
		"\nEmbed beta=0/512×576/float32 ", "\nRowDot/11008×4096/float64 ", "left out: 0.7 GiB of operands", "\n1 of 3 calls were left out on this device.\n"} {
		if !strings.Contains("\n"+stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "\nGram") {
		t.Errorf("there is more than was asked for:\n%s", stdout)
	}

	code, stdout, stderr = invoke("bench", "ops", "--device", "cpu", "--filter", "^Embed beta=0/512|^Axpy/4096", "--json", "--precision", "bfloat16")
	var got struct {
		Device, Precision string
		Copy              float64 `json:"copy_bytes_per_s"`
		Operations        []struct {
			Operation string
			MinMs     float64 `json:"min_ms"`
			LeftOut   string  `json:"left_out"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if got.Precision != "bfloat16" || !(got.Copy > 0) || len(got.Operations) != 2 || !(got.Operations[0].MinMs > 0) || got.Operations[1].LeftOut == "" {
		t.Errorf("%+v", got)
	}

	code, stdout, stderr = invoke("bench", "ops", "--device", "cpu", "--filter", "^Embed beta=0/512", "--go")
	if code != 0 || !strings.Contains(stdout, "\ngoarch: ") || !strings.Contains(stdout, "\nBenchmarkOperation/Embed_beta=0/512×576/float32\t") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

// What would be caught: a shot that does not run on a machine without a GPU, or in which something is missing.
func TestBenchShot(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	code, stdout, stderr := invoke("bench", "shot", "--shape", "smollm2-135m", "--layers", "1", "--sequences", "1", "--length", "128", "--device", "cpu", "--json")
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	for key, want := range map[string]any{"shape": "smollm2-135m", "precision": "float32", "layers": 1., "layers_of_the_model": 30., "sequences": 1., "length": 128., "batch": 1.,
		"linear_layers": 7., "linear_layers_that_lose_something": 7., "dampings_raised": 0.} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	for _, key := range []string{"device", "commit", "gemm_flop_per_s", "plan", "planned_peak_device_bytes", "peak_device_bytes", "stages", "seconds_per_sequence", "tokens_per_second", "loss"} {
		if got[key] == nil {
			t.Errorf("no %q in %s", key, stdout)
		}
	}
}

// What would be caught: a wrong request that is not refused as one, or that is sent to the wrong help.
func TestBenchRefusals(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"bench", `surgeon: expected one of "ops", "shot"; see surgeon bench --help`},
		{"bench ops --precision int8", `surgeon: --precision must be one of "auto","float32","float64","bfloat16" but got "int8"; see surgeon bench ops --help`},
		{"bench ops --json --go", "surgeon: --json and --go can't be used together; see surgeon bench ops --help"},
		{"bench ops --filter (", "surgeon: --filter: error parsing regexp: missing closing ): `(`"},
		{"bench ops --device cpu --filter nothing", `surgeon: --filter "nothing" matches no call; names are like Gemm NT beta=0/512×576×576/float32`},
		{"bench shot", "surgeon: missing flags: --shape=NAME; see surgeon bench shot --help"},
		{"bench shot --shape gpt-9", `surgeon: --shape must be one of "smollm2-135m","opt-125m","opt-6.7b","llama-2-7b","llama-3-8b" but got "gpt-9"; see surgeon bench shot --help`},
		{"bench shot --device cpu --shape opt-125m --layers 13", "surgeon: --layers is 13; opt-125m has 12"},
		{"bench shot --device cpu --shape opt-125m --length 4096", "surgeon: --length is 4096 tokens; opt-125m has positions for 2048"},
	} {
		code, _, stderr := invoke(strings.Fields(c.args)...)
		if got := lastLine(stderr); code != exitRequest || got != c.want {
			t.Errorf("%s: exit code %d\n got %s\nwant %s", c.args, code, got, c.want)
		}
	}
}

// What would be caught: a GPU that was slowed down, and nobody is told, or in a line that benchstat stumbles over.
func TestGPUText(t *testing.T) {
	gpu := func() *report.GPU {
		return &report.GPU{Samples: 4, SMClock: &report.Range{Mean: 1200, Min: 900, Max: 1980}, SlowedDown: map[string]float64{"power limit": 0.5}}
	}
	const line = "GPU: SM 1200 MHz on average (900 to 1980); slowed down: power limit (50 % of the time)"
	if got := gpuText(gpu, true); got != "# "+line+"\n" {
		t.Errorf("got %q", got)
	}
	if got := gpuText(gpu, false); got != "\n"+line+".\n" {
		t.Errorf("got %q", got)
	}
	if got := gpuText(nil, true) + gpuText(nil, false); got != "" {
		t.Errorf("on the CPU: %q", got)
	}
}

package main

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"surgeon/engine"
)

// What would be caught: a file that beats the command line, a default that beats the file, a value that gets lost on its
// way through the file.
func TestConfigPrecedence(t *testing.T) {
	tiny(t)
	writeFile(t, "run.yaml", "\ufeff"+`# a run, in a file with a mark of its byte order
model: model
text:
  - text.txt
samples: 9     # beats the default
seed: 18446744073709551615
shots: 3       # beaten by the flag
target: 0.1
rank-by: cost-per-weight
keep-shots: true
write-at: [0.05]
dtype: F16
damp-g: 1
damp-a: 1e-3
length: 32
output: out
threads: 1
`)
	code, stdout, stderr := invoke("prune", "--config", "run.yaml", "--shots", "2", "--json", "--quiet")
	if code != 0 {
		t.Fatal(stderr)
	}
	var report struct {
		Options json.RawMessage
		Machine struct{ Device string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	options := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(string(report.Options)))
	var got map[string]any
	if err := json.Unmarshal([]byte(options), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"model": "model", "samples": 9.0, "shots": 2.0, "target": 0.1, "rankby": "costperweight",
		"keepshots": true, "dtype": "f16", "dampg": 1.0, "dampa": 0.001, "output": "out", "writeat": []any{0.05}} {
		if !reflect.DeepEqual(got[name], want) {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if !strings.Contains(options, "18446744073709551615") {
		t.Errorf("the seed was rounded: %s", options)
	}
	if !strings.Contains(report.Machine.Device, "1 thread") {
		t.Errorf("threads of the file are not used: %s", report.Machine.Device)
	}
}

// What would be caught: a model card that names a file which only its author has, in place of what it said.
func TestCardSaysWhatTheFileSaid(t *testing.T) {
	tiny(t)
	writeFile(t, "run.yaml", "model: model\ntext: [text.txt]\ntarget: 0.1\nsamples: 9\nlength: 32\nshots: 3\nwrite-at: [0.05]\nkeep-shots: false\ndamp-a: 1e-3\noutput: out\n")
	if code, _, stderr := invoke("prune", "--config=run.yaml", "--shots", "2"); code != 0 {
		t.Fatal(stderr)
	}
	_, command, _ := strings.Cut(readFile(t, "out/README.md"), "```sh\n")
	command, _, _ = strings.Cut(command, "\n```")
	_, command, _ = strings.Cut(command, " ")
	if want := "prune --damp-a=0.001 --keep-shots=false --length=32 --output=out --samples=9 --target=0.1 --text=text.txt --write-at=0.05 --shots 2 model"; command != want {
		t.Fatalf("the card says %s\n        want %s", command, want)
	}
	first := readFile(t, "out/model.safetensors")
	if code, _, stderr := invoke(append(strings.Fields(command), "--force")...); code != 0 {
		t.Fatal(stderr)
	}
	if readFile(t, "out/model.safetensors") != first {
		t.Error("the command of the card makes another model")
	}
}

// What would be caught: a file that is left in the command, or a word behind -- that is taken for one.
func TestSpelledOut(t *testing.T) {
	s := session{args: strings.Fields("prune --config a.yaml --shots 2 --config=b.yaml -- --config"), typed: []string{"shots"}, config: configValues{"shots": 3, "target": 0.1}}
	if got, want := strings.Join(s.spelledOut()[1:], " "), "prune --target=0.1 --shots 2 -- --config"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What would be caught: a value of a wrong type that is converted in silence, and a sentence that points elsewhere.
func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"shots: three", `1:8: shots is the text "three"; a whole number is expected`},
		{"shots: 2.5", "1:8: shots is 2.5; a whole number is expected"},
		{"samples:", "1:10: samples is empty; a whole number is expected"},
		{`target: "0.3"`, `1:9: target is the text "0.3"; a number is expected`},
		{"seed: -1", "1:7: seed is -1; a whole number, not negative, is expected"},
		{"model: 3", "1:8: model is 3; a text is expected"},
		{"force: yes", `1:8: force is the text "yes"; true or false is expected`},
		{"text: a.txt", `1:7: text is the text "a.txt"; a list, as in [a.txt, b.txt], is expected`},
		{"text: [1]", "1:8: text holds 1; texts are expected"},
		{"write-at: 0.1", "1:11: write-at is 0.1; a list, as in [0.1, 0.2], is expected"},
		{"write-at: [a]", `1:12: write-at holds the text "a"; numbers are expected`},
		{"text: {a: b}", "1:7: text is a mapping; a list, as in [a.txt, b.txt], is expected"},
		{"rank-by: best", `1:10: rank-by: "best" is none of cost, cost-per-weight`},
		{"dtype: F8", `1:8: dtype is the text "F8"; one of F32, F16, BF16 is expected`},
		{"shots: 3\nshots: 4", `2:1: mapping key "shots" already defined at [1:1]`},
		{"text: [a", "1:7: sequence end token ']' not found"},
		{"- a", `1:1: lines of the form "name: value" are expected`},
		{"Version: x", `1:1: unknown key "Version"; the keys are the names of the options in surgeon prune --help`},
		{"config: x", "1:1: config is an option of the command line only; leave it out here and give it there, as --config"},
		{"shots: 3\njson: true", "2:1: json is an option of the command line only; leave it out here and give it there, as --json"},
	} {
		path := t.TempDir() + "/run.yaml"
		writeFile(t, path, c.yaml)
		_, err := readConfig(path)
		if err == nil {
			t.Errorf("%q is taken", c.yaml)
			continue
		}
		sentence, source, _ := strings.Cut(err.Error(), "\n")
		if want := path + ":" + c.want; sentence != want {
			t.Errorf("%q:\n got %s\nwant %s", c.yaml, sentence, want)
		}
		if !strings.Contains(source, "^") {
			t.Errorf("%q: no caret in %q", c.yaml, source)
		}
	}
	path := t.TempDir() + "/run.yaml"
	writeFile(t, path, "shots: \x00\x1b[2J")
	if _, err := readConfig(path); err == nil || err.Error() != "--config: "+path+" is no text; a YAML file with the options of a run is expected" {
		t.Errorf("a binary file: %q", err)
	}
	for _, empty := range []string{"", "\n", "# nothing\n", "---\n"} {
		if values, err := parseConfig([]byte(empty)); err != nil || len(values) != 0 {
			t.Errorf("%q: %v, %v", empty, values, err)
		}
	}
}

// What would be caught: an option whose name in files differs from its flag, or that a file cannot hold.
func TestConfigKnowsEveryOption(t *testing.T) {
	flags := map[string]bool{}
	for _, c := range completions(testParser(t).Model) {
		if c.name == "prune" {
			for _, f := range c.flags {
				flags[f.long] = true
			}
		}
	}
	fields := configFields(reflect.TypeFor[runFlags]())
	for name := range fields {
		if !flags[name] && name != "model" {
			t.Errorf("%s may stand in a file, and there is no such flag", name)
		}
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[engine.Options]()) {
		if name := f.Tag.Get("name"); name != "" && fields[name].Name != f.Name {
			t.Errorf("--%s cannot stand in a file", name)
		}
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[runFlags]()) {
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		if fields[name].Name != f.Name {
			t.Errorf("--%s cannot stand in a file", name)
		}
		value := map[string]string{"bool": "true", "int": "1", "int64": "1", "uint64": "1", "float64": "0.5", "string": "word", "[]string": "[a]", "[]float64": "[0.5]"}[f.Type.String()]
		if value == "" || f.Tag.Get("enum") != "" { // one of several words, as the type or the tag says
			continue
		}
		if values, err := parseConfig([]byte(name + ": " + value)); err != nil || values[name] == nil {
			t.Errorf("%s: %s in a file is %v (%v)", name, value, values[name], err)
		}
	}
	for name := range flags {
		if _, ok := fields[name]; ok == slices.Contains(commandLineOnly, name) {
			t.Errorf("--%s can stand in a file: %v; commandLineOnly has to say the opposite", name, ok)
		}
	}
	for _, name := range []string{"device", "threads", "gpu-memory"} { // that the engine knows nothing of
		if _, ok := fields[name]; !ok {
			t.Errorf("--%s cannot stand in a file", name)
		}
	}
}

// What would be caught: an option of the program, not of the engine, that is read from a file and then forgotten.
func TestConfigGPUMemory(t *testing.T) {
	tiny(t)
	writeFile(t, "run.yaml", "gpu-memory: 40G\n")
	if code, _, stderr := invoke(pruneArgs("--config", "run.yaml")...); code != exitRequest || !strings.Contains(stderr, `--gpu-memory is "40G"; the unit g is none of`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// What would be caught: a file that makes the reader crash, or hang.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"model: m\ntext: [a, b]\ntarget: 0.3\n", "shots: &a 3\nsamples: *a\n", "{a: b}", "? a", "<<: 3", "!!int shots: 3", "a: |\n  b\n", "\"", "---\n...\n---\n", "text:\n- a\n- - b\n", "\t", "%YAML 1.2\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := parseConfig(data)
		if err == nil && values == nil {
			t.Error("neither values nor an error")
		}
		for name, v := range values {
			if v == nil {
				t.Errorf("%s is nil, which the parser of the command line takes for absent", name)
			}
		}
	})
}

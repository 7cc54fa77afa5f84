package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"surgeon/engine/report"
)

// TestMain lets this test binary stand for the program, for tests that need a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SURGEON_TEST_MAIN") != "" {
		if root := os.Getenv("SURGEON_TEST_ROOT"); root != "" {
			systemRoot = root
		}
		main()
	}
	os.Exit(m.Run())
}

// invoke runs the program in this process.
func invoke(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

// tiny makes a directory with a random model of 2 blocks, "model", with a tokenizer of its 128 tokens, and a text of that
// alphabet, "text.txt", and goes there.
func tiny(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	source, err := filepath.Abs("../../engine/testdata/tiny-llama")
	if err != nil {
		t.Fatal(err)
	}
	copyFile := func(name string) {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "model", name), string(b))
	}
	copyFile("config.json")
	copyFile("model.safetensors")
	writeFile(t, filepath.Join(dir, "model", "tokenizer.json"), tinyTokenizer(t))
	writeFile(t, filepath.Join(dir, "text.txt"), tinyText(4000))
	t.Chdir(dir)
	return dir
}

// tinyTokenizer has a token for each printable ASCII character.
func tinyTokenizer(t testing.TB) string {
	vocab := map[string]int{"Ġ": 0, "Ċ": 1}
	for c := '!'; c <= '~'; c++ {
		vocab[string(c)] = len(vocab)
	}
	for i := len(vocab); i < 128; i++ {
		vocab[string(rune('Ā'+i))] = i
	}
	bytesOnly := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	b, err := json.Marshal(map[string]any{"version": "1.0", "added_tokens": []any{}, "normalizer": nil, "post_processor": nil,
		"pre_tokenizer": bytesOnly, "decoder": bytesOnly,
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func tinyText(n int) string {
	r := rand.New(rand.NewPCG(8, 0))
	var b strings.Builder
	for range n {
		if r.IntN(7) == 0 {
			b.WriteByte(' ')
		} else {
			b.WriteByte(byte('!' + int(94*r.Float64()*r.Float64())))
		}
	}
	return b.String()
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// listing names everything below a directory with its size and time of change.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Name() == "lock" { // of a work directory: it names the process that looked into it last
			return nil
		}
		fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pruneArgs is a run of a fraction of a second in the directory that tiny made.
func pruneArgs(more ...string) []string {
	return append([]string{"prune", "model", "--text", "text.txt", "--target", "0.3", "--shots", "2", "--samples", "12", "--length", "32", "-o", "out"}, more...)
}

// lastLine is the sentence that an error ends with.
func lastLine(stderr string) string {
	lines := strings.Split(strings.TrimRight(stderr, "\n"), "\n")
	return lines[len(lines)-1]
}

// What would be caught: a wrong request that is not refused, or as something else than a wrong request, or without a
// sentence that says what is wrong, or only after something was written.
func TestWrongRequests(t *testing.T) {
	dir := tiny(t)
	writeFile(t, "empty.txt", "")
	writeFile(t, "used/something", "x")
	if err := os.Symlink("nowhere", "dangling"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "foreign/something", "x")
	writeFile(t, "unknown/config.json", strings.Replace(readFile(t, "model/config.json"), `"model_type": "llama"`, `"model_type": "gpt9"`, 1))
	writeFile(t, "cut/config.json", readFile(t, "model/config.json"))
	writeFile(t, "cut/tokenizer.json", readFile(t, "model/tokenizer.json"))
	weights := readFile(t, "model/model.safetensors")
	writeFile(t, "cut/model.safetensors", weights[:len(weights)-100])
	writeFile(t, "nan/config.json", readFile(t, "model/config.json"))
	writeFile(t, "nan/tokenizer.json", readFile(t, "model/tokenizer.json"))
	writeFile(t, "nan/model.safetensors", weights[:len(weights)-4]+"\x00\x00\xc0\x7f")
	const nan = `nan: tensor "model.norm.weight" holds NaN at index 31 (shape [32]); a weight that is not finite spoils the whole model, take an intact copy`
	writeFile(t, "run.yaml", "model: model\ntext: [text.txt]\nshotz: 3\n")
	writeFile(t, "quiz.jsonl", quiz)
	writeFile(t, "bad.jsonl", `{"context": "a", "choices": [" b", " c"], "answer": 1}`+"\n"+`{"context": "a", "choices": [" b", " c"], "answer": 2}`)
	writeFile(t, "table.yaml", oneRow)
	writeFile(t, "copy.txt", readFile(t, "text.txt"))
	writeFile(t, "twice.yaml", strings.Replace(oneRow, "text: [text.txt]", "text: [text.txt, copy.txt]", 1))
	writeFile(t, "two.yaml", "model: model\n---\nmodel: model\n")
	if code, _, stderr := invoke(pruneArgs("-o", "first", "--work", "other", "--keep-shots")...); code != 0 {
		t.Fatal(stderr)
	}

	const target = " is the share of weights to remove and must lie between 0 and 1, for example 0.3"
	for _, c := range []struct {
		args []string
		want string
	}{
		{pruneArgs("--target", "0"), "surgeon: --target is 0, or not given; it" + target},
		{pruneArgs("--target", "1"), "surgeon: --target is 1; it" + target},
		{pruneArgs("--target", "1.5"), "surgeon: --target is 1.5; it" + target},
		{pruneArgs("--target", "-1"), "surgeon: --target is -1; it" + target},
		{pruneArgs("--target=-1"), "surgeon: --target is -1; it" + target},
		{pruneArgs("--target", "NaN"), "surgeon: --target is NaN; it" + target},
		{pruneArgs("--target", "x"), `surgeon: --target: expected a float but got "x"; see surgeon prune --help`},
		{pruneArgs("--shots", "0"), "surgeon: --shots is 0; at least 1 is needed"},
		{pruneArgs("--rank-by", "x"), `surgeon: --rank-by: "x" is none of cost, cost-per-weight; see surgeon prune --help`},
		{pruneArgs("--threads", "-1"), "surgeon: --threads is -1; it is a number of cores, 0 for all"},
		{pruneArgs("--threads", "1000000"), fmt.Sprintf("surgeon: --threads is 1000000; this machine has %s", report.Counted(runtime.NumCPU(), "core"))},
		{pruneArgs("--shots", "1000000"), "surgeon: --shots is 1000000; at most 10000 make sense, for each of them measures the curvature anew"},
		{pruneArgs("--shots", "3", "--write-at", "0.1,0.1"), "surgeon: --write-at names 0.1 twice"},
		{pruneArgs("--preset", "magnitude", "--target", "NaN"), "surgeon: --target is NaN; it is the share of weights to remove and must lie between 0 and 1, for example 0.3"},
		{pruneArgs("-o", "."), "surgeon: -o . is a directory that is there; name one that is not, beside it or in it"},
		{pruneArgs("--work", "text.txt/work", "--dry-run"), "surgeon: --work text.txt/work: lstat text.txt/work: not a directory"},
		{pruneArgs("--work", "text.txt", "--dry-run"), "surgeon: --work text.txt: nothing can be made in text.txt, which is not a directory; give another name"},
		{pruneArgs("--work", "dangling", "--dry-run"), "surgeon: --work dangling: nothing can be made in dangling, a link that leads nowhere: stat dangling: no such file or directory; give another name"},
		{pruneArgs("--work", "dangling"), "surgeon: --work dangling: nothing can be made in dangling, a link that leads nowhere: stat dangling: no such file or directory; give another name"},
		{pruneArgs("--device", "gpu"), `surgeon: --device is "gpu"; cpu, cuda:N or auto is expected`},
		{pruneArgs("--device", "cpu", "--gpu-memory", "40GB"), "surgeon: --gpu-memory limits a GPU; this run is on the CPU, which uses what a run needs: leave it out, and see surgeon plan for how much that is"},
		{pruneArgs("--gpu-memory", "40G"), `surgeon: --gpu-memory is "40G"; the unit g is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB`},
		{pruneArgs("--batch", "-1"), "surgeon: --batch is -1; it cannot be negative"},
		{pruneArgs("--length", "1000"), "surgeon: --length is 1000 tokens; model has positions for 64"},
		{pruneArgs("--no-such"), "surgeon: unknown flag --no-such; see surgeon prune --help"},
		{pruneArgs("--quiet", "--verbose"), "surgeon: --quiet and --verbose can't be used together; see surgeon prune --help"},
		{pruneArgs("more.txt"), "surgeon: unexpected argument more.txt; several texts need --text before each of them, or quotes around a pattern"},
		{[]string{"prune", "model", "-o", "out"}, "surgeon: missing flags: --text=FILE; see surgeon prune --help"},
		{[]string{"prune", "--text", "text.txt", "--target", "0.3", "-o", "out"}, "surgeon: no model is named; give a Hugging Face directory or a GGUF file"},
		{[]string{"prune", "model", "--text", "text.txt", "--target", "0.3"}, "surgeon: no output directory is named; add -o DIR"},
		{[]string{"prune", "nowhere", "--text", "text.txt", "--target", "0.3", "-o", "out"}, "surgeon: opening model: stat nowhere: no such file or directory; a Hugging Face directory or a GGUF file on this machine is expected, nothing is downloaded"},
		{[]string{"prune", "model", "--text", "nowhere.txt", "--target", "0.3", "-o", "out"}, "surgeon: text: stat nowhere.txt: no such file or directory"},
		{[]string{"prune", "model", "--text", "empty.txt", "--target", "0.3", "-o", "out"}, "surgeon: text: there is no text in empty.txt"},
		{[]string{"prune", "unknown", "--text", "text.txt", "--target", "0.3", "-o", "out"},
			`surgeon: opening model unknown: config.json: model_type "gpt9" is not supported; supported are llama, mistral, opt, qwen2, qwen3`},
		{[]string{"prune", "cut", "--text", "text.txt", "--target", "0.3", "-o", "out"},
			fmt.Sprintf(`surgeon: opening model cut: cut/model.safetensors: tensor "model.norm.weight" ends at byte %d of the data and the file has %d; the file is truncated`, tinyDataBytes(weights), tinyDataBytes(weights)-100)},
		{pruneArgs("--text", "text.txt"), "surgeon: text: text.txt and text.txt are the same file; give it once"},
		{pruneArgs("--text", "copy.txt"), "surgeon: text: text.txt and copy.txt hold the same, which would count twice; give one of them"},
		{pruneArgs("--eval", "a=copy.txt", "--eval", "a=text.txt"), "surgeon: text a: copy.txt and text.txt hold the same, which would count twice; give one of them"},
		{[]string{"eval", "model", "--text", "a=text.txt", "--text", "b=text.txt", "--text", "a=text.txt"}, "surgeon: text a: text.txt and text.txt are the same file; give it once"},
		{[]string{"table", "twice.yaml", "--results", "results"}, "surgeon: twice.yaml: text.txt and copy.txt hold the same, which would count twice; give one of them"},
		{pruneArgs("-o", "unknown"), "surgeon: unknown is there already; name another output directory, or add --force to replace it"},
		{pruneArgs("-o", "text.txt"), "surgeon: the output directory text.txt: it exists and is not a directory; give another name"},
		{pruneArgs("-o", "used"), "surgeon: the output directory used: the directory holds other things than a model (no config.json); it is not removed, give another name"},
		{pruneArgs("-o", "used", "--force"), "surgeon: the output directory used: the directory holds other things than a model (no config.json); it is not removed, give another name"},
		{pruneArgs("-o", "model", "--force"), "surgeon: the output directory model: the model that is read, model, lies in it; a source is not replaced, give another name"},
		{pruneArgs("-o", "text.txt/out"), "surgeon: the output directory: lstat text.txt/out: not a directory"},
		{pruneArgs("-o", "out", "--work", "out"), "surgeon: --work out and the output directory out lie in one another; they must be apart"},
		{pruneArgs("-o", "out", "--work", "out/work"), "surgeon: --work out/work and the output directory out lie in one another; they must be apart"},
		{[]string{"prune", "nan", "--text", "text.txt", "--target", "0.3", "--samples", "12", "-o", "out"}, "surgeon: loading nan: " + nan},
		{[]string{"prune", "nan", "--text", "text.txt", "--target", "0.3", "--samples", "12", "-o", "out", "--dry-run"}, "surgeon: " + nan},
		{pruneArgs("--work", "foreign"), "surgeon: foreign is a work directory of something else: it holds something and no options.json; give another one with --work, or an empty one"},
		{pruneArgs("--work", "other", "--target", "0.4"),
			"surgeon: the work directory other belongs to a run with other options (--target: 0.3 there, 0.4 here): give the options of that run to go on with it, or another directory with --work, or remove it to start again"},
		{pruneArgs("--config", "nowhere.yaml"), "surgeon: --config: open nowhere.yaml: no such file or directory"},
		{pruneArgs("--config", "run.yaml"), `surgeon: run.yaml:3:1: unknown key "shotz"; the keys are the names of the options in surgeon prune --help
   1 | model: model
   2 | text: [text.txt]
>  3 | shotz: 3
       ^`},
		{pruneArgs("--config", "two.yaml"), `surgeon: two.yaml:2:1: a second YAML document begins here; one is expected
   1 | model: model
>  2 | ---
       ^
   3 | model: model`},
		{[]string{"eval", "model", "--text", "text.txt", "--length", "1"}, "surgeon: --length is 1; a window needs at least 2 tokens to have a next one"},
		{[]string{"eval", "model"}, "surgeon: there is nothing to measure; give --text for a perplexity, --tasks for accuracies, or both"},
		{[]string{"eval", "model", "--tasks", "bad.jsonl"}, `surgeon: bad.jsonl: line 2: answer is 2 and there are 2 choices, 0 to 1`},
		{[]string{"eval", "model", "--tasks", "quiz.jsonl", "--results", "text.txt"}, "surgeon: the results file text.txt: it is there already and holds something else; name another file with --results"},
		{[]string{"eval", "model", "--tasks", "quiz.jsonl", "--results", "dangling"}, "surgeon: the results file dangling: this is a link that leads nowhere; name another file with --results"},
		{[]string{"table", "table.yaml", "--results", "dangling"}, "surgeon: --results dangling: nothing can be made in dangling, a link that leads nowhere: stat dangling: no such file or directory; give another name"},
		{[]string{"table", "table.yaml", "--results", "text.txt/results"}, "surgeon: --results text.txt/results: lstat text.txt/results: not a directory"},
		{[]string{"eval", "model", "--tasks", "quiz.jsonl", "more.jsonl"}, "surgeon: unexpected argument more.jsonl; several texts or tasks need --text or --tasks before each of them, or quotes around a pattern"},
		{[]string{"eval", "--text", "text.txt"}, `surgeon: expected "<model>"; see surgeon eval --help`},
		{[]string{"demo", "--keep", "used"}, "surgeon: --keep: mkdir used: file exists"},
		{[]string{"completion", "tcsh"}, `surgeon: <shell> must be one of "bash","zsh","fish" but got "tcsh"; see surgeon completion --help`},
		{[]string{"trim"}, "surgeon: unexpected argument trim; see surgeon --help"},
	} {
		before := listing(t, dir)
		code, stdout, stderr := invoke(c.args...)
		if code != exitRequest {
			t.Errorf("%v: exit code %d, want %d", c.args, code, exitRequest)
		}
		if got := stderr[max(0, strings.Index(stderr, "surgeon: ")):]; got != c.want+"\n" {
			t.Errorf("%v:\n got %s\nwant %s", c.args, got, c.want)
		}
		if stdout != "" {
			t.Errorf("%v: standard output has %q", c.args, stdout)
		}
		if after := listing(t, dir); after != before {
			t.Errorf("%v: something was written:\n%s\n%s", c.args, before, after)
		}
	}
}

// What would be caught: results that cannot be written where they were asked for, told as a failure of the run. Nobody makes a
// file in /proc; whether the rights say so depends on the user.
func TestResultsNowhere(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("this system has no /proc")
	}
	tiny(t)
	writeFile(t, "quiz.jsonl", quiz)
	writeFile(t, "table.yaml", oneRow)
	for _, args := range [][]string{{"eval", "model", "--tasks", "quiz.jsonl"}, {"table", "table.yaml"}} {
		code, _, stderr := invoke(append(args, "--results", "/proc/results")...)
		if code != exitRequest || !strings.Contains(lastLine(stderr), "/proc/results: ") {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}

// tinyDataBytes is the length of a safetensors file without its header.
func tinyDataBytes(file string) int {
	header := 0
	for i := range 8 {
		header |= int(file[i]) << (8 * i)
	}
	return len(file) - 8 - header
}

// What would be caught: a panic that shows a user a stack trace, or that passes for a wrong request.
func TestBugIsOneSentence(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		s := &session{ctx: t.Context(), stdout: &stdout, stderr: &stderr, common: common{Verbose: verbose}}
		if code := s.fail(&bugError{value: "device: 3×4 times 5×6", stack: []byte("goroutine 1")}); code != exitFailed {
			t.Errorf("exit code %d", code)
		}
		if !strings.HasPrefix(stderr.String(), "surgeon: this is a bug in surgeon") || !strings.Contains(stderr.String(), "3×4 times 5×6") {
			t.Errorf("standard error has %q", &stderr)
		}
		if got := strings.Contains(stderr.String(), "goroutine"); got != verbose {
			t.Errorf("verbose is %v, a stack is shown: %v", verbose, got)
		}
	}
}

// What would be caught: JSON with something around it, an error that is not JSON when JSON is asked for.
func TestJSON(t *testing.T) {
	tiny(t)
	writeFile(t, "quiz.jsonl", quiz)
	for _, c := range []struct {
		args []string
		code int
		keys []string
	}{
		{pruneArgs("--json"), 0, []string{"model", "shots", "final", "options", "warnings"}},
		{[]string{"eval", "out", "--text", "text.txt", "--json"}, 0, []string{"texts", "seconds", "tokens_per_second"}},
		{[]string{"plan", "model", "--text", "text.txt", "--target", "0.3", "--samples", "4", "--json"}, 0, []string{"memory", "stages", "seconds", "batch", "peak_device_bytes", "peak_host_bytes"}},
		{[]string{"info", "--json"}, 0, []string{"program", "machine", "devices", "formats", "architectures"}},
		{pruneArgs("--json", "--target", "2"), exitRequest, []string{"error", "exit_code"}},
		{[]string{"eval", "out", "--tasks", "quiz.jsonl", "--json"}, 0, []string{"tasks", "seconds"}},
		{[]string{"eval", "out", "--text", "text.txt", "--tasks", "quiz.jsonl", "--json"}, 0, []string{"tasks", "texts", "tokens_per_second"}},
		{[]string{"eval", "--json"}, exitRequest, []string{"error", "exit_code"}},
		{[]string{"eval", "--json=true"}, exitRequest, []string{"error", "exit_code"}},
		{pruneArgs("--json=Yes", "--target", "2"), exitRequest, []string{"error", "exit_code"}},
	} {
		code, stdout, stderr := invoke(c.args...)
		if code != c.code {
			t.Errorf("%v: exit code %d: %s", c.args, code, stderr)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Errorf("%v: %v in %q", c.args, err, stdout)
			continue
		}
		for _, key := range c.keys {
			if _, ok := got[key]; !ok {
				t.Errorf("%v: no %q in %s", c.args, key, stdout)
			}
		}
	}
}

// What would be caught: a line among JSON that is none: of an error, of the parser's or of the run's.
func TestLogFormatJSON(t *testing.T) {
	tiny(t)
	for _, c := range []struct {
		args []string
		last string
	}{
		{pruneArgs("--log-format=json", "--samples", "100000"), "samples"},
		{pruneArgs("--target", "2", "--log-format", "json", "--quiet"), "--target is 2; it is the share"},
		{[]string{"eval", "--log-format", "json"}, `expected "<model>"; see surgeon eval --help`},
	} {
		code, _, stderr := invoke(c.args...)
		if code != exitRequest {
			t.Errorf("%v: exit code %d", c.args, code)
		}
		var line struct{ Level, Msg string }
		for text := range strings.Lines(stderr) {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Errorf("%v: %v in %q", c.args, err, text)
			}
		}
		if line.Level != "ERROR" || !strings.Contains(line.Msg, c.last) {
			t.Errorf("%v: the last line is %+v", c.args, line)
		}
	}
	if _, stdout, stderr := invoke(pruneArgs("--json=false", "--target", "2")...); stdout != "" || !strings.HasPrefix(stderr, "surgeon: --target is 2") {
		t.Errorf("with neither asked for: %q, %q", stdout, stderr)
	}
}

// What would be caught: a format that can be read and that info, to which the README sends for it, does not name.
func TestInfoFormats(t *testing.T) {
	_, stdout, stderr := invoke("info")
	for _, want := range []string{"safetensors", "GGUF", "Q8_0", ".txt", ".jsonl", ".parquet", ".gz", ".zst", "llama"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %s in\n%s%s", want, stdout, stderr)
		}
	}
}

// What would be caught: a dry run that writes, or that finds less wrong than the run.
func TestDryRun(t *testing.T) {
	dir := tiny(t)
	before := listing(t, dir)
	code, stdout, stderr := invoke(pruneArgs("--dry-run")...)
	if code != 0 || !strings.Contains(stdout, "nothing was written. The run would write out, and keep its shots in out.work") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("something was written:\n%s", after)
	}
	for _, wrong := range [][]string{{"--target", "7"}, {"-o", "model"}, {"--text", "nowhere"}, {"--samples", "100000"}} {
		if code, _, _ := invoke(pruneArgs(append(wrong, "--dry-run")...)...); code != exitRequest {
			t.Errorf("%v: exit code %d, want %d", wrong, code, exitRequest)
		}
	}
}

// What would be caught: a result that cannot be written and nobody hears of it.
func TestFullStandardOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	var stderr bytes.Buffer
	if code := run([]string{"info"}, full, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "standard output") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}

package tasks

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var (
	quiz     = []*Task{{Name: "quiz", Items: []Item{{Line: 1, Choices: []string{"a", "b"}}, {Line: 3, Choices: []string{"a", "b", "c"}}}}}
	identity = map[string]any{"model sha256": "12", "--batch": 1, "<": "é"}
	records  = []Record{{Task: "quiz", Line: 3, LogLikelihoods: []float64{-0.1, -1e-300, -123456789.12345678}, Answer: 1}, {Task: "quiz", Line: 1, LogLikelihoods: []float64{0, -2}}}
)

// open is OpenResults without the possibility of an error.
func open(t *testing.T, path string) *Results {
	t.Helper()
	r, err := OpenResults(path, identity, quiz)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// written makes a results file with all records and returns what is in it.
func written(t *testing.T, path string) []byte {
	t.Helper()
	r := open(t, path)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("opening has made the file")
	}
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	for _, rec := range records {
		if err := r.Append([]Record{rec}); err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What would be caught: a file cut off at any byte that is refused, that gives what is not in it whole, or that is not the
// same file again once what is missing is there.
func TestTornResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	whole := written(t, path)
	for n := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		r := open(t, path)
		lines := bytes.Count(whole[:n], []byte("\n"))
		if want := max(0, lines-1); r.Len() != want || r.Torn != n-1-bytes.LastIndexByte(whole[:n], '\n') {
			t.Fatalf("of %d bytes: %d items and %d torn bytes, want %d items", n, r.Len(), r.Torn, want)
		}
		if err := r.Begin(); err != nil {
			t.Fatal(err)
		}
		for _, rec := range records {
			known := r.Known(rec.Task, rec.Line)
			if known == nil {
				if err := r.Append([]Record{rec}); err != nil {
					t.Fatal(err)
				}
			} else if !reflect.DeepEqual(known, rec.LogLikelihoods) {
				t.Errorf("of %d bytes: %v, want %v", n, known, rec.LogLikelihoods)
			}
		}
		r.Close()
		if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, whole) {
			t.Fatalf("of %d bytes: went on to\n%s\n%v, want\n%s", n, again, err, whole)
		}
	}
}

// What would be caught: results of something else that are taken for these, another file that is written to, damage in the
// middle that is passed over, two processes in one file, a figure that JSON cannot carry.
func TestRefusedResults(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.jsonl")
	whole := string(written(t, path))
	for _, c := range []struct{ from, to, want string }{
		{`"--batch":1`, `"--batch":2`, `it has results of something else (--batch: 2 there, 1 here): ask for that again`},
		{`"model sha256"`, `"other"`, `(model sha256: nothing there, 12 here; other: 12 there, nothing here)`},
		{`"surgeon_results":1`, `"surgeon_results":2`, "the form of version 2, and this program writes version 1"},
		{"{", "[", "is there already and holds something else"},
		{whole, "a list of things to buy", "is there already and holds something else"},
		{whole, "{\"context\": \"a\"}\n", "is there already and holds something else"},
		{`{"task"`, `{"task`, "line 2 cannot be read ("},
		{`"line":3`, `"line":2`, `line 2 has 3 log-likelihoods for task "quiz", line 2, which has 0 choices; the file is damaged`},
		{`[0,-2]`, `[0]`, `line 3 has 1 log-likelihoods for task "quiz", line 1, which has 2 choices; the file is damaged`},
		{`[0,-2]`, `[0,null]`, "line 3 cannot be read"},
	} {
		data := strings.Replace(whole, c.from, c.to, 1)
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := OpenResults(path, identity, quiz)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "the results file "+path+": ") {
			t.Errorf("%s for %s: %v, want %q", c.to, c.from, err, c.want)
		}
		if r != nil {
			r.Close()
		}
		if left, _ := os.ReadFile(path); string(left) != data {
			t.Errorf("%s for %s: the file was changed", c.to, c.from)
		}
	}
	if err := os.WriteFile(path, []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	r := open(t, path)
	if _, err := OpenResults(path, identity, quiz); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened a second time: %v", err)
	}
	for _, bad := range []float64{math.NaN(), math.Inf(-1)} {
		if err := r.Append([]Record{{Task: "quiz", Line: 1, LogLikelihoods: []float64{0, bad}}}); err == nil || !strings.Contains(err.Error(), "task quiz, line 1: a log-likelihood is ") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for path, want := range map[string]string{filepath.Join(dir, "no", "r.jsonl"): "there is no directory ", dir: "this is not a file but a directory"} {
		if _, err := OpenResults(path, identity, quiz); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What would be caught: a panic; log-likelihoods that are none, or not of the item they are said to be of.
func FuzzResults(f *testing.F) {
	path := filepath.Join(f.TempDir(), "r.jsonl")
	r, err := OpenResults(path, identity, quiz)
	if err != nil {
		f.Fatal(err)
	}
	head := string(r.header)
	f.Add([]byte(head[:9]))
	f.Add([]byte(head + `{"task":"quiz","line":3,"loglikelihoods":[-1,-2,-3]}` + "\n" + `{"task":`))
	f.Add([]byte(head + `{"task":"quiz","line":1,"loglikelihoods":[null,1e999]}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &Results{header: []byte(head), known: map[place][]float64{}}
		if r.parse(data, quiz) != nil {
			return
		}
		if r.whole < 0 || int(r.whole)+r.Torn != len(data) {
			t.Fatalf("%d whole and %d torn bytes of %d", r.whole, r.Torn, len(data))
		}
		for at, lls := range r.known {
			if at.task != "quiz" || at.line == 1 && len(lls) != 2 || at.line == 3 && len(lls) != 3 {
				t.Fatalf("%v: %v", at, lls)
			}
		}
	})
}

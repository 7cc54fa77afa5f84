package tasks

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const good = `{"context": "a", "choices": [" b", " c"], "answer": 1}` + "\n"

// What would be caught: fields that are mixed up, lines that are miscounted, a compressed file that is not, a name with
// its endings.
func TestRead(t *testing.T) {
	data := "\n" + good + "  \r\n" + `{"answer":0,"extra":[{}],"choices":["é\n","x","x"],"context":""}` // blank lines, no newline at the end
	want := []Item{{2, "a", []string{" b", " c"}, 1}, {4, "", []string{"é\n", "x", "x"}, 0}}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte(data))
	z.Close()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"arc.easy.jsonl": []byte(data), "arc.easy.jsonl.gz": packed.Bytes(), "arc.easy.jsonl.ZST": encoder.EncodeAll([]byte(data), nil)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		task, err := Read(context.Background(), path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if task.Name != "arc.easy" || !reflect.DeepEqual(task.Items, want) || task.File.Path != path || task.File.Bytes != int64(len(content)) {
			t.Errorf("%s: %+v", name, task)
		}
	}
	for name, want := range map[string]string{"nowhere.jsonl": "no such file", "bad.jsonl": "bad.jsonl: line 2: there is no field", "cut.jsonl.gz": "cut.jsonl.gz: "} {
		path := filepath.Join(dir, name)
		switch name {
		case "bad.jsonl":
			os.WriteFile(path, []byte(good+"{}"), 0o644)
		case "cut.jsonl.gz":
			os.WriteFile(path, packed.Bytes()[:20], 0o644)
		}
		if _, err := Read(context.Background(), path); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), name) != 1 {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// What would be caught: an item that is taken for another than it is, a refusal that does not say where.
func TestParseErrors(t *testing.T) {
	for line, want := range map[string]string{
		`{"context": "a"`:         `line 3: this is not a JSON object: unexpected end of JSON input`,
		`["a"]`:                   `line 3: this is not a JSON object but ["a"]`,
		`null`:                    `line 3: this is not a JSON object but null`,
		"{\"context\": \"\xe9\"}": `line 3: this is not valid UTF-8; convert the file to UTF-8`,
		`{"Context": "a", "choices": ["b", "c"], "answer": 0}`:          `line 3: there is no field "context"; an item has context, choices and answer`,
		`{"context": "a", "answer": 0}`:                                 `line 3: there is no field "choices"; an item has context, choices and answer`,
		`{"context": "a", "choices": ["b", "c"]}`:                       `line 3: there is no field "answer"; an item has context, choices and answer`,
		`{"context": 7, "choices": ["b", "c"], "answer": 0}`:            `line 3: the field "context" is 7, want a string`,
		`{"context": null, "choices": ["b", "c"], "answer": 0}`:         `line 3: the field "context" is null, want a string`,
		`{"context": "a", "choices": "bc", "answer": 0}`:                `line 3: the field "choices" is "bc", want a list of strings`,
		`{"context": "a", "choices": ["b", 1], "answer": 0}`:            `line 3: the field "choices" is ["b", 1], want a list of strings`,
		`{"context": "a", "choices": ["b", null], "answer": 0}`:         `line 3: choice 1 is null, want a string`,
		`{"context": "a", "choices": ["b"], "answer": 0}`:               `line 3: choices has 1 entries; at least 2 are needed`,
		`{"context": "a", "choices": ["b", ""], "answer": 0}`:           `line 3: choice 1 is "": empty, but for a space in front that all choices have`,
		`{"context": "a", "choices": [" b", " "], "answer": 0}`:         `line 3: choice 1 is " ": empty, but for a space in front that all choices have`,
		`{"context": "a", "choices": ["b", "c"], "answer": "0"}`:        `line 3: the field "answer" is "0", want the index of a choice, from 0`,
		`{"context": "a", "choices": ["b", "c"], "answer": 0.5}`:        `line 3: the field "answer" is 0.5, want the index of a choice, from 0`,
		`{"context": "a", "choices": ["b", "c"], "answer": null}`:       `line 3: the field "answer" is null, want the index of a choice, from 0`,
		`{"context": "a", "choices": ["b", "c"], "answer": 2}`:          `line 3: answer is 2 and there are 2 choices, 0 to 1`,
		`{"context": "a", "choices": ["b", "c"], "answer": -1}`:         `line 3: answer is -1 and there are 2 choices, 0 to 1`,
		`{"context": "a", "choices": ["b", "c"], "answer": 0} trailing`: `line 3: this is not a JSON object: invalid character 't' after top-level value`,
	} {
		if _, err := Parse([]byte(good + "\n" + line + "\n" + good)); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
	for _, empty := range []string{"", "\n \n"} {
		if _, err := Parse([]byte(empty)); err == nil || !strings.HasPrefix(err.Error(), "there are no items") {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// What would be caught: a panic; an item that breaks what Item promises.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("\n" + `{"context":"\u00e9 ","choices":["é",""],"answer":0,"more":{"a":[1e9]}}`))
	f.Add([]byte(`{"context":"","choices":[" "," "],"answer":99999999999999999999}`))
	f.Add([]byte(`{"context":"","context":null,"choices":[[]],"answer":-0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := Parse(data)
		if err != nil {
			return
		}
		last := 0
		for _, i := range items {
			if i.Line <= last || i.Line > bytes.Count(data, []byte("\n"))+1 {
				t.Fatalf("line %d after line %d", i.Line, last)
			}
			last = i.Line
			if len(i.Choices) < 2 || i.Answer < 0 || i.Answer >= len(i.Choices) {
				t.Fatalf("%+v", i)
			}
			lls := make([]float64, len(i.Choices))
			for k, n := range i.lengths() {
				if lls[k] = -float64(n); n < 1 {
					t.Fatalf("choice %d of %+v has %d characters", k, i, n)
				}
			}
			if _, norm := i.Picks(lls); norm != 0 { // all have −1 per character
				t.Fatalf("%+v: of equal ones number %d is picked", i, norm)
			}
		}
	})
}

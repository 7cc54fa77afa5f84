package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
)

// files reads a tree: path → content, with a slash behind directories.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			all[name+"/"] = ""
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(path)
			all[name+"@"] = to
			return err
		}
		data, err := os.ReadFile(path)
		all[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// clone copies a tiny model without the golden files beside it.
func clone(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{configName, singleName} {
		data, err := os.ReadFile(filepath.Join(tiny(name), file))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), data)
	}
	return dir
}

// Catches any bit that changes when nothing is to be changed, for one file and for several, and for several as input.
func TestWriteSameAgain(t *testing.T) {
	for _, name := range tinyModels {
		src := open(t, clone(t, name))
		limits := []int64{0, 20000}
		if name == "tiny-opt" {
			limits = append(limits, 1) // every tensor alone
		}
		for _, limit := range limits {
			out := filepath.Join(t.TempDir(), "out")
			if err := Write(out, src, WriteOptions{ShardBytes: limit}); err != nil {
				t.Fatal(err)
			}
			same(t, src, open(t, out))
			again := filepath.Join(t.TempDir(), "again")
			if err := Write(again, open(t, out), WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			same(t, src, open(t, again))
			got := files(t, out)
			if got[configName] != files(t, tiny(name))[configName] {
				t.Errorf("%s: config.json changed", name)
			}
			if limit == 0 {
				if len(got) != 2 || got[singleName] == "" {
					t.Errorf("%s: files %v", name, reflect.ValueOf(got).MapKeys())
				}
				continue
			}
			var x index
			if err := json.Unmarshal([]byte(got[indexName]), &x); err != nil {
				t.Fatal(err)
			}
			total, shards := 0.0, map[string]bool{}
			for tensor, file := range x.WeightMap {
				shards[file] = true
				total += float64(4 * elements(src.Shape(tensor)))
				if !strings.Contains(got[file], tensor) {
					t.Errorf("%s: %s is not in %s", name, tensor, file)
				}
			}
			if x.Metadata["total_size"] != total || len(shards) != len(got)-2 || len(shards) < 3 {
				t.Errorf("%s: total_size %v of %v, %d shards", name, x.Metadata["total_size"], total, len(shards))
			}
			for file := range shards {
				f, err := safetensors.Parse([]byte(got[file]))
				if err != nil {
					t.Fatal(err)
				}
				size := 0
				for _, x := range f.Tensors() {
					size += 4 * x.Elements()
				}
				if f.Metadata()["format"] != "pt" || int64(size) > limit && len(f.Tensors()) > 1 {
					t.Errorf("%s: %s has %d bytes in %d tensors, metadata %v", name, file, size, len(f.Tensors()), f.Metadata())
				}
			}
		}
	}
}

func same(t *testing.T, a, b *Checkpoint) {
	t.Helper()
	if !slices.Equal(a.Names(), b.Names()) || !reflect.DeepEqual(a.Config, b.Config) || a.DType() != b.DType() {
		t.Errorf("%s and %s are different models", a.Path, b.Path)
	}
	for _, name := range a.Names() {
		ta, da, _ := raw(t, a, name)
		tb, db, _ := raw(t, b, name)
		if ta != tb || !bytes.Equal(da, db) || !slices.Equal(a.Shape(name), b.Shape(name)) {
			t.Errorf("%s: %s differs", b.Path, name)
		}
	}
}

// Catches changed weights in the wrong place or type, tensors converted that should not be, and a config.json that says
// another type than the file has.
func TestWriteChangedAndConverted(t *testing.T) {
	const name = "model.layers.1.mlp.up_proj.weight"
	m := load(t, "tiny-llama")
	m.config["torch_dtype"] = "float32" // both spellings are there
	buffer := f32(1.0001, 2, 3, 4)
	m.set("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", buffer, 4)
	src := open(t, m.save(1))
	for dtype, spelled := range map[safetensors.DType]string{"": "float32", safetensors.F16: "float16", safetensors.BF16: "bfloat16", safetensors.F32: "float32", safetensors.F64: "float64"} {
		values := make([]float32, 48*32)
		for i := range values {
			values[i] = float32(i) * 1.001
		}
		o := WriteOptions{DType: dtype, Changed: func(n string) ([]float32, bool, error) { return values, n == name, nil }}
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(out, src, o); err != nil {
			t.Fatal(err)
		}
		got := open(t, out)
		for _, n := range src.Names() {
			want := read(t, src, n)
			if n == name {
				want = slices.Clone(values)
			}
			if err := Round(want, src.OutputDType(n, o)); err != nil {
				t.Fatal(err)
			}
			stored, _, _ := raw(t, got, n)
			if !slices.Equal(read(t, got, n), want) || stored != src.OutputDType(n, o) || dtype != "" && stored != dtype {
				t.Errorf("%s as %q: %s differs, stored as %s", dtype, spelled, n, stored)
			}
		}
		all := files(t, out)
		f, err := safetensors.Parse([]byte(all[singleName]))
		if err != nil {
			t.Fatal(err)
		}
		if x, _ := f.Lookup("model.layers.0.self_attn.rotary_emb.inv_freq"); x.DType != safetensors.F32 || !bytes.Equal(f.Bytes(x.Name), buffer) {
			t.Errorf("%s: the buffer was converted", dtype)
		}
		want := strings.ReplaceAll(files(t, src.Path)[configName], `dtype":"float32"`, `dtype":"`+spelled+`"`)
		if all[configName] != want || strings.Count(want, spelled) != 2 {
			t.Errorf("%s: config.json is %s, want %s", dtype, all[configName], want)
		}
	}
}

// Catches bytes of config.json lost or reordered while its type is changed.
func TestSetDType(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"a\" : [1, {\"dtype\": \"x\"}],\n\t\"dtype\"  :  \"float32\" ,\"z\":null}\n": "{\n  \"a\" : [1, {\"dtype\": \"x\"}],\n\t\"dtype\"  :  \"bfloat16\" ,\"z\":null}\n",
		`{"torch_dtype":null,"dtype":"float16"}`:                                            `{"torch_dtype":"bfloat16","dtype":"bfloat16"}`,
		`{"a":1}`:                                                                           `{"a":1}`,
		`{}`:                                                                                `{}`,
	} {
		got, err := setDType([]byte(text), safetensors.BF16)
		if err != nil || string(got) != want {
			t.Errorf("%s became %s (%v), want %s", text, got, err, want)
		}
	}
	if _, err := setDType([]byte("{}"), safetensors.I8); err == nil {
		t.Error("I8 has a name")
	}
}

// Catches tokenizer files lost, old weights of another format kept beside the new ones, a README that speaks of the dense
// model, and a result that only its owner can read.
func TestWriteCarriesFiles(t *testing.T) {
	dir := load(t, "tiny-llama").save(3)
	for name, text := range map[string]string{
		"tokenizer.json": "tok", "generation_config.json": "gen", "README.md": "dense", "LICENSE": "free", "vocab.json": "v",
		"pytorch_model.bin": "old", "consolidated.00.pth": "old", "tf_model.h5": "old", "pytorch_model.bin.index.json": "old", "left-over.safetensors": "old",
	} {
		write(t, filepath.Join(dir, name), []byte(text))
	}
	if err := os.MkdirAll(filepath.Join(dir, "onnx"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "onnx", "config.json"), []byte("x"))
	blob := filepath.Join(t.TempDir(), "blob")
	write(t, blob, []byte("linked"))
	if err := os.Symlink(blob, filepath.Join(dir, "special_tokens_map.json")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	src := open(t, dir)
	if text, err := src.TokenizerJSON(); err != nil || string(text) != "tok" {
		t.Errorf("tokenizer.json is %q (%v)", text, err)
	}
	if err := Write(out, src, WriteOptions{Files: map[string][]byte{"README.md": []byte("pruned"), "report.json": []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	got := files(t, out)
	want := map[string]string{"tokenizer.json": "tok", "generation_config.json": "gen", "README.md": "pruned", "LICENSE": "free", "vocab.json": "v",
		"special_tokens_map.json": "linked", "report.json": "{}", configName: files(t, dir)[configName], singleName: got[singleName]}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("files are %v", reflect.ValueOf(got).MapKeys())
	}
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.Mkdir(probe, 0o777); err != nil {
		t.Fatal(err)
	}
	a, _ := os.Stat(out)
	b, _ := os.Stat(probe)
	if a.Mode() != b.Mode() {
		t.Errorf("mode %v, a new directory has %v", a.Mode(), b.Mode())
	}
	if info, err := os.Lstat(filepath.Join(out, "special_tokens_map.json")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link was not replaced by its file: %v", err)
	}
}

// Catches a directory overwritten or removed that must not be, and refusals that leave something behind.
func TestWriteRefuses(t *testing.T) {
	source := load(t, "tiny-llama").save(1)
	src := open(t, source)
	const up = "model.layers.1.mlp.up_proj.weight"
	changed := func(name string, x ...float32) func(string) ([]float32, bool, error) {
		return func(n string) ([]float32, bool, error) { return x, n == name, nil }
	}
	lost := func(string) ([]float32, bool, error) { return nil, false, errors.New("the device is lost") }
	norm := func(x float32) []float32 { v := make([]float32, 32); v[5] = x; return v }
	for _, c := range []struct {
		name    string
		prepare func(parent string) // makes parent/out
		o       WriteOptions
		want    []string
	}{
		{"exists", func(p string) { os.Mkdir(filepath.Join(p, "out"), 0o777) }, WriteOptions{}, []string{"exists", "force"}},
		{"a file", func(p string) { write(t, filepath.Join(p, "out"), nil) }, WriteOptions{Force: true}, []string{"not a directory"}},
		{"a link", func(p string) { os.Symlink(t.TempDir(), filepath.Join(p, "out")) }, WriteOptions{Force: true}, []string{"not a directory"}},
		{"not a model", func(p string) {
			os.Mkdir(filepath.Join(p, "out"), 0o777)
			write(t, filepath.Join(p, "out", "diary.txt"), []byte("dear"))
		}, WriteOptions{Force: true}, []string{"other things than a model"}},
		{"type", nil, WriteOptions{DType: safetensors.I8}, []string{"I8", "BF16"}},
		{"length", nil, WriteOptions{Changed: changed(up, 1, 2, 3)}, []string{up, "3 new values", "[48 32]", "1536"}},
		{"values that cannot be had", nil, WriteOptions{Changed: lost}, []string{"lm_head.weight", "the device is lost"}},
		{"NaN", nil, WriteOptions{Changed: changed("model.norm.weight", norm(float32(math.NaN()))...)}, []string{"model.norm.weight", "NaN", "index 5"}},
		{"overflow", nil, WriteOptions{DType: safetensors.F16, Changed: changed("model.norm.weight", norm(1e5)...)}, []string{"model.norm.weight", "100000 at index 5", "F16", "65504"}},
		{"file in a subdirectory", nil, WriteOptions{Files: map[string][]byte{"a/b": nil}}, []string{`"a/b"`}},
		{"file above", nil, WriteOptions{Files: map[string][]byte{"..": nil}}, []string{`".."`}},
		{"file config.json", nil, WriteOptions{Files: map[string][]byte{configName: nil}}, []string{configName}},
		{"file of weights", nil, WriteOptions{Files: map[string][]byte{singleName: nil}}, []string{singleName}},
	} {
		parent := t.TempDir()
		if c.prepare != nil {
			c.prepare(parent)
		}
		before := files(t, parent)
		out := filepath.Join(parent, "out")
		err := Write(out, src, c.o)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, part := range append(c.want, out) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.name, err, part)
			}
		}
		if after := files(t, parent); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: left %v", c.name, reflect.ValueOf(after).MapKeys())
		}
	}
	for _, out := range []string{source, filepath.Dir(source), filepath.Join(source, ".")} {
		before := files(t, source)
		if err := Write(out, src, WriteOptions{Force: true}); err == nil || !strings.Contains(err.Error(), "a source is not replaced") {
			t.Errorf("%s: %v", out, err)
		}
		if !reflect.DeepEqual(files(t, source), before) {
			t.Fatal("the source changed")
		}
	}
}

// What would be caught: a directory that MayWrite accepts and Write cannot make, because there is nothing yet to put it into.
func TestWriteMakesParents(t *testing.T) {
	src := open(t, clone(t, "tiny-llama"))
	parent := t.TempDir()
	out := filepath.Join(parent, "new", "deep", "out")
	if err := MayWrite(out, src.Path, false); err != nil {
		t.Fatal(err)
	}
	if err := Write(out, src, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, src, open(t, out))
	if err := os.Symlink("nowhere", filepath.Join(parent, "link")); err != nil {
		t.Fatal(err)
	}
	if err := MayWrite(filepath.Join(parent, "link", "out"), src.Path, false); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "a link that leads nowhere") {
		t.Errorf("below a link that leads nowhere: %v", err)
	}
}

// What would be caught: a copy of the model that stays for ever after a kill -9 in writing it, and one that is taken from a
// process that writes it, or that is all there is of a directory about to be replaced.
func TestWriteRemovesLeft(t *testing.T) {
	src := open(t, clone(t, "tiny-llama"))
	gone := exec.Command(os.Args[0], "-test.run=^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	stays := map[string]bool{}
	left := func(what string, process int, stay bool) string {
		path := filepath.Join(parent, fmt.Sprintf(what, process))
		if err := os.Mkdir(path, 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(path, singleName), []byte("half"))
		stays[filepath.Base(path)] = stay
		return path
	}
	dead, alive := gone.Process.Pid, os.Getppid()
	left(".out.new.%d.0", dead, false)
	left(".out.new.%d.12", dead, false)
	left(".out.new.%d.0", os.Getpid(), false) // of an earlier process, as in a container, where numbers come again
	left(".out.new.%d.0", alive, true)
	left(".out2.new.%d.0", dead, true)
	left(".out.new.%d.0.kept", dead, true)
	left(".out.new.%d", dead, true)
	elsewhere, err := hold(left(".out.new.%d.5", dead, true)) // as a process of another container would
	if err != nil {
		t.Skipf("no locks here: %v", err)
	}
	defer elsewhere.Close()
	if err := Write(filepath.Join(parent, "out"), src, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	left(".out.old.%d.0", dead, true) // killed between the two renames
	left(".out.new.%d.1", dead, true)
	if err := Write(filepath.Join(parent, "out"), src, WriteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	for name, stay := range stays {
		if _, err := os.Stat(filepath.Join(parent, name)); (err == nil) != stay {
			t.Errorf("%s: there %v, want %v", name, err == nil, stay)
		}
	}
}

// What would be caught: a directory that is taken for one left behind while it is being written.
func TestWriteHolds(t *testing.T) {
	src := open(t, clone(t, "tiny-llama"))
	out := filepath.Join(t.TempDir(), "out")
	asked := false
	changed := func(string) ([]float32, bool, error) {
		asked = true
		RemoveLeft(out)
		return nil, false, nil
	}
	if err := Write(out, src, WriteOptions{Changed: changed}); err != nil || !asked {
		t.Errorf("%v, asked %v", err, asked)
	}
}

// What would be caught: a file beside the weights that cannot be read, found out only when the model is written, and one that
// is not copied refused all the same.
func TestMayCarry(t *testing.T) {
	for _, c := range []struct {
		name, want string
		prepare    func(path string) error
	}{
		{"notes.md", "notes.md is to be carried over", func(path string) error { return os.Symlink("nowhere", path) }},
		{"vocab.json", "vocab.json is to be carried over", func(path string) error { return os.WriteFile(path, nil, 0) }},
		{"README.md", "", func(path string) error { return os.Symlink("nowhere", path) }}, // another one is given
		{"pytorch_model.bin", "", func(path string) error { return os.Symlink("nowhere", path) }},
		{"onnx", "", func(path string) error { return os.Mkdir(path, 0o777) }},
		{"pipe", "", func(path string) error { return syscall.Mkfifo(path, 0o666) }}, // opening it would wait for ever
	} {
		dir := clone(t, "tiny-llama")
		if err := c.prepare(filepath.Join(dir, c.name)); err != nil {
			t.Fatal(err)
		}
		if c.name == "vocab.json" && os.Geteuid() == 0 { // root may read everything
			continue
		}
		src := open(t, dir)
		err := src.MayCarry("README.md", "report.json")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		written := Write(filepath.Join(t.TempDir(), "out"), src, WriteOptions{Files: map[string][]byte{"README.md": nil}})
		if (written == nil) != (err == nil) {
			t.Errorf("%s: refused with %v and written with %v", c.name, err, written)
		}
	}
}

// Catches a forced replacement that mixes old and new files, or leaves the old directory beside the new one.
func TestWriteForce(t *testing.T) {
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	if err := Write(out, open(t, clone(t, "tiny-opt")), WriteOptions{Files: map[string][]byte{"old.txt": nil}}); err != nil {
		t.Fatal(err)
	}
	src := open(t, clone(t, "tiny-llama"))
	if err := Write(out, src, WriteOptions{}); err == nil {
		t.Fatal("overwritten without Force")
	}
	if err := Write(out, src, WriteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	same(t, src, open(t, out))
	if got := files(t, parent); got["out/old.txt"] != "" || len(got) != len(files(t, out))+1 {
		t.Errorf("left %v", reflect.ValueOf(got).MapKeys())
	}
	if _, err := os.Stat(filepath.Join(out, "old.txt")); err == nil {
		t.Error("an old file is in the new directory")
	}
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Write(empty, src, WriteOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

// full is a disk with so many bytes left.
type full struct {
	w    io.Writer
	left *int
}

func (f full) Write(p []byte) (int, error) {
	if len(p) <= *f.left {
		*f.left -= len(p)
		return f.w.Write(p)
	}
	n, err := f.w.Write(p[:*f.left])
	*f.left = 0
	if err == nil {
		err = syscall.ENOSPC
	}
	return n, err
}

// Catches a disk that fills up at any place leaving a half-written model, a temporary directory, or a damaged old one.
func TestWriteDiskFull(t *testing.T) {
	src := open(t, clone(t, "tiny-llama"))
	old := open(t, clone(t, "tiny-opt"))
	for _, exists := range []bool{false, true} {
		for space, done := 0, false; !done; space += 20011 {
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			if exists {
				if err := Write(out, old, WriteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			before := files(t, parent)
			left := space
			err := Write(out, src, WriteOptions{Force: exists, ShardBytes: 30000, Files: map[string][]byte{"report.json": make([]byte, 100)},
				fault: func(w io.Writer) io.Writer { return full{w, &left} }})
			if done = err == nil; done {
				same(t, src, open(t, out))
				if space < 80000 {
					t.Errorf("%d bytes were enough", space)
				}
				break
			}
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), out) {
				t.Errorf("%d bytes: %v", space, err)
			}
			if !reflect.DeepEqual(files(t, parent), before) {
				t.Fatalf("%d bytes: left %v", space, reflect.ValueOf(files(t, parent)).MapKeys())
			}
			if space > 1<<20 {
				t.Fatal("never enough")
			}
		}
	}
}

// What would be caught: an output that cannot be made, found out only after hours of work.
func TestMayWrite(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	refused := "nothing can be written in " + closed
	if os.Geteuid() == 0 { // root may write everywhere
		refused = ""
	}
	if err := MayWriteIn(closed); (err == nil) != (refused == "") {
		t.Errorf("in a directory that is closed: error %v, want %q", err, refused)
	}
	for _, c := range []struct{ dir, want string }{
		{filepath.Join(dir, "new"), ""},
		{filepath.Join(dir, "new/deep/out"), ""},
		{dir, "the directory exists"},
		{filepath.Join(closed, "out"), refused},
		{filepath.Join(closed, "deep/out"), refused},
	} {
		err := MayWrite(c.dir, filepath.Join(dir, "source"), false)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", c.dir, err, c.want)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("something was written: %v, %v", list, err)
	}
}

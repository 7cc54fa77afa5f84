package tasks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
)

// Results is a file of JSON lines with what a model gave for every item, which makes a stopped evaluation go on: its first
// line says what it is of, each further one is a Record. Lines are only appended, and synced; the last one may be torn by a
// kill or a power cut, and is then cut off.
type Results struct {
	Path string
	// Torn is how many bytes of a torn line Begin cuts off.
	Torn int

	header []byte // the first line
	whole  int64  // bytes of whole lines
	file   *os.File
	lock   *flock.Flock
	known  map[place][]float64
}

// A Record is one item's line.
type Record struct {
	Task           string    `json:"task"`
	Line           int       `json:"line"` // in the task's file
	LogLikelihoods []float64 `json:"loglikelihoods"`
	Answer         int       `json:"answer"`
	Pick           int       `json:"pick"`      // by log-likelihood
	PickNorm       int       `json:"pick_norm"` // by log-likelihood per character
}

type place struct {
	task string
	line int
}

// resultsVersion is the version of the file's form, which its first line tells.
const resultsVersion = 1

// header is the first line of a results file.
type header struct {
	Version int            `json:"surgeon_results"`
	Of      map[string]any `json:"of"`
}

// OpenResults opens a results file that is there, or remembers the name of a new one; it writes nothing. identity is all that
// the bits of the results depend on, and must marshal to JSON. Errors: the file is another file, has results of something else,
// holds lines that cannot be read, or belongs to a process that is running.
func OpenResults(path string, identity map[string]any, tasks []*Task) (*Results, error) {
	r, err := openResults(path, identity, tasks)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("the results file %s: %w", path, err)
	}
	return r, nil
}

func openResults(path string, identity map[string]any, tasks []*Task) (*Results, error) {
	r := &Results{Path: path, known: map[place][]float64{}}
	first, err := json.Marshal(header{resultsVersion, identity})
	if err != nil {
		return r, err
	}
	r.header = append(first, '\n')
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return r, errors.New("this is a link that leads nowhere; name another file with --results")
		}
		if folder, err := os.Stat(filepath.Dir(path)); err != nil || !folder.IsDir() {
			return r, fmt.Errorf("there is no directory %s to make it in", filepath.Dir(path))
		}
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if !info.Mode().IsRegular() {
		what := "something else"
		if info.IsDir() {
			what = "a directory"
		}
		return r, fmt.Errorf("this is not a file but %s", what)
	}
	if r.file, err = os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0); err != nil {
		return r, err
	}
	if err := r.take(); err != nil {
		return r, err
	}
	data, err := io.ReadAll(r.file)
	if err != nil {
		return r, err
	}
	return r, r.parse(data, tasks)
}

// parse reads what the file holds.
func (r *Results) parse(data []byte, tasks []*Task) error {
	end := bytes.IndexByte(data, '\n') + 1
	if end == 0 && bytes.HasPrefix(r.header, data) { // new, or killed in its first write
		r.Torn = len(data)
		return nil
	}
	if err := sameHeader(data[:end], r.header); err != nil {
		return err
	}
	choices := map[place]int{}
	for _, t := range tasks {
		for _, i := range t.Items {
			choices[place{t.Name, i.Line}] = len(i.Choices)
		}
	}
	for number := 2; ; number++ {
		n := bytes.IndexByte(data[end:], '\n') + 1
		if n == 0 {
			r.whole, r.Torn = int64(end), len(data)-end
			return nil
		}
		var rec struct {
			Task           string
			Line           int
			LogLikelihoods []*float64 // nil is null
		}
		err := json.Unmarshal(data[end:end+n], &rec)
		if err == nil && slices.Contains(rec.LogLikelihoods, nil) {
			err = errors.New("a log-likelihood is null")
		}
		at := place{rec.Task, rec.Line}
		switch {
		case err != nil:
			return fmt.Errorf("line %d cannot be read (%w); the file is damaged, remove it to start again", number, err)
		case choices[at] == 0 || len(rec.LogLikelihoods) != choices[at]:
			return fmt.Errorf("line %d has %d log-likelihoods for task %q, line %d, which has %d choices; the file is damaged, remove it to start again",
				number, len(rec.LogLikelihoods), rec.Task, rec.Line, choices[at])
		}
		r.known[at] = make([]float64, choices[at])
		for k, ll := range rec.LogLikelihoods {
			r.known[at][k] = *ll
		}
		end += n
	}
}

// sameHeader refuses a first line that is not the one wanted, and says what differs.
func sameHeader(line, want []byte) error {
	if bytes.Equal(line, want) {
		return nil
	}
	var got, here header
	if err := json.Unmarshal(line, &got); err != nil || got.Version == 0 {
		return errors.New("it is there already and holds something else; name another file with --results")
	}
	if got.Version != resultsVersion {
		return fmt.Errorf("it has the form of version %d, and this program writes version %d; name another file with --results", got.Version, resultsVersion)
	}
	if err := json.Unmarshal(want, &here); err != nil {
		return err
	}
	keys := maps.Clone(here.Of)
	maps.Copy(keys, got.Of)
	var differ []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if there, is := told(got.Of, k), told(here.Of, k); there != is {
			differ = append(differ, fmt.Sprintf("%s: %s there, %s here", k, there, is))
		}
	}
	return fmt.Errorf("it has results of something else (%s): ask for that again to go on with it, or name another file with --results, or remove it to start again", strings.Join(differ, "; "))
}

// told is what a header says under a key.
func told(of map[string]any, key string) string {
	if v, is := of[key]; is {
		return fmt.Sprint(v)
	}
	return "nothing"
}

// take locks the file against other processes. The lock goes with the process that has it.
func (r *Results) take() error {
	r.lock = flock.New(r.Path)
	taken, err := r.lock.TryLock()
	if err == nil && !taken {
		err = errors.New("another process is writing to it; wait for its end, or name another file with --results")
	}
	return err
}

// Known are the log-likelihoods of an item that is in the file, nil where it is not.
func (r *Results) Known(task string, line int) []float64 { return r.known[place{task, line}] }

// Len is the number of items that are in the file.
func (r *Results) Len() int { return len(r.known) }

// Begin makes the file ready to be written to: a new one is made, a torn line cut off.
func (r *Results) Begin() error {
	err := r.begin()
	if err != nil {
		return fmt.Errorf("the results file %s: %w", r.Path, err)
	}
	return nil
}

func (r *Results) begin() (err error) {
	if r.file == nil {
		if r.file, err = os.OpenFile(r.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return err
		}
		if err := r.take(); err != nil {
			return err
		}
	}
	if err := r.cut(); err != nil {
		return err
	}
	if r.whole > 0 {
		return nil
	}
	if err := r.write(r.header); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(r.Path)) // its new name must survive a power cut too
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Append adds records, at once: after it returns they survive a power cut. After an error they are not there.
func (r *Results) Append(records []Record) error {
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	e.SetEscapeHTML(false)
	for _, rec := range records {
		for _, ll := range rec.LogLikelihoods {
			if math.IsNaN(ll) || math.IsInf(ll, 0) {
				return fmt.Errorf("the results file %s: task %s, line %d: a log-likelihood is %v, which is not written", r.Path, rec.Task, rec.Line, ll)
			}
		}
		if err := e.Encode(rec); err != nil {
			return fmt.Errorf("the results file %s: %w", r.Path, err)
		}
	}
	if err := r.write(lines.Bytes()); err != nil {
		return fmt.Errorf("the results file %s: %w; what it holds is kept, and the same command goes on from there", r.Path, err)
	}
	return nil
}

// write appends whole lines, or nothing.
func (r *Results) write(lines []byte) error {
	_, err := r.file.Write(lines)
	if err == nil {
		err = r.file.Sync()
	}
	if err != nil {
		return errors.Join(err, r.cut())
	}
	r.whole += int64(len(lines))
	return nil
}

// cut makes the file end after its last whole line.
func (r *Results) cut() error { return r.file.Truncate(r.whole) }

// Close gives the file back.
func (r *Results) Close() error {
	var errs []error
	if r.file != nil {
		errs = append(errs, r.file.Close())
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(errs...)
}

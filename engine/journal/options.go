package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Refusal is the error of Open for a directory in which this run must not work. Nothing was changed in it. One of Process,
// Foreign and Differences says why.
type Refusal struct {
	Dir         string
	InUse       bool         // another process has the lock
	Process     int          // its number, 0 where it has not been written yet
	Foreign     string       // a file that shows that the directory is something else
	Differences []Difference // the directory is a run with other options
}

// Difference is an option for which a directory and this run have different values. The values are JSON, or "absent".
type Difference struct {
	Field       string // as in options.json; inner fields behind a dot
	There, Here string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s there, %s here", d.Field, d.There, d.Here)
}

func (r *Refusal) Error() string {
	switch {
	case r.InUse && r.Process > 0:
		return fmt.Sprintf("the work directory %s is in use by process %d: wait for it to end, or give another one with --work", r.Dir, r.Process)
	case r.InUse:
		return fmt.Sprintf("the work directory %s is in use by another process: wait for it to end, or give another one with --work", r.Dir)
	case r.Foreign != "":
		return fmt.Sprintf("%s is a work directory of something else: it holds %s and no %s; give another one with --work, or an empty one",
			r.Dir, r.Foreign, optionsName)
	}
	list := make([]string, len(r.Differences))
	for i, d := range r.Differences {
		list[i] = d.String()
	}
	return fmt.Sprintf("the work directory %s belongs to a run with other options (%s): give the options of that run to go on with it, or another directory with --work, or remove it to start again",
		r.Dir, strings.Join(list, "; "))
}

// inUse makes the Refusal for a directory whose lock another process has.
func inUse(dir string) error {
	r := &Refusal{Dir: dir, InUse: true}
	if b, err := os.ReadFile(filepath.Join(dir, lockName)); err == nil {
		r.Process, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return r
}

// encodeOptions is the content of options.json.
func encodeOptions(options any) ([]byte, error) {
	b, err := json.MarshalIndent(options, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("the options of the run cannot be written as JSON: %w", err)
	}
	if b[0] != '{' {
		return nil, fmt.Errorf("the options of the run are a %T, which JSON writes as %.20s; they must become an object", options, b)
	}
	return append(b, '\n'), nil
}

// compareOptions is nil if two contents of options.json say the same.
func compareOptions(dir string, there, here []byte) error {
	h, err := parseOptions(here)
	if err != nil {
		return fmt.Errorf("reading the options of this run: %w", err)
	}
	t, err := parseOptions(there)
	if err != nil {
		return fmt.Errorf("%s (%d bytes) cannot be read: %w; without it the run cannot go on, remove the directory to start again",
			filepath.Join(dir, optionsName), len(there), err)
	}
	if d := differences("", t, h); d != nil {
		return &Refusal{Dir: dir, Differences: d}
	}
	return nil
}

// parseOptions reads an object. Numbers keep their digits: a 64-bit seed does not fit into a float.
func parseOptions(data []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var options map[string]any
	if err := d.Decode(&options); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return options, nil
}

// differences compares two objects field by field, in the order of the names. It takes inner objects apart only where both
// sides have one, so that the names cannot become longer than those of this run, whatever the file holds.
func differences(prefix string, there, here map[string]any) []Difference {
	names := slices.Collect(maps.Keys(here))
	for n := range there {
		if _, ok := here[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var found []Difference
	for _, n := range names {
		t, inThere := there[n].(map[string]any)
		h, inHere := here[n].(map[string]any)
		if inThere && inHere {
			found = append(found, differences(prefix+n+".", t, h)...)
			continue
		}
		d := Difference{Field: prefix + n, There: valueOf(there, n), Here: valueOf(here, n)}
		if d.There != d.Here {
			found = append(found, d)
		}
	}
	return found
}

func valueOf(options map[string]any, name string) string {
	v, ok := options[name]
	if !ok {
		return "absent"
	}
	b, err := json.Marshal(v)
	if err != nil { // it was parsed
		panic(fmt.Sprintf("journal: a parsed value that JSON cannot carry: %v", err))
	}
	return string(b)
}

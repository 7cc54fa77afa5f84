package journal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/stop"
)

// Shot is a complete shot on disk.
type Shot struct {
	Number int
	Bytes  int64  // of the weights file
	SHA256 string // of the weights file, hexadecimal
}

// SaveShot writes a shot, after which the run goes on from it: the weights as the entries stream them, then the record with
// state, which must marshal to JSON. Then older shots are removed, unless they are to be kept.
//
// After an error the shot before is still the last one, with one exception: an error that says that the shot is complete
// comes from the work that follows, the event line or removing older shots.
func (j *Journal) SaveShot(number int, state any, tensors []safetensors.Entry) error {
	if number <= j.lastNumber() {
		return fmt.Errorf("saving shot %d: shot %d is saved already, shots are numbered upwards from 1", number, j.lastNumber())
	}
	// First what needs no disk: a state that JSON cannot carry must not cost a weights file.
	r, err := newRecord(number, state)
	if err != nil {
		return fmt.Errorf("saving shot %d: %w", number, err)
	}
	weights, err := j.files.stream(weightsName(number), func(w io.Writer) error {
		return safetensors.Write(w, tensors, map[string]string{"shot": strconv.Itoa(number)})
	})
	if err == nil {
		r.describe(weights)
		err = j.files.replace(recordName(number), r.encode())
	}
	if err == nil {
		// One sync for both names. If a power cut leaves the record's name without that of the weights the shot is
		// found damaged, and the one before is still there: it is removed only below.
		err = j.files.syncDirectory()
	}
	if err != nil {
		return fmt.Errorf("saving shot %d: %w", number, j.advise(err))
	}
	j.last = r
	if err := j.Event("shot", map[string]any{"number": number, "bytes": weights.bytes, "sha256": r.WeightsSHA256}); err != nil {
		return fmt.Errorf("shot %d is complete, but: %w", number, err)
	}
	if err := j.removeOlder(); err != nil {
		return fmt.Errorf("shot %d is complete, but an older one cannot be removed: %w", number, j.advise(err))
	}
	return nil
}

// Last is the newest complete shot, verified when it was opened or saved; false means that the run starts from the dense
// model.
func (j *Journal) Last() (Shot, bool) {
	if j.last == nil {
		return Shot{}, false
	}
	return Shot{Number: j.last.Number, Bytes: j.last.WeightsBytes, SHA256: j.last.WeightsSHA256}, true
}

// LoadShot reads a shot: the state into state, a pointer to what SaveShot was given, and the weights by memory map, to be
// closed by the caller. Fields of the state that the pointer has no place for are an error. A shot other than the last is
// verified first, until ctx is done.
func (j *Journal) LoadShot(ctx context.Context, number int, state any) (*safetensors.File, error) {
	r := j.last
	if number != j.lastNumber() || r == nil {
		var err error
		if r, err = j.verify(ctx, number); err != nil {
			return nil, fmt.Errorf("loading shot %d: %w", number, err)
		}
	}
	if err := r.decodeState(state); err != nil {
		return nil, fmt.Errorf("loading shot %d: %w", number, err)
	}
	f, err := safetensors.Open(j.files.path(weightsName(number)))
	if err != nil {
		return nil, fmt.Errorf("loading shot %d: %w", number, err)
	}
	return f, nil
}

// findLast looks for the newest shot that is complete and whole. Everything newer is named; older ones are what a kill
// before their removal left.
func (j *Journal) findLast(ctx context.Context) error {
	shots, err := j.list()
	if err != nil {
		return err
	}
	for _, s := range shots {
		if !s.hasRecord {
			j.warn("shot %d is incomplete: its weights were written, %s was not; they are removed", s.number, recordName(s.number))
			if err := j.files.remove(weightsName(s.number)); err != nil {
				return err
			}
			continue
		}
		r, err := j.verify(ctx, s.number)
		if errors.Is(err, errRecord) || errors.Is(err, errWeights) {
			j.warn("shot %d is damaged and is not used: %v", s.number, err)
			continue
		}
		if err != nil {
			return err
		}
		j.last = r
		break
	}
	switch {
	case len(shots) > 0 && j.last == nil:
		j.warn("no shot in %s can be used: the run starts again from the dense model", j.files.dir)
	case len(shots) > 0 && j.last.Number != shots[0].number:
		j.warn("the run goes on after shot %d", j.last.Number)
	}
	return j.removeOlder()
}

var errWeights = errors.New("damaged weights")

// verify reads a shot's record and all of its weights. Its error is errRecord or errWeights where the shot is damaged.
func (j *Journal) verify(ctx context.Context, number int) (*record, error) {
	r, err := readRecord(j.files.path(recordName(number)))
	if err != nil {
		return nil, err
	}
	if r.Number != number {
		return nil, fmt.Errorf("%w: %s is the record of shot %d", errRecord, j.files.path(recordName(number)), r.Number)
	}
	path := j.files.path(weightsName(number))
	f, size, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", errWeights, path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size != r.WeightsBytes { // said before the long way through the bytes
		return nil, fmt.Errorf("%w: %s has %d bytes, %d were written", errWeights, path, size, r.WeightsBytes)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, stop.Reader(ctx, f)); err != nil {
		return nil, err
	}
	if found := hexadecimal([sha256.Size]byte(sum.Sum(nil))); found != r.WeightsSHA256 {
		return nil, fmt.Errorf("%w: %s was altered: its SHA-256 is %s, %s was written", errWeights, path, found, r.WeightsSHA256)
	}
	return r, nil
}

// removeOlder removes the shots before the last, unless they are to be kept: the record first, so that what is left of a
// removal that was cut off is not a complete shot.
func (j *Journal) removeOlder() error {
	if j.keepShots || j.last == nil {
		return nil
	}
	shots, err := j.list()
	if err != nil {
		return err
	}
	for _, s := range shots {
		if s.number >= j.last.Number {
			continue
		}
		if s.hasRecord {
			if err := j.files.remove(recordName(s.number)); err != nil {
				return err
			}
		}
		if s.hasWeights {
			if err := j.files.remove(weightsName(s.number)); err != nil {
				return err
			}
		}
	}
	return nil
}

// listed is what the names in the directory say about a shot.
type listed struct {
	number                int
	hasRecord, hasWeights bool
}

var shotFile = regexp.MustCompile(`^shot-(\d{3,})\.(json|safetensors)$`)

// list finds the shots in the directory, the newest first. Names that this package would not have given are passed over.
func (j *Journal) list() ([]listed, error) {
	entries, err := os.ReadDir(j.files.dir)
	if err != nil {
		return nil, err
	}
	var shots []listed
	for _, e := range entries {
		m := shotFile.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		number, err := strconv.Atoi(m[1])
		if err != nil || number < 1 || (e.Name() != recordName(number) && e.Name() != weightsName(number)) {
			continue
		}
		i := slices.IndexFunc(shots, func(s listed) bool { return s.number == number })
		if i < 0 {
			i = len(shots)
			shots = append(shots, listed{number: number})
		}
		shots[i].hasRecord = shots[i].hasRecord || m[2] == "json"
		shots[i].hasWeights = shots[i].hasWeights || m[2] == "safetensors"
	}
	slices.SortFunc(shots, func(a, b listed) int { return b.number - a.number })
	return shots, nil
}

func weightsName(number int) string { return fmt.Sprintf("shot-%03d.safetensors", number) }
func recordName(number int) string  { return fmt.Sprintf("shot-%03d.json", number) }

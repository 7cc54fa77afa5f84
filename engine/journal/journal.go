// Package journal keeps a run in a directory, so that a run that was stopped – by a signal, a kill -9, a power cut, a full
// disk – goes on after its last complete shot and ends bit for bit as if it had not stopped.
//
// # What lies in the directory
//
//	lock                   held by the process that works here; its content is that process' number
//	options.json           what was asked for, with hashes of model, data and program version; written first, and
//	                       anew only for other options before there is a shot
//	journal.jsonl          one line per event, appended and synced: a story for people and displays
//	shot-003.safetensors   the weights that differ from the dense model after shot 3
//	shot-003.json          what else must be remembered, with size and SHA-256 of the weights and of itself
//
// # When a shot counts
//
// A shot is complete when its record, shot-NNN.json, has its name. Every file but the lock and the event lines is written
// to a temporary name, synced and renamed, the weights before the record and both names synced before an older shot is
// removed. Whatever is cut off, one complete shot stays: in the worst case the dense model, before the first one.
//
// Nothing is believed because it has the right name. A record must be the bytes that this package would write for what it
// says, and carry their SHA-256; weights must have the size and the SHA-256 of the record. A shot that fails this is named,
// in Warnings and as an event, and never used: the one before it is, if it is still there, and else the dense model. A
// damaged file stays where it is until the shot is made again; weights without a record are removed.
//
// The event lines decide nothing. A torn last line is cut off, an unreadable one in the middle is named and passed over.
//
// # What the caller must do
//
// Shots after LoadShot must depend on nothing but options, weights and state. Go writes floats with as many digits as it
// takes to read the same bits back, so state may hold losses and costs; NaN and infinities are refused. Older shots are
// removed, so a state must hold all of the past that the end of the run will need.
package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/gofrs/flock"
)

// The names of the files in a directory, beside those of the shots.
const (
	lockName    = "lock"
	optionsName = "options.json"
	eventsName  = "journal.jsonl"
)

// Journal is one open run directory. Its methods are called from one goroutine at a time.
type Journal struct {
	files     files
	lock      *flock.Flock
	keepShots bool
	events    events
	last      *record // the newest shot that may be used, verified; nil before the first
	warnings  []string
}

// Settings are about how the directory is kept. They are not compared with those of an earlier start.
type Settings struct {
	KeepShots bool // do not remove a shot when a newer one is complete
	Hooks     Hooks
}

// Open starts a run in dir, or goes on with the one that is there, and takes the lock, which Close gives back.
//
// options is what the run depends on: it must marshal to a JSON object, and a second Open must bring the same one, unless there is
// no shot yet that could be lost: then the directory becomes this run's. A directory that is in use, that belongs to another run
// with shots or that holds something else is refused with a *Refusal, untouched.
// What was found broken and put aside stands in Warnings. The last shot is read, until ctx is done.
func Open(ctx context.Context, dir string, options any, s Settings) (*Journal, error) {
	here, err := encodeOptions(options)
	if err != nil {
		return nil, err
	}
	if err := refuseForeign(dir); err != nil {
		return nil, err
	}
	j := &Journal{files: files{dir: dir, before: s.Hooks.Before}, keepShots: s.KeepShots}
	if err := j.files.makeDirectory(); err != nil {
		return nil, j.advise(err)
	}
	if err := j.takeLock(); err != nil {
		return nil, err
	}
	if err := j.open(ctx, here); err != nil {
		j.Close()
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			return nil, refusal // says it all
		}
		return nil, fmt.Errorf("opening the work directory %s: %w", dir, j.advise(err))
	}
	return j, nil
}

// Check is the Refusal that Open would give for the options, or nil; it changes nothing and takes no lock.
func Check(dir string, options any) error {
	here, err := encodeOptions(options)
	if err != nil {
		return err
	}
	if err := refuseForeign(dir); err != nil {
		return err
	}
	there, err := os.ReadFile(filepath.Join(dir, optionsName))
	if errors.Is(err, fs.ErrNotExist) || bytes.Equal(here, there) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking into the work directory: %w", err)
	}
	if err := compareOptions(dir, there, here); err != nil {
		return unlessNew(dir, err, there, here)
	}
	return nil
}

// unlessNew is a refusal for other options, or nil where nothing can be lost: in a directory of a run, whose options have the same
// names, that holds no file of any shot and none of anybody else.
func unlessNew(dir string, err error, there, here []byte) error {
	if _, ok := errors.AsType[*Refusal](err); !ok {
		return err
	}
	old, err1 := parseOptions(there)
	now, err2 := parseOptions(here)
	entries, err3 := os.ReadDir(dir)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for name := range now {
		if _, ok := old[name]; !ok {
			return err
		}
	}
	for _, e := range entries {
		if name := e.Name(); name != lockName && name != optionsName && name != eventsName && !temporary.MatchString(name) {
			return err
		}
	}
	return nil
}

// open does what Open does once it has the lock.
func (j *Journal) open(ctx context.Context, here []byte) error {
	// Again: another process may have been here between the first look and the lock.
	if err := refuseForeign(j.files.dir); err != nil {
		return err
	}
	if err := j.removeTemporary(); err != nil {
		return err
	}
	there, err := os.ReadFile(j.files.path(optionsName))
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case fresh:
	case err != nil:
		return err
	case !bytes.Equal(here, there):
		if err := compareOptions(j.files.dir, there, here); err != nil {
			if err = unlessNew(j.files.dir, err, there, here); err != nil {
				return err
			}
			j.warn("the work directory %s was that of a run with other options, which came to no shot: it is this run's now", j.files.dir)
			fresh = true
		}
	}
	if fresh {
		if err := j.files.replace(optionsName, here); err != nil {
			return err
		}
		if err := j.files.syncDirectory(); err != nil {
			return err
		}
	}
	if err := j.openEvents(); err != nil {
		return err
	}
	if err := j.findLast(ctx); err != nil {
		return err
	}
	return j.announce(fresh)
}

// announce writes the event lines of a start: what was found wrong, and where the run goes on.
func (j *Journal) announce(fresh bool) error {
	for _, w := range j.warnings {
		if err := j.Event("warning", map[string]string{"text": w}); err != nil {
			return err
		}
	}
	if fresh {
		return j.Event("started", nil)
	}
	return j.Event("resumed", map[string]int{"after_shot": j.lastNumber()})
}

// takeLock takes the lock of the directory and writes this process' number into it. The file stays when the lock is given
// back: removing it could take it from under a process that has just opened it.
func (j *Journal) takeLock() error {
	path := j.files.path(lockName)
	j.lock = flock.New(path)
	taken, err := j.lock.TryLock()
	if err != nil {
		return fmt.Errorf("taking the lock of the work directory: %w", err)
	}
	if !taken {
		j.lock.Close()
		return inUse(j.files.dir)
	}
	if err := j.files.writeInPlace(lockName, fmt.Appendf(nil, "%d\n", os.Getpid())); err != nil {
		j.Close()
		return j.advise(err)
	}
	return nil
}

// Close gives the lock back. What was saved is on disk already.
func (j *Journal) Close() error {
	return errors.Join(j.events.close(), j.lock.Close())
}

// Remove closes the journal and removes its directory, or only what is its own where others have put something there.
func (j *Journal) Remove() error {
	err := j.Clear()
	if err == nil {
		err = os.Remove(j.files.path(lockName))
	}
	if err == nil {
		if err = os.Remove(j.files.dir); errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("removing the work directory: %w", err)
	}
	return nil
}

// Clear closes the journal and removes its files but the lock, so that any run may begin there. options.json goes after all else,
// so that a directory where that was cut off can still be opened.
func (j *Journal) Clear() error {
	entries, err := os.ReadDir(j.files.dir)
	for _, e := range entries {
		if name := e.Name(); name == eventsName || shotFile.MatchString(name) || temporary.MatchString(name) {
			err = errors.Join(err, os.RemoveAll(j.files.path(name)))
		}
	}
	if err == nil {
		err = os.Remove(j.files.path(optionsName))
	}
	return errors.Join(err, j.Close())
}

// Warnings are sentences about what Open found torn, incomplete or altered and does not use.
func (j *Journal) Warnings() []string { return slices.Clone(j.warnings) }

func (j *Journal) lastNumber() int {
	if j.last == nil {
		return 0
	}
	return j.last.Number
}

func (j *Journal) warn(format string, args ...any) {
	j.warnings = append(j.warnings, fmt.Sprintf(format, args...))
}

// advise adds to an error about a full disk, or a limit to the size of files, how to go on.
func (j *Journal) advise(err error) error {
	if !slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}, func(e error) bool { return errors.Is(err, e) }) {
		return err
	}
	from := "from the dense model"
	if j.last != nil {
		from = fmt.Sprintf("after shot %d", j.last.Number)
	}
	return fmt.Errorf("%w; make room and give the same command again: the run goes on %s", err, from)
}

// temporary matches the names that files.stream gives to files that are not complete yet.
var temporary = regexp.MustCompile(`^\.(options\.json|shot-\d{3,}\.(json|safetensors))\d+$`)

// removeTemporary removes what a killed process had not finished writing. The lock says that nobody writes it now.
func (j *Journal) removeTemporary() error {
	entries, err := os.ReadDir(j.files.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && temporary.MatchString(e.Name()) {
			if err := j.files.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuseForeign looks whether dir may be a run directory: it holds options.json, or nothing but what a start that was
// killed before options.json leaves. A directory that does not exist may.
func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking into the work directory: %w", err)
	}
	// options.json is looked for after the listing: where another process is just starting, it was written before
	// anything in the listing that would look foreign.
	if _, err := os.Lstat(filepath.Join(dir, optionsName)); err == nil {
		return nil
	}
	for _, e := range entries {
		if e.Name() != lockName && !temporary.MatchString(e.Name()) {
			return &Refusal{Dir: dir, Foreign: e.Name()}
		}
	}
	return nil
}

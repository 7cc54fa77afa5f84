package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// eventLine is one line of journal.jsonl.
type eventLine struct {
	Time   time.Time       `json:"time"`
	Kind   string          `json:"event"`
	Fields json.RawMessage `json:"fields,omitempty"`
}

// events is the open journal.jsonl.
type events struct {
	file *os.File // open for appending
	size int64    // of the whole lines in it
	torn bool     // something may follow them that a failed write left
}

// Event appends a line to journal.jsonl and syncs it. fields must marshal to JSON; nil leaves them out. The journal's own
// kinds are started, resumed, warning and shot. After an error the line is not there.
func (j *Journal) Event(kind string, fields any) error {
	e := eventLine{Time: time.Now().UTC(), Kind: kind}
	if fields != nil {
		b, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("event %s cannot be written as JSON: %w", kind, err)
		}
		e.Fields = b
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event %s cannot be written as JSON: %w", kind, err)
	}
	line = append(line, '\n')
	if j.events.torn {
		if err := j.cutEvents(); err != nil {
			return fmt.Errorf("event %s: %w", kind, j.advise(err))
		}
	}
	err = j.files.step("append", eventsName, func() error {
		_, err := j.events.file.Write(line)
		return err
	})
	if err == nil {
		err = j.files.step("sync", eventsName, j.events.file.Sync)
	}
	if err != nil {
		// A part of the line may be there; the next one must not be glued to it.
		j.events.torn = true
		err = errors.Join(err, j.cutEvents())
		return fmt.Errorf("event %s: %w", kind, j.advise(err))
	}
	j.events.size += int64(len(line))
	return nil
}

// openEvents reads journal.jsonl, or makes it, names what cannot be read and cuts off a torn last line.
func (j *Journal) openEvents() error {
	path := j.files.path(eventsName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		create := func() error {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		if err := j.files.step("create", eventsName, create); err != nil {
			return err
		}
		if err := j.files.syncDirectory(); err != nil {
			return err
		}
	}
	data, err := readRegular(path)
	if err != nil {
		return err
	}
	found := parseEvents(data)
	for _, p := range found.problems {
		j.warn("%s %s; it is passed over", path, p)
	}
	if j.events.file, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		return err
	}
	j.events.size = int64(found.whole)
	if torn := len(data) - found.whole; torn > 0 {
		j.warn("%s line %d was torn by a stop in the middle of a write; its %d bytes are cut off", path, found.lines+1, torn)
		return j.cutEvents()
	}
	return nil
}

// cutEvents makes journal.jsonl end after its last whole line.
func (j *Journal) cutEvents() error {
	return j.files.step("truncate", eventsName, func() error {
		err := errors.Join(j.events.file.Truncate(j.events.size), j.events.file.Sync())
		j.events.torn = err != nil
		return err
	})
}

func (e *events) close() error {
	if e.file == nil {
		return nil
	}
	return e.file.Close()
}

// maxProblems bounds how many unreadable lines are named one by one: a file of nothing else must not become a message that
// is larger than the file.
const maxProblems = 8

// parsed is what journal.jsonl holds.
type parsed struct {
	problems []string // unreadable lines, with their numbers from 1
	lines    int      // whole ones
	whole    int      // bytes in them; what follows is a torn line
}

func parseEvents(data []byte) parsed {
	var p parsed
	passedOver := 0
	for {
		n := bytes.IndexByte(data[p.whole:], '\n')
		if n < 0 {
			break
		}
		line := data[p.whole : p.whole+n]
		p.whole += n + 1
		p.lines++
		var e eventLine
		err := json.Unmarshal(line, &e)
		if err == nil && e.Kind == "" {
			err = errors.New("it names no event")
		}
		switch {
		case err == nil:
		case len(p.problems) < maxProblems:
			p.problems = append(p.problems, fmt.Sprintf("line %d cannot be read: %v", p.lines, err))
		default:
			passedOver++
		}
	}
	if passedOver > 0 {
		p.problems = append(p.problems, fmt.Sprintf("has %d more lines that cannot be read", passedOver))
	}
	return p
}

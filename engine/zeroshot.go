package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/report"
	"surgeon/engine/tasks"
	"surgeon/engine/text"
)

// zeroShot are the multiple-choice tasks of an evaluation, tokenised, with what is known of their results.
type zeroShot struct {
	all     []taskRequests
	prefix  int32   // Encoder.Prefix
	settled Options // what passes gives, with the number of requests that go through the model at one time
	results *tasks.Results
}

// taskRequests is a task with the requests of each item, one per choice.
type taskRequests struct {
	*tasks.Task
	requests [][]tasks.Request
	count    int // of all requests
}

// readZeroShot reads the tasks, settles the batch of their requests, and opens the file of results.
func (in *inputs) readZeroShot(ctx context.Context, dev device.Device, o EvalOptions) (*zeroShot, error) {
	z, err := in.readTasks(ctx, o.Tasks)
	if err != nil {
		return nil, err
	}
	z.settled = z.passes(o)
	if err := settleBatch(dev, in.model.Config, &z.settled, evalParts); err != nil {
		return nil, err
	}
	if o.Results != "" {
		err = z.open(ctx, o.Results, in, dev, o)
	}
	return z, err
}

// readTasks reads and tokenises the tasks and refuses what the model cannot be asked.
func (in *inputs) readTasks(ctx context.Context, patterns []string) (*zeroShot, error) {
	paths, err := text.Expand(patterns)
	if err != nil {
		return nil, refuse("tasks: %w", err)
	}
	encoder, err := in.taskEncoder()
	if err != nil {
		return nil, err
	}
	z := &zeroShot{prefix: encoder.Prefix}
	for _, path := range paths {
		task, err := tasks.Read(ctx, path)
		if err != nil {
			return nil, unusable(err)
		}
		for _, other := range z.all {
			if other.Name == task.Name {
				return nil, refuse("%s and %s are both task %s; give one of the files another name, for results go by it", other.File.Path, path, task.Name)
			}
		}
		t := taskRequests{Task: task}
		for _, item := range task.Items {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			requests, err := encoder.Requests(item)
			if err != nil {
				return nil, refuse("%s: %w", path, err)
			}
			for _, r := range requests {
				for _, id := range slices.Concat(r.Inputs, r.Targets) {
					if int(id) >= in.model.Config.Vocab {
						return nil, refuse("%s: line %d has a token with the id %d, but the vocabulary has ids 0 to %d: the tokenizer does not belong to the model", path, item.Line, id, in.model.Config.Vocab-1)
					}
				}
			}
			t.requests = append(t.requests, requests)
			t.count += len(requests)
		}
		z.all = append(z.all, t)
	}
	return z, nil
}

// taskEncoder makes the requests of the model that was opened.
func (in *inputs) taskEncoder() (*tasks.Encoder, error) {
	begin, end, err := in.model.SpecialTokens()
	if err != nil {
		return nil, refuse("the tokenizer of %s: %w", in.model.Path, err)
	}
	e := &tasks.Encoder{Tokenizer: in.tokenizer, Prefix: -1, MaxLength: in.model.Config.MaxPositions}
	prefix := cmp.Or(begin, end)
	if prefix == "" {
		return e, nil
	}
	id, ok := in.tokenizer.ID(prefix)
	if !ok {
		return nil, refuse("the tokenizer of %s has no token %q, which it names as that of the beginning or the end of a text", in.model.Path, prefix)
	}
	e.Prefix, e.PrefixText = id, in.tokenizer.Decode([]int32{id}, false)
	return e, nil
}

// passes are options with which settleBatch and evalParts count for the tasks what they count for windows.
func (z *zeroShot) passes(o EvalOptions) Options {
	p := Options{Batch: o.Batch, Precision: o.Precision, lengthGiven: true}
	for _, t := range z.all {
		for _, requests := range t.requests {
			p.Length = max(p.Length, longest(requests))
		}
		p.Samples += t.count
	}
	p.HeldOut = p.Samples
	return p
}

// open opens the file of results at path. All that the bits of a log-likelihood depend on is its identity; the batch is, because
// requests of one batch are as long as the longest.
func (z *zeroShot) open(ctx context.Context, path string, in *inputs, dev device.Device, o EvalOptions) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := checkpoint.MayWriteIn(filepath.Dir(path)); err != nil {
			return refuse("the results file %s: %w", path, err)
		}
	}
	hash, err := in.model.Hash(ctx)
	if err != nil {
		return unusable(err)
	}
	tokenizer := sha256.Sum256(in.json)
	identity := map[string]any{"model sha256": hash, "tokenizer sha256": hex.EncodeToString(tokenizer[:]), "prefix token": z.prefix,
		"program": o.Version, "device": dev.Bits(), "--precision": o.Precision, "--batch": z.settled.Batch}
	var read []*tasks.Task
	for _, t := range z.all {
		identity["task "+t.Name+" sha256"] = t.File.SHA256
		read = append(read, t.Task)
	}
	if z.results, err = tasks.OpenResults(path, identity, read); err != nil {
		return &RequestError{err}
	}
	return nil
}

func (z *zeroShot) close() {
	if z.results != nil {
		z.results.Close()
	}
}

// score measures m, called name, on all tasks.
func (z *zeroShot) score(ctx context.Context, m *model.Model, name string, w Watcher) ([]report.TaskScore, error) {
	if r := z.results; r != nil {
		if r.Torn > 0 {
			w.Warn(fmt.Sprintf("the last line of %s was torn by a stop in the middle of a write; its %d bytes are cut off", r.Path, r.Torn))
		}
		if err := r.Begin(); err != nil {
			if opened, ok := errors.AsType[*fs.PathError](err); ok && opened.Op == "open" { // what no look at its directory foretells, as of /proc
				err = &RequestError{err}
			}
			return nil, err
		}
		if r.Len() > 0 {
			w.Say(fmt.Sprintf("going on with %s, which has the results of %d items", r.Path, r.Len()))
		}
	}
	var scores []report.TaskScore
	for _, t := range z.all {
		w.Stage("task "+t.Name, t.count)
		loglikelihoods, err := z.logLikelihoods(ctx, m, t, w.Step)
		if err != nil {
			return nil, fmt.Errorf("task %s: %w", t.Name, err)
		}
		scores = append(scores, t.Score(name, loglikelihoods))
	}
	m.Release()
	return scores, nil
}

// logLikelihoods are those of each item's choices. What a batch is does not depend on what is known already, so that a stopped
// evaluation goes on with the same bits: a group with an item that is not known is measured as a whole.
func (z *zeroShot) logLikelihoods(ctx context.Context, m *model.Model, t taskRequests, step func(int)) ([][]float64, error) {
	all := make([][]float64, len(t.Items))
	done := 0
	for _, group := range t.groups(z.settled.Batch) {
		var missing []int
		for _, at := range group {
			if z.results != nil {
				all[at] = z.results.Known(t.Name, t.Items[at].Line)
			}
			if all[at] == nil {
				missing = append(missing, at)
			}
			done += len(t.requests[at])
		}
		if len(missing) > 0 {
			measured, err := t.measure(ctx, m, group, z.settled.Batch)
			if err != nil {
				return nil, err
			}
			var records []tasks.Record
			for k, at := range group {
				if all[at] != nil {
					continue
				}
				all[at] = measured[k]
				i := t.Items[at]
				pick, norm := i.Picks(all[at])
				records = append(records, tasks.Record{Task: t.Name, Line: i.Line, LogLikelihoods: all[at], Answer: i.Answer, Pick: pick, PickNorm: norm})
			}
			if z.results != nil {
				if err := z.results.Append(records); err != nil {
					return nil, err
				}
			}
		}
		step(done)
	}
	return all, nil
}

// groups are items that are measured and recorded together: the longest first, so that what one batch is made of is nearly
// of one length and memory is the tightest at the beginning, and as many as fit a batch with all their choices. An item
// of more choices than that is a group of its own.
func (t *taskRequests) groups(batch int) [][]int {
	order := make([]int, len(t.Items))
	for at := range order {
		order[at] = at
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(longest(t.requests[b]), longest(t.requests[a])) })
	var groups [][]int
	room := 0
	for _, at := range order {
		if n := len(t.requests[at]); n > room {
			groups, room = append(groups, nil), batch
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], at)
		room -= len(t.requests[at])
	}
	return groups
}

// measure asks the model for all choices of a group's items, a batch at a time. Choices of an item that are the same are asked
// for once: the last bits of a log-likelihood may depend on its place in a batch, and would break the tie.
func (t *taskRequests) measure(ctx context.Context, m *model.Model, group []int, batch int) ([][]float64, error) {
	type asked struct {
		item, choice int // in group and of the item
		tasks.Request
	}
	var requests []asked
	measured := make([][]float64, len(group))
	for k, at := range group {
		measured[k] = make([]float64, len(t.requests[at]))
		for choice, r := range t.requests[at] {
			if sameAs(t.requests[at], choice) == choice {
				requests = append(requests, asked{k, choice, r})
			}
		}
	}
	for part := range slices.Chunk(requests, batch) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		length := 0
		for _, r := range part {
			length = max(length, len(r.Inputs))
		}
		var inputs, targets [][]int32
		for _, r := range part {
			inputs, targets = append(inputs, filled(r.Inputs, length, 0)), append(targets, filled(r.Targets, length, -1))
		}
		sums, err := m.LogLikelihoods(inputs, targets)
		if err != nil {
			if bad, ok := errors.AsType[*model.NonFiniteLoss](err); ok {
				r := part[bad.Sequence]
				return nil, fmt.Errorf("line %d, choice %d: the log-likelihood is %v: the model overflows there", t.Items[group[r.item]].Line, r.choice, -bad.Loss)
			}
			return nil, fmt.Errorf("line %d and others of its length: %w", t.Items[group[part[0].item]].Line, err)
		}
		for k, r := range part {
			measured[r.item][r.choice] = sums[k]
		}
	}
	for k, at := range group {
		for choice := range measured[k] {
			measured[k][choice] = measured[k][sameAs(t.requests[at], choice)]
		}
	}
	return measured, nil
}

// sameAs is the first choice whose request is that of this one.
func sameAs(requests []tasks.Request, choice int) int {
	return slices.IndexFunc(requests, func(r tasks.Request) bool {
		return slices.Equal(r.Inputs, requests[choice].Inputs) && slices.Equal(r.Targets, requests[choice].Targets)
	})
}

// filled is ids with so much of one more behind that they have that length.
func filled(ids []int32, length int, with int32) []int32 {
	return append(slices.Clip(ids), slices.Repeat([]int32{with}, length-len(ids))...)
}

// longest is the length of the longest request.
func longest(requests []tasks.Request) int {
	most := 0
	for _, r := range requests {
		most = max(most, len(r.Inputs))
	}
	return most
}

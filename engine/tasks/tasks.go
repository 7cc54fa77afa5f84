// Package tasks is the arithmetic of zero-shot multiple-choice tasks: which tokens a model is asked for, and what its answers
// score. It gives what EleutherAI's lm-evaluation-harness gives for a task with output_type multiple_choice and no examples
// in the prompt (acc and acc_norm). It knows no device.
//
//	task, err := tasks.Read(ctx, "arc.jsonl")         // context, choices, answer, one item a line
//	requests, err := encoder.Requests(item)      // request.go: the tokens
//	score := task.Score(model, loglikelihoods)   // score.go: acc, acc_norm, their standard errors
//	results, err := tasks.OpenResults(…)         // results.go: what makes a stopped evaluation go on
//
// # What is measured
//
//	ll_k = Σ_t log p(choice_k's token t | context, choice_k's tokens before t)
//	acc       share of items where the first largest ll_k is the answer's
//	acc_norm  the same of ll_k / characters of choice k
//
// A choice stands directly behind the context. It brings its own leading space; the harness puts one between the two, its
// target_delimiter, unless a task says otherwise. That space is no part of the choice there, and is not counted here: where
// every choice of an item begins with a space, characters are those behind it. Characters are Unicode code points.
//
// Followed is lm-evaluation-harness 0.4.13 with its model class hf: lm_eval/api/model.py, models/huggingface.py, api/task.py.
// engine/testdata/zero-shot holds what it made of some items.
package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"surgeon/engine/text"
)

// An Item is one question.
type Item struct {
	Line    int // in its file, from 1
	Context string
	Choices []string // at least 2, none empty
	Answer  int      // index of the right one
}

// A Task is a file of items.
type Task struct {
	Name  string // of the file, without folder and endings
	File  text.File
	Items []Item
}

// Read reads a file of JSON lines, which may be compressed with .gz or .zst. Errors name the file and the line.
func Read(ctx context.Context, path string) (*Task, error) {
	data, file, err := text.ReadFile(ctx, path)
	if err != nil {
		return nil, err
	}
	items, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	name := filepath.Base(text.WithoutPacking(path))
	return &Task{Name: strings.TrimSuffix(name, ".jsonl"), File: file, Items: items}, nil
}

// Parse reads items: one JSON object a line, with the fields context, choices and answer. Other fields are ignored and blank
// lines passed over.
func Parse(data []byte) ([]Item, error) {
	var items []Item
	for number := 1; len(data) > 0; number++ {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		item, err := parseItem(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		item.Line = number
		items = append(items, item)
	}
	if len(items) == 0 {
		return nil, errors.New("there are no items; a task has one JSON object a line, with the fields context, choices and answer")
	}
	return items, nil
}

func parseItem(line []byte) (Item, error) {
	var i Item
	if !utf8.Valid(line) {
		return i, errors.New("this is not valid UTF-8; convert the file to UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil || fields == nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return i, fmt.Errorf("this is not a JSON object: %w", syntax)
		}
		return i, fmt.Errorf("this is not a JSON object but %.40s", line)
	}
	var context *string
	var choices []*string
	var answer *int
	for _, f := range []struct {
		name, want string
		to         any
	}{
		{"context", "a string", &context},
		{"choices", "a list of strings", &choices},
		{"answer", "the index of a choice, from 0", &answer},
	} {
		raw, ok := fields[f.name]
		if !ok {
			return i, fmt.Errorf("there is no field %q; an item has context, choices and answer", f.name)
		}
		if err := json.Unmarshal(raw, f.to); err != nil || string(raw) == "null" {
			return i, fmt.Errorf("the field %q is %.40s, want %s", f.name, raw, f.want)
		}
	}
	i = Item{Context: *context, Answer: *answer}
	for k, choice := range choices {
		if choice == nil {
			return i, fmt.Errorf("choice %d is null, want a string", k)
		}
		i.Choices = append(i.Choices, *choice)
	}
	if len(i.Choices) < 2 {
		return i, fmt.Errorf("choices has %d entries; at least 2 are needed", len(i.Choices))
	}
	for k, n := range i.lengths() {
		if n == 0 {
			return i, fmt.Errorf("choice %d is %q: empty, but for a space in front that all choices have", k, i.Choices[k])
		}
	}
	if i.Answer < 0 || i.Answer >= len(i.Choices) {
		return i, fmt.Errorf("answer is %d and there are %d choices, 0 to %d", i.Answer, len(i.Choices), len(i.Choices)-1)
	}
	return i, nil
}

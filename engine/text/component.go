package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A component is one part of a pipeline in tokenizer.json: an object whose field "type" names its kind.
type component struct {
	kind string
	raw  json.RawMessage
}

// flatten reads a field of tokenizer.json that holds null, a component, or a Sequence of components in the field `members`,
// and returns the components in order. Sequences within sequences are laid out flat, which changes nothing: each
// component works on what the one before it made.
func flatten(raw json.RawMessage, field, members string) ([]component, error) {
	if len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return nil, nil
	}
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", field, plain(err))
	}
	if head.Type == "" {
		return nil, fmt.Errorf("%s %.80s has no field \"type\"; write one of the kinds that the tokenizers library writes", field, raw)
	}
	if head.Type != "Sequence" {
		return []component{{kind: head.Type, raw: raw}}, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("%s: %w", field, plain(err))
	}
	list, ok := fields[members]
	if !ok {
		return nil, fmt.Errorf("%s of kind Sequence has no field %q", field, members)
	}
	var inner []json.RawMessage
	if err := json.Unmarshal(list, &inner); err != nil {
		return nil, fmt.Errorf("%s, field %q: %w", field, members, plain(err))
	}
	var parts []component
	for i, one := range inner {
		if string(bytes.TrimSpace(one)) == "null" {
			return nil, fmt.Errorf("%s, field %q: entry %d is null, want a component", field, members, i)
		}
		more, err := flatten(one, field, members)
		if err != nil {
			return nil, err
		}
		parts = append(parts, more...)
	}
	return parts, nil
}

// plain turns an error of encoding/json, which speaks of Go types, into one that speaks of the file.
func plain(err error) error {
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return err
	}
	want := map[string]string{"string": "a string", "bool": "true or false", "slice": "a list", "struct": "an object", "map": "an object"}[kind.Type.Kind().String()]
	if want == "" {
		want = "a number"
	}
	where := ""
	if kind.Field != "" {
		where = fmt.Sprintf("field %q ", kind.Field)
	}
	return fmt.Errorf("%sholds a JSON %s, want %s", where, kind.Value, want)
}

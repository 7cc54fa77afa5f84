package text

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites a text, never an empty one, before it is cut into pieces.
type normalizer func(s string) string

// Each step of a file may lengthen a text, and so a few steps in a row may lengthen it without bounds. Real files write one
// character for another; these limits, in bytes, are far beyond that.
const (
	longestReplacement = 256
	longestAddedToken  = 1 << 16 // normalised
)

// normalizers work one after the other; none leave texts as they are.
type normalizers []normalizer

func (n normalizers) apply(s string) string {
	for _, next := range n {
		if s == "" {
			break
		}
		s = next(s)
	}
	return s
}

// applyToToken is apply for the content of an added token; false if it grows beyond reason.
func (n normalizers) applyToToken(s string) (string, bool) {
	for _, next := range n {
		if s == "" || len(s) > longestAddedToken {
			break
		}
		s = next(s)
	}
	return s, len(s) <= longestAddedToken
}

// parseNormalizer reads the field normalizer.
func parseNormalizer(raw json.RawMessage) (normalizers, error) {
	parts, err := flatten(raw, "normalizer", "normalizers")
	if err != nil {
		return nil, err
	}
	var chain normalizers
	for i, part := range parts {
		next, err := parseOneNormalizer(part)
		if err != nil {
			return nil, fmt.Errorf("normalizer %d (%s): %w", i, part.kind, err)
		}
		chain = append(chain, next)
	}
	return chain, nil
}

func parseOneNormalizer(part component) (normalizer, error) {
	switch part.kind {
	// NFC agrees with the library on every code point; NFKC and NFKD differ in 134 that younger Unicode versions changed.
	case "NFC":
		return norm.NFC.String, nil
	case "NFD":
		return norm.NFD.String, nil
	case "NFKC":
		return norm.NFKC.String, nil
	case "NFKD":
		return norm.NFKD.String, nil
	case "Prepend":
		var p struct {
			Prepend string `json:"prepend"`
		}
		if err := json.Unmarshal(part.raw, &p); err != nil {
			return nil, plain(err)
		}
		if len(p.Prepend) > longestReplacement {
			return nil, fmt.Errorf("the text to prepend has %d bytes, more than %d", len(p.Prepend), longestReplacement)
		}
		return func(s string) string { return p.Prepend + s }, nil
	case "Replace":
		return parseReplace(part.raw)
	}
	return nil, fmt.Errorf("this kind of normalizer is not known; known are Sequence, Prepend, Replace, NFC, NFD, NFKC and NFKD")
}

// parseReplace reads a Replace, which is a normalizer and, token by token, a decoder too.
func parseReplace(raw json.RawMessage) (func(string) string, error) {
	var p struct {
		Pattern json.RawMessage `json:"pattern"`
		Content string          `json:"content"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, plain(err)
	}
	if len(p.Content) > longestReplacement {
		return nil, fmt.Errorf("the replacement has %d bytes, more than %d", len(p.Content), longestReplacement)
	}
	literal, expression, err := parsePattern(p.Pattern)
	if err != nil {
		return nil, err
	}
	if expression == "" {
		return func(s string) string { return strings.ReplaceAll(s, literal, p.Content) }, nil
	}
	compiled, err := compile(expression)
	if err != nil {
		return nil, err
	}
	find := findRegexp(compiled)
	return func(s string) string {
		var out strings.Builder
		for _, next := range find(s) {
			if next.match {
				out.WriteString(p.Content)
			} else {
				out.WriteString(s[next.start:next.end])
			}
		}
		return out.String()
	}, nil
}

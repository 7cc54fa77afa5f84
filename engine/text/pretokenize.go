package text

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// A preTokenizer cuts s into pieces that the model encodes one by one. first says that s stands at the very beginning of
// the text; pieces are handed to emit in order, none of them empty.
type preTokenizer interface {
	split(s string, first bool, emit func(piece string, first bool))
}

// parsePreTokenizer reads the field pre_tokenizer. The second result says that pieces are to be looked up byte by byte.
// ByteLevel writes each byte as a printable character; here pieces stay as they are and the vocabulary is turned into bytes
// instead, which works as long as nothing looks at pieces behind it, so it must come last.
func parsePreTokenizer(raw json.RawMessage) (preTokenizer, bool, error) {
	parts, err := flatten(raw, "pre_tokenizer", "pretokenizers")
	if err != nil {
		return nil, false, err
	}
	byteLevel := false
	var chain preTokenizers
	for i, part := range parts {
		if byteLevel {
			return nil, false, fmt.Errorf("pre_tokenizer %s stands behind ByteLevel, which this program supports in the last place only", part.kind)
		}
		next, err := parseOnePreTokenizer(part)
		if err != nil {
			return nil, false, fmt.Errorf("pre_tokenizer %d (%s): %w", i, part.kind, err)
		}
		byteLevel = part.kind == "ByteLevel"
		chain = append(chain, next)
	}
	return chain, byteLevel, nil
}

func parseOnePreTokenizer(part component) (preTokenizer, error) {
	switch part.kind {
	case "ByteLevel":
		var p struct {
			AddPrefixSpace bool  `json:"add_prefix_space"`
			UseRegex       *bool `json:"use_regex"`
		}
		if err := json.Unmarshal(part.raw, &p); err != nil {
			return nil, plain(err)
		}
		return byteLevelSplit{prefixSpace: p.AddPrefixSpace, cut: p.UseRegex == nil || *p.UseRegex}, nil
	case "Split":
		return parseSplit(part.raw)
	case "Digits":
		var p struct {
			Individual bool `json:"individual_digits"`
		}
		if err := json.Unmarshal(part.raw, &p); err != nil {
			return nil, plain(err)
		}
		how := contiguous
		if p.Individual {
			how = isolated
		}
		return splitter{find: eachRune(digitRanges.has), how: how}, nil
	case "Punctuation":
		var p struct {
			Behavior string `json:"behavior"`
		}
		if err := json.Unmarshal(part.raw, &p); err != nil {
			return nil, plain(err)
		}
		how := isolated
		if p.Behavior != "" {
			var err error
			if how, err = parseBehavior(p.Behavior); err != nil {
				return nil, err
			}
		}
		return splitter{find: eachRune(punctuationRanges.has), how: how}, nil
	case "Whitespace":
		return splitter{find: findWords, how: removed, invert: true}, nil
	case "WhitespaceSplit":
		return splitter{find: eachRune(isSpace), how: removed}, nil
	case "Metaspace":
		m, err := parseMetaspace(part.raw)
		return m, err
	}
	return nil, fmt.Errorf("this kind of pre-tokenizer is not known; known are Sequence, ByteLevel, Split, Digits, Metaspace, Punctuation, Whitespace and WhitespaceSplit")
}

// preTokenizers hands the pieces of each member to the next.
type preTokenizers []preTokenizer

func (p preTokenizers) split(s string, first bool, emit func(string, bool)) {
	switch {
	case s == "":
	case len(p) == 0:
		emit(s, first)
	case len(p) == 1:
		p[0].split(s, first, emit)
	default:
		rest := p[1:]
		p[0].split(s, first, func(piece string, first bool) { rest.split(piece, first, emit) })
	}
}

type byteLevelSplit struct{ prefixSpace, cut bool }

func (b byteLevelSplit) split(s string, first bool, emit func(string, bool)) {
	if b.prefixSpace && s[0] != ' ' {
		s = " " + s
	}
	if !b.cut {
		emit(s, first)
		return
	}
	scan(s, first, scanGPT2, emit)
}

func scan(s string, first bool, next scanner, emit func(string, bool)) {
	for s != "" {
		n := next(s)
		emit(s[:n], first)
		s, first = s[n:], false
	}
}

// metaspace writes spaces as a visible character (▁), puts one in front, and cuts before each.
type metaspace struct {
	replacement string
	scheme      string // "always", "first" (only at the beginning of the text) or "never"
	cut         bool
}

func parseMetaspace(raw json.RawMessage) (metaspace, error) {
	var p struct {
		Replacement string  `json:"replacement"`
		AddPrefix   *bool   `json:"add_prefix_space"`
		Scheme      *string `json:"prepend_scheme"`
		Split       *bool   `json:"split"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return metaspace{}, plain(err)
	}
	m := metaspace{replacement: p.Replacement, scheme: "always", cut: p.Split == nil || *p.Split}
	if utf8.RuneCountInString(m.replacement) != 1 {
		return m, fmt.Errorf("replacement is %q, but must be one character", m.replacement)
	}
	if p.Scheme != nil {
		m.scheme = *p.Scheme
	}
	if p.AddPrefix != nil && !*p.AddPrefix {
		if p.Scheme != nil && *p.Scheme != "never" {
			return m, fmt.Errorf("add_prefix_space is false but prepend_scheme is %q; they contradict each other", *p.Scheme)
		}
		m.scheme = "never"
	}
	switch m.scheme {
	case "always", "first", "never":
		return m, nil
	}
	return m, fmt.Errorf("prepend_scheme %q is not known; known are always, first and never", m.scheme)
}

func (m metaspace) split(s string, first bool, emit func(string, bool)) {
	s = strings.ReplaceAll(s, " ", m.replacement)
	if (m.scheme == "always" || m.scheme == "first" && first) && !strings.HasPrefix(s, m.replacement) {
		s = m.replacement + s
	}
	if !m.cut {
		emit(s, first)
		return
	}
	for s != "" {
		n := len(s)
		skip := 0
		if strings.HasPrefix(s, m.replacement) {
			skip = len(m.replacement)
		}
		if i := strings.Index(s[skip:], m.replacement); i >= 0 {
			n = skip + i
		}
		emit(s[:n], first)
		s, first = s[n:], false
	}
}

// parseSplit reads a Split on a string or a regular expression. Expressions that have a scanner use it.
func parseSplit(raw json.RawMessage) (preTokenizer, error) {
	var p struct {
		Pattern  json.RawMessage `json:"pattern"`
		Behavior string          `json:"behavior"`
		Invert   bool            `json:"invert"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, plain(err)
	}
	literal, expression, err := parsePattern(p.Pattern)
	if err != nil {
		return nil, err
	}
	how, err := parseBehavior(p.Behavior)
	if err != nil {
		return nil, err
	}
	if next, ok := scanners[expression]; ok && (how == isolated || how == removed && p.Invert) {
		// The matches cover the text, so keeping both kinds of span and keeping the matches alone are the same.
		return scannerSplit(next), nil
	}
	if expression == "" {
		return splitter{find: findLiteral(literal), how: how, invert: p.Invert}, nil
	}
	compiled, err := compile(expression)
	if err != nil {
		return nil, err
	}
	return splitter{find: findRegexp(compiled), how: how, invert: p.Invert}, nil
}

type scannerSplit scanner

func (next scannerSplit) split(s string, first bool, emit func(string, bool)) {
	scan(s, first, scanner(next), emit)
}

// parsePattern reads {"String": …} or {"Regex": …}; exactly one of the results is not empty.
func parsePattern(raw json.RawMessage) (literal, expression string, err error) {
	var p struct {
		String *string
		Regex  *string
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return "", "", fmt.Errorf("pattern: %w", plain(err))
	}
	switch {
	case p.String != nil && p.Regex == nil && *p.String != "":
		return *p.String, "", nil
	case p.Regex != nil && p.String == nil && *p.Regex != "":
		return "", *p.Regex, nil
	}
	return "", "", fmt.Errorf(`pattern %.80s is neither {"String": …} nor {"Regex": …} with something in it`, raw)
}

// compile serves expressions without a scanner. The engine takes \p{…} and \d from package unicode, so that code points younger
// than Go's tables count as unassigned there.
func compile(expression string) (*regexp2.Regexp, error) {
	compiled, err := regexp2.Compile(expression, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expression, err)
	}
	return compiled, nil
}

package text

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// A behavior says what becomes of the matches of a pattern when a text is split on it. For the text "the-final--countdown"
// and the pattern "-":
//
//	removed             the final countdown
//	isolated            the - final - - countdown
//	mergedWithPrevious  the- final- - countdown
//	mergedWithNext      the -final - -countdown
//	contiguous          the - final -- countdown
type behavior int

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

func parseBehavior(name string) (behavior, error) {
	switch strings.ToLower(strings.ReplaceAll(name, "_", "")) {
	case "removed":
		return removed, nil
	case "isolated":
		return isolated, nil
	case "mergedwithprevious":
		return mergedWithPrevious, nil
	case "mergedwithnext":
		return mergedWithNext, nil
	case "contiguous":
		return contiguous, nil
	}
	return 0, fmt.Errorf("behavior %q is not known; known are Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous", name)
}

// A span is s[start:end]; spans of a text lie side by side and cover it. Empty ones may occur.
type span struct {
	start, end int
	match      bool
}

// splitter cuts at the matches of a pattern.
type splitter struct {
	find   func(s string) []span
	how    behavior
	invert bool // what matches and what does not change places
}

func (p splitter) split(s string, first bool, emit func(string, bool)) {
	spans := p.find(s)
	if p.invert {
		for i := range spans {
			spans[i].match = !spans[i].match
		}
	}
	for _, piece := range join(spans, p.how) {
		if piece.start < piece.end {
			emit(s[piece.start:piece.end], first && piece.start == 0)
		}
	}
}

// join applies a behavior: afterwards each span is a piece.
func join(spans []span, how behavior) []span {
	pieces := spans[:0]
	add := func(next span, extend bool) {
		if last := len(pieces) - 1; extend && last >= 0 {
			pieces[last].end = next.end
		} else {
			pieces = append(pieces, next)
		}
	}
	previous := false // whether the last span was a match
	switch how {
	case isolated:
		return spans
	case removed:
		for _, next := range spans {
			if !next.match {
				add(next, false)
			}
		}
	case contiguous:
		for _, next := range spans {
			add(next, next.match == previous)
			previous = next.match
		}
	case mergedWithPrevious:
		for _, next := range spans {
			add(next, next.match && !previous)
			previous = next.match
		}
	case mergedWithNext:
		// The same from right to left, so that of two matches in a row the second is merged.
		out := len(spans)
		for i := len(spans) - 1; i >= 0; i-- {
			next := spans[i]
			if next.match && !previous && out < len(spans) {
				spans[out].start = next.start
			} else {
				out--
				spans[out] = next
			}
			previous = next.match
		}
		return spans[out:]
	}
	return pieces
}

// eachRune makes every character of a set a match of its own.
func eachRune(in func(rune) bool) func(string) []span {
	return func(s string) (spans []span) {
		last := 0
		for i, c := range s {
			if !in(c) {
				continue
			}
			_, width := utf8.DecodeRuneInString(s[i:])
			spans = appendMatch(spans, last, i, i+width)
			last = i + width
		}
		return appendRest(spans, last, len(s))
	}
}

func findLiteral(literal string) func(string) []span {
	return func(s string) (spans []span) {
		last := 0
		for {
			i := strings.Index(s[last:], literal)
			if i < 0 {
				return appendRest(spans, last, len(s))
			}
			spans = appendMatch(spans, last, last+i, last+i+len(literal))
			last += i + len(literal)
		}
	}
}

// findRegexp finds matches with the backtracking engine, which counts in characters and is slow; it serves expressions
// without a scanner. Texts that are not valid UTF-8 are cut only where each byte of them stands for one character.
func findRegexp(expression *regexp2.Regexp) func(string) []span {
	return func(s string) (spans []span) {
		runes := make([]rune, 0, len(s))
		starts := make([]int, 0, len(s)+1)
		for i, c := range s {
			runes, starts = append(runes, c), append(starts, i)
		}
		starts = append(starts, len(s))
		last := 0
		// The only error is a timeout, and none is set.
		for match, _ := expression.FindRunesMatch(runes); match != nil; match, _ = expression.FindNextMatch(match) {
			start, end := starts[match.Index], starts[match.Index+match.Length]
			spans = appendMatch(spans, last, start, end)
			last = end
		}
		return appendRest(spans, last, len(s))
	}
}

// findWords matches \w+|[^\w\s]+.
func findWords(s string) (spans []span) {
	const none, word, other = 0, 1, 2
	kindOf := func(c rune) int {
		switch {
		case isWord(c):
			return word
		case isSpace(c):
			return none
		}
		return other
	}
	last, start, kind := 0, 0, none
	flush := func(end int) {
		if kind != none {
			spans = appendMatch(spans, last, start, end)
			last = end
		}
	}
	for i, c := range s {
		if next := kindOf(c); next != kind {
			flush(i)
			start, kind = i, next
		}
	}
	flush(len(s))
	return appendRest(spans, last, len(s))
}

func isWord(c rune) bool { return wordRanges.has(c) }

func appendMatch(spans []span, last, start, end int) []span {
	if last < start {
		spans = append(spans, span{start: last, end: start})
	}
	return append(spans, span{start: start, end: end, match: true})
}

func appendRest(spans []span, last, end int) []span {
	if last < end {
		spans = append(spans, span{start: last, end: end})
	}
	return spans
}

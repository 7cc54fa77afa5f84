package text

import (
	"strings"
	"unicode/utf8"
)

// Scanners are hand-written matchers for the regular expressions by which the known families cut a text into pieces.
// A scanner returns the length in bytes of the piece that s, not empty, begins with. Each expression matches at every
// position of every text, so that the matches lie side by side and cover it. They are 50 to 100 times as fast as a
// backtracking engine; the tests hold them against one on random text.
type scanner func(s string) int

// The expressions, written as the files write them.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// scanners says which expressions need no regular expression engine.
var scanners = map[string]scanner{
	patternGPT2:   scanGPT2,
	patternLlama3: func(s string) int { return scanLlama3(s, 3) },
	patternQwen2:  func(s string) int { return scanLlama3(s, 1) },
}

// scanGPT2 matches patternGPT2, the expression inside every ByteLevel pre-tokenizer with use_regex.
func scanGPT2(s string) int {
	if s[0] == '\'' {
		if n := contraction(s, false); n > 0 {
			return n
		}
	}
	start := 0
	if s[0] == ' ' && len(s) > 1 {
		start = 1
	}
	c, width := decode(s[start:])
	if kind := classOf(c); kind != classSpace {
		return start + width + spanClass(s[start+width:], kind)
	}
	return spaces(s, spanClass(s, classSpace))
}

// scanLlama3 matches patternLlama3, with runs of at most `digits` numbers; with one it matches patternQwen2.
func scanLlama3(s string, digits int) int {
	if s[0] == '\'' {
		if n := contraction(s, true); n > 0 {
			return n
		}
	}
	c, width := decode(s)
	kind := classOf(c)
	switch kind {
	case classLetter:
		return width + spanClass(s[width:], classLetter)
	case classNumber:
		n := width
		for i := 1; i < digits && n < len(s); i++ {
			c, width := decode(s[n:])
			if classOf(c) != classNumber {
				break
			}
			n += width
		}
		return n
	}
	// One character that is no newline may lead a word: a space, a bracket, a quotation mark.
	if !isNewline(s[0]) && width < len(s) {
		if letters := spanClass(s[width:], classLetter); letters > 0 {
			return width + letters
		}
	}
	start := 0
	if s[0] == ' ' {
		start = 1
	}
	if others := spanClass(s[start:], 0); others > 0 {
		n := start + others
		for n < len(s) && isNewline(s[n]) {
			n++
		}
		return n
	}
	run := spanClass(s, classSpace)
	if last := strings.LastIndexAny(s[:run], "\r\n"); last >= 0 {
		return last + 1 // \s*[\r\n]+ ends behind the run's last newline
	}
	return spaces(s, run)
}

// spaces matches \s+(?!\S)|\s+ where s begins with a run of white space of `run` bytes: all of it at the end of the text,
// else all but its last character, which belongs to what follows, else that one character.
func spaces(s string, run int) int {
	if run == len(s) {
		return run
	}
	_, last := utf8.DecodeLastRuneInString(s[:run])
	if run == last {
		return run
	}
	return run - last
}

// spanClass returns the length in bytes of the longest prefix of s made of characters of this class.
func spanClass(s string, kind class) int {
	n := 0
	for n < len(s) {
		if b := s[n]; b < utf8.RuneSelf {
			if asciiClass[b] != kind {
				return n
			}
			n++
			continue
		}
		c, width := utf8.DecodeRuneInString(s[n:])
		if classOf(c) != kind {
			return n
		}
		n += width
	}
	return n
}

// contraction matches 's|'t|'re|'ve|'m|'ll|'d behind the apostrophe s begins with. Where case is folded, the long s (ſ) is
// an s too: the only character beyond ASCII that folds to one of these letters.
func contraction(s string, fold bool) int {
	if len(s) < 2 {
		return 0
	}
	if fold && strings.HasPrefix(s[1:], "ſ") {
		return 1 + len("ſ")
	}
	switch a := lower(s[1], fold); a {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v', 'l':
		if len(s) > 2 {
			if b := lower(s[2], fold); a == 'l' && b == 'l' || a != 'l' && b == 'e' {
				return 3
			}
		}
	}
	return 0
}

func lower(b byte, fold bool) byte {
	if fold && 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// decode is utf8.DecodeRuneInString with the common case first.
func decode(s string) (rune, int) {
	if s[0] < utf8.RuneSelf {
		return rune(s[0]), 1
	}
	return utf8.DecodeRuneInString(s)
}

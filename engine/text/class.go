package text

import "unicode/utf8"

// A class is a set of bits saying which of the regular expressions' character classes a code point belongs to.
type class uint8

const (
	classLetter class = 1 << iota // \p{L}
	classNumber                   // \p{N}
	classSpace                    // \s: White_Space, 25 code points
)

// classOf returns the class of c; 0 means [^\s\p{L}\p{N}].
func classOf(c rune) class {
	if c < utf8.RuneSelf {
		return asciiClass[c]
	}
	switch {
	case letterRanges.has(c):
		return classLetter
	case numberRanges.has(c):
		return classNumber
	case isSpace(c):
		return classSpace
	}
	return 0
}

// asciiClass is classOf for the code points that make up most of most texts.
var asciiClass = func() (table [utf8.RuneSelf]class) {
	for c := rune(0); c < utf8.RuneSelf; c++ {
		switch {
		case letterRanges.has(c):
			table[c] = classLetter
		case numberRanges.has(c):
			table[c] = classNumber
		case isSpace(c):
			table[c] = classSpace
		}
	}
	return table
}()

// isSpace reports whether c has the property White_Space, a list that Unicode has not changed since version 6.3.
func isSpace(c rune) bool {
	switch c {
	case '\t', '\n', '\v', '\f', '\r', ' ', 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000:
		return true
	}
	return 0x2000 <= c && c <= 0x200A
}

func isNewline(c byte) bool { return c == '\n' || c == '\r' }

// runeRanges is an ascending list of inclusive ranges.
type runeRanges [][2]rune

// has finds c by bisection, in about ten steps for the longest table.
func (r runeRanges) has(c rune) bool {
	low, high := 0, len(r)
	for low < high {
		if middle := int(uint(low+high) >> 1); r[middle][1] < c {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(r) && r[low][0] <= c
}

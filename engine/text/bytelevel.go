package text

import (
	"strings"
	"unicode/utf8"
)

// byteNames is the alphabet of byte-level vocabularies: the character that stands for each byte in vocab and merges.
// Printable bytes of Latin-1 stand for themselves, the other 68, in order, are U+0100, U+0101, …: a space is Ġ, a newline Ċ.
var byteNames = func() (names [256]string) {
	hidden := rune(0x100)
	for b := range names {
		c := rune(b)
		if printable := '!' <= c && c <= '~' || 0xA1 <= c && c <= 0xAC || 0xAE <= c && c <= 0xFF; !printable {
			c = hidden
			hidden++
		}
		names[b] = string(c)
	}
	return names
}()

// byteOfName is the inverse of byteNames.
var byteOfName = func() map[rune]byte {
	bytes := make(map[rune]byte, 256)
	for b, name := range byteNames {
		c, _ := utf8.DecodeRuneInString(name)
		bytes[c] = byte(b)
	}
	return bytes
}()

// bytesOfToken returns the bytes that a byte-level token stands for; false if a character of it stands for no byte, as in
// added tokens with spaces.
func bytesOfToken(token string) (string, bool) {
	var out strings.Builder
	for _, c := range token {
		b, ok := byteOfName[c]
		if !ok {
			return "", false
		}
		out.WriteByte(b)
	}
	return out.String(), true
}

// validUTF8 replaces what is no UTF-8 by U+FFFD, one for each longest part that could have begun a character, as the
// Unicode standard recommends; strings.ToValidUTF8 would write one for a whole run.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for s != "" {
		c, width := utf8.DecodeRuneInString(s)
		if c == utf8.RuneError && width == 1 {
			width = truncatedCharacter(s)
			out.WriteRune(utf8.RuneError)
		} else {
			out.WriteString(s[:width])
		}
		s = s[width:]
	}
	return out.String()
}

// truncatedCharacter returns the length of the longest beginning of s that is the beginning of some character, at least 1.
func truncatedCharacter(s string) int {
	low, high, want := byte(0x80), byte(0xBF), 0
	switch b := s[0]; {
	case 0xC2 <= b && b <= 0xDF:
		want = 2
	case b == 0xE0:
		low, want = 0xA0, 3
	case b == 0xED:
		high, want = 0x9F, 3
	case 0xE1 <= b && b <= 0xEF:
		want = 3
	case b == 0xF0:
		low, want = 0x90, 4
	case 0xF1 <= b && b <= 0xF3:
		want = 4
	case b == 0xF4:
		high, want = 0x8F, 4
	}
	n := 1
	for n < want && n < len(s) && low <= s[n] && s[n] <= high {
		low, high = 0x80, 0xBF
		n++
	}
	return n
}

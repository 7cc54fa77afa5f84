package text

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"

	"github.com/dlclark/regexp2"
)

// foldedContractions spells out what (?i:'s|'t|'re|'ve|'m|'ll|'d) matches: regexp2 folds case without the long s.
const foldedContractions = `(?:'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`

// alphabet are characters that each alternative of the expressions, and each of its limits, depends on.
var alphabet = []rune("abstrevmldSTREVMLDſ''''      \t\n\r\n\r\v\u0085\u00a0\u2003\u3000.,!-_<|" +
	"0123456789½²Ⅷ٣éßñΩжשع日本한ก\u0301\u200b\u200d\ufeff🙂👍🏽\U00010400ǅʰ\x00\x7f")

// TestScanners catches a scanner that cuts a text otherwise than the regular expression it stands for.
func TestScanners(t *testing.T) {
	const seed, texts = 20240501, 5000
	t.Logf("seed %d", seed)
	for _, expression := range []string{patternGPT2, patternLlama3, patternQwen2} {
		next := scanners[expression]
		start := strings.Index(expression, "|[^\\r")
		reference := expression
		if strings.HasPrefix(expression, "(?i:") {
			reference = foldedContractions + expression[start:]
		}
		compiled := regexp2.MustCompile(reference, regexp2.None)
		random := rand.New(rand.NewPCG(seed, 0))
		for range texts {
			checkScanner(t, randomText(random), next, compiled)
		}
	}
}

// FuzzScanners is TestScanners on texts that the fuzzer makes.
func FuzzScanners(f *testing.F) {
	for _, seed := range []string{"don't 'ſx\r\n\r\n  x 12345 ½", " \u00a0\n a", "'LL'Re'vE", "日本 🙂🙂!!\r\n"} {
		f.Add(seed)
	}
	compiled := map[string]*regexp2.Regexp{
		patternGPT2:   regexp2.MustCompile(patternGPT2, regexp2.None),
		patternLlama3: regexp2.MustCompile(foldedContractions+patternLlama3[strings.Index(patternLlama3, "|[^\\r"):], regexp2.None),
		patternQwen2:  regexp2.MustCompile(foldedContractions+patternQwen2[strings.Index(patternQwen2, "|[^\\r"):], regexp2.None),
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.Map(inBothTables, strings.ToValidUTF8(s, ""))
		for expression, reference := range compiled {
			checkScanner(t, s, scanners[expression], reference)
		}
	})
}

func checkScanner(t *testing.T, s string, next scanner, reference *regexp2.Regexp) {
	t.Helper()
	var got, want []string
	scan(s, true, next, func(piece string, _ bool) { got = append(got, piece) })
	for match, _ := reference.FindStringMatch(s); match != nil; match, _ = reference.FindNextMatch(match) {
		want = append(want, match.String())
	}
	if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
		t.Fatalf("%q is cut into %s, want %s", s, g, w)
	}
}

// randomText is up to 24 characters, most of them from the alphabet, some from all of Unicode.
func randomText(random *rand.Rand) string {
	out := make([]rune, random.IntN(25))
	for i := range out {
		out[i] = alphabet[random.IntN(len(alphabet))]
		if random.IntN(8) == 0 {
			if c := inBothTables(rune(random.IntN(unicode.MaxRune + 1))); c >= 0 {
				out[i] = c
			}
		}
	}
	return string(out)
}

// inBothTables returns −1 for characters that the tables here and those of package unicode, which regexp2 uses, put in
// different classes (they are of different Unicode versions), and for the surrogates, which no text contains.
func inBothTables(c rune) rune {
	if 0xD800 <= c && c < 0xE000 || classOf(c) != goClass(c) {
		return -1
	}
	return c
}

func goClass(c rune) class {
	switch {
	case unicode.IsLetter(c):
		return classLetter
	case unicode.IsNumber(c):
		return classNumber
	case unicode.IsSpace(c):
		return classSpace
	}
	return 0
}

// TestClasses catches a damaged table: what package unicode calls a letter, a number, a space is one here as well, and
// ranges ascend and do not touch a surrogate.
func TestClasses(t *testing.T) {
	assigned := []*unicode.RangeTable{unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z, unicode.Cc, unicode.Cf}
	if unicode.Version > "16" {
		t.Skipf("package unicode is of version %s, newer than the tables", unicode.Version)
	}
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if !unicode.In(c, assigned...) || unicode.Is(unicode.Co, c) {
			continue
		}
		if got, want := classOf(c), goClass(c); got != want {
			t.Fatalf("U+%04X has class %d, want %d", c, got, want)
		}
		if unicode.IsNumber(c) != digitRanges.has(c) {
			t.Fatalf("U+%04X: digitRanges has it: %v, want %v", c, digitRanges.has(c), unicode.IsNumber(c))
		}
		if (unicode.IsLetter(c) || unicode.Is(unicode.Nd, c)) && !wordRanges.has(c) {
			t.Fatalf("U+%04X is a letter or a digit, but not in wordRanges", c)
		}
		if punctuationRanges.has(c) && (unicode.IsLetter(c) || unicode.IsNumber(c) || unicode.IsSpace(c)) {
			t.Fatalf("U+%04X is in punctuationRanges, but a letter, number or space", c)
		}
	}
	for name, ranges := range map[string]runeRanges{"letter": letterRanges, "number": numberRanges, "digit": digitRanges, "word": wordRanges, "punctuation": punctuationRanges} {
		last := rune(-1)
		for _, r := range ranges {
			if r[0] <= last || r[1] < r[0] || r[0] < 0xE000 && r[1] >= 0xD800 {
				t.Errorf("%sRanges: {%#x, %#x} does not follow %#x", name, r[0], r[1], last)
			}
			last = r[1]
		}
	}
}

package prune

import (
	"fmt"
	"strconv"
	"strings"
)

// Structure is what is removed as one. The zero Structure is rows and columns, {1, 0} coupled units. Otherwise it is N of every M
// consecutive inputs of a row, blocks of M that begin at the first input; the bias column is in no block. {1, 1} is single
// weights, and then the bias column takes part.
type Structure struct{ N, M int }

// RowCol is rows and columns, Unit coupled units (Coupling), Element single weights.
var (
	RowCol  = Structure{}
	Unit    = Structure{1, 0}
	Element = Structure{1, 1}
)

// largestBlock bounds M: 2:4, 4:8 and their like are what hardware and papers speak of; a row of thousands is no block.
const largestBlock = 256

// SingleWeights says that weights go one by one, or N of every M inputs, and not as whole rows and columns.
func (s Structure) SingleWeights() bool { return s.M > 0 }

// Blocks says that N of every M inputs go.
func (s Structure) Blocks() bool { return s.M > 1 }

// Share is the share of its weights that a block loses.
func (s Structure) Share() float64 { return float64(s.N) / float64(max(1, s.M)) }

// Taken is how many of all blocks, or single weights, are removed for this share of the weights; all of them at the highest
// share, which divided by itself is 1, where N/M times M/N need not be.
func (s Structure) Taken(target float64, all int) int {
	return int(target / s.Share() * float64(all))
}

func (s Structure) String() string {
	switch s {
	case RowCol:
		return "rowcol"
	case Unit:
		return "unit"
	case Element:
		return "element"
	}
	return fmt.Sprintf("%d:%d", s.N, s.M)
}

// MarshalText is String.
func (s Structure) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "rowcol", "unit", "element", or "N:M".
func (s *Structure) UnmarshalText(text []byte) error {
	switch word := string(text); word {
	case "rowcol":
		*s = RowCol
		return nil
	case "unit":
		*s = Unit
		return nil
	case "element":
		*s = Element
		return nil
	default:
		left, right, colon := strings.Cut(word, ":")
		n, err1 := strconv.Atoi(left)
		m, err2 := strconv.Atoi(right)
		if !colon || err1 != nil || err2 != nil {
			return fmt.Errorf("%q is none of rowcol, unit, element, or N:M such as 2:4", word)
		}
		if n < 1 || m < 2 || n >= m || m > largestBlock {
			return fmt.Errorf("%q: N of every M weights go, so N must be at least 1 and less than M, and M at most %d", word, largestBlock)
		}
		*s = Structure{n, m}
		return nil
	}
}

// Scope is among what single weights are compared.
type Scope uint8

const (
	InModel Scope = iota // one threshold for the whole model
	InLayer              // the same share of every layer
	InRow                // the same share of every row
)

var scopeWords = []string{InModel: "model", InLayer: "layer", InRow: "row"}

func (s Scope) String() string                { return scopeWords[s] }
func (s Scope) MarshalText() ([]byte, error)  { return []byte(s.String()), nil }
func (s *Scope) UnmarshalText(t []byte) error { return read(s, scopeWords, t) }

package prune

import (
	"fmt"
	"strings"
)

// The choices of a run, by the words that options, reports and YAML files use for them.
var (
	costWords    = []string{OBS: "obs", OBD: "obd", Magnitude: "magnitude"}
	updateWords  = []string{Joint: "joint", Sum: "sum", None: "none"}
	rankingWords = []string{ByCost: "cost", ByCostPerWeight: "cost-per-weight"}
)

func (c Cost) String() string    { return costWords[c] }
func (u Update) String() string  { return updateWords[u] }
func (r Ranking) String() string { return rankingWords[r] }

func (c Cost) MarshalText() ([]byte, error)    { return []byte(c.String()), nil }
func (u Update) MarshalText() ([]byte, error)  { return []byte(u.String()), nil }
func (r Ranking) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (c *Cost) UnmarshalText(text []byte) (err error) {
	*c, err = parse[Cost](costWords, text)
	return err
}

func (u *Update) UnmarshalText(text []byte) (err error) {
	*u, err = parse[Update](updateWords, text)
	return err
}

func (r *Ranking) UnmarshalText(text []byte) (err error) {
	*r, err = parse[Ranking](rankingWords, text)
	return err
}

func parse[T ~uint8](words []string, text []byte) (T, error) {
	for i, w := range words {
		if w == string(text) {
			return T(i), nil
		}
	}
	return 0, fmt.Errorf("%q is none of %s", text, strings.Join(words, ", "))
}

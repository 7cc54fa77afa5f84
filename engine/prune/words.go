package prune

import (
	"fmt"
	"strings"
)

// The choices of a run, by the words that options, reports and YAML files use for them.
var (
	costWords    = []string{OBS: "obs", OBD: "obd"}
	updateWords  = []string{Joint: "joint", Sum: "sum", None: "none"}
	rankingWords = []string{ByCost: "cost", ByCostPerWeight: "cost-per-weight"}
)

func (c Cost) String() string    { return costWords[c] }
func (u Update) String() string  { return updateWords[u] }
func (r Ranking) String() string { return rankingWords[r] }

func (c Cost) MarshalText() ([]byte, error)    { return []byte(c.String()), nil }
func (u Update) MarshalText() ([]byte, error)  { return []byte(u.String()), nil }
func (r Ranking) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (c *Cost) UnmarshalText(text []byte) error    { return read(c, costWords, text) }
func (u *Update) UnmarshalText(text []byte) error  { return read(u, updateWords, text) }
func (r *Ranking) UnmarshalText(text []byte) error { return read(r, rankingWords, text) }

func read[T ~uint8](x *T, words []string, text []byte) error {
	for i, w := range words {
		if w == string(text) {
			*x = T(i)
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", text, strings.Join(words, ", "))
}

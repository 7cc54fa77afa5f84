package curvature

import (
	"errors"
	"fmt"
	"strings"

	"surgeon/engine/model"
)

// Kind is what is measured.
type Kind uint8

const (
	KFAC        Kind = iota // A and G, each a mean over tokens
	Nearest                 // the nearest Kronecker product to F
	KronSum                 // the nearest one, then the nearest to what is left, and so on: a sum of Rank products
	Activations             // A alone; G is the identity
	Identity                // nothing; both are the identity
	Diagonal                // A and G as for KFAC, and the diagonal of F
)

// Fisher is which next tokens the gradients are of.
type Fisher uint8

const (
	Empirical Fisher = iota // the true ones
	Sampled                 // ones drawn from the model's softmax
)

// Options say what is measured and how. The zero Options are K-FAC of the empirical Fisher.
type Options struct {
	Kind       Kind
	PowerSteps int    // half steps of the power method for each product; of Nearest and KronSum
	Rank       int    // products; of KronSum
	Fisher     Fisher //
	Samples    int    // k, backward passes for each batch; of Sampled
	Seed       uint64 // of what is drawn; of Sampled

	// Consumers measures the layers that read what a block's heads and neurons have computed, o and down, alone: all that coupled
	// units ask for. The others have matrices of order 0. Of KFAC and Activations.
	Consumers bool

	// Unprojected leaves the terms of KronSum after the first as the power method finds them, of no use but to time it.
	Unprojected bool
}

// DefaultPowerSteps are enough for the factors of trained models: what is left changes slowly, and every shot goes on from the
// last one's.
const DefaultPowerSteps = 6

// Check says what is wrong with the options, in one sentence.
func (o Options) Check() error {
	switch {
	case o.Warm() && (o.PowerSteps < 2 || o.PowerSteps%2 != 0):
		return fmt.Errorf("--power-steps is %d; curvature %s takes an even number, at least 2: half of them make G and half A", o.PowerSteps, o.Kind)
	case o.Kind == KronSum && o.PowerSteps < 4:
		// After two the first product's G is (1/N) Σ_t (a_tᵀ·1·a_t) g_t g_tᵀ: all that the start of the second one would have.
		return fmt.Errorf("--power-steps is %d; curvature %s takes at least 4, for 2 leave the second product nothing to begin with", o.PowerSteps, o.Kind)
	case o.Kind == KronSum && o.Rank < 2:
		return fmt.Errorf("--rank is %d; curvature %s takes at least 2, the number of products", o.Rank, o.Kind)
	case o.Consumers && o.paired():
		return fmt.Errorf("curvature %s is measured of all layers, not of consumers alone", o.Kind)
	case o.Fisher == Sampled && o.Samples < 1:
		return fmt.Errorf("--fisher-samples is %d; the %s Fisher takes at least 1 for each token", o.Samples, o.Fisher)
	case o.Fisher == Sampled && !o.gradients():
		return errors.New("--fisher sampled is one of gradients, and curvature " + o.Kind.String() + " takes none")
	}
	return nil
}

// measures says whether a layer's factors are asked for.
func (o Options) measures(l *model.Linear) bool {
	return o.Kind != Identity && (!o.Consumers || l.Consumer())
}

// gradients says whether anything is made of gradients.
func (o Options) gradients() bool { return o.Kind != Activations && o.Kind != Identity }

// draws is the number of backward passes for each batch.
func (o Options) draws() int {
	if o.Fisher == Sampled {
		return o.Samples
	}
	return 1
}

// products is the number of Kronecker products by which a layer's curvature is told.
func (o Options) products() int {
	if o.Kind == KronSum {
		return o.Rank
	}
	return 1
}

// Passes is how often all windows go through the model.
func (o Options) Passes() int {
	switch {
	case o.Warm():
		return o.PowerSteps * o.products()
	case o.Kind == Identity:
		return 0
	}
	return 1
}

// The choices by the words that options, reports and YAML files use for them.
var (
	kindWords   = []string{KFAC: "kfac", Nearest: "nearest", KronSum: "kron-sum", Activations: "activations", Identity: "identity", Diagonal: "diagonal"}
	fisherWords = []string{Empirical: "empirical", Sampled: "sampled"}
)

func (k Kind) String() string   { return kindWords[k] }
func (f Fisher) String() string { return fisherWords[f] }

func (k Kind) MarshalText() ([]byte, error)   { return []byte(k.String()), nil }
func (f Fisher) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (k *Kind) UnmarshalText(text []byte) error   { return read(k, kindWords, text) }
func (f *Fisher) UnmarshalText(text []byte) error { return read(f, fisherWords, text) }

func read[T ~uint8](x *T, words []string, text []byte) error {
	for i, w := range words {
		if w == string(text) {
			*x = T(i)
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", text, strings.Join(words, ", "))
}

package model

import (
	"math"

	"surgeon/engine/checkpoint"
)

// ropeTables makes the cosines and sines of positions 0 to length−1 for heads of width dim, both length×dim/2: the angle
// of pair j at position p is p·θ_j, θ_j = base^(−2j/dim), changed by the scaling that the architecture asks for.
//
// Frequencies, angles, cosines and sines are rounded to float32, whatever the type of the model: that is how the models
// were trained and how the reference implementation evaluates them, also in float64. At position 4000 the angle of the
// fastest pair so differs from the exact one by 1e-4.
func ropeTables(r checkpoint.Rope, dim, length int) (cos, sin []float32) {
	theta := frequencies(r, dim)
	cos, sin = make([]float32, length*dim/2), make([]float32, length*dim/2)
	for p := range length {
		for j, t := range theta {
			angle := float64(float32(p) * t)
			cos[p*dim/2+j], sin[p*dim/2+j] = float32(math.Cos(angle)), float32(math.Sin(angle))
		}
	}
	return cos, sin
}

// frequencies are the θ_j in radians per token.
func frequencies(r checkpoint.Rope, dim int) []float32 {
	theta := make([]float32, dim/2)
	for j := range theta {
		power := float32(math.Pow(r.Base, float64(float32(2*j)/float32(dim))))
		theta[j] = 1 / power
		switch r.Kind {
		case checkpoint.RopeLinear:
			theta[j] /= float32(r.Factor)
		case checkpoint.RopeLlama3:
			theta[j] = llama3(r, theta[j])
		}
	}
	return theta
}

// llama3 slows down the frequencies whose wavelength is long against the context the model was first trained on: beyond
// OriginalMax/LowFreqFactor by Factor, below OriginalMax/HighFreqFactor not at all, in between by a blend.
func llama3(r checkpoint.Rope, theta float32) float32 {
	factor, low, high := float32(r.Factor), float32(r.LowFreqFactor), float32(r.HighFreqFactor)
	wavelength := float32(2*math.Pi) / theta
	original := float32(r.OriginalMax)
	switch {
	case wavelength > original/low:
		return theta / factor
	case wavelength < original/high:
		return theta
	}
	smooth := (original/wavelength - low) / (high - low)
	return (1-smooth)*theta/factor + float32(smooth*theta) // the conversion keeps the two from being fused into one rounding
}

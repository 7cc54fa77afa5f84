// Package prune decides what to remove from a model's linear layers and re-fits what stays, one file per step:
//
//	system.go     one layer on the device: alive rows and columns, damping, Cholesky factors (method.md section 2)
//	costs.go      the predicted increase of the loss for each row and column           (section 3)
//	threshold.go  one threshold for the whole model                                     (section 4)
//	units.go      what belongs to a coupled unit, its cost, and which of them go        (section 3)
//	update.go     the weights that stay                                                 (section 5)
//	increase.go   the predicted increase of the whole step
//	exact.go      the same costs for sums of products and for joint damping
//	refit.go      the same update for those, and for any set of single weights, by spectral.go, operator.go and inverse.go
//	elements.go   the costs of single weights, from which they are made anew at every look
//	cheapest.go   which of them go, or which blocks of them, without sorting
//	groups.go     the update for single weights, of a whole matrix or group by group, by the steps of conjugate.go
//	dead.go       what computes nothing any more after the last shot                    (section 6)
//
// The convention two halves could disagree about: F = G ⊗ A for the row-major vec of the R×C matrix [W b]; rows belong to
// G, columns to A; all index lists are positions in the full matrix.
//
// A curvature is a sum of products, F = Σ_k G_k ⊗ A_k, each side measured or the identity. What is computed with it depends
// on the number of products and on the damping:
//
//	                            exact inverse   costs                updates of rows and columns; of single weights
//	1, factors damped           G'⁻¹ ⊗ A'⁻¹     costs.go             update.go, direct; groups.go
//	1, joint damping; 2         spectral.go     obs exact.go, obd    refit.go, conjugate gradients: with F' (operator.go), which that
//	                                                                 inverse makes short; with the inverse alone
//	3 and more                  none            obd                  refit.go, with F' for both, and an inverse that is near (inverse.go)
//	2 and more, joint damping   refused
package prune

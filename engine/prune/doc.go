// Package prune decides what to remove from a model's linear layers and re-fits what stays, one file per step:
//
//	system.go     one layer on the device: alive rows and columns, damping, Cholesky factors (method.md section 2)
//	costs.go      the predicted increase of the loss for each row and column           (section 3)
//	threshold.go  one threshold for the whole model                                     (section 4)
//	update.go     the weights that stay, and the predicted increase of the whole step   (section 5)
//	dead.go       what computes nothing any more after the last shot                    (section 6)
//
// The convention two halves could disagree about: F = G ⊗ A for the row-major vec of the R×C matrix [W b]; rows belong to
// G, columns to A; all index lists are positions in the full matrix.
//
// Other structures would enter beside rows and columns: a Costs with other candidates made from the same System, a sweep
// in threshold.go over them, and an update from the same solves; System does not change.
package prune

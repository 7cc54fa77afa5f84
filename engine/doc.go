// Package engine prunes trained language models with Kronecker-factored curvature (The LLM Surgeon, arXiv 2312.17244).
//
// # The method in equations
//
// N tokens of calibration text, T in a window. A linear layer maps C inputs a (a constant 1 last where it has a bias) to R
// outputs, by W, R×C. g is the gradient at its output of the sum of a window's T−1 next-token losses, in nats.
//
//	A = (1/N) Σ a aᵀ,  G = (1/N) Σ g gᵀ,  F = G ⊗ A     the layer's curvature, for the row-major vec(W)
//	A' = A + λ_A I,  G' = G + λ_G I                       damped, over rows and columns that are not dead
//	row r     ½ (w_r A w_rᵀ) / [G'⁻¹]_rr                  what the loss would rise by without it,
//	column c  ½ (w_cᵀ G w_c) / [A'⁻¹]_cc                  the rest being re-fitted
//	unit      ½ tr(([A'⁻¹]_QQ)⁻¹ W_Qᵀ G W_Q)              Q its columns of the layer that reads it
//	weight    ½ w² / ([G'⁻¹]_rr [A'⁻¹]_cc)
//	V = (G'_SS)⁻¹ G'_S: W A'_:T (A'_TT)⁻¹                 the rest, re-fitted: S kept rows, T kept columns
//	V = W − G'⁻¹ Y A'⁻¹                                   the same for single weights: Y has their places
//	½ tr(Dᵀ G D A)                                        predicted rise of the loss for the step D = V − W
//	W + M ∘ (B·A)                                         with --lora: corrected by the gradient, A and B of low rank, M_ij
//	                                                      1 where W_ij ≠ 0, else 0
//
// One threshold for the whole model says what goes; targets rise linearly over the shots. F may be told in other ways
// (package curvature), and inverted in others (package prune); presets.go has the combinations that have a name.
//
// # One shot, told by the functions that make it
//
// Prune repeats run.shot: a turn of the method's loop (turn.shrink, which Turn makes without a run around it), a look at
// the loss, and a save. measure sends every calibration window through model.ForwardBackward, which hands each layer's
// input and output gradient to package curvature, and that adds them to the factors (device.Gram). costs asks
// prune.Alive what is not dead and prune.Costs what each row and column would cost, layer by layer, or for all layers of a block
// side by side where that is faster (layerGroups); only these numbers come to the host. threshold is prune.Select: one sorted
// sweep over all of them. update is prune.Apply for the same layers at a time: index lists go to the device, new weights stay there (those of a bfloat16 model also come to the host, as float32 masters). Coupled
// units take the same stages in units.go, of the layers that read them alone: prune.CostUnits, prune.SelectUnits, prune.Apply. Single
// weights, and N of every M, take the same stages in weights.go: prune.CostElements, prune.SelectWeights, which never holds
// all costs, and prune.ApplyElements. correctShot, with --lora, measures the held-out loss and has package lora follow the
// gradient for a few windows. heldOut looks at windows that took no part, and at those of each text where they have names
// (texts.go). save hands weights and report to package journal, from where an interrupted run goes on bit for bit; what lies in
// main memory is written beside the next shot, until that changes it (saving.go).
//
// After the last shot finish makes the last round of corrections where one is asked for, and run.write rounds to the
// type of the file, clears what is structurally dead, measures that, and writes. onway.go does the same for a model on the way.
//
// # Measuring a model
//
// Evaluate measures a model, pruned or not: its perplexity on a text, as the runs do with --eval, and its accuracy on
// multiple-choice tasks. For these package tasks says what tokens to ask for, zeroShot sends them through
// model.LogLikelihoods, group of questions by group, and package tasks keeps and scores the answers.
//
// # Who knows what
//
//	text, checkpoint, journal, report     know no device
//	compare                               knows checkpoint and report, sets outputs side by side; cmd alone calls it
//	tasks                                 knows text and report, and no device
//	model, curvature, lora, prune         know package device, not what is behind it
//	engine                                joins them; cmd gives it a device
//
// A Go test (imports_test.go) holds these rules.
package engine

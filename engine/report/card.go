package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Card is the model card, README.md of the pruned model, as Hugging Face reads it: YAML for its index, then what a stranger
// must know before using the model, every perplexity with the data and windows that it holds for.
func (r *Report) Card() []byte {
	var b bytes.Buffer
	r.cardHeader(&b)
	r.cardSize(&b)
	r.cardQuality(&b)
	r.cardShots(&b)
	r.cardData(&b)
	r.cardMaking(&b)
	return b.Bytes()
}

func (r *Report) cardHeader(b *bytes.Buffer) {
	// No licence and no base_model: a path does not tell either, and a wrong one would be worse.
	fmt.Fprintf(b, "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- %s\n- pruned\n- %s-pruning\n- arxiv:2312.17244\n---\n\n",
		quoted(r.Model.Family), r.kind())
	fmt.Fprintf(b, "# %s, %s of the block weights removed\n\n", line(modelName(r.Model.Path)), Percent(r.Final.Sparsity))
	fmt.Fprintf(b, "Made from `%s` (%s, %s, %s parameters, SHA-256 `%s`) by Surgeon %s, a program for the method of [The LLM Surgeon](https://arxiv.org/abs/2312.17244): shot by shot, those %s of the linear layers in the blocks are removed that cost least. What a cost is, and how the weights that stay were re-fitted, stands among the options in `report.json`. The licence of the original model applies.\n\n",
		line(r.Model.Path), line(r.Model.Format), line(r.Model.Family), thousands(r.Model.Parameters), line(r.Model.SHA256), line(r.Program.Version), r.structures())
}

// kind is what papers call pruning of such a structure.
func (r *Report) kind() string {
	switch r.Structure {
	case "rowcol", "unit":
		return "structured"
	case "element":
		return "unstructured"
	}
	return "semi-structured"
}

// structures names what was removed.
func (r *Report) structures() string {
	switch r.Structure {
	case "rowcol":
		return "rows and columns"
	case "unit":
		return "attention heads and neurons, with the rows and columns that belong to them,"
	case "element":
		return "single weights"
	}
	n, m, _ := strings.Cut(r.Structure, ":")
	return fmt.Sprintf("%s of every %s consecutive inputs in the rows", line(n), line(m))
}

func (r *Report) cardSize(b *bytes.Buffer) {
	b.WriteString("## Size\n\n| | weights | removed |\n|---|---:|---:|\n")
	fmt.Fprintf(b, "| linear layers in the blocks | %s | %s |\n", thousands(r.Model.Prunable), Percent(r.Final.Sparsity))
	fmt.Fprintf(b, "| whole model | %s | %s |\n\n", thousands(r.Model.Parameters), Percent(r.Final.Reduction))
	b.WriteString("What was removed is zeros in place: every matrix has the shape it had, so the files are not smaller and the model is not faster by itself. ")
	if r.Structure == "rowcol" || r.Structure == "unit" {
		b.WriteString("`report.json` lists the rows and columns that stay, layer by layer, for programs that cut the zeros out.")
	}
	b.WriteString("\n\n")
	if r.Final.StoppedEarly != "" {
		fmt.Fprintf(b, "The run was stopped early: %s\n\n", line(r.Final.StoppedEarly))
	}
}

func (r *Report) cardQuality(b *bytes.Buffer) {
	b.WriteString("## Quality\n\n")
	fmt.Fprintf(b, "Mean loss on %s of %d tokens held out of the calibration text, in nats per token: %.4f before, %.4f after.\n\n",
		Counted(r.Data.HeldOut, "window"), r.Data.Length, r.Dense.HeldOutLoss, r.Final.HeldOutLoss)
	r.cardTexts(b)
	if len(r.Evaluations) == 0 {
		b.WriteString("No perplexity on other text was measured.\n\n")
		return
	}
	b.WriteString("| model | text | window length (tokens) | windows | loss (nats) | bits per token | perplexity |\n|---|---|---:|---:|---:|---:|---:|\n")
	flattered := false
	for _, e := range r.Evaluations {
		text := cell(e.Text)
		if e.Name != "" {
			text = fmt.Sprintf("%s (%s)", e.Name, text)
		}
		if e.Calibration {
			flattered, text = true, text+" \\*"
		}
		fmt.Fprintf(b, "| %s | %s | %d | %d | %.4f | %.4f | %.2f |\n", cell(e.Of), text, e.Length, e.Windows, e.Loss, e.Bits, e.Perplexity)
	}
	b.WriteString("\n")
	if flattered {
		b.WriteString("\\* The text that the model was pruned with: it flatters the pruned model, and says little about other text.\n\n")
	}
}

// cardTexts is the loss on each text, where they have names.
func (r *Report) cardTexts(b *bytes.Buffer) {
	if len(r.Data.Texts) == 0 {
		return
	}
	b.WriteString("| text | held-out windows | loss before | loss after |\n|---|---:|---:|---:|\n")
	for i, t := range r.Data.Texts {
		fmt.Fprintf(b, "| %s | %d | %.4f | %.4f |\n", t.Name, t.HeldOut, r.Dense.HeldOutLosses[i].Loss, r.Final.HeldOutLosses[i].Loss)
	}
	b.WriteString("\n")
}

func (r *Report) cardShots(b *bytes.Buffer) {
	b.WriteString("## Shots\n\nLosses are means on the held-out windows in nats per token; the predicted increase is the quadratic model's.\n\n")
	b.WriteString("| shot | target | removed | of the whole model | threshold | loss before | loss after | increase | predicted | time |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, s := range r.Shots {
		predicted, threshold := "–", "–"
		if s.PredictedIncrease != nil {
			predicted = fmt.Sprintf("%.4f", *s.PredictedIncrease)
		}
		if s.Threshold != nil {
			threshold = fmt.Sprintf("%.3g", *s.Threshold)
		}
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %.4f | %.4f | %.4f | %s | %s |\n", s.Number, Percent(s.Target), Percent(s.Reached),
			Percent(s.Reduction), threshold, s.LossBefore, s.LossAfter, s.LossAfter-s.LossBefore, predicted, duration(s.TotalSeconds()))
	}
	b.WriteString("\n")
	notes := 0
	corrected := func(when string, l *LoraRound) {
		if l != nil {
			fmt.Fprintf(b, "- %s: low-rank corrections (%d windows, epochs: %d) brought the loss from %.4f to %.4f.\n", when, l.Windows, l.Epochs, l.LossBefore, l.LossAfter)
			notes++
		}
	}
	for _, s := range r.Shots {
		corrected(fmt.Sprintf("Shot %d", s.Number), s.Lora)
		if s.Warning != "" {
			fmt.Fprintf(b, "- Shot %d: %s\n", s.Number, line(s.Warning))
			notes++
		}
		for _, d := range s.DampingsRaised {
			fmt.Fprintf(b, "- Shot %d: the damping of the factor %s of %s had to be raised to %g times its mean diagonal.\n", s.Number, line(d.Side), line(d.Layer), d.Share)
			notes++
		}
	}
	corrected("After the last shot", r.Final.Lora)
	last := len(r.Shots) - 1
	if last >= 0 && r.Final.Sparsity > r.Shots[last].Reached {
		fmt.Fprintf(b, "- After the last shot another %s of the weights went, which computed nothing any more.\n", Percent(r.Final.Sparsity-r.Shots[last].Reached))
		notes++
	}
	if last >= 0 && r.Final.Lora == nil && fmt.Sprintf("%.4f", r.Final.HeldOutLoss) != fmt.Sprintf("%.4f", r.Shots[last].LossAfter) {
		fmt.Fprintf(b, "- As it is written, with weights rounded to their type in the file, the model has a loss of %.4f.\n", r.Final.HeldOutLoss)
		notes++
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(b, "- %s\n", line(w))
		notes++
	}
	if notes > 0 {
		b.WriteString("\n")
	}
}

func (r *Report) cardData(b *bytes.Buffer) {
	fmt.Fprintf(b, "## Data\n\nCalibrated on %s of %d tokens, drawn from %s tokens of\n\n", Counted(r.Data.Windows, "window"), r.Data.Length, thousands(r.Data.Tokens))
	for _, f := range r.Data.Files {
		of := ""
		if f.Text != "" {
			of = f.Text + ": "
		}
		fmt.Fprintf(b, "- %s`%s`, %s bytes, SHA-256 `%s`\n", of, line(f.Name), thousands(f.Bytes), line(f.SHA256))
	}
	b.WriteString("\n")
}

func (r *Report) cardMaking(b *bytes.Buffer) {
	b.WriteString("## How it was made\n\n")
	fmt.Fprintf(b, "```sh\n%s\n```\n\n", ShellWords(r.Command))
	commit := ""
	if r.Program.Commit != "" {
		commit = ", commit " + line(r.Program.Commit)
		if r.Program.Modified {
			commit += " with changes"
		}
	}
	tags := ""
	if r.Program.Tags != "" {
		tags = ", built with -tags " + line(r.Program.Tags)
	}
	fmt.Fprintf(b, "- Program: Surgeon %s%s, %s%s\n", line(r.Program.Version), commit, line(r.Program.Go), tags)
	cpu := line(r.Machine.CPU)
	if cpu == "" {
		cpu = "unknown processor"
	}
	fmt.Fprintf(b, "- Machine: %s, %s, %d cores", line(r.Machine.OS), cpu, r.Machine.Cores)
	if r.Machine.MemoryBytes > 0 {
		fmt.Fprintf(b, ", %s of memory", Gibibytes(r.Machine.MemoryBytes))
	}
	fmt.Fprintf(b, "; device %s\n", line(r.Machine.Device))
	if r.PeakResidentBytes > 0 || r.PeakDeviceBytes > 0 {
		fmt.Fprintf(b, "- Memory at most: %s of the process, %s of tensors on the device (planned: %s)\n",
			known(r.PeakResidentBytes), known(r.PeakDeviceBytes), known(r.PlannedDeviceBytes))
	}
	if r.GPU != nil && r.GPU.Samples > 0 {
		fmt.Fprintf(b, "- GPU: driver %s, CUDA %s; %s\n", line(r.GPU.Driver), line(r.GPU.CUDA), line(r.GPU.During()))
	}
	var seeds []string
	for name, seed := range r.Seeds {
		seeds = append(seeds, fmt.Sprintf("%s %d", line(name), seed))
	}
	if slices.Sort(seeds); len(seeds) > 0 {
		fmt.Fprintf(b, "- Seeds: %s\n", strings.Join(seeds, ", "))
	}
	for _, n := range r.ResumedFrom {
		fmt.Fprintf(b, "- The run was stopped and taken up again after shot %d\n", n)
	}
	b.WriteString("\nAll figures, with every option, are in `report.json`.\n")
}

// modelName is the last part of a path: what people call the model.
func modelName(path string) string {
	name := filepath.Base(path)
	return strings.TrimSuffix(name, ".gguf")
}

// Percent is a share for people.
func Percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

func duration(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// Gibibytes is an amount of memory for people.
func Gibibytes(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }

func known(bytes int64) string {
	if bytes <= 0 {
		return "an unknown amount"
	}
	return Gibibytes(bytes)
}

// thousands writes 1234567 as 1 234 567.
func thousands(n int64) string {
	digits := fmt.Sprint(n)
	var parts []string
	for len(digits) > 3 && digits[len(digits)-4] != '-' {
		parts = append(parts, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	parts = append(parts, digits)
	slices.Reverse(parts)
	return strings.Join(parts, " ")
}

// line keeps text from a path or a file from breaking out of its line or its code marks.
func line(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "`", "'")), " ")
}

// cell is line inside a table.
func cell(s string) string { return strings.ReplaceAll(line(s), "|", `\|`) }

// quoted is a YAML string; every JSON string is one.
func quoted(s string) string {
	b, _ := json.Marshal(s) // a string always marshals
	return string(b)
}

// ShellWords writes a command such that a shell reads the same words: those that it would take apart are in quotes.
func ShellWords(words []string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=:,+@%", r)
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; w == "" || strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
			quoted[i] = ShellQuote(w)
		}
	}
	return strings.Join(quoted, " ")
}

// ShellQuote is a word in single quotes, for sh, bash and zsh.
func ShellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Counted is a number of things, in words: "1 window", "2 windows".
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

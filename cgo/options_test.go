package cuda

import (
	"strings"
	"testing"
)

// What would be caught: a library that had no memory of its own, after which nothing is said of what gives it more; and that advice
// after a failure that has nothing to do with memory.
func TestAdviceOfAFailure(t *testing.T) {
	for code, memory := range map[int]bool{2: true, 10003: true, 20002: true, 3: false, 719: false, 10013: false, 20006: false} {
		said := (&Failure{Device: "cuda:0", Op: "Gemm", Code: code, Text: "no"}).Error()
		if strings.Contains(said, "again with a lower --gpu-memory, which leaves the libraries more, to go on") != memory || !strings.Contains(said, "after the last complete shot") {
			t.Errorf("code %d: %s", code, said)
		}
	}
	if said := (&Failure{Device: "cuda:0", Op: "Linear", Code: 30000, Text: "no"}).Error(); said != "cuda:0: Linear failed: no (code 30000); with --precision float32 it is not needed" {
		t.Error(said)
	}
}

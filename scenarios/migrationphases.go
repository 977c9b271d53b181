package scenarios

import (
	"bytes"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
)

// phasesCSV are the phases of a migration in the order of their beginnings, in
// seconds from the same zero as the answers of users. The VM stands in "pause";
// "rest" are pages that come after that. One that was given up has no phase after
// "memory".
func phasesCSV(m *moved, zero event.Mono) []byte {
	var b bytes.Buffer
	b.WriteString("phase,from_s,to_s\n")
	row := func(phase string, from, to event.Mono) {
		fmt.Fprintf(&b, "%s,%.6f,%.6f\n", phase, from.Sub(zero).Seconds(), to.Sub(zero).Seconds())
	}
	row(phaseJoin, m.requested, m.joined)
	if d := m.disk; d != nil {
		row(phaseDisk, d.Began, d.InStep)
		row(phaseSync, d.InStep, d.Settled)
	}
	if m.diverged {
		row(phaseMemory, m.Began, m.Done)
		return b.Bytes()
	}
	row(phaseMemory, m.Began, m.PausedAt)
	row("pause", m.PausedAt, m.ResumedAt)
	row(phaseHandover, m.PausedAt, m.reached)
	if m.Done > m.ResumedAt {
		row("rest", m.ResumedAt, m.Done)
	}
	return b.Bytes()
}

package scenarios

import (
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
)

// recordedFlows bounds the evidence of a train: the whole is in its counts.
const recordedFlows = 2

// record gathers the marks of a train while it runs.
type record struct{ marks []mark }

type mark struct {
	name string
	at   event.Mono
}

func (r *record) mark(name string, at event.Mono) { r.marks = append(r.marks, mark{name, at}) }

// train is the evidence in the form that is stored: the marks, the probes of
// the first flows, and of the others those that lost any.
func (r *record) train(res *traffic.TrainResult) metrics.Train {
	var out metrics.Train
	since := func(t event.Mono) float64 { return t.Sub(res.Start).Seconds() }
	for i, f := range res.Flows {
		if i >= recordedFlows && f.Lost == 0 {
			continue
		}
		res.Each(i, func(_ uint64, sent event.Mono, ok bool) {
			out.Probes = append(out.Probes, metrics.TrainProbe{T: since(sent), From: f.From, To: f.To, OK: ok})
		})
	}
	slices.SortStableFunc(r.marks, func(a, b mark) int { return int(a.at - b.at) })
	for _, m := range r.marks {
		out.Marks = append(out.Marks, metrics.TrainMark{T: since(m.at), Name: m.name})
	}
	return out
}

// ofCircuit counts, of a CE's differences, those that came with the circuit:
// its interface, its link address and the default route over it.
func ofCircuit(changed []string) (n int) {
	for _, line := range changed {
		if strings.HasPrefix(line, "+ ") && (strings.Contains(line, " interface wan:") || strings.Contains(line, " wan:") || strings.HasSuffix(line, " dev wan")) {
			n++
		}
	}
	return n
}

// ofMachine tells that an entry is one of a machine's.
func ofMachine(key, machine string) bool { return strings.HasPrefix(key, machine+" ") }

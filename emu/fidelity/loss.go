package fidelity

import (
	"context"
	"fmt"
	"math"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

var testedLosses = []topo.Percent{0.1, 1, 10}

const (
	perLoss   = 20   // packets for each that a loss makes one expect: n >= 20/p
	leastSent = 2000 // on links that lose much
	// Intervals of these probabilities to miss the truth: outside of the first
	// is a warning, outside of the second is void.
	warnAlpha, voidAlpha = 0.05, 0.001
)

// losses is F4. Bursts of loss (Gilbert 1960) cannot be asked for in a
// scenario; what is measured are losses of each packet on its own.
func (r *run) losses(ctx context.Context, b *bench) error {
	for _, p := range testedLosses {
		link := topo.Impairment{Loss: p}
		n := max(int(math.Ceil(perLoss/(float64(p)/100))), leastSent)
		r.say("F4", b, fmt.Sprintf("loss of %v", p))
		l, err := b.lay(ctx, []topo.Impairment{link}, n+100, true)
		if err != nil {
			return fmt.Errorf("F4: %w", err)
		}
		ways, err := l.salvo(ctx, n, 0, markLen)
		l.close()
		if err != nil {
			return fmt.Errorf("F4: %w", err)
		}
		r.add(judgeLoss(b.system, p, ways[0]))
	}
	return nil
}

// judgeLoss holds losses against the exact interval of their probability, and
// the number of runs of losses against that of independent ones.
func judgeLoss(system string, p topo.Percent, way []passage) metrics.Calibrated {
	n, lost, bursts := 0, 0, 0
	before := false
	for _, w := range way {
		if w.in == 0 {
			continue // it never came to the link
		}
		n++
		gone := w.out == 0
		if gone {
			lost++
			if !before {
				bursts++
			}
		}
		before = gone
	}
	out := metrics.Calibrated{Test: "F4", System: system, What: "loss", Set: p.String(), N: n, Bar: 1, Unit: "half-widths of the exact 95 % interval"}
	want := float64(p) / 100
	lo, hi := clopperPearson(lost, n, warnAlpha)
	out.Measured = fmt.Sprintf("%d lost: %.3f%%, 95%% interval %.3f to %.3f%%, in %d runs", lost, 100*float64(lost)/float64(n), 100*lo, 100*hi, bursts)
	out.Values = map[string]float64{"set": want, "lost": float64(lost), "sent": float64(n), "low": lo, "high": hi, "runs": float64(bursts), "runs_expected": float64(n) * want * (1 - want)}
	out.Error = math.Abs(want-(lo+hi)/2) / ((hi - lo) / 2)
	switch vlo, vhi := clopperPearson(lost, n, voidAlpha); {
	case want >= lo && want <= hi:
		out.Grade = metrics.FidelityPass
	case want >= vlo && want <= vhi:
		out.Grade, out.Note = metrics.FidelityWarn, "one run in twenty is outside by chance"
	default:
		out.Grade = metrics.FidelityVoid
	}
	return out
}

package fidelity

import (
	"fmt"
	"math"
	"slices"

	"github.com/vpclab/vpclab/metrics"
)

// F12 is that the same links are the same in another boot of the kernel. The
// test that it stands for, one scenario in one kernel and divided among two,
// cannot be made while links do not go from kernel to kernel.

// compared are the tests that are done in both boots.
var compared = []string{"F2", "F3"}

// WantsTwice says whether a request asks for F12.
func WantsTwice(q Request) bool { return len(q.Only) == 0 || slices.Contains(q.Only, twice) }

// Again is the request for the second boot: what F12 compares, briefly.
func Again(q Request) Request {
	return Request{Only: compared, Quick: true, From: 10e6, UpTo: min(q.UpTo, 100e6)}
}

// NotTwice is F12 where it cannot be done.
func NotTwice(why string) metrics.Calibrated {
	return metrics.Calibrated{Test: twice, System: systemVPCLab, What: "same links in two boots", Grade: metrics.FidelityNone, Note: why}
}

// Twice is F12: what was measured in both boots, in units of the bar that it
// is held against: two boots that are both within the bar differ by two at
// most, and the bar of the difference is one.
func Twice(first, second *metrics.Calibration) (all []metrics.Calibrated) {
	for _, test := range compared {
		out := metrics.Calibrated{Test: twice, System: systemVPCLab, What: test + " in two boots", Bar: 1, Unit: "bars of " + test}
		measured := ""
		for _, b := range second.Results {
			i := slices.IndexFunc(first.Results, func(a metrics.Calibrated) bool {
				return a.Test == test && b.Test == test && a.System == b.System && a.What == b.What && a.Set == b.Set
			})
			if i < 0 || b.Bar == 0 {
				continue
			}
			a := first.Results[i]
			x, y, known := both(a, b)
			if !known {
				continue
			}
			off := math.Abs(x-y) / b.Bar
			if out.N++; off >= out.Error || math.IsNaN(off) {
				out.Error = off
				measured = fmt.Sprintf("farthest apart: %s %s, %.4g and %.4g %s", b.What, b.Set, x, y, b.Unit)
			}
		}
		if out.N == 0 {
			out.Grade, out.Note = metrics.FidelityNone, test+" was not measured in both boots"
			all = append(all, out)
			continue
		}
		out.Set = fmt.Sprintf("%d links", out.N)
		out.Measured = measured
		all = append(all, out.Judge())
	}
	return all
}

// both are the values of two measurements of one thing, in the bar's unit.
func both(a, b metrics.Calibrated) (x, y float64, known bool) {
	for _, name := range []string{"error_percent", "bias_percent", "mean_ms"} {
		x, ok := a.Values[name]
		y, too := b.Values[name]
		if ok && too {
			return x, y, true
		}
	}
	return 0, 0, false
}

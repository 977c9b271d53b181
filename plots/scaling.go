package plots

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

func makeSetupVsSites(d *data) (*page, string, error)   { return makeScaling(d, "sites", "sites") }
func makeSetupVsTenants(d *data) (*page, string, error) { return makeScaling(d, "tenants", "tenants") }

// scalingLines are the lines of a set-up time figure.
var scalingLines = []struct {
	metric, system, name string
	look                 look
}{
	{"setup.first_packet", "vpn", "VPN, first packet", vpnLook},
	{"setup.programmed", "vpn", "VPN, programmed", vpnSecond},
	{"setup.first_packet", "firewall", "firewall, first packet", firewallLook},
	{"setup.programmed", "firewall", "firewall, programmed", firewallSecond},
	{"setup.first_packet", "firewall-sets", "firewall with sets, first packet", setsLook},
}

// makeScaling draws set-up time against one parameter, the others held.
func makeScaling(d *data, key, axis string) (*page, string, error) {
	experiments := d.experiments("setup.first_packet", "setup.programmed")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of setup.first_packet or setup.programmed: no vpc-setup experiment has finished a trial")
	}
	rows := func(e string) []metrics.PointSummary {
		return slices.Concat(d.of(e, "setup.first_packet"), d.of(e, "setup.programmed"))
	}
	exp := best(experiments, func(e string) int { return len(chooseSlice(rows(e), key)) })
	slice := chooseSlice(rows(exp), key)
	xs := valuesOf(slice, key)
	if len(xs) < 2 {
		return nil, "", missingf("%s has %s: a line needs two values or more (vary: {%s: […]})", axis, oneOrNo(len(xs)), key)
	}
	var lines []series
	for _, l := range scalingLines {
		s := series{name: l.name, look: l.look, lines: true}
		for _, r := range slice {
			if x, ok := numeric(r, key); ok && r.Metric == l.metric && r.Labels["system"] == l.system {
				s.pts = append(s.pts, seriesPoint{x: x, sum: r.Summary})
			}
		}
		if len(s.pts) > 0 {
			slices.SortFunc(s.pts, func(a, b seriesPoint) int { return int(math.Copysign(1, a.x-b.x)) })
			lines = append(lines, s)
		}
	}
	if len(lines) == 0 {
		return nil, "", missingf("the samples of setup.* have no label system=vpn, firewall or firewall-sets")
	}
	others := point(slice[0])
	delete(others, key)
	held := describe(others, slices.SortedFunc(maps.Keys(others), compareKeys))
	pg := scalingPage(lines, slice, xs, axis, "time since the request")
	pg.subtitle = []string{
		fmt.Sprintf("Median; %s; %s a point.", spreadText(slice), nText(slice)),
		sentence(held), d.kernelText(),
	}
	caption := fmt.Sprintf("Time from the request until the first packet came through, and until the last router was programmed, against %s, for the VPN and for per-VM firewall rules (and rules with sets) that give the same isolation. Median over trials; %s; %s a point. %s %s",
		axis, spreadText(slice), nText(slice), sentence(held), d.kernelText())
	return pg, caption + d.whichText(exp, experiments), nil
}

func oneOrNo(n int) string {
	if n == 1 {
		return "one value in this run"
	}
	return "no value in this run"
}

// chooseSlice holds all parameters but key: of the ways to hold them, the one
// with the most values of key, then the smallest lab.
func chooseSlice(rows []metrics.PointSummary, key string) []metrics.PointSummary {
	slicesOf := map[string][]metrics.PointSummary{}
	for _, r := range rows {
		if _, ok := numeric(r, key); !ok {
			continue
		}
		rest := point(r)
		delete(rest, key)
		slicesOf[metrics.PointText(rest)] = append(slicesOf[metrics.PointText(rest)], r)
	}
	var chosen []metrics.PointSummary
	names := slices.SortedFunc(maps.Keys(slicesOf), func(a, b string) int {
		pa, pb := point(slicesOf[a][0]), point(slicesOf[b][0])
		delete(pa, key)
		delete(pb, key)
		return metrics.ComparePoints(pa, pb)
	})
	for _, n := range names {
		if len(valuesOf(slicesOf[n], key)) > len(valuesOf(chosen, key)) {
			chosen = slicesOf[n]
		}
	}
	return chosen
}

// valuesOf are the distinct values of a numeric label, in order.
func valuesOf(rows []metrics.PointSummary, key string) []float64 {
	seen := map[float64]bool{}
	for _, r := range rows {
		if v, ok := numeric(r, key); ok {
			seen[v] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// scalingPage draws lines of times over sizes.
func scalingPage(lines []series, rows []metrics.PointSummary, xs []float64, axis, what string) *page {
	scale, unit := secondsOrMillis(rows)
	lo, hi := math.Inf(1), 0.0
	for i := range lines {
		lines[i].dodge = vg.Length(float64(i)-float64(len(lines)-1)/2) * 2.4
		for j := range lines[i].pts {
			s := scaled(lines[i].pts[j].sum, scale)
			lines[i].pts[j].sum = s
			l, h, _ := spread(s)
			lo, hi = math.Min(lo, l), math.Max(hi, h)
		}
	}
	pg := &page{width: columnWidth, bodyHeight: 2.1 * vg.Inch}
	for _, s := range lines {
		pg.legend = append(pg.legend, entry{s.name, s.thumb})
	}
	pg.body = func(c draw.Canvas) {
		p := newPlot(grid{x: true, y: true})
		setSizeAxis(&p.X, xs)
		if lo > 0 && hi/lo > 30 {
			setLogAxis(&p.Y, lo, hi)
		} else {
			p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, hi*1.05, linearTicks{}
		}
		for _, s := range lines {
			p.Add(s)
		}
		paint(c, p, axis, what+" ("+unit+")")
	}
	return pg
}

// setSizeAxis is an axis over measured sizes: ticks at the sizes themselves,
// logarithmic where they spread over a factor of 8 or more.
func setSizeAxis(a *plot.Axis, xs []float64) {
	lo, hi := xs[0], xs[len(xs)-1]
	if hi/lo >= 8 {
		a.Scale = plot.LogScale{}
		pad := math.Pow(hi/lo, 0.07)
		a.Min, a.Max = lo/pad, hi*pad
	} else {
		pad := math.Max((hi-lo)*0.07, lo*0.1) // one size alone needs room too
		a.Min, a.Max = lo-pad, hi+pad
	}
	a.Tick.Marker = atValues(a, xs, 0.08)
}

// setLogAxis is a logarithmic axis with room at both ends.
func setLogAxis(a *plot.Axis, lo, hi float64) {
	pad := math.Max(1.15, math.Pow(hi/lo, 0.05))
	a.Scale = plot.LogScale{}
	a.Min, a.Max = lo/pad, hi*pad
	a.Tick.Marker = logTicks{}
}

package plots

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// ruleLines are the lines of the rules figure.
var ruleLines = []struct {
	system, kind, name string
	look               look
}{
	{"vpn", "config", "VPN, configuration lines", vpnLook},
	{"vpn", "state", "VPN, forwarding state", vpnSecond},
	{"firewall", "config", "firewall rules", firewallLook},
	{"firewall", "state", "firewall, kernel state", firewallSecond},
	{"firewall-sets", "config", "firewall rules with sets", setsLook},
	{"firewall-sets", "state", "with sets, kernel state", setsSecond},
}

// makeRules draws how much must be configured, and kept in the kernels, to
// isolate a growing number of VMs.
func makeRules(d *data) (*page, string, error) {
	experiments := d.experiments("rules")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of rules")
	}
	exp := best(experiments, func(e string) int { return len(vmCounts(d.of(e, "rules"))) })
	rows := d.of(exp, "rules")
	xs := vmCounts(rows)
	switch len(xs) {
	case 0:
		return nil, "", missingf("the samples of rules do not say the size of the lab (labels sites, machines and tenants, or vms)")
	case 1:
		return nil, "", missingf("all labs of this run have %g VMs: growth needs two sizes or more", xs[0])
	}
	var lines []series
	var used []metrics.PointSummary
	for _, l := range ruleLines {
		s := series{name: l.name, look: l.look}
		for _, r := range rows {
			x, ok := vms(r)
			if ok && r.Median > 0 && r.Labels["system"] == l.system && r.Labels["kind"] == l.kind {
				s.pts = append(s.pts, seriesPoint{x, r.Summary, r.Labels["tenants"]})
				used = append(used, r)
			}
		}
		if len(s.pts) == 0 || len(lines) > 0 && l.kind == "state" && samePoints(lines[len(lines)-1].pts, s.pts) {
			continue // nothing to see, or the kernel keeps just what was configured
		}
		slices.SortFunc(s.pts, func(a, b seriesPoint) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.x, b.x)) })
		s.lines = distinctX(s.pts)
		lines = append(lines, s)
	}
	if len(lines) == 0 {
		return nil, "", missingf("the samples of rules have no labels system=vpn|firewall|firewall-sets and kind=config|state, or are all zero")
	}
	pg := rulesPage(lines, xs)
	what := fmt.Sprintf("Median; %s; %s a point.", spreadText(used), nText(used))
	guides := "Grey: growth as n and as n²."
	if slices.ContainsFunc(lines, func(s series) bool { return s.lines && s.pts[0].line != s.pts[len(s.pts)-1].line }) {
		guides = "A line joins labs with equally many tenants. " + guides
	}
	pg.subtitle = []string{what, guides, d.kernelText()}
	caption := fmt.Sprintf("What must be configured, and what the kernels keep, so that VMs of one tenant reach each other and nobody else, against the VMs in the lab (all tenants), on logarithmic axes. %s %sA system whose kernel keeps just what was configured has one line. Grey lines show growth in proportion to n and to n². %s", what, strings.TrimSuffix(guides, "Grey: growth as n and as n²."), d.kernelText())
	return pg, caption + d.whichText(exp, experiments), nil
}

// samePoints reports whether two lines lie on each other.
func samePoints(a, b []seriesPoint) bool {
	order := func(p, q seriesPoint) int { return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.x, q.x)) }
	b = slices.SortedFunc(slices.Values(b), order)
	return slices.EqualFunc(a, b, func(p, q seriesPoint) bool {
		return p.x == q.x && p.line == q.line && p.sum.Median == q.sum.Median
	})
}

// vmCounts are the distinct sizes of labs.
func vmCounts(rows []metrics.PointSummary) []float64 {
	var xs []float64
	for _, r := range rows {
		if x, ok := vms(r); ok && !slices.Contains(xs, x) {
			xs = append(xs, x)
		}
	}
	slices.Sort(xs)
	return xs
}

// distinctX reports whether lines may join the points: two points of a line
// with the same x are labs of different shapes.
func distinctX(pts []seriesPoint) bool {
	for i := 1; i < len(pts); i++ {
		if pts[i].x == pts[i-1].x && pts[i].line == pts[i-1].line {
			return false
		}
	}
	return true
}

func rulesPage(lines []series, xs []float64) *page {
	lo, hi := math.Inf(1), 0.0
	for _, s := range lines {
		for _, pt := range s.pts {
			lo, hi = math.Min(lo, pt.sum.Min), math.Max(hi, pt.sum.Max)
		}
	}
	lo = math.Max(lo, 0.5)
	pg := &page{width: columnWidth, bodyHeight: 2.3 * vg.Inch}
	for _, s := range lines {
		pg.legend = append(pg.legend, entry{s.name, s.thumb})
	}
	pg.body = func(c draw.Canvas) {
		p := newPlot(grid{x: true, y: true})
		p.X.Scale = plot.LogScale{}
		pad := math.Pow(xs[len(xs)-1]/xs[0], 0.07)
		p.X.Min, p.X.Max = xs[0]/pad, xs[len(xs)-1]*pad
		p.X.Tick.Marker = atValues(&p.X, xs, 0.11)
		setLogAxis(&p.Y, lo, hi)
		p.Add(guide{1, xs[0], lo, "n"}, guide{2, xs[0], lo, "n²"})
		for _, s := range lines {
			p.Add(s)
		}
		paint(c, p, "VMs in the lab", "rules or entries")
	}
	return pg
}

// guide is a line of growth as x to a power, from a point on.
type guide struct {
	power, x0, y0 float64
	name          string
}

func (g guide) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	at := func(x float64) float64 { return g.y0 * math.Pow(x/g.x0, g.power) }
	end := p.X.Max
	if at(end) > p.Y.Max { // cut where it leaves the area
		end = g.x0 * math.Pow(p.Y.Max/g.y0, 1/g.power)
	}
	c.StrokeLine2(draw.LineStyle{Color: grey, Width: thinLine, Dashes: []vg.Length{1, 2}}, tx(g.x0), ty(at(g.x0)), tx(end), ty(at(end)))
	sty := textStyle(textSize, subtleInk)
	sty.XAlign = draw.XRight
	label := vg.Point{X: tx(end) - 3, Y: ty(at(end)) - 1}
	if end < p.X.Max { // it ended at the top: beside it, below the edge
		sty.XAlign, sty.YAlign = draw.XLeft, draw.YTop
		label = vg.Point{X: tx(end) - 1, Y: ty(at(end)) - 1}
	} else {
		sty.YAlign = draw.YTop
		label.Y -= 3
	}
	c.FillText(sty, label, g.name)
}

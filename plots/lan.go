package plots

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// lanSystems are what the experiment compares; of the last there is only what
// it costs.
var lanSystems = []system{
	{"vpls", "VPLS", look{color: blue, marker: filledCircle}},
	{"l3vpn", "L3VPN", look{color: orange, marker: filledSquare, hatch: risingBars}},
	{"ip", "plain IP", look{color: green, marker: filledTriangle}},
}

// lanFrames are the rows of who hears what: how many there were, of how many
// a LAN would give.
var lanFrames = []struct{ got, of, kind, name string }{
	{"lan.arp_received", "lan.arp_possible", "", "ARP request, heard"},
	{"lan.arp_answered", "lan.arp_asked", "", "ARP request, answered by its owner"},
	{"lan.broadcast_received", "lan.broadcast_possible", "", "broadcast of an unknown EtherType"},
	{"lan.multicast_received", "lan.multicast_possible", "", "IPv4 multicast"},
	{"lan.nd_received", "lan.nd_possible", "", "IPv6 neighbour solicitation, heard"},
	{"lan.nd_answered", "lan.nd_asked", "", "IPv6 neighbour solicitation, answered"},
	{"lan.overheard", "lan.bystanders", "unknown", "unicast to another, MAC unknown"},
	{"lan.overheard", "lan.bystanders", "learned", "unicast to another, MAC learned"},
	{"lan.overheard", "lan.bystanders", "aged", "unicast to another, MAC aged out"},
	{"lan.overheard", "lan.bystanders", "flushed", "unicast to another, MAC flushed"},
}

// lanMoves are the rows of a VM's move.
var lanMoves = []struct{ metric, kind, name string }{
	{"lan.move_outage", "talking", "a VM that talks: packets lost for"},
	{"lan.move_outage", "announced", "a mute VM, announced: packets lost for"},
	{"lan.move_known", "announced", "a mute VM, announced: all bridges know after"},
	{"lan.move_recovery", "spoke", "unannounced: back after it speaks"},
	{"lan.move_recovery", "flushed", "unannounced: back after bridges are flushed"},
}

// makeLAN draws who hears what in a VPLS and beside it in an L3VPN, what a
// move of a VM takes, and what a frame's way costs.
func makeLAN(d *data) (*page, string, error) {
	experiments := d.experiments("lan.broadcast_received")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of lan.broadcast_received: no experiment lan has finished a trial")
	}
	exp := d.repeated(experiments, "lan.broadcast_received")[0]
	frames := d.lanFrameRows(exp)
	pg := &page{width: doubleWidth}
	for _, s := range lanSystems {
		if slices.ContainsFunc(d.rows, func(r metrics.PointSummary) bool { return r.Experiment == exp && r.Labels["system"] == s.id }) {
			pg.legend = append(pg.legend, entry{s.name, lanThumb(s.bar)})
		}
	}
	used := frames.rows()
	parts := []part{{"who receives a frame, of the machines at other sites than its sender's (overheard: of all but its addressee)", frames.height(), frames.draw}}
	if moves, rows := d.lanMoveRows(exp); moves != nil {
		parts = append(parts, part{"a VM moves to a host at another site", moves.height(), moves.draw})
		used = append(used, rows...)
		if note := d.silenceText(exp); note != "" {
			pg.footer = append(pg.footer, note)
		}
	}
	if costs, rows := d.lanCostRows(exp); costs != nil {
		parts = append(parts, part{"the way between two sites, over the same links", costs.height(), costs.draw})
		used = append(used, rows...)
	}
	whole := fmt.Sprintf("Medians; %s; %s a value.", spreadText(used), nText(used))
	checks := d.lanChecks(exp)
	pg.subtitle = []string{whole, checks, d.kernelText()}
	pg.bodyHeight, pg.body = stackParts(parts)
	caption := fmt.Sprintf("How much of a LAN a VPLS is, and beside it an L3VPN at the same sites over the same links. Above: frames sent by the first machine of each site, and how many arrived at machines of other sites, of as many as one Ethernet would have delivered; every machine was watched below IP. %s %s", whole, checks)
	if len(parts) > 1 {
		caption += " Below: a VM moves with its address and MAC. It talks with a machine at a third site all the while, and probes go both ways; or it says nothing, and probes go to it, while its new host announces it by unsolicited ARP, or nobody does. Then round trips of small probes (filled: median, open: 95th percentile of a trial) and the goodput of one TCP flow, the systems in turns within each trial; plain IP is routed by the same PE and P routers without a VPN."
	}
	return pg, caption + " " + d.kernelText() + d.whichText(exp, experiments), nil
}

// lanThumb is a bar with the marker on it: a system has both.
func lanThumb(l look) func(draw.Canvas) {
	return func(c draw.Canvas) {
		mid := c.Center().X
		box := c.Rectangle
		box.Max.X = mid
		drawBox(c, box, look{color: l.color, hatch: l.hatch})
		drawMarker(c, l, vg.Point{X: mid + 5, Y: c.Center().Y})
	}
}

// lanChecks says in words what has no bars: copies, lost and refused packets.
func (d *data) lanChecks(exp string) string {
	var said []string
	for _, s := range lanSystems {
		mtu, duplicates := d.of(exp, "lan.mtu", "system", s.id), d.of(exp, "lan.duplicates", "system", s.id)
		if len(mtu) == 1 && len(duplicates) == 1 {
			said = append(said, fmt.Sprintf("%s: %s, largest packet %s bytes.", s.name, count(groupDigits(math.Round(duplicates[0].Mean*float64(duplicates[0].N))), "duplicate"), groupDigits(mtu[0].Median)))
		}
	}
	return strings.Join(said, " ")
}

// silenceText says what came through after a move that nobody announced.
func (d *data) silenceText(exp string) string {
	arrived, sent := d.of(exp, "lan.silent_arrived"), d.of(exp, "lan.silent_sent")
	if len(arrived) == 0 || len(sent) == 0 {
		return ""
	}
	return fmt.Sprintf("After a move that nobody announced, until then, %s of %s probes to the VM arrived.", groupDigits(math.Round(total(arrived))), groupDigits(math.Round(total(sent))))
}

// total is the sum over all samples of rows.
func total(rows []metrics.PointSummary) (sum float64) {
	for _, r := range rows {
		sum += r.Mean * float64(r.N)
	}
	return sum
}

// lanFrameRow is one kind of frame.
type lanFrameRow struct {
	name string
	bars []lanBar
}

// lanBar is a system's bar.
type lanBar struct {
	look    look
	got, of metrics.PointSummary
}

func (d *data) lanFrameRows(exp string) (l lanFrameLayout) {
	for _, f := range lanFrames {
		row := lanFrameRow{name: f.name}
		for _, s := range lanSystems {
			labels := []string{"system", s.id}
			if f.kind != "" {
				labels = append(labels, "kind", f.kind)
			}
			got, of := d.of(exp, f.got, labels...), d.of(exp, f.of, "system", s.id)
			if len(got) == 1 && len(of) == 1 && of[0].Median > 0 {
				row.bars = append(row.bars, lanBar{s.bar, got[0], of[0]})
			}
		}
		if len(row.bars) > 0 {
			l = append(l, row)
		}
	}
	return l
}

// lanFrameLayout is a row a kind of frame, a bar a system.
type lanFrameLayout []lanFrameRow

const (
	lanBarHeight = vg.Length(7.5)
	lanRowGap    = vg.Length(5)
)

func (l lanFrameLayout) rows() (all []metrics.PointSummary) {
	for _, r := range l {
		for _, b := range r.bars {
			all = append(all, b.got)
		}
	}
	return all
}

func (r lanFrameRow) height() vg.Length {
	return max(vg.Length(len(r.bars))*(lanBarHeight+1), textSize) + lanRowGap
}

func (l lanFrameLayout) height() vg.Length {
	h := axisRoom
	for _, r := range l {
		h += r.height()
	}
	return h
}

func (l lanFrameLayout) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	y := vg.Length(0)
	var ticks plot.ConstantTicks
	for _, r := range l {
		ticks = append(ticks, plot.Tick{Value: -float64(y + r.height()/2), Label: r.name})
		y += r.height()
	}
	p.Y.Min, p.Y.Max = -float64(y), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, 118, percentTicks{}
	p.Add(l)
	paint(c, p, "received, of what one Ethernet would deliver (%)", "")
}

// percentTicks are linear ticks up to a hundred: there is nothing beyond but
// room for text.
type percentTicks struct{}

func (percentTicks) Ticks(lo, _ float64) []plot.Tick { return linearTicks{}.Ticks(lo, 100) }

// Plot draws the bars; what was counted stands beside each, since a bar of
// nothing cannot be seen.
func (l lanFrameLayout) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	top := vg.Length(0)
	for _, r := range l {
		y := ty(-float64(top)) - lanRowGap/2
		for _, b := range r.bars {
			k := 100 / b.of.Median
			lo, hi, caps := spread(scaled(b.got.Summary, k))
			end := b.got.Median * k
			drawBox(c, vg.Rectangle{Min: vg.Point{X: tx(0), Y: y - lanBarHeight}, Max: vg.Point{X: tx(end), Y: y}}, look{color: b.look.color, hatch: b.look.hatch})
			if hi > lo {
				drawLevelWhisker(c, draw.LineStyle{Color: black, Width: thinLine}, y-lanBarHeight/2, tx(lo), tx(hi), caps)
			}
			sty := textStyle(textSize, ink)
			sty.YAlign = -0.4
			c.FillText(sty, vg.Point{X: tx(math.Max(hi, end)) + 3, Y: y - lanBarHeight/2}, fmt.Sprintf("%s of %s", groupDigits(b.got.Median), groupDigits(b.of.Median)))
			y -= lanBarHeight + 1
		}
		top += r.height()
	}
}

// lanMoveRows are the times of a move; nil where no VM moved.
func (d *data) lanMoveRows(exp string) (*stageDots, []metrics.PointSummary) {
	l := &stageDots{}
	var used []metrics.PointSummary
	for _, m := range lanMoves {
		if rows := d.of(exp, m.metric, "kind", m.kind); len(rows) == 1 {
			used = append(used, rows[0])
			l.names = append(l.names, m.name)
		}
	}
	if len(used) == 0 {
		return nil, nil
	}
	scale, unit := secondsOrMillis(used)
	for _, r := range used {
		l.sums = append(l.sums, scaled(r.Summary, scale))
	}
	l.axis = "time (" + unit + ")"
	return l, used
}

// lanCostRow is what the way costs in one system.
type lanCostRow struct {
	name              string
	look              look
	median, high      metrics.Summary // of round trips
	goodput           metrics.Summary
	hasTrip, hasFlow  bool
	tripOver, flowOfP float64 // times plain IP's; 0: not known
}

// lanCostLayout is two panels that share their rows.
type lanCostLayout struct {
	rows     []lanCostRow
	tripUnit string
	flowUnit string
}

// lanCostRows are round trips and goodput by system; nil where neither was
// measured.
func (d *data) lanCostRows(exp string) (*lanCostLayout, []metrics.PointSummary) {
	trips, flows := append(d.of(exp, "lan.rtt"), d.of(exp, "lan.rtt_p95")...), d.of(exp, "lan.throughput")
	if len(trips)+len(flows) == 0 {
		return nil, nil
	}
	tripScale, tripUnit := tripScale(trips)
	flowScale, flowUnit := bitScale(flows)
	l := &lanCostLayout{tripUnit: tripUnit, flowUnit: flowUnit}
	first := func(metric, system string) (metrics.Summary, bool) {
		rows := d.of(exp, metric, "system", system)
		if len(rows) != 1 {
			return metrics.Summary{}, false
		}
		return rows[0].Summary, true
	}
	for _, s := range lanSystems {
		row := lanCostRow{name: s.name, look: look{color: s.bar.color, marker: s.bar.marker}}
		row.median, row.hasTrip = first("lan.rtt", s.id)
		row.high, _ = first("lan.rtt_p95", s.id)
		row.goodput, row.hasFlow = first("lan.throughput", s.id)
		row.median, row.high, row.goodput = scaled(row.median, tripScale), scaled(row.high, tripScale), scaled(row.goodput, flowScale)
		if r, ok := first("lan.rtt_ratio", s.id); ok {
			row.tripOver = r.Median
		}
		if r, ok := first("lan.throughput_ratio", s.id); ok {
			row.flowOfP = r.Median
		}
		if row.hasTrip || row.hasFlow {
			l.rows = append(l.rows, row)
		}
	}
	return l, append(trips, flows...)
}

// tripScale chooses a unit for round trips.
func tripScale(rows []metrics.PointSummary) (float64, string) {
	top := 0.0
	for _, r := range rows {
		top = math.Max(top, r.Median)
	}
	if top < 2e-3 {
		return 1e6, "µs"
	}
	return secondsOrMillis(rows)
}

// bitScale chooses a unit for rates.
func bitScale(rows []metrics.PointSummary) (float64, string) {
	top := 0.0
	for _, r := range rows {
		top = math.Max(top, r.Max)
	}
	if top >= 1e9 {
		return 1e-9, "Gbit/s"
	}
	return 1e-6, "Mbit/s"
}

func (l lanCostLayout) height() vg.Length { return vg.Length(len(l.rows))*flowRow + axisRoom + 4 }

func (l lanCostLayout) draw(c draw.Canvas) {
	room := vg.Length(0)
	for _, r := range l.rows {
		room = max(room, textStyle(textSize, ink).Width(r.name))
	}
	room += 8
	half := (c.Max.X - c.Min.X - room - 14) / 2
	left, right := draw.Crop(c, 0, -(half+14), 0, 0), draw.Crop(c, room+half+14, 0, 0, 0)
	l.panel(left, "round trip ("+l.tripUnit+"), open: 95th percentile", false)
	l.panel(right, "TCP goodput ("+l.flowUnit+")", true)
}

func (l lanCostLayout) panel(c draw.Canvas, axis string, flow bool) {
	p := newPlot(grid{x: true})
	top := 0.0
	var ticks plot.ConstantTicks
	for i, r := range l.rows {
		name := r.name
		if flow { // the rows are named once
			name = ""
		}
		ticks = append(ticks, plot.Tick{Value: -(float64(i) + 0.5), Label: name})
		for _, s := range r.values(flow) {
			_, hi, _ := spread(s)
			top = math.Max(top, hi)
		}
	}
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, math.Max(top, 1e-9)*1.75, linearTicks{}
	p.Y.Min, p.Y.Max = -float64(len(l.rows)), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(lanCostPlot{l, flow})
	paint(c, p, axis, "")
}

// values are those that are drawn of a row in one of the panels.
func (r lanCostRow) values(flow bool) (all []metrics.Summary) {
	switch {
	case flow && r.hasFlow:
		all = []metrics.Summary{r.goodput}
	case !flow && r.hasTrip:
		all = []metrics.Summary{r.median}
		if r.high.N > 0 {
			all = append(all, r.high)
		}
	}
	return all
}

// lanCostPlot draws one panel of a lanCostLayout.
type lanCostPlot struct {
	lanCostLayout
	flow bool
}

// Plot draws the dots: filled the median, open the 95th percentile.
func (l lanCostPlot) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for i, r := range l.rows {
		y := ty(-(float64(i) + 0.5))
		right := c.Min.X
		values := r.values(l.flow)
		for k, s := range values {
			lk := r.look
			if k == 1 {
				lk = look{color: r.look.color, marker: opened(r.look.marker)}
			}
			lo, hi, caps := spread(s)
			drawLevelWhisker(c, draw.LineStyle{Color: lk.color, Width: thinLine + 0.2}, y, tx(lo), tx(hi), caps)
			drawMarker(c, lk, vg.Point{X: tx(s.Median), Y: y})
			right = max(right, tx(hi))
		}
		if len(values) == 0 {
			continue
		}
		note, times := digits3(values[0].Median), r.tripOver
		if l.flow {
			times = r.flowOfP
		}
		if times > 0 {
			note += fmt.Sprintf(" (%s × plain)", digits3(times))
		}
		sty := textStyle(textSize, ink)
		sty.YAlign = -0.4
		c.FillText(sty, vg.Point{X: right + 5, Y: y}, note)
	}
}

// opened is the open form of a filled marker.
func opened(m marker) marker {
	switch m {
	case filledSquare:
		return openSquare
	case filledTriangle:
		return openDiamond
	}
	return openCircle
}

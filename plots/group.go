package plots

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/vpclab/vpclab/metrics"
)

// groupCosts are the columns of the figure of VMs that move together. Those of
// each VM are added up, trial by trial.
var groupCosts = []struct {
	metric, name, published string
	bytes                   bool
}{
	{"migration.payload", "memory", "migration.payload", true},
	{"migration.disk_bytes", "disk", "migration.disk_bytes", true},
	{"group.bytes", "on the wire", "migration.bytes", true},
	{"group.total", "total time (s)", "migration.total", false},
	{"group.pause", "mean pause", "migration.pause", false},
}

// makeGroup is figure 16 of CloudNet: several VMs that move at once.
func makeGroup(d *data) (*page, string, error) {
	names := []string{"group.total", "group.bytes", "group.pause", "migration.payload", "migration.disk_bytes"}
	s := d.chooseSweep([]string{"algorithm", "group"}, names, func(r metrics.PointSummary) bool {
		return r.Labels["group"] != "" && firstLeg(r.Labels["leg"]) && outBytes(r)
	})
	if len(s.of("group.total")) == 0 {
		return nil, "", missingf("no samples of group.total: no migration of several VMs has finished a trial")
	}
	vms := map[string]bool{}
	for _, r := range s.of("migration.payload") {
		vms[r.Labels["vm"]] = true
	}
	type value struct {
		sum metrics.Summary
		ok  bool
	}
	ways := slices.Compact(slices.Sorted(values(s.of("group.total"), "group")))
	var t barTable
	var used []metrics.PointSummary
	cells := map[string][]value{} // by algorithm and way, a cost each
	top := 0.0
	for _, a := range algorithmsOf(s.rows) {
		for _, way := range ways {
			for _, c := range groupCosts {
				sum, ok := d.addedUp(s.of(c.metric, "algorithm", a.id, "group", way))
				cells[a.id+way] = append(cells[a.id+way], value{sum, ok})
				if ok {
					used = append(used, metrics.PointSummary{Summary: sum})
				}
				if ok && c.bytes {
					top = max(top, sum.Max)
				}
			}
		}
	}
	k, unit := sizeUnit(top)
	short, shortUnit := secondsOrMillis(s.of("group.pause"))
	var shown []int // of groupCosts
	for i, c := range groupCosts {
		if len(s.of(c.metric)) == 0 {
			continue
		}
		shown = append(shown, i)
		switch {
		case c.bytes:
			c.name += " (" + unit + ")"
		case c.metric == "group.pause":
			c.name += " (" + shortUnit + ")"
		}
		t.columns = append(t.columns, c.name)
	}
	for _, way := range ways {
		g := barGroup{}
		if len(ways) > 1 {
			g.heading = wayText(way)
		}
		for _, a := range algorithmsOf(s.rows) {
			row, any := barRow{name: a.name, look: a.look}, false
			for _, i := range shown {
				c, v := groupCosts[i], cells[a.id+way][i]
				factor := 1.0
				switch {
				case c.bytes:
					factor = k
				case c.metric == "group.pause":
					factor = short
				}
				cell := barCell{sum: scaled(v.sum, factor), has: v.ok}
				if p, ok := Paper(Fig16, c.published, "algorithm", a.id); ok && len(vms) == 4 && way != "synchronized" && s.scale() > 0 && s.like(c.metric) {
					cell.paper, cell.hasPaper = p.At(s.scale())*factor, true
				}
				row.cells, any = append(row.cells, cell), any || v.ok
			}
			if any {
				g.rows = append(g.rows, row)
			}
		}
		t.groups = append(t.groups, g)
	}
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	who := ""
	if len(vms) > 1 {
		who = count(strconv.Itoa(len(vms)), "VM") + " at the same time."
	}
	pg := &page{width: doubleWidth, subtitle: []string{who, whole, s.heldText(), d.kernelText()}}
	text := ""
	if t.hasPaper() {
		pg.legend = []entry{paperTickLegend()}
		text = " " + paperText(s.scale(), "Ticks", Fig16) + " Its VMs have 1.7 GB of memory and 10 GB of disk each."
	}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("VMs that move at the same time over one WAN: bytes of memory, of disk and on the wire for all of them, the time from the request until the last has arrived whole, and their mean pause. Whoever sends less shares the link better. %s %s%s %s %s",
		who, whole, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "group.total"), nil
}

// like reports whether a cost of a group means what the paper's figures do:
// its time is that of memory alone, its bytes are of memory and disk.
func (s sweep) like(metric string) bool {
	_, disk := s.held["disk"]
	switch metric {
	case "group.total":
		return !disk
	case "group.bytes":
		return disk
	}
	return true
}

// wayText is how a group arrives, in words.
func wayText(way string) string {
	switch way {
	case "each":
		return "each arrives when it is ready"
	case "synchronized":
		return "all arrive together"
	}
	return way
}

// values are a label's values among rows.
func values(rows []metrics.PointSummary, label string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, r := range rows {
			if !yield(r.Labels[label]) {
				return
			}
		}
	}
}

// addedUp summarizes the sums over rows, trial by trial; trials that not all
// rows have are left out.
func (d *data) addedUp(rows []metrics.PointSummary) (metrics.Summary, bool) {
	sums, seen := map[int]float64{}, map[int]int{}
	for _, r := range rows {
		for trial, vs := range d.byTrials(r) {
			sums[trial] += vs[0]
			seen[trial]++
		}
	}
	var all []float64
	for _, trial := range slices.Sorted(maps.Keys(sums)) {
		if seen[trial] == len(rows) {
			all = append(all, sums[trial])
		}
	}
	return metrics.Summarize(all), len(all) > 0
}

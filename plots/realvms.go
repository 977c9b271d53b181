package plots

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// modeCosts are the columns of the figure of real VMs.
var modeCosts = []struct {
	metric, axis string
	labels       []string
	k            float64
}{
	{"migration.bytes", "data (MB)", []string{"direction", "out"}, 1e-6},
	{"migration.total", "total time (s)", nil, 1},
	{"migration.pause", "pause (ms)", nil, 1e3},
	{"migration.gap", "gap of users (ms)", nil, 1e3},
}

// modeAxes are the labels that tell the groups of its rows apart.
var modeAxes = []string{"workload", "rate"}

// makeRealVMs draws what each way to move a VM with a kernel of its own costs:
// our engine, the optimiser before a stock QEMU, and QEMU's own modes.
func makeRealVMs(d *data) (*page, string, error) {
	names := []string{"migration.total"}
	for _, c := range modeCosts {
		names = append(names, c.metric)
	}
	s := d.chooseSweep(append([]string{"algorithm"}, modeAxes...), names, func(r metrics.PointSummary) bool {
		return alone(r) && outBytes(r) && r.Labels["guest"] == "qemu"
	})
	t := barTable{}
	for _, c := range modeCosts {
		t.columns = append(t.columns, c.axis)
	}
	var used []metrics.PointSummary
	for _, w := range workloadsOf(s.rows) {
		for _, rate := range rateAxis.labels(s.rows) {
			g := barGroup{heading: strings.TrimPrefix(strings.Join([]string{w.name, rateText(rate)}, ", "), ", ")}
			for _, a := range algorithmsOf(s.rows) {
				row := barRow{name: a.name, look: a.look}
				any := false
				for _, c := range modeCosts {
					labels := []string{"algorithm", a.id}
					if rate != "" {
						labels = append(labels, "rate", rate)
					}
					found := workloadRows(s, c.metric, w, append(labels, c.labels...)...)
					cell := barCell{}
					if len(found) == 1 && found[0].N > 0 {
						cell.sum, cell.has, any = scaled(found[0].Summary, c.k), true, true
						used = append(used, found[0])
					}
					row.cells = append(row.cells, cell)
				}
				if any {
					g.rows = append(g.rows, row)
				}
			}
			if len(g.rows) > 0 {
				t.groups = append(t.groups, g)
			}
		}
	}
	if len(t.groups) == 0 {
		return nil, "", missingf("no migration experiment has trials of guest=qemu")
	}
	whole := fmt.Sprintf("Medians; %s; %s a bar.", spreadText(used), nText(used))
	pg := &page{width: doubleWidth, subtitle: []string{whole, s.heldText(), d.kernelText()}}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("What it costs to move a VM with a Linux kernel of its own in QEMU: by vpclab's engine and its algorithms, by an unchanged QEMU behind the WAN optimiser, and by QEMU's own modes. Data are bytes on the wire away from the source, headers included; the pause is from QEMU's STOP at the source to its RESUME at the destination; the gap is the longest time without an answer to any user. A way that did not converge in its time has no total and no pause. %s %s %s",
		whole, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// labels are the values of the axis's label among rows, by size; one that is
// not there is "".
func (a axis) labels(rows []metrics.PointSummary) []string {
	seen := map[string]float64{}
	for _, r := range rows {
		text := r.Labels[a.label]
		v, _ := a.parse(text)
		seen[text] = v
	}
	var out []string
	for text := range seen {
		out = append(out, text)
	}
	slices.SortFunc(out, func(x, y string) int {
		if seen[x] != seen[y] && seen[x] < seen[y] {
			return -1
		}
		return 1
	})
	return out
}

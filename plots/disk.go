package plots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// makeDisk is sections VI-E and VI-I of CloudNet: what of a disk is sent when
// it moves first, and when it moves back to a site that still holds what was
// there.
func makeDisk(d *data) (*page, string, error) {
	const metric = "migration.disk_bytes"
	s := d.chooseSweep([]string{"algorithm", "cache"}, []string{metric}, func(r metrics.PointSummary) bool { return r.Labels["vm"] == "" && r.Max > 0 })
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no disk has moved in a migration", metric)
	}
	delete(s.held, "disk") // it goes without saying
	rows := slices.SortedFunc(slices.Values(s.rows), func(a, b metrics.PointSummary) int {
		order := algorithmsOf(s.rows)
		index := func(r metrics.PointSummary) int {
			return slices.IndexFunc(order, func(al algorithm) bool { return al.id == r.Labels["algorithm"] })
		}
		size := func(r metrics.PointSummary) float64 { v, _ := cacheOf(r.Labels["cache"]); return v }
		return cmp.Or(cmp.Compare(tripOf(a), tripOf(b)), -cmp.Compare(index(a), index(b)), cmp.Compare(size(a), size(b)))
	})
	whole, has := firstWhole(rows)
	k, unit := sizeUnit(topOf(rows))
	t := barTable{columns: []string{"sent of the disk (" + unit + ")"}}
	if has {
		t.columns = append(t.columns, "of what a plain copy sends first (%)")
	}
	caches := map[string]bool{}
	for _, r := range rows {
		caches[r.Labels["cache"]] = true
	}
	for _, r := range rows {
		heading := tripText(tripOf(r))
		if n := len(t.groups); n == 0 || t.groups[n-1].heading != heading {
			t.groups = append(t.groups, barGroup{heading: heading})
		}
		a := algorithmOf(r.Labels["algorithm"])
		row := barRow{name: a.name, look: a.look, cells: []barCell{{sum: scaled(r.Summary, k), has: true}}}
		if len(caches) > 1 && r.Labels["cache"] != "" && a.id != baseline {
			row.name += ", cache " + r.Labels["cache"]
		}
		if a.id == baseline {
			row.name = "plain copy (Xen)"
		}
		if has {
			cell := barCell{}
			if sum, ok := d.paired(r, whole, func(v, all float64) float64 { return 100 * v / all }); ok {
				cell = barCell{sum: sum, has: true}
			}
			if p, ok := publishedDisk(r); ok {
				cell.paper, cell.hasPaper = 100*p.Value, true
			}
			row.cells = append(row.cells, cell)
		}
		g := &t.groups[len(t.groups)-1]
		g.rows = append(g.rows, row)
	}
	said := fmt.Sprintf("Median; %s; %s a bar.", spreadText(rows), nText(rows))
	pg := &page{width: doubleWidth, subtitle: []string{said, s.heldText(), d.kernelText()}}
	text := ""
	if t.hasPaper() {
		pg.legend = []entry{paperTickLegend()}
		text = fmt.Sprintf(" Ticks: %s, %s (an image of 10 GB, of which DRBD sends 6.6) and %s (a database of 45 GB after a working day); shares need no scaling. Its savings were computed from traces of the disk; here they are in the path.", PaperName, Sect6E, Sect6I)
	}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("What is sent of a VM's disk. A larger cache finds more that is repeated; a disk that comes back to where it was costs only what has changed. %s%s %s %s", said, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, metric), nil
}

// tripOf is the number of a move within a trial, from 1: of the leg out-1,
// back-1, out-2 and so on.
func tripOf(r metrics.PointSummary) int {
	way, n := "", 0
	if k, err := fmt.Sscanf(strings.Replace(r.Labels["leg"], "-", " ", 1), "%s %d", &way, &n); k != 2 || err != nil {
		return 1
	}
	if way == "back" {
		return 2 * n
	}
	return 2*n - 1
}

func tripText(n int) string {
	switch n {
	case 1:
		return "first move"
	case 2:
		return "and back"
	case 3:
		return "there again"
	}
	return fmt.Sprintf("move %d", n)
}

// cacheOf is the size of a cache: a share of the memory or disk, or bytes.
func cacheOf(v string) (float64, bool) {
	if share, ok := parseShare(v); ok {
		return share, true
	}
	return parseBytes(v)
}

// firstWhole is what the baseline sends of the disk when it first moves.
func firstWhole(rows []metrics.PointSummary) (metrics.PointSummary, bool) {
	for _, r := range rows {
		if r.Labels["algorithm"] == baseline && tripOf(r) == 1 && r.Median > 0 {
			return r, true
		}
	}
	return metrics.PointSummary{}, false
}

// usualCache is the one that samples without the label have.
const usualCache = "10%"

// publishedDisk is the value that a row is like.
func publishedDisk(r metrics.PointSummary) (Published, bool) {
	if tripOf(r) > 1 {
		return Paper(Sect6I, "disk.share", "algorithm", r.Labels["algorithm"])
	}
	if r.Labels["algorithm"] == baseline {
		return Paper(Sect6E, "disk.share", "algorithm", baseline)
	}
	return Paper(Sect6E, "disk.share", "algorithm", r.Labels["algorithm"], "cache", cmp.Or(r.Labels["cache"], usualCache))
}

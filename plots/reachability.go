package plots

import (
	"cmp"
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// Cells of a metrics.Matrix.
const (
	cellSelf    = '.'
	cellReached = 'A'
	cellFailed  = 'a'
	cellBlocked = 'f'
	cellLeak    = 'L'
	cellTwin    = '=' // the sender's own address: cannot be asked
)

var cellColors = map[byte]color.Color{
	cellSelf: midGrey, cellReached: blue, cellFailed: yellow, cellBlocked: paleGrey, cellLeak: vermillion, cellTwin: color.White,
}

// matrixFile is a stored matrix and the trial that it is the evidence of.
type matrixFile struct {
	metrics.Matrix
	record metrics.TrialRecord
	name   string
	counts map[byte]int
}

// makeReachability draws one matrix of the run: the worst if any has a leak
// or a failure, else the largest.
func makeReachability(d *data) (*page, string, error) {
	m, all, err := d.worstMatrix()
	if err != nil {
		return nil, "", err
	}
	m.sortByTenant()
	n := len(m.Endpoints)
	tenants := m.blocks()
	side := 2.9 * vg.Inch
	layout := matrixLayout{m: m, blocks: tenants}
	layout.measure(side)
	pg := &page{width: columnWidth, bodyHeight: layout.cells + layout.bottom, body: layout.draw}
	pg.legend = []entry{
		{fmt.Sprintf("allowed, reached: %s", groupDigits(float64(m.counts[cellReached]))), cellThumb(cellReached)},
		{fmt.Sprintf("forbidden, blocked: %s", groupDigits(float64(m.counts[cellBlocked]))), cellThumb(cellBlocked)},
		{fmt.Sprintf("leak: %s", groupDigits(float64(m.counts[cellLeak]))), cellThumb(cellLeak)},
		{fmt.Sprintf("failure: %s", groupDigits(float64(m.counts[cellFailed]))), cellThumb(cellFailed)},
		{"itself", cellThumb(cellSelf)},
	}
	if twins := m.counts[cellTwin]; twins > 0 {
		pg.legend = append(pg.legend, entry{fmt.Sprintf("same address: %s", groupDigits(float64(twins))), cellThumb(cellTwin)})
	}
	trial := m.system() + ", " + trialText(m.record)
	what := fmt.Sprintf("%s, %s, %s ordered pairs probed (n = 1 trial: %s).", count(fmt.Sprint(n), "machine"), count(fmt.Sprint(len(tenants)), "tenant"),
		groupDigits(float64(n*(n-1)-m.counts[cellTwin])), trial)
	pg.subtitle = []string{what, d.kernelText()}
	caption := fmt.Sprintf("Who reaches whom: rows send, columns receive, machines grouped by tenant. A leak is a pair that must not reach and does; a failure is one that must and does not. %s It is one of the %d matrices of this run, which together have %d leaks and %d failures. %s",
		what, all.files, all.leaks, all.failures, d.kernelText())
	return pg, caption, nil
}

// system is whose matrix it is, from the file's name: matrix.json is the
// VPN's, matrix-<system>.json another's.
func (m *matrixFile) system() string {
	id := strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(m.name, "matrix"), ".json"), "-")
	if id == "" {
		id = "vpn"
	}
	for _, s := range systems {
		if s.id == id {
			return s.name
		}
	}
	return id
}

// matrixTotals are over all matrices of a run.
type matrixTotals struct{ files, leaks, failures int }

// worstMatrix reads all matrices of good trials.
func (d *data) worstMatrix() (*matrixFile, matrixTotals, error) {
	var worst *matrixFile
	var all matrixTotals
	dirs, records := d.store.TrialDirs("")
	for i, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(strings.NewReplacer("[", `\[`, "*", `\*`, "?", `\?`).Replace(dir), "*matrix*.json"))
		if err != nil {
			return nil, all, err
		}
		slices.SortFunc(names, func(a, b string) int { // the VPN's first: matrix.json
			return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
		})
		for _, name := range names {
			m, err := readMatrix(name)
			if err != nil {
				return nil, all, err
			}
			m.record = records[i]
			all.files++
			all.leaks += m.counts[cellLeak]
			all.failures += m.counts[cellFailed]
			if worst == nil || m.worseThan(worst) {
				worst = m
			}
		}
	}
	if worst == nil {
		return nil, all, missingf("no trial has a matrix.json")
	}
	return worst, all, nil
}

func readMatrix(name string) (*matrixFile, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	m := &matrixFile{name: filepath.Base(name), counts: map[byte]int{}}
	if err := json.Unmarshal(raw, &m.Matrix); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(m.Cells) != len(m.Endpoints) || len(m.Endpoints) == 0 {
		return nil, fmt.Errorf("%s: %d rows for %d endpoints", name, len(m.Cells), len(m.Endpoints))
	}
	for i, row := range m.Cells {
		if len(row) != len(m.Endpoints) {
			return nil, fmt.Errorf("%s: row %d has %d cells for %d endpoints", name, i, len(row), len(m.Endpoints))
		}
		for j := range len(row) {
			if _, ok := cellColors[row[j]]; !ok {
				return nil, fmt.Errorf("%s: row %d: unknown cell %q", name, i, row[j])
			}
			m.counts[row[j]]++
		}
	}
	return m, nil
}

func (m *matrixFile) worseThan(o *matrixFile) bool {
	return cmp.Or(
		cmp.Compare(m.counts[cellLeak], o.counts[cellLeak]),
		cmp.Compare(m.counts[cellFailed], o.counts[cellFailed]),
		cmp.Compare(len(m.Endpoints), len(o.Endpoints)),
	) > 0
}

// sortByTenant puts machines of one tenant together, sites and names in
// their order within it.
func (m *matrixFile) sortByTenant() {
	order := make([]int, len(m.Endpoints))
	firstSeen := map[string]int{}
	for i, e := range m.Endpoints {
		order[i] = i
		if _, ok := firstSeen[e.VPC]; !ok {
			firstSeen[e.VPC] = i
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		ea, eb := m.Endpoints[a], m.Endpoints[b]
		return cmp.Compare(firstSeen[ea.VPC], firstSeen[eb.VPC])
	})
	endpoints := make([]metrics.MatrixEndpoint, len(order))
	cells := make([]string, len(order))
	for i, from := range order {
		endpoints[i] = m.Endpoints[from]
		row := make([]byte, len(order))
		for j, to := range order {
			row[j] = m.Cells[from][to]
		}
		cells[i] = string(row)
	}
	m.Endpoints, m.Cells = endpoints, cells
}

// block is the run of one tenant's machines.
type block struct {
	name     string
	from, to int
}

func (m *matrixFile) blocks() []block {
	var all []block
	for i, e := range m.Endpoints {
		if n := len(all); n > 0 && all[n-1].name == e.VPC {
			all[n-1].to = i + 1
			continue
		}
		all = append(all, block{e.VPC, i, i + 1})
	}
	return all
}

// matrixLayout places the picture and its names.
type matrixLayout struct {
	m            *matrixFile
	blocks       []block
	byMachine    bool // every machine is named; else every tenant
	left, bottom vg.Length
	cells        vg.Length // side of the square
}

// axisName is the room for "receiver" and "sender".
const axisName = labelSize + 4

func (l *matrixLayout) measure(side vg.Length) {
	n := len(l.m.Endpoints)
	l.byMachine = vg.Length(n)*lineHeight() < side
	widest := vg.Length(0)
	for _, name := range l.names() {
		widest = max(widest, textStyle(textSize, ink).Width(name.text))
	}
	widest = min(widest, 0.9*vg.Inch)
	l.left, l.bottom = widest+axisName+4, widest+axisName+4
	l.cells = columnWidth - 2*margin - l.left
}

// axisText is a name at a place along the axis, in cells.
type axisText struct {
	at   float64
	text string
}

// names are those of machines, or of tenants, or of every so many tenants
// where even those are too many.
func (l *matrixLayout) names() []axisText {
	var names []axisText
	if l.byMachine {
		for i, e := range l.m.Endpoints {
			names = append(names, axisText{float64(i) + 0.5, e.Name})
		}
		return names
	}
	for _, b := range l.blocks {
		names = append(names, axisText{float64(b.from+b.to) / 2, b.name})
	}
	return names
}

func (l *matrixLayout) draw(c draw.Canvas) {
	n := float64(len(l.m.Endpoints))
	area := vg.Rectangle{
		Min: vg.Point{X: c.Min.X + l.left, Y: c.Max.Y - l.cells},
		Max: vg.Point{X: c.Min.X + l.left + l.cells, Y: c.Max.Y},
	}
	unit := l.cells / vg.Length(n)
	place := func(row0, row1, col0, col1 int) vg.Rectangle {
		return vg.Rectangle{
			Min: vg.Point{X: area.Min.X + vg.Length(col0)*unit, Y: area.Max.Y - vg.Length(row1)*unit},
			Max: vg.Point{X: area.Min.X + vg.Length(col1)*unit, Y: area.Max.Y - vg.Length(row0)*unit},
		}
	}
	l.drawCells(c, place, unit)
	l.drawTenantLines(c, area, unit)
	l.drawNames(c, area, unit)
}

// drawCells paints runs of equal cells as one rectangle, joined over equal
// rows, and then marks each leak and failure so that it is seen even where a
// cell is smaller than a dot of ink.
func (l *matrixLayout) drawCells(c draw.Canvas, place func(r0, r1, c0, c1 int) vg.Rectangle, unit vg.Length) {
	n := len(l.m.Endpoints)
	c.FillPolygon(paleGrey, corners(place(0, n, 0, n)))
	for _, b := range runs(l.m.Cells) {
		if b.cell != cellBlocked {
			c.FillPolygon(cellColors[b.cell], corners(place(b.row0, b.row1, b.col0, b.col1)))
		}
	}
	least := vg.Length(3.2)
	for i, row := range l.m.Cells {
		for j := range len(row) {
			r := place(i, i+1, j, j+1)
			switch row[j] {
			case cellSelf:
				if unit > 1 {
					c.FillPolygon(cellColors[cellSelf], corners(r))
				}
			case cellLeak, cellFailed:
				drawFaultCell(c, within(grow(r, least), place(0, n, 0, n)), row[j])
			}
		}
	}
}

// grow makes a rectangle at least so wide and high, about its centre.
func grow(r vg.Rectangle, least vg.Length) vg.Rectangle {
	if d := (least - (r.Max.X - r.Min.X)) / 2; d > 0 {
		r.Min.X, r.Max.X, r.Min.Y, r.Max.Y = r.Min.X-d, r.Max.X+d, r.Min.Y-d, r.Max.Y+d
	}
	return r
}

// within shifts a rectangle so that it does not stand out of another.
func within(r, area vg.Rectangle) vg.Rectangle {
	shift := vg.Point{
		X: max(area.Min.X-r.Min.X, 0) - max(r.Max.X-area.Max.X, 0),
		Y: max(area.Min.Y-r.Min.Y, 0) - max(r.Max.Y-area.Max.Y, 0),
	}
	return r.Add(shift)
}

// drawFaultCell marks a leak with a cross and a failure with a stroke.
func drawFaultCell(c draw.Canvas, r vg.Rectangle, cell byte) {
	c.FillPolygon(cellColors[cell], corners(r))
	line := draw.LineStyle{Color: black, Width: min(0.9, (r.Max.X-r.Min.X)/5)}
	c.StrokeLine2(line, r.Min.X, r.Min.Y, r.Max.X, r.Max.Y)
	if cell == cellLeak {
		c.StrokeLine2(line, r.Min.X, r.Max.Y, r.Max.X, r.Min.Y)
	}
	c.StrokeLines(draw.LineStyle{Color: black, Width: hairline}, append(corners(r), r.Min))
}

// cellRun is a rectangle of equal cells.
type cellRun struct {
	cell                   byte
	row0, row1, col0, col1 int
}

// runs covers the matrix by few rectangles. A machine's own cell counts as
// its tenant's colour here and is painted over later.
func runs(cells []string) []cellRun {
	var all []cellRun
	open := map[[3]int]int{} // cell, col0, col1 -> index in all, for runs that ended at the row above
	for i, row := range cells {
		next := map[[3]int]int{}
		for j := 0; j < len(row); {
			cell := paintedAs(row, j)
			k := j + 1
			for k < len(row) && paintedAs(row, k) == cell {
				k++
			}
			key := [3]int{int(cell), j, k}
			if at, ok := open[key]; ok {
				all[at].row1 = i + 1
				next[key] = at
			} else {
				next[key] = len(all)
				all = append(all, cellRun{cell, i, i + 1, j, k})
			}
			j = k
		}
		open = next
	}
	return all
}

// paintedAs lets a machine's own cell join its neighbours.
func paintedAs(row string, j int) byte {
	switch {
	case row[j] != cellSelf:
		return row[j]
	case j > 0 && row[j-1] == cellReached:
		return cellReached
	case j+1 < len(row):
		return row[j+1]
	case j > 0:
		return row[j-1]
	}
	return cellSelf
}

func (l *matrixLayout) drawTenantLines(c draw.Canvas, area vg.Rectangle, unit vg.Length) {
	line := draw.LineStyle{Color: ink, Width: hairline}
	if len(l.blocks) <= 40 {
		for _, b := range l.blocks[1:] {
			at := vg.Length(b.from) * unit
			c.StrokeLine2(line, area.Min.X+at, area.Min.Y, area.Min.X+at, area.Max.Y)
			c.StrokeLine2(line, area.Min.X, area.Max.Y-at, area.Max.X, area.Max.Y-at)
		}
	}
	line.Width = thinLine + 0.2
	c.StrokeLines(line, append(corners(area), area.Min))
}

func (l *matrixLayout) drawNames(c draw.Canvas, area vg.Rectangle, unit vg.Length) {
	row := textStyle(textSize, ink)
	row.XAlign, row.YAlign = draw.XRight, -0.4
	col := row
	col.Rotation = 1.5707963267948966 // upwards
	last := vg.Length(-100)
	for _, name := range l.names() {
		at := vg.Length(name.at) * unit
		if at-last < lineHeight()-0.5 {
			continue
		}
		last = at
		c.FillText(row, vg.Point{X: area.Min.X - 3, Y: area.Max.Y - at}, name.text)
		c.FillText(col, vg.Point{X: area.Min.X + at, Y: area.Min.Y - 3}, name.text)
	}
	axis := textStyle(labelSize, ink)
	axis.XAlign, axis.YAlign = draw.XCenter, draw.YBottom
	c.FillText(axis, vg.Point{X: (area.Min.X + area.Max.X) / 2, Y: c.Min.Y + 1}, "receiver")
	axis.Rotation, axis.YAlign = 1.5707963267948966, draw.YTop
	c.FillText(axis, vg.Point{X: c.Min.X, Y: (area.Min.Y + area.Max.Y) / 2}, "sender")
}

// cellThumb is the legend's picture of a cell.
func cellThumb(cell byte) func(draw.Canvas) {
	return func(c draw.Canvas) {
		side := c.Max.Y - c.Min.Y
		r := vg.Rectangle{Min: vg.Point{X: c.Max.X - side, Y: c.Min.Y}, Max: c.Max}
		if cell == cellLeak || cell == cellFailed {
			drawFaultCell(c, r, cell)
			return
		}
		c.FillPolygon(cellColors[cell], corners(r))
		c.StrokeLines(draw.LineStyle{Color: ink, Width: hairline}, append(corners(r), r.Min))
	}
}

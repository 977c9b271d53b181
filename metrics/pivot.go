package metrics

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Pivot is a table of medians: a row for each combination of the values of some
// labels, a column for each value of another.
type Pivot struct {
	Metric string
	Where  map[string]string // labels that samples must have: direction=out
	Rows   []string          // labels
	Column string            // label
}

// WriteMarkdown writes the table of samples in Markdown: the median of each
// point, and smallest and largest of several values. Cells without samples are
// empty. Several samples that differ in other labels make a median of all: what
// is to be told apart must be among the labels.
func (p Pivot) WriteMarkdown(w io.Writer, samples []Sample) error {
	values := map[string]map[string][]float64{}
	var rows []map[string]string
	columns, unit, n := map[string]bool{}, "", map[int]bool{}
	for _, s := range samples {
		if s.Metric != p.Metric || !has(s.Labels, p.Where) || s.Labels[p.Column] == "" {
			continue
		}
		row := map[string]string{}
		for _, l := range p.Rows {
			row[l] = s.Labels[l]
		}
		key := PointText(row)
		if values[key] == nil {
			values[key] = map[string][]float64{}
			rows = append(rows, row)
		}
		values[key][s.Labels[p.Column]] = append(values[key][s.Labels[p.Column]], s.Value)
		columns[s.Labels[p.Column]], unit = true, s.Unit
	}
	if len(rows) == 0 {
		return fmt.Errorf("no samples of %s with the label %s", p.Metric, p.Column)
	}
	slices.SortFunc(rows, func(a, b map[string]string) int {
		for _, l := range p.Rows {
			if c := compareQuantities(a[l], b[l]); c != 0 {
				return c
			}
		}
		return 0
	})
	heads := sortedNatural(columns)
	scale, shown := shownIn(unit)
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|%s\n", strings.Join(p.Rows, " | "), strings.Join(heads, " | "), strings.Repeat("---|", len(p.Rows)+len(heads)))
	for _, row := range rows {
		for _, l := range p.Rows {
			b.WriteString("| " + row[l] + " ")
		}
		for _, h := range heads {
			v := values[PointText(row)][h]
			b.WriteString("| " + cell(v, scale) + " ")
			if len(v) > 0 {
				n[len(v)] = true
			}
		}
		b.WriteString("|\n")
	}
	_, err := fmt.Fprintf(w, "%s, %s; median (smallest–largest), n = %s\n\n%s", p.Metric, shown, numbersText(n), b.String())
	return err
}

func has(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// compareQuantities orders values of a label as what they stand for, where they
// have a unit: 622mbit comes before 1gbit.
func compareQuantities(a, b string) int {
	x, errA := parseQuantity(a)
	y, errB := parseQuantity(b)
	ux, uy := units[x.unit], units[y.unit]
	if errA != nil || errB != nil || ux.dim != uy.dim || ux.dim == dimNone {
		return compareNatural(a, b)
	}
	switch va, vb := x.value*ux.scale, y.value*uy.scale; {
	case va < vb:
		return -1
	case va > vb:
		return 1
	}
	return 0
}

// shownIn is the unit that people read a unit in, and its factor.
func shownIn(unit string) (scale float64, shown string) {
	if unit == "bytes" {
		return 1e-6, "MB"
	}
	return 1, unit
}

func cell(v []float64, scale float64) string {
	if len(v) == 0 {
		return ""
	}
	scaled := make([]float64, len(v))
	for i := range v {
		scaled[i] = v[i] * scale
	}
	text := threeDigits(aggregate("median", scaled))
	if lo, hi := slices.Min(scaled), slices.Max(scaled); lo != hi {
		text += fmt.Sprintf(" (%s–%s)", threeDigits(lo), threeDigits(hi))
	}
	return text
}

// threeDigits is a value with three significant digits, without exponents.
func threeDigits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func numbersText(n map[int]bool) string {
	lo, hi := -1, 0
	for k := range n {
		if lo < 0 || k < lo {
			lo = k
		}
		hi = max(hi, k)
	}
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

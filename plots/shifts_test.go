package plots

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics/compare"
)

func ptr(v float64) *float64 { return &v }

// madeUpReport has a row of each kind.
func madeUpReport() compare.Report {
	cell := func(metric, algorithm, verdict string, shift, half float64) compare.Cell {
		return compare.Cell{
			Experiment: "migration", Metric: metric, Unit: "s", Labels: map[string]string{"algorithm": algorithm, "rate": "465mbit"}, Primary: true, Verdict: verdict,
			Old: compare.Numbers{N: 6, Median: 1}, New: compare.Numbers{N: 6, Median: 1 + shift}, By: shift,
			Shift: ptr(shift), Lo: ptr(shift - half), Hi: ptr(shift + half), P: ptr(0.01), Holm: ptr(0.02),
		}
	}
	r := compare.Report{
		Old: compare.SideFacts{Name: "main", Versions: []string{"v1.2"}}, New: compare.SideFacts{Name: "results/new", Versions: []string{"v1.2-4-gabcdef"}, Void: 1},
		Threshold: 0.03, Alpha: 0.05, Verdict: compare.Regression,
		Cells: []compare.Cell{
			{Experiment: "migration", Metric: "migration.rounds", Exact: true, Verdict: compare.Regression, Old: compare.Numbers{N: 6, Median: 8}, New: compare.Numbers{N: 6, Median: 12}, By: 4, Shift: ptr(0.5)},
			{Experiment: "migration", Metric: "client.resets", Exact: true, Verdict: compare.Regression, Old: compare.Numbers{N: 6}, New: compare.Numbers{N: 6, Median: 3}, By: 3},
			{Experiment: "migration", Metric: "migration.verified", Exact: true, Verdict: compare.Same, Old: compare.Numbers{N: 6, Median: 1}, New: compare.Numbers{N: 6, Median: 1}, Shift: ptr(0)},
			cell("migration.total", "vpclab", compare.Regression, 0.042, 0.012),
			cell("migration.pause", "vpclab", compare.Improvement, -0.07, 0.02),
			cell("migration.total", "cloudnet", compare.Within, 0.003, 0.01),
			cell("migration.pause", "cloudnet", compare.NoFinding, -0.011, 0.6),
			cell("migration.payload", "xen30", compare.Small, 0.011, 0.004),
			cell("migration.cpu", "xen30", compare.Hint, -0.6, 0.1),
		},
	}
	few := cell("migration.total", "xen30", compare.TooFew, 0.02, 0)
	few.Lo, few.Hi, few.Old.N = nil, nil, 2
	r.Cells = append(r.Cells, few)
	return r
}

func TestShifts(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Shifts(madeUpReport(), filepath.Join(dir, "s.svg")))
	text, err := os.ReadFile(filepath.Join(dir, "s.svg"))
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(text, new(struct{})))
	for _, want := range []string{"migration.total", "REGRESSION: 3 metrics", "from nothing", "+50 %", "-60 %"} {
		require.True(t, strings.Contains(string(text), want), want)
	}
	require.False(t, strings.Contains(string(text), "migration.verified"))
	require.ErrorContains(t, Shifts(madeUpReport(), filepath.Join(dir, "s.gif")), "neither .svg nor .png")
}

// TestManyShifts: a figure stays one that can be read.
func TestManyShifts(t *testing.T) {
	r := madeUpReport()
	for i := range 100 {
		c := r.Cells[3]
		c.Labels = map[string]string{"sites": fmt.Sprint(i)}
		r.Cells = append(r.Cells, c)
	}
	rows, left := shiftRows(r)
	require.Len(t, rows, shiftsMost)
	require.Equal(t, len(r.Cells)-1-shiftsMost, left)
}

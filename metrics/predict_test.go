package metrics

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func predictionRow(metric, guest, algorithm string, value float64) PointSummary {
	return PointSummary{Experiment: "migration", Metric: metric, Unit: "s", Labels: map[string]string{"guest": guest, "algorithm": algorithm}, Summary: Summarize([]float64{value})}
}

// TestPredictFindsTheModelsError has a real thing that takes twice the model's
// time, another that takes half a second more, and points without a partner.
func TestPredictFindsTheModelsError(t *testing.T) {
	rows := []PointSummary{
		predictionRow("total", "process", "a", 1), predictionRow("total", "qemu", "a", 2),
		predictionRow("total", "process", "b", 3), predictionRow("total", "qemu", "b", 6.6),
		predictionRow("total", "process", "c", 10), predictionRow("total", "qemu", "c", 20),
		predictionRow("total", "process", "alone", 1), predictionRow("total", "qemu", "only", 1),
		predictionRow("pause", "process", "a", 0.1), predictionRow("pause", "qemu", "a", 0.6),
		predictionRow("pause", "process", "b", 0.9), predictionRow("pause", "qemu", "b", 1.4),
		predictionRow("bytes", "process", "a", 5), predictionRow("bytes", "qemu", "a", 4),
	}
	points, corrections := Predict(rows, "guest", "process", "qemu", []string{"total", "pause", "bytes", "nobody"})
	require.Len(t, points, 6)
	require.Len(t, corrections, 3)
	require.Equal(t, map[string]string{"algorithm": "a"}, points[0].Labels)
	require.InDelta(t, -0.5, points[0].Error, 1e-9)
	require.InDelta(t, 2, corrections[0].Factor, 1e-9)
	require.Zero(t, corrections[0].Offset)
	require.InDelta(t, 2/2.2-1, points[1].LeftOut, 1e-9, "corrected by the others, and not by itself")
	require.Equal(t, "real = 2 x model", corrections[0].String())
	require.InDelta(t, 0.5, corrections[1].Offset, 1e-9, "an offset fits better")
	require.InDelta(t, 0, corrections[1].LeftOut.Max, 1e-9)
	require.Equal(t, "one point calibrates nothing", corrections[2].String())
	require.True(t, math.IsNaN(points[5].LeftOut))

	var b strings.Builder
	require.NoError(t, WritePredictions(&b, "guest", "process", "qemu", points, corrections))
	require.Contains(t, b.String(), "**total** (s): guest=process as a model of guest=qemu")
	require.Contains(t, b.String(), "Absolute error: median 50.0 %, largest 54.5 %; calibrated on all other points: median 5.0 %, largest 9.1 %.")
	require.Contains(t, b.String(), "| algorithm=a | 5 (5–5) n=1 | 4 (4–4) n=1 | 25.0 % | – |")
	require.NotContains(t, b.String(), "-0.0")
}

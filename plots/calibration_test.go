package plots

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

func calibrated(f func(c *metrics.Calibration)) *metrics.Calibration {
	c := &metrics.Calibration{Kind: "calibration", Schema: metrics.CalibrationSchema, Kernel: metrics.KernelInfo{Substrate: "uml", Release: "6.1", Clock: "monotonic"}}
	f(c)
	return c
}

func TestACalibrationIsDrawn(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, metrics.WriteCalibration(dir, calibrated(func(c *metrics.Calibration) {
		for _, rate := range []float64{1e7, 1e8, 1e9} {
			c.Curves = append(c.Curves, metrics.GapCurve{System: "vpclab", RateBps: rate, Frame: 1514, N: 1000, Deviation: []float64{0, 0.5, 3, 90, 2000}, Share: []float64{1, 0.5, 0.1, 0.01, 0.001}})
		}
		for _, ms := range []float64{0.1, 1, 20, 200} {
			r := metrics.Calibrated{Test: "F3", System: "vpclab", What: "one-way delay", Bar: max(0.1, 0.01*ms), Values: map[string]float64{"set_ms": ms, "mean_ms": ms + 0.01, "p99_ms": ms + 0.1}}
			c.Results = append(c.Results, r.Judge())
		}
	})))
	figures, err := DrawCalibration(dir)
	require.NoError(t, err)
	require.Len(t, figures, 2)
	for _, f := range figures {
		require.True(t, f.Drawn(), f.Reason)
		for _, name := range []string{f.SVG, f.PNG} {
			st, err := os.Stat(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Greater(t, st.Size(), int64(3000), name)
		}
	}
}

func TestWhatWasNotMeasuredIsNotDrawn(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, metrics.WriteCalibration(dir, calibrated(func(*metrics.Calibration) {})))
	figures, err := DrawCalibration(dir)
	require.NoError(t, err)
	for _, f := range figures {
		require.False(t, f.Drawn())
		require.NotEmpty(t, f.Reason)
	}
}

package metrics

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeasurementsAreJudgedByTheirBar(t *testing.T) {
	for off, want := range map[float64]string{0: FidelityPass, 1: FidelityPass, 1.5: FidelityWarn, 2: FidelityWarn, 2.1: FidelityVoid, math.Inf(1): FidelityVoid, math.NaN(): FidelityVoid} {
		require.Equal(t, want, Calibrated{Error: off, Bar: 1}.Judge().Grade, "%v", off)
	}
	require.Equal(t, FidelityVoid, Calibrated{Error: 1}.Judge().Grade, "where nothing may be wrong")
}

func TestACalibrationIsReadAsItWasWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	c := &Calibration{Kind: "calibration", Schema: CalibrationSchema, Results: []Calibrated{{Test: "F1", System: "vpclab", Grade: FidelityPass, N: 3}}}
	require.NoError(t, WriteCalibration(dir, c))
	back, err := ReadCalibration(dir)
	require.NoError(t, err)
	require.Equal(t, c.Results, back.Results)
	require.Equal(t, 1, back.Count("vpclab", FidelityPass))

	for text, want := range map[string]string{`{"kind": "calibration", "schema": 99}`: "version 99", `{"grade": "pass"}`: "of kind", `{`: CalibrationFile} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, CalibrationFile), []byte(text), 0o644))
		_, err := ReadCalibration(dir)
		require.ErrorContains(t, err, want)
	}
}

package metrics

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	s := Summarize([]float64{5, 1, 3, 2, 4, 9})
	require.Equal(t, 6, s.N)
	require.Equal(t, 3.5, s.Median)
	require.Equal(t, []float64{1, 9, 1, 9, 4}, []float64{s.Lo, s.Hi, s.Min, s.Max, s.Mean})
	require.InDelta(t, 1-2*math.Pow(0.5, 6), s.Confidence, 1e-12, "the order statistics 1 and 6 of 6 hold the median unless all six fall on one side")
	require.Empty(t, s.Note)
	require.Equal(t, "3.5 [1, 9] n=6", s.String())
}

func TestSummarizeTooFewIsSaid(t *testing.T) {
	for n := 1; n < 6; n++ {
		s := Summarize(make([]float64, n))
		require.False(t, s.HasInterval(), n)
		require.Contains(t, s.String(), "too few for a 95 % interval (6 are needed)")
		data, err := json.Marshal(s)
		require.NoError(t, err, "infinite bounds must not reach JSON")
		require.Contains(t, string(data), `"lo":null,"hi":null`)
		var back Summary
		require.NoError(t, json.Unmarshal(data, &back))
		require.False(t, back.HasInterval())
	}
	require.Equal(t, "no values", Summarize(nil).String())
}

// The interval must hold the true median as often as it says.
func TestIntervalCovers(t *testing.T) {
	const runs = 2000
	seed := uint64(1)
	next := func() float64 { // xorshift: the same numbers everywhere
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		return float64(seed>>11) / (1 << 53)
	}
	held := 0
	for range runs {
		v := make([]float64, 12)
		for i := range v {
			v[i] = -math.Log(1 - next()) // skewed, median ln 2
		}
		if s := Summarize(v); s.Lo <= math.Ln2 && math.Ln2 <= s.Hi {
			held++
		}
	}
	require.Greater(t, held, runs*94/100)
}

func TestFormatValue(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 12: "12", 123456: "123456", 0.41258: "0.4126", 3.14159: "3.142", 1234.56: "1234.6", 2e12: "2e+12", 0.00001234: "1.234e-05",
	} {
		require.Equal(t, want, FormatValue(v))
	}
}

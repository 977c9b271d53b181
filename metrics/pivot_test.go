package metrics

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPivotIsATableOfMedians(t *testing.T) {
	var all []Sample
	for i, rate := range []string{"1gbit", "622mbit"} {
		for trial, v := range []float64{1, 2, 4} {
			for _, a := range []string{"xen30", "cloudnet"} {
				if a == "cloudnet" && rate == "1gbit" {
					continue
				}
				all = append(all, Sample{"m", trial + 1, "migration.bytes", "bytes", v * 1e6 * float64(1+99*i), map[string]string{"rate": rate, "algorithm": a, "direction": "out"}},
					Sample{"m", trial + 1, "migration.bytes", "bytes", 5, map[string]string{"rate": rate, "algorithm": a, "direction": "back"}})
			}
		}
	}
	var b strings.Builder
	p := Pivot{Metric: "migration.bytes", Where: map[string]string{"direction": "out"}, Rows: []string{"rate"}, Column: "algorithm"}
	require.NoError(t, p.WriteMarkdown(&b, all))
	require.Equal(t, `migration.bytes, MB; median (smallest–largest), n = 3

| rate | cloudnet | xen30 |
|---|---|---|
| 622mbit | 200 (100–400) | 200 (100–400) |
| 1gbit |  | 2.00 (1.00–4.00) |
`, b.String())
	p.Metric = "migration.total"
	require.ErrorContains(t, p.WriteMarkdown(&b, all), "no samples of migration.total")
}

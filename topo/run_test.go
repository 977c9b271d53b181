package topo

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	p := netip.MustParsePrefix
	for name, c := range map[string]struct {
		run    Run
		last   string
		whole  string
		has    []string
		hasNot []string
	}{
		"nothing behind the site": {run: Run{}, hasNot: []string{"100.64.0.0/32", "0.0.0.0/0"}},
		"one host":                {run: Run{p("100.64.0.0/32"), 1}, last: "100.64.0.0/32", whole: "100.64.0.0/32", has: []string{"100.64.0.0/32"}, hasNot: []string{"100.64.0.1/32", "100.64.0.0/24"}},
		"hosts over a byte's end": {run: Run{p("100.64.0.0/32"), 300}, last: "100.64.1.43/32", whole: "100.64.0.0/23", has: []string{"100.64.1.43/32"}, hasNot: []string{"100.64.1.44/32", "100.63.255.255/32"}},
		"networks":                {run: Run{p("10.0.4.0/24"), 3}, last: "10.0.6.0/24", whole: "10.0.4.0/22", has: []string{"10.0.5.0/24"}, hasNot: []string{"10.0.7.0/24", "10.0.5.0/25"}},
	} {
		t.Run(name, func(t *testing.T) {
			all := slices.Collect(c.run.All())
			require.Len(t, all, c.run.Count)
			if c.run.Count > 0 {
				require.Equal(t, p(c.last), all[len(all)-1])
				require.Equal(t, p(c.whole), c.run.Whole())
			}
			for i := 1; i < len(all); i++ {
				require.True(t, Follows(all[i-1], all[i]))
				require.False(t, Follows(all[i], all[i-1]))
			}
			for _, x := range c.has {
				require.True(t, c.run.Has(p(x)), x)
			}
			for _, x := range c.hasNot {
				require.False(t, c.run.Has(p(x)), x)
			}
		})
	}
}

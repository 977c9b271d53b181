package metrics

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// moves are three rounds of two algorithms.
func moves() (all []Sample) {
	for i, v := range [][2]float64{{100, 60}, {110, 55}, {90, 63}} {
		for j, a := range []string{"xen30", "cloudnet"} {
			labels := map[string]string{"algorithm": a, "rate": "100mbit"}
			all = append(all, Sample{"migration", i + 1, "migration.bytes", "bytes", v[j] * 1e6, labels},
				Sample{"migration", i + 1, "migration.total", "s", v[j] / 10, labels},
				Sample{"migration", i + 1, "migration.rounds", "count", []float64{30, 7}[j], labels})
		}
	}
	return all
}

func TestNumbersAreHeldAgainstWhatWasPrinted(t *testing.T) {
	for name, c := range map[string]struct {
		n      Number
		status string
		text   string
	}{
		"cut": {Number{Measure: "1 - cloudnet.migration.bytes / xen30.migration.bytes", Printed: "40%", Within: "10pp", Source: "Table I"},
			NumberPass, "1 - cloudnet.migration.bytes / xen30.migration.bytes: 40.0 % [30.0 % … 50.0 %], n=3; printed 40.0 % (Table I), within ±10 pp"},
		"edge": {Number{Measure: "1 - cloudnet.migration.bytes / xen30.migration.bytes", Printed: "50%", Within: "10pp"}, NumberPass, ""},
		"outside": {Number{Measure: "cloudnet.migration.bytes / xen30.migration.bytes", Printed: "80%", Within: "15%", Why: "it is another network"},
			NumberOutside, "cloudnet.migration.bytes / xen30.migration.bytes: 60.0 % [50.0 % … 70.0 %], n=3; printed 80.0 %, within ±12 pp; it is another network"},
		"hard":  {Number{Measure: "cloudnet.migration.rounds", Printed: "20", Within: "4", Hard: true}, NumberFail, "cloudnet.migration.rounds: 7 [7 … 7], n=3; printed 20, within ±4"},
		"count": {Number{Measure: "algorithm=cloudnet.migration.rounds", Printed: "9", Within: "4"}, NumberPass, ""},
		"time":  {Number{Measure: "xen30.migration.total", Printed: "9800ms", Within: "3%"}, NumberPass, "xen30.migration.total: 10 s [9 s … 11 s], n=3; printed 9.8 s, within ±0.294 s"},
		"none":  {Number{Measure: "xen5.migration.total", Printed: "10s", Within: "3%"}, NumberOpen, `xen5.migration.total: no sample of migration.total has a label with the value "xen5"; its labels: algorithm=cloudnet, algorithm=xen30, rate=100mbit`},
		"many":  {Number{Measure: "migration.total", Printed: "10s", Within: "3%"}, NumberOpen, "migration.total: migration.total names 2 points (algorithm=cloudnet rate=100mbit; algorithm=xen30 rate=100mbit …): select one, as label=value.migration.total"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := c.n.Eval(moves())
			require.NoError(t, err)
			require.Equal(t, c.status, o.Status, o.Text())
			if c.text != "" {
				require.Equal(t, c.text, o.Text())
			}
		})
	}
}

func TestNumbersThatAreWrittenWrong(t *testing.T) {
	for text, n := range map[string]Number{
		"measure: ": {Measure: "1 - xen30.migration.bytes", Printed: "40%", Within: "10pp"},
		"aggregate": {Measure: "xen30.migration.bytes.p50", Printed: "40%", Within: "10pp"},
		"printed: the bar 40 s measures time, but the metric is in ratio": {Measure: "xen30.migration.bytes / cloudnet.migration.bytes", Printed: "40s", Within: "10pp"},
		"printed: the bar 40 has no unit":                                 {Measure: "xen30.migration.bytes", Printed: "40", Within: "10%"},
		"within: \"3pp\" is in percentage points":                         {Measure: "xen30.migration.total", Printed: "40s", Within: "3pp"},
		"the right side is in s, the left side in bytes":                  {Measure: "xen30.migration.bytes / xen30.migration.total", Printed: "4", Within: "3"},
	} {
		o, err := n.Eval(moves())
		if err == nil {
			require.Contains(t, o.Why, text)
			continue
		}
		require.ErrorContains(t, err, text)
	}
}

func TestClaimsWithNumbers(t *testing.T) {
	s := twoPoints(t)
	number := func(printed string, hard bool) Number {
		return Number{Experiment: "vpc-setup", Measure: "sites=10.setup.first_packet / sites=2.setup.first_packet", Printed: printed, Within: "50%", Hard: hard}
	}
	got, err := s.JudgeClaims([]Claim{
		{ID: "H1", Says: "Near.", Numbers: []Number{number("2", false)}},
		{ID: "H2", Says: "Far.", Numbers: []Number{number("200", false)}},
		{ID: "H3", Says: "Far, and it matters.", Numbers: []Number{number("200", true)}},
		{ID: "H4", Says: "Left out.", Numbers: []Number{{Experiment: "other", Measure: "x", Printed: "1", Within: "1"}}},
	}, []string{"other"})
	require.NoError(t, err)
	var statuses []string
	for _, c := range got {
		statuses = append(statuses, c.Status)
	}
	require.Equal(t, []string{ClaimPass, ClaimOutside, ClaimFail, ClaimOpen}, statuses, got)
	require.Contains(t, got[1].Lines()[1], "  OUTSIDE vpc-setup: sites=10.setup.first_packet / sites=2.setup.first_packet: ")
}

func TestNumbersAsATable(t *testing.T) {
	var b strings.Builder
	require.NoError(t, WriteNumbers(&b, []ClaimOutcome{
		{ID: "H1", Status: ClaimOutside, Numbers: []NumberOutcome{
			{What: "data cut", Printed: 0.4, Tolerance: 0.1, Unit: "ratio", Value: 0.41, Min: 0.4, Max: 0.42, N: 2, Status: NumberPass},
			{What: "rounds", Printed: 7, Tolerance: 4, Unit: "count", Value: 20, Min: 20, Max: 20, N: 1, Status: NumberOutside, Why: "the trace is another"},
			{What: "time", Status: NumberOpen, Why: "experiment bandwidth was left out"},
		}},
		{ID: "B1", Says: "It is better than that in every respect that anybody measures.", Status: ClaimFail, Evidence: []Outcome{{Pass: true}, {Text: "x 3 is not < 2"}}},
	}))
	require.Equal(t, `claim  verdict            printed  measured                  n  within
H1     PASS     data cut  40.0 %   41.0 % [40.0 % … 42.0 %]  2  ±10 pp
H1     OUTSIDE  rounds    7        20                        1  ±4
                the trace is another
H1     OPEN     time
                experiment bandwidth was left out
B1     FAIL     It is better than that in every respect that anybody measures. (1 of 2 hold)
                does not hold: x 3 is not < 2
`, b.String())
}

package metrics

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// gridSamples is a run over sites = 2, 8 of the VPN and the firewall.
func gridSamples() []Sample {
	var all []Sample
	add := func(metric, unit string, v float64, labels ...string) {
		m := map[string]string{}
		for i := 0; i < len(labels); i += 2 {
			m[labels[i]] = labels[i+1]
		}
		all = append(all, Sample{"vpc-setup", len(all) + 1, metric, unit, v, m})
	}
	for i := range 6 {
		d := float64(i) / 100
		add("setup.first_packet", "s", 0.20+d, "system", "vpn", "sites", "2")
		add("setup.first_packet", "s", 0.40+d, "system", "vpn", "sites", "8")
		add("setup.first_packet", "s", 0.60+d, "system", "firewall", "sites", "2")
		add("setup.first_packet", "s", 2.40+d, "system", "firewall", "sites", "8")
		add("setup.leaks", "count", 0, "sites", "2")
		add("setup.leaks", "count", float64(i/5), "sites", "8") // one leak in one trial
	}
	add("rules", "count", 12, "system", "vpn", "kind", "config", "sites", "2")
	add("rules", "count", 40, "system", "vpn", "kind", "config", "sites", "8")
	add("rules", "count", 90, "system", "vpn", "kind", "state", "sites", "8")
	add("rules", "count", 24, "system", "firewall", "kind", "config", "sites", "2")
	add("rules", "count", 992, "system", "firewall", "kind", "config", "sites", "8")
	for n := range 3 {
		reached := []float64{56, 55, 56}[n] // one pair fails in trial 2
		all = append(all,
			Sample{"vpc-setup", n + 1, "setup.pairs_allowed", "count", 56, map[string]string{"system": "vpn"}},
			Sample{"vpc-setup", n + 1, "setup.pairs_reached", "count", reached, map[string]string{"system": "vpn"}},
			Sample{"vpc-setup", n + 1, "setup.pairs_allowed", "count", 56, map[string]string{"system": "firewall"}},
			Sample{"vpc-setup", n + 1, "setup.pairs_reached", "count", 56, map[string]string{"system": "firewall"}})
	}
	add("wire", "bytes", 5e6, "sites", "2")
	add("goodput", "bit/s", 450e6, "sites", "2")
	add("loss", "%", 2.5, "sites", "2")
	add("both", "count", 1, "a", "x", "b", "x")
	return all
}

func TestEval(t *testing.T) {
	for _, tc := range []struct {
		text string
		pass bool
		want string // part of the outcome's text
	}{
		{"vpn.setup.first_packet.p50 < 1s", true, "vpn.setup.first_packet.p50 0.425 s < 1 s, n=6, worst of 2 points: sites=8 system=vpn"},
		{"system=vpn.setup.first_packet.p50 < 1s", true, "0.425 s < 1 s"},
		{"setup.first_packet.p50 < 1s", false, "2.425 s is not < 1 s, n=6, worst of 4 points: sites=8 system=firewall"},
		{"system=vpn.sites=2.setup.first_packet.max <= 250ms", true, "0.25 s <= 0.25 s, n=6, at sites=2 system=vpn"},
		{`sites="2".vpn.setup.first_packet.min >= 0.2 s`, true, "0.2 s >= 0.2 s"},
		{"vpn.setup.first_packet < 450ms", false, "(every sample, the worst) 0.45 s is not < 0.45 s"},
		{"vpn.setup.first_packet > 0.1s", true, "0.2 s > 0.1 s, n=6, worst of 2 points: sites=2"},
		{"setup.leaks == 0", false, "(every sample) 1 is not == 0, n=6, worst of 2 points: sites=8"},
		{"setup.leaks.median == 0", true, "0 == 0"},
		{"setup.leaks.sum <= 1", true, "1 <= 1"},
		{"setup.leaks.n >= 6", true, "6 >= 6"},
		{"setup.leaks != 7", true, "1 != 7"},
		{"vpn.setup.first_packet.p95 < 0.25 * firewall.setup.first_packet.p95", false, "0.25 s is not < 0.1625 s (0.25 * firewall.setup.first_packet.p95 of n=6), n=6, worst of 2 points: sites=2"},
		{"vpn.setup.first_packet < 0.5 * firewall.setup.first_packet", true, "vpn.setup.first_packet.median 0.225 s < 0.3125 s"},
		{"system=vpn.kind=config.rules < firewall.rules", true, "12 < 24"},
		{"vpn.config.rules < firewall.rules", true, "12 < 24"},
		{"vpn.rules < firewall.rules", false, "no sample of firewall.rules to compare with vpn.rules at kind=state"},
		{"vpn.setup.pairs_reached == vpn.setup.pairs_allowed", false, "vpn.setup.pairs_reached (every trial) 55 is not == 56 (vpn.setup.pairs_allowed of n=3), n=3, at system=vpn"},
		{"vpn.setup.pairs_reached.median == vpn.setup.pairs_allowed.median", true, "56 == 56"},
		{"firewall.setup.pairs_reached == firewall.setup.pairs_allowed", true, "56 == 56"},
		{"setup.pairs_reached == setup.pairs_allowed", false, "worst of 2 points: system=vpn"},
		{"setup.leaks == wire", false, "the right side is in bytes"},
		{"setup.leaks != rules", false, "no trial has both setup.leaks and rules at sites=2"},
		{"wire < 10MB", true, "5000000 bytes < 10000000 bytes"},
		{"wire <= 5 MB", true, ""},
		{"wire < 4MiB", false, ""},
		{"goodput >= 0.9 * 465mbit", true, "(0.9 * 465 mbit)"},
		{"goodput > 465 Mbit/s", false, ""},
		{"loss < 3 %", true, "2.5 % < 3 %"},
		{"loss < 2", false, ""},
		{"setup.first_packt.p50 < 1s", false, "no sample of setup.first_packt (did you mean setup.first_packet?); known metrics: both, goodput, loss, rules, setup.first_packet, setup.leaks, setup.pairs_allowed, setup.pairs_reached, wire"},
		{"vpm.rules < 3", false, `has a label with the value "vpm"; its labels: kind=config, kind=state, sites=2, sites=8, system=firewall, system=vpn`},
		{"sites=3.rules < 3", false, "no sample of rules has sites=3; its values there: 2, 8"},
		{"x.both == 1", false, `"x" is the value of the labels a and b of both: write a=x.both`},
		{"a=x.both == 1", true, ""},
		{"setup.first_packet < 3", false, "has no unit, but the metric is in s: write it with one, as 3ms"},
		{"setup.first_packet > 0", true, ""},
		{"setup.first_packet < 3MB", false, "the bar 3 MB measures bytes, but the metric is in s"},
		{"setup.leaks < 3s", false, "the metric counts in count"},
		{"wire < loss", false, "the right side is in %, the left side in bytes"},
		{"wire < nothing.here", false, "no sample of nothing.here"},
	} {
		t.Run(tc.text, func(t *testing.T) {
			e, err := ParseExpect(tc.text)
			require.NoError(t, err)
			require.Equal(t, tc.text, e.String())
			o := e.Eval(gridSamples())
			require.Equal(t, tc.pass, o.Pass, o.Text)
			require.Contains(t, o.Text, tc.want)
			require.Equal(t, tc.text, o.Expect)
		})
	}
}

func TestEvalWithoutSamplesFails(t *testing.T) {
	e, err := ParseExpect("a == 0")
	require.NoError(t, err)
	o := e.Eval(nil)
	require.False(t, o.Pass)
	require.Contains(t, o.Text, "there are no samples")
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct {
		text   string
		offset int
		want   string
	}{
		{"", 0, "the expectation is empty"},
		{"   ", 3, "the expectation is empty"},
		{"leaks", 5, "expected an operator after leaks, found the end; operators are"},
		{"leaks = 0", 6, "did you mean =="},
		{"leaks=0", 7, "a metric is missing after leaks=0; to compare, write leaks == 0"},
		{"leaks ≤ 0", 6, "did you mean <="},
		{"leaks <", 7, "nothing to compare with after <"},
		{"< 3", 0, "expected a metric"},
		{"3 < leaks", 0, "a metric begins with a letter"},
		{"a..b < 3", 2, "a word is missing after the dot"},
		{"a. < 3", 2, "a word is missing after the dot"},
		{"a.b=c.d < 3", 2, "the selector b= stands after a part"},
		{"a=.d < 3", 2, "a value is missing after ="},
		{`a="x < 3`, 2, "the quoted value does not end"},
		{`a="".x < 3`, 2, "is empty or malformed"},
		{"p50 < 3s", 0, "p50 is an aggregate, not a metric"},
		{"a.p50.b < 3s", 0, "p50 stands inside"},
		{"a.p100 < 3s", 2, "percentiles are p1 to p99"},
		{"a.avg < 3s", 2, "did you mean mean"},
		{"a.count < 3", 2, "did you mean n"},
		{"a < 3 sec", 6, `"sec" is no unit; write s`},
		{"a < 3mb", 5, "did you mean MB"},
		{"a < 3Mbps", 5, "did you mean mbit"},
		{"a < 3parsec", 5, "units are ns us ms"},
		{"a < 1m30s", 6, "a quantity has one number and one unit"},
		{"a < 1s and b < 2s", 7, "write two expectations"},
		{"a < b * 3", 6, "a factor stands before the metric"},
		{"a < 2s * b", 4, "the factor 2 s has a unit"},
		{"a < 2 *", 7, "nothing after the factor's *"},
		{"a < 1e999", 4, "out of range"},
		{"a < !", 4, "expected a metric, found \"!\""},
	} {
		t.Run(tc.text, func(t *testing.T) {
			_, err := ParseExpect(tc.text)
			var bad *ExpectError
			require.True(t, errors.As(err, &bad), "%v", err)
			require.Equal(t, tc.offset, bad.Offset, err)
			require.Contains(t, err.Error(), tc.want)
		})
	}
}

func TestPercentilesAreMeasuredValues(t *testing.T) {
	v := []float64{10, 20, 30, 40, 50, 60, 70, 80, 90, 100}
	for agg, want := range map[string]float64{"p1": 10, "p10": 10, "p11": 20, "p50": 55, "p90": 90, "p95": 100, "p99": 100, "n": 10, "sum": 550, "mean": 55, "min": 10, "max": 100} {
		require.Equal(t, want, aggregate(agg, v), agg)
	}
}

func FuzzParseExpect(f *testing.F) {
	for _, s := range []string{"a.p50 < 1s", "system=vpn.a.max >= 0.7 * b.c", `x="q\"".y == 3 %`, "a < ", "a=b.c != .5e3GiB", "µ < 3µs"} {
		f.Add(s)
	}
	samples := gridSamples()
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseExpect(text)
		if err != nil {
			var bad *ExpectError
			if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(text) || bad.Msg == "" {
				t.Fatalf("%q: malformed error %#v", text, err)
			}
			return
		}
		if o := e.Eval(samples); o.Text == "" || !strings.Contains(o.Expect, strings.TrimSpace(text)) {
			t.Fatalf("%q: empty outcome", text)
		}
		// What a reference prints must read back as itself.
		again, err := ParseExpect(e.left.String() + " < 1")
		if err != nil || again.left.String() != e.left.String() {
			t.Fatalf("%q: %q does not read back: %v", text, e.left.String(), err)
		}
	})
}
